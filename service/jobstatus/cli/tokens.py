"""`jobstatus token`: JWTs of an issuer in the settings with a secret or a private key, or of the issuer of `--dev`."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import click

from jobstatus.cli.errors import EPILOG
from jobstatus.cli.output import emit_line
from jobstatus.cli.params import SPAN

_options: Final = (
    click.option("--ttl", type=SPAN, default="1h", help="How long the token is valid."),
    click.option(
        "--issuer", "name", help="The issuer in the settings. If not given, the first that can mint such a token."
    ),
)


def _with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_options):
        function = option(function)
    return function


@click.group(name="token", epilog=EPILOG)
def command() -> None:
    """Mint a JWT for polling, of the development issuer or of one in the settings with a secret or a private key.

    \b
    Example:
      JOBSTATUS_TOKEN=$(jobstatus token virtual-key team-a --ttl 15m) jobstatus poll demo
    """


@command.command(name="virtual-key", epilog=EPILOG)
@click.argument("virtual_key_id")
@_with_options
def virtual_key(*, virtual_key_id: str, ttl: timedelta, name: str | None) -> None:
    """Print a token that may poll the jobs of a virtual key."""
    from jobstatus.cli.token_minting import mint_for_virtual_key  # noqa: PLC0415 (settings and keys: not for --help)

    emit_line(mint_for_virtual_key(virtual_key_id, ttl, name))


@command.command(epilog=EPILOG)
@_with_options
def admin(*, ttl: timedelta, name: str | None) -> None:
    """Print a token that may poll every job."""
    from jobstatus.cli.token_minting import mint_for_admin  # noqa: PLC0415 (as above)

    emit_line(mint_for_admin(ttl, name))
