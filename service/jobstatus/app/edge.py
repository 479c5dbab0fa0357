"""The composition root of `jobstatus edge`: REST for a zone that must not reach the store.

It has only a gRPC channel to a JobStatus service, whose time it takes for its own. Its answers come from the same code
as the REST answers of that service: the same handlers, the same credentials, the same comparison of owners.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import grpc

from jobstatus.app.background import run_once, run_periodically, start_tasks
from jobstatus.app.clocks import Clocks, keep_time
from jobstatus.app.frontend import build_frontend
from jobstatus.auth.remote_keys import JwksLimits
from jobstatus.auth.virtual_key_cache import LOOKUPS
from jobstatus.client.channel import ServiceChannel
from jobstatus.client.errors import ServiceUnreachable
from jobstatus.core.batch_reader import BatchReaderLimits
from jobstatus.core.errors import Overloaded, ShuttingDown
from jobstatus.core.poll import Poller
from jobstatus.core.readiness import Readiness
from jobstatus.core.timekeeper import TimeLimits
from jobstatus.rest.limits import RestLimits
from jobstatus.settings import Address, IssuerSettings, Settings
from jobstatus.telemetry.metrics import Metrics
from jobstatus.telemetry.tls_files import read_tls_files
from jobstatus.upstream.follower import FollowerLimits, UpstreamFollower
from jobstatus.upstream.reader import UpstreamLimits, UpstreamReader

GRACE_SECONDS: Final = 7.0
"""How long polls in progress may take when the edge stops. Half of it is for their answers (see `HttpServer`), which is
longer than any poll waits for a service that does not respond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeLimits:
    """Limits of the parts that `serving_edge` builds. They stand here because `app.limits` loads the gRPC server."""

    upstream: UpstreamLimits = UpstreamLimits()  # noqa: RUF009  # a frozen value
    follower: FollowerLimits = FollowerLimits()  # noqa: RUF009  # a frozen value
    time: TimeLimits = TimeLimits()  # noqa: RUF009  # a frozen value
    jwks: JwksLimits = JwksLimits()  # noqa: RUF009  # a frozen value
    lookups: BatchReaderLimits = LOOKUPS
    rest: RestLimits = RestLimits()  # noqa: RUF009  # a frozen value


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeListening:
    """The addresses that the edge listens on. The settings may have asked for any free port."""

    http: Address
    admin: Address


@asynccontextmanager
async def serving_edge(
    settings: Settings,
    issuers: tuple[IssuerSettings, ...],
    *,
    limits: EdgeLimits = EdgeLimits(),  # a frozen value
    clocks: Clocks = Clocks(),  # noqa: B008  # frozen
) -> AsyncIterator[EdgeListening]:
    """Run the edge while the context lasts; leaving it stops gracefully.

    While the service does not respond, the edge runs but is not ready. Raises KeyConfigError or OSError when a key, a
    PEM file or an address is not available.
    """
    metrics = Metrics(clocks.seconds, clocks.monotonic)
    channel = ServiceChannel(
        str(settings.upstream),
        credentials=_credentials(settings),
        timeout_seconds=limits.upstream.call_seconds,
        retry=True,
        balancing=settings.upstream_balancing,
        first_try_part=1,
        transient=(ServiceUnreachable, ShuttingDown, Overloaded),  # its clients come again when its store fails
    )
    clock = clocks.timekeeper(limits.time, metrics)
    clocks = replace(clocks, seconds=clock.seconds, ms=clock.ms)
    async with AsyncExitStack() as stack:
        upstream = UpstreamReader(await stack.enter_async_context(channel), limits.upstream, clock=clock)
        stack.push_async_callback(upstream.close)
        follower = UpstreamFollower(channel, limits.follower)
        subscriptions = follower.subscriptions
        frontend = build_frontend(
            settings,
            issuers,
            polls=Poller(
                upstream,
                clock=clock.expiry_ms,
                observer=metrics,
                unscoped_for_all=settings.unscoped_jobs == "any_credential",
                limits=limits.upstream.batches,
                max_result_reads=limits.upstream.large_at_a_time,
            ),
            virtual_keys=upstream,
            readiness=Readiness(upstream.probe),
            subscriptions=subscriptions,
            metrics=metrics,
            grace_seconds=GRACE_SECONDS,
            limits=limits.rest,
            jwks=limits.jwks,
            lookups=limits.lookups,
            clocks=clocks,
            hears_of_changes=lambda: follower.is_connected,
        )
        await run_once("refresh_credentials", frontend.authenticator.refresh, metrics)
        for stop in (frontend.admin.stop, frontend.public.stop):
            stack.push_async_callback(stop)
        metrics.tls_files_read(
            read_tls_files([settings.upstream_tls_cert, settings.upstream_tls_ca], [settings.upstream_tls_key])
        )
        listening = EdgeListening(
            http=settings.http._replace(port=await frontend.public.start(*settings.http)),
            admin=settings.admin._replace(port=await frontend.admin.start(*settings.admin)),
        )
        await start_tasks(
            stack,
            keep_time(clock, metrics),
            follower.run(),
            run_periodically(2.0, "report_health", partial(_check_health, frontend.readiness), metrics),
            *frontend.refresh_credentials(stack, metrics),
        )
        try:
            yield listening
        finally:
            frontend.readiness.stop()
            await asyncio.sleep(settings.stop_delay_seconds)
            subscriptions.close()
            await frontend.public.stop()


async def _check_health(readiness: Readiness) -> None:
    """Keep the health that the metrics tell up to date."""
    await readiness.check()


def _credentials(settings: Settings) -> grpc.ChannelCredentials | None:
    """Return the channel's credentials, None without TLS. Raises OSError when a PEM file is not valid."""
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
