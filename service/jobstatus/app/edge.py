"""The composition root of an edge of its own: REST for a zone that must not reach the store.

All it has is a gRPC connection to a JobStatus service. What it answers comes from the same code as the answers of that
service's own edge: the same handlers, the same credentials, the same comparison of owners.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import grpc

from jobstatus.app.background import run_once, run_periodically, start_tasks
from jobstatus.app.clocks import Clocks
from jobstatus.app.frontend import build_frontend
from jobstatus.app.limits import ServiceLimits
from jobstatus.client.connection import ServiceChannel
from jobstatus.core.poll import Poller
from jobstatus.settings import Address, IssuerSettings, Settings
from jobstatus.telemetry.metrics import Metrics
from jobstatus.upstream.follower import UpstreamFollower
from jobstatus.upstream.reader import LIMIT_SECONDS, UpstreamReader

GRACE_SECONDS: Final = 7.0
"""How long polls under way may take when the edge stops. Half of it is theirs to be answered (see `HttpServer`), which
is longer than any waits for a service that does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeListening:
    """The addresses that became of the settings' (which may ask for any free port)."""

    http: Address
    admin: Address


@asynccontextmanager
async def serving_edge(
    settings: Settings,
    issuers: tuple[IssuerSettings, ...],
    *,
    limits: ServiceLimits = ServiceLimits(),  # noqa: B008  # frozen
    clocks: Clocks = Clocks(),  # noqa: B008  # frozen
) -> AsyncIterator[EdgeListening]:
    """The edge, up while the context lasts; leaving it stops gracefully.

    It is up, and not ready, while the service inside does not answer. Raises KeyConfigError or OSError when something
    cannot be had.
    """
    metrics = Metrics()
    connection = ServiceChannel(
        str(settings.upstream),
        credentials=_credentials(settings),
        timeout_seconds=LIMIT_SECONDS,
        retry=True,
        first_try_part=1,
    )
    async with AsyncExitStack() as stack:
        upstream = UpstreamReader(await stack.enter_async_context(connection))
        follower = UpstreamFollower(connection)
        subscriptions = follower.subscriptions
        frontend = build_frontend(
            settings,
            issuers,
            polls=Poller(
                upstream, clock=clocks.ms, observer=metrics, unscoped_for_all=settings.unscoped_jobs == "any_credential"
            ),
            virtual_keys=upstream,
            probe=upstream.probe,
            subscriptions=subscriptions,
            metrics=metrics,
            grace_seconds=GRACE_SECONDS,
            limits=limits.rest,
            clocks=clocks,
            hears_of_changes=lambda: follower.is_connected,
        )
        authenticator, readiness, public, admin = (
            frontend.authenticator,
            frontend.readiness,
            frontend.public,
            frontend.admin,
        )
        await run_once("refresh_credentials", authenticator.refresh, metrics)
        for stop in (admin.stop, public.stop):
            stack.push_async_callback(stop)
        listening = EdgeListening(
            http=settings.http._replace(port=await public.start(*settings.http)),
            admin=settings.admin._replace(port=await admin.start(*settings.admin)),
        )
        await start_tasks(
            stack, follower.run(), run_periodically(1.0, "refresh_credentials", authenticator.refresh, metrics)
        )
        try:
            yield listening
        finally:
            readiness.stop()
            await asyncio.sleep(settings.stop_delay_seconds)
            subscriptions.close()
            await public.stop()


def _credentials(settings: Settings) -> grpc.ChannelCredentials | None:
    """The TLS of the connection; None without. Raises OSError when a PEM file is not what it should be."""
    ca, certificate, key = settings.upstream_tls_ca, settings.upstream_tls_cert, settings.upstream_tls_key
    if ca is None or certificate is None or key is None:
        return None
    try:
        context = ssl.create_default_context(cafile=ca)
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        names = f"{ca}, {certificate} or {key}"
        raise OSError(
            f"the TLS files for JOBSTATUS_UPSTREAM cannot be used ({names}): {error.reason or error}"
        ) from error
    return grpc.ssl_channel_credentials(ca.read_bytes(), key.read_bytes(), certificate.read_bytes())
