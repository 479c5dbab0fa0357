"""The composition root of `jobstatus edge`: REST for a zone that must not reach the store.

It has only a gRPC channel to a JobStatus service, whose time it takes for its own. Its answers come from the same code
as the REST answers of that service: the same handlers, the same credentials, the same comparison of owners.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import grpc

from jobstatus.app.background import run_once, run_periodically, start_tasks
from jobstatus.app.clocks import Clocks, keep_time
from jobstatus.app.frontend import Frontend, Reload, build_frontend, open_audit_log
from jobstatus.app.tracing import Tracing, open_tracing
from jobstatus.auth.remote_keys import JwksLimits
from jobstatus.auth.tls_files import Pem
from jobstatus.auth.virtual_key_cache import LOOKUPS
from jobstatus.client.channel import ServiceChannel
from jobstatus.client.errors import ServiceUnreachable
from jobstatus.core.batch_reader import BatchReaderLimits
from jobstatus.core.errors import Overloaded, ShuttingDown
from jobstatus.core.poll import Poller
from jobstatus.core.readiness import Readiness
from jobstatus.core.timekeeper import Timekeeper, TimeLimits
from jobstatus.rest.limits import RestLimits
from jobstatus.settings import Address, IssuerSettings, Settings
from jobstatus.telemetry.audit import AuditLog
from jobstatus.telemetry.certificates import CertificateDates, read_dates
from jobstatus.telemetry.metrics import Metrics
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
    connect_seconds: float = 3.0
    """How long a reload tries to connect to the service with new certificates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeListening:
    """The addresses that the edge listens on (the settings may have asked for any free port), and `reload`.

    `reload` is as in the service's `Listening`. It raises OSError also for certificates that give no connection.
    """

    http: Address
    admin: Address
    reload: Reload


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
    pem = read_pem(settings)
    async with AsyncExitStack() as stack:
        core = await _open_core(stack, settings, pem, limits, clocks)
        frontend = _frontend(core, issuers)
        if core.tracing is not None:
            stack.push_async_callback(core.tracing.close)
        await run_once("refresh_credentials", frontend.authenticator.refresh, core.metrics)
        for stop in (frontend.admin.stop, frontend.public.stop):
            stack.push_async_callback(stop)
        core.metrics.tls_files_read(_certificate_dates(settings))
        listening = EdgeListening(
            http=settings.http._replace(port=await frontend.public.start(*settings.http)),
            admin=settings.admin._replace(port=await frontend.admin.start(*settings.admin)),
            reload=partial(_reload, frontend, _UpstreamTls(core.channel, pem, limits.connect_seconds), core.metrics),
        )
        await start_tasks(
            stack,
            keep_time(core.clock, core.metrics),
            core.follower.run(),
            run_periodically(2.0, "report_health", partial(_check_health, frontend.readiness), core.metrics),
        )
        await frontend.start_refreshing(stack, core.metrics)
        try:
            yield listening
        finally:
            await _stop(core, frontend)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Core:
    """What the ports are built upon: the connection to the service, and who reads and follows jobs through it."""

    settings: Settings
    limits: EdgeLimits
    clocks: Clocks
    clock: Timekeeper
    metrics: Metrics
    tracing: Tracing | None
    audit: AuditLog | None
    channel: ServiceChannel
    upstream: UpstreamReader
    follower: UpstreamFollower


async def _open_core(
    stack: AsyncExitStack, settings: Settings, pem: Pem | None, limits: EdgeLimits, clocks: Clocks
) -> _Core:
    """Open the connection to the service, and build what uses it. The stack closes all of it."""
    metrics = Metrics(clocks.seconds, clocks.monotonic)
    clock = clocks.timekeeper(limits.time, metrics)
    tracing = await stack.enter_async_context(open_tracing())
    audit = open_audit_log(settings, stack, metrics)
    interceptors = () if tracing is None else tracing.client_interceptors()
    channel = upstream_channel(settings, pem, limits.upstream, interceptors)
    upstream = UpstreamReader(await stack.enter_async_context(channel), limits.upstream, clock=clock)
    stack.push_async_callback(upstream.close)
    return _Core(
        settings=settings,
        limits=limits,
        clocks=replace(clocks, seconds=clock.seconds, ms=clock.ms),
        clock=clock,
        metrics=metrics,
        tracing=tracing,
        audit=audit,
        channel=channel,
        upstream=upstream,
        follower=UpstreamFollower(channel, limits.follower),
    )


def _frontend(core: _Core, issuers: tuple[IssuerSettings, ...]) -> Frontend:
    return build_frontend(
        core.settings,
        issuers,
        polls=_poller(core),
        virtual_keys=core.upstream,
        readiness=Readiness(core.upstream.probe),
        subscriptions=core.follower.subscriptions,
        metrics=core.metrics,
        grace_seconds=GRACE_SECONDS,
        limits=core.limits.rest,
        jwks=core.limits.jwks,
        lookups=core.limits.lookups,
        clocks=core.clocks,
        hears_of_changes=lambda: core.follower.is_connected,
        audit=core.audit,
        traced=None if core.tracing is None else partial(core.tracing.polls, core.upstream),
    )


def _poller(core: _Core) -> Poller:
    return Poller(
        core.upstream,
        clock=core.clock.expiry_ms,
        observer=core.metrics,
        unscoped_for_all=core.settings.unscoped_jobs == "any_credential",
        limits=core.limits.upstream.batches,
        max_result_reads=core.limits.upstream.large_at_a_time,
    )


async def _stop(core: _Core, frontend: Frontend) -> None:
    """Have clients go elsewhere before anything is refused."""
    frontend.readiness.stop()
    await asyncio.sleep(core.settings.stop_delay_seconds)
    core.follower.subscriptions.close()
    await frontend.public.stop()


class _UpstreamTls:
    """The certificates of the connection to the service, which may be replaced."""

    def __init__(self, channel: ServiceChannel, pem: Pem | None, connect_seconds: float) -> None:
        """Without TLS `pem` is None."""
        self._channel = channel
        self._pem = pem
        self._connect_seconds = connect_seconds

    async def replace(self, settings: Settings) -> bool:
        """Read the files, and return whether they are new and in use from now on. Raise OSError if they cannot be."""
        pem = await asyncio.to_thread(read_pem, settings)
        if pem is None or pem == self._pem:
            return False
        try:
            await self._channel.replace_credentials(_credentials(pem), within_seconds=self._connect_seconds)
        except ConnectionError as error:
            raise OSError(f"the TLS files for JOBSTATUS_UPSTREAM cannot be used: {error}") from error
        self._pem = pem
        return True


async def _reload(
    frontend: Frontend, tls: _UpstreamTls, metrics: Metrics, settings: Settings, issuers: tuple[IssuerSettings, ...]
) -> list[str]:
    prepared = await asyncio.to_thread(frontend.issuers.prepare, issuers)
    dates = await asyncio.to_thread(_certificate_dates, settings)
    changed = ["upstream_tls_cert"] if await tls.replace(settings) else []
    if changed:
        metrics.tls_files_read(dates)
    frontend.use_issuers(prepared)
    return changed


def _certificate_dates(settings: Settings) -> CertificateDates:
    return read_dates([settings.upstream_tls_cert, settings.upstream_tls_ca], [settings.upstream_tls_key])


def upstream_channel(
    settings: Settings,
    pem: Pem | None,
    limits: UpstreamLimits,
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
) -> ServiceChannel:
    """Return a channel to the service, to be entered."""
    return ServiceChannel(
        str(settings.upstream),
        credentials=None if pem is None else _credentials(pem),
        timeout_seconds=limits.call_seconds,
        retry=True,
        balancing=settings.upstream_balancing,
        interceptors=interceptors,
        first_try_part=1,
        transient=(ServiceUnreachable, ShuttingDown, Overloaded),  # its clients come again when its store fails
    )


def read_pem(settings: Settings) -> Pem | None:
    """Return the certificates for the service, None without TLS. Raises OSError when a PEM file is not valid."""
    files = settings.upstream_tls
    return None if files is None else files.read("JOBSTATUS_UPSTREAM")


def _credentials(pem: Pem) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.certificate)


async def _check_health(readiness: Readiness) -> None:
    """Keep the health that the metrics tell up to date."""
    await readiness.check()
