"""How commands reach the service over gRPC: its address, TLS and the timeout.

asyncio and gRPC are imported when a command runs, so that its help is fast.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from jobstatus.cli.garbage import collect_from_now_on
from jobstatus.cli.params import SPAN

if TYPE_CHECKING:
    import grpc

_SCHEME: Final = re.compile(r"(?:dns:(?:///?[^/]*/|/{0,3})|ipv4:|ipv6:)?")
_is_host_port: Final = re.compile(r"(?:\[[^\[\]]+\]|[^\[\]:/]+):\d{1,5}", re.ASCII).fullmatch
_PATHS: Final = ("unix:", "unix-abstract:")


def check_target(_context: click.Context, _parameter: click.Parameter, target: str) -> str:
    """Return the address if gRPC can mean one place by it. A port that is missing would be gRPC's own, 443."""
    if target.startswith(_PATHS):
        return target
    addresses = _SCHEME.sub("", target, count=1).split(",")
    if not all(_is_host_port(address) and int(address.rpartition(":")[2]) < 1 << 16 for address in addresses):
        raise click.BadParameter(f"{target!r} must be HOST:PORT, such as 127.0.0.1:50051")
    return target


_options: Final = (
    click.option(
        "--grpc",
        "target",
        metavar="HOST:PORT",
        envvar=["JOBSTATUS_TARGET", "JOBSTATUS_GRPC"],
        show_envvar=True,
        default="127.0.0.1:50051",
        callback=check_target,
        help="The address of the service for gRPC.",
    ),
    click.option(
        "--tls-ca",
        type=click.File("rb"),
        envvar="JOBSTATUS_CLIENT_TLS_CA",
        show_envvar=True,
        help="Use TLS and trust the authorities in this PEM file.",
    ),
    click.option(
        "--tls-cert",
        type=click.File("rb"),
        envvar="JOBSTATUS_CLIENT_TLS_CERT",
        show_envvar=True,
        help="The client certificate, a PEM file.",
    ),
    click.option(
        "--tls-key",
        type=click.File("rb"),
        envvar="JOBSTATUS_CLIENT_TLS_KEY",
        show_envvar=True,
        help="The private key of the certificate, a PEM file.",
    ),
    click.option("--timeout", type=SPAN, default="10s", help="How long to wait for a response."),
)


def with_client(command: Callable[..., Coroutine[Any, Any, int | None]]) -> Callable[..., int | None]:
    """Make a click callback from an async function whose first argument is a client. Add the options to reach it.

    The client does not retry, because a person wants to know at once that the service does not respond.
    """

    @functools.wraps(command)
    def callback(
        *,
        target: str,
        tls_ca: BinaryIO | None,
        tls_cert: BinaryIO | None,
        tls_key: BinaryIO | None,
        timeout: timedelta,
        **arguments: Any,
    ) -> int | None:
        import asyncio  # noqa: PLC0415

        from jobstatus.client import JobStatusClient  # noqa: PLC0415

        credentials = _credentials(tls_ca, tls_cert, tls_key)
        for argument in arguments.values():
            if isinstance(argument, str):
                argument.encode()  # raises for what is no text; the client would send U+FFFD in its place

        async def run() -> int | None:
            async with JobStatusClient(target, credentials=credentials, timeout=timeout, retry=False) as client:
                return await command(client, **arguments)

        collect_from_now_on()
        return asyncio.run(run())

    for option in reversed(_options):
        callback = option(callback)
    return callback


def _credentials(
    ca: BinaryIO | None, certificate: BinaryIO | None, key: BinaryIO | None
) -> grpc.ChannelCredentials | None:
    if (certificate is None) != (key is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    if ca is None and certificate is None:
        return None
    import grpc  # noqa: PLC0415

    return grpc.ssl_channel_credentials(*(None if file is None else file.read() for file in (ca, key, certificate)))
