"""`jobstatus token`: JWTs of an issuer in the settings with a secret or a private key, or of the issuer of `--dev`."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import click

from jobstatus.auth.errors import KeyConfigError
from jobstatus.auth.issuer_config import Kind
from jobstatus.auth.minting import mint_token
from jobstatus.cli.errors import EPILOG, CommandError, ExitCode
from jobstatus.cli.output import emit_line
from jobstatus.cli.params import SPAN
from jobstatus.core.commands import check_id
from jobstatus.settings import (
    IssuerSettings,
    Settings,
    SettingsError,
    development_issuer,
    has_development_issuer,
    load_settings,
)

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
    check_id("virtual_key_id", virtual_key_id)
    issuer = _issuer(Kind.VIRTUAL_KEY, name)
    emit_line(_mint(issuer, {issuer.virtual_key_claim: virtual_key_id}, ttl))


@command.command(epilog=EPILOG)
@_with_options
def admin(*, ttl: timedelta, name: str | None) -> None:
    """Print a token that may poll every job."""
    issuer = _issuer(Kind.ADMIN, name)
    emit_line(_mint(issuer, {issuer.role_claim: issuer.admin_role}, ttl))


def _issuer(kind: Kind, name: str | None) -> IssuerSettings:
    """Return the issuer with this name, or the first that can mint such a token."""
    try:
        settings = load_settings()
        configured = settings.accepted_issuers()
        known = (*configured, *_development(settings)) if name or not configured else configured
    except (SettingsError, OSError) as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    named = [issuer for issuer in known if name in (None, issuer.issuer)]
    able = [issuer for issuer in named if kind in issuer.kinds and (issuer.secret or issuer.private_key_file)]
    if able:
        return able[0]
    if named:
        raise CommandError(
            f"no issuer of the settings has a secret or a private key to mint {kind} tokens with", ExitCode.USAGE
        )
    if name:
        raise CommandError(f"the settings have no issuer {name!r}", ExitCode.USAGE)
    raise CommandError(
        f"no issuer is set, and `jobstatus serve --dev` has left no secret in {settings.state_dir}/: start it from this"
        " directory, or set JOBSTATUS_JWT_ISSUER and its companions",
        ExitCode.USAGE,
    )


def _development(settings: Settings) -> tuple[IssuerSettings, ...]:
    return (development_issuer(settings),) if has_development_issuer(settings) else ()


def _mint(issuer: IssuerSettings, claims: dict[str, str], ttl: timedelta) -> str:
    if ttl.total_seconds() > issuer.max_lifetime_seconds:
        raise CommandError(
            f"tokens of {issuer.issuer} may be valid for at most {issuer.max_lifetime_seconds} s",
            ExitCode.USAGE,
        )
    try:
        return mint_token(
            issuer=issuer.issuer,
            audience=issuer.audience,
            algorithm=issuer.algorithm,
            key=_signing_key(issuer),
            key_id=issuer.key_id,
            claims=claims,
            ttl_seconds=int(ttl.total_seconds()),
            now_seconds=time.time(),
            token_type=min(issuer.token_types),
        )
    except (KeyConfigError, ValueError, OSError) as error:
        raise CommandError(str(error), ExitCode.USAGE) from error


def _signing_key(issuer: IssuerSettings) -> str | bytes:
    if issuer.secret is not None:
        return issuer.secret.get_secret_value()
    assert issuer.private_key_file is not None  # noqa: S101 (chosen for having one of the two)
    return issuer.private_key_file.read_bytes()
