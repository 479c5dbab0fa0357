"""The composition root of the service: builds all parts, starts them in order and stops them in order."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from jobstatus.app.background import run_once, run_periodically, start_tasks
from jobstatus.app.clocks import Clocks, keep_time
from jobstatus.app.console import ServiceConsole
from jobstatus.app.frontend import Frontend, Reload, build_frontend, open_audit_log
from jobstatus.app.limits import ServiceLimits
from jobstatus.console.links import SignInLinks
from jobstatus.core.readiness import Readiness
from jobstatus.core.rules import Policy
from jobstatus.core.store import Store
from jobstatus.core.sweeper import Sweeper
from jobstatus.core.timekeeper import Timekeeper
from jobstatus.core.tracker import JobTracker, TrackerLimits
from jobstatus.core.watching.subscriptions import JobSubscriptions
from jobstatus.rpc.audit import CHANGES, WRITES, CallAudit
from jobstatus.rpc.job_status import JobStatusServicer
from jobstatus.rpc.options import DESCRIPTORS, RpcLimits
from jobstatus.rpc.server import RpcServer, Tls
from jobstatus.rpc.virtual_keys import VirtualKeysServicer
from jobstatus.settings import Address, IssuerSettings, Settings
from jobstatus.stores import open_store
from jobstatus.telemetry.audit import AuditLog
from jobstatus.telemetry.certificates import CertificateDates, read_dates
from jobstatus.telemetry.metrics import Level, Metrics

GRACE_SECONDS: Final = 3.0
"""How long calls in progress may take when the service stops."""
CHANGE_CHECK_SECONDS: Final = 0.1
"""The interval of reads for changes by other processes, while a client waits for any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """The addresses in use (the settings may ask for any free port), and what the admin port serves.

    `health` returns a Health as text, and `exposition` the metrics in Prometheus' text format. `restart_leases` lets
    every lease run once more in full, and returns an empty string.
    `reload` takes issuers, certificates and allowed clients of other settings into use, or none of them: it raises
    KeyConfigError or OSError. It returns the names of the settings whose files have other content than before.
    `console` has what a supervisor may ask about the console; nothing where that is off.
    """

    http: Address
    grpc: Address
    admin: Address
    health: Callable[[], Awaitable[str]]
    exposition: Callable[[], Awaitable[str]]
    restart_leases: Callable[[], Awaitable[str]]
    reload: Reload
    console: Mapping[str, Callable[[str], Awaitable[str]]]


@asynccontextmanager
async def serving(
    settings: Settings,
    issuers: tuple[IssuerSettings, ...],
    *,
    with_reflection: bool,
    is_child: bool = False,
    links: SignInLinks | None = None,
    store: AbstractAsyncContextManager[Store] | None = None,
    limits: ServiceLimits = ServiceLimits(),  # noqa: B008  # a frozen value
    clocks: Clocks = Clocks(),  # noqa: B008  # a frozen value
) -> AsyncIterator[Listening]:
    """Run the whole service while the context lasts; leaving it stops gracefully.

    `store` replaces the one that the settings name. With `is_child` other processes of this user may share the ports,
    and the admin port is left to the supervisor. `links` sign in to the console. Raises KeyConfigError,
    StoreConfigError or OSError when a key, the store or an address is not available.
    """
    metrics = Metrics(clocks.seconds, clocks.monotonic)
    async with AsyncExitStack() as stack:
        audit = open_audit_log(settings, stack, metrics)
        opening = store or open_store(settings.store, redis_replicas=settings.redis_replicas)
        opened = await stack.enter_async_context(opening)
        subscriptions = JobSubscriptions()
        clock = clocks.timekeeper(limits.time, metrics)
        clocks = replace(clocks, seconds=clock.seconds, ms=clock.ms)
        tracker = _tracker(settings, opened, metrics, subscriptions, limits=limits.tracker, clock=clock)
        _report_writes(settings, tracker, metrics, limits.tracker)
        sweeper = Sweeper(tracker, opened, clock=clock, observer=metrics, every_seconds=settings.sweep_interval_seconds)
        await run_once("ask_time", sweeper.ask_time, metrics)
        clock.restart_leases(clock.ms())
        stack.push_async_callback(tracker.close)
        console = ServiceConsole(
            settings,
            tracker=tracker,
            store=opened,
            sweeper=sweeper,
            clock=clock,
            clocks=clocks,
            metrics=metrics,
            audit=audit,
            links=links,
            is_child=is_child,
            limits=limits,
        )
        frontend = build_frontend(
            settings,
            issuers,
            polls=tracker.poller,
            virtual_keys=opened,
            readiness=Readiness(opened.probe, opened.virtual_keys_version),
            subscriptions=subscriptions,
            metrics=metrics,
            grace_seconds=GRACE_SECONDS,
            limits=limits.rest,
            jwks=limits.jwks,
            lookups=limits.lookups,
            clocks=clocks,
            audit=audit,
            build_console=console.build,
        )
        await frontend.authenticator.refresh()
        virtual_keys = VirtualKeysServicer(
            store=opened,
            clock=clocks.ms,
            on_change=frontend.authenticator.forget_virtual_keys,
            pages=limits.rpc.pages,
        )
        rpc = _rpc_server(
            settings,
            tracker,
            virtual_keys,
            metrics,
            with_reflection=with_reflection,
            is_child=is_child,
            limits=limits.rpc,
            audit=audit,
        )
        count = partial(_count_jobs, sweeper, opened, clock, metrics, console)
        sweep = partial(_sweep, sweeper, partial(run_once, "count_jobs", count, metrics), metrics)
        stack.push_async_callback(run_once, "give_up_sweep", sweeper.resign, metrics)
        for stop in (frontend.admin.stop, frontend.public.stop, partial(rpc.stop, 0)):
            stack.push_async_callback(stop)
        metrics.tls_files_read(_certificate_dates(settings))
        listening = Listening(
            http=settings.http._replace(port=await frontend.public.start(*settings.http, shared=is_child)),
            grpc=settings.grpc._replace(port=await rpc.start(str(settings.grpc))),
            admin=settings.admin
            if is_child
            else settings.admin._replace(port=await frontend.admin.start(*settings.admin)),
            health=partial(_health, frontend.readiness),
            exposition=partial(_exposition, metrics),
            restart_leases=partial(_restart_leases, clock),
            reload=partial(_reload, frontend, rpc, metrics),
            console=console.answers,
        )
        await start_tasks(
            stack,
            run_periodically(settings.sweep_interval_seconds, "sweep", sweep, metrics),
            keep_time(clock, metrics),
            run_periodically(CHANGE_CHECK_SECONDS, "look_for_changes", tracker.notify_remote_changes, metrics),
            run_periodically(2.0, "report_health", partial(_report_health, frontend.readiness, rpc), metrics),
            run_periodically(limits.count_jobs_seconds, "count_jobs", count, metrics),
            *console.tasks(),
        )
        await frontend.start_refreshing(stack, metrics)
        try:
            yield listening
        finally:
            frontend.readiness.stop()
            await rpc.say_stopping()
            await asyncio.sleep(settings.stop_delay_seconds)
            # Clients are told to connect elsewhere before anything is refused, so the tracker stays open until the end
            # of the grace. Only what would last longer ends once they have been told.
            await asyncio.gather(rpc.stop(GRACE_SECONDS, on_goaway=tracker.end_watches), frontend.public.stop())


async def _reload(
    frontend: Frontend, rpc: RpcServer, metrics: Metrics, settings: Settings, issuers: tuple[IssuerSettings, ...]
) -> list[str]:
    prepared = await asyncio.to_thread(frontend.issuers.prepare, issuers)
    tls = await asyncio.to_thread(read_tls, settings)
    dates = await asyncio.to_thread(_certificate_dates, settings)
    frontend.use_issuers(prepared)
    if tls is None or not rpc.replace_tls(tls):
        return []
    metrics.tls_files_read(dates)
    return ["grpc_tls_cert"]


def _certificate_dates(settings: Settings) -> CertificateDates:
    return read_dates([settings.grpc_tls_cert, settings.grpc_tls_client_ca], [settings.grpc_tls_key])


async def _restart_leases(clock: Timekeeper) -> str:
    clock.restart_leases(clock.ms())
    return ""


async def _health(readiness: Readiness) -> str:
    return (await readiness.check()).to_text()


async def _exposition(metrics: Metrics) -> str:
    return (await metrics.exposition()).decode()


def _tracker(
    settings: Settings,
    store: Store,
    metrics: Metrics,
    subscriptions: JobSubscriptions,
    *,
    limits: TrackerLimits,
    clock: Timekeeper,
) -> JobTracker:
    policy = Policy(
        pending_timeout_ms=int(settings.pending_timeout_seconds * 1000),
        processing_timeout_ms=int(settings.processing_timeout_seconds * 1000),
    )
    return JobTracker(
        store,
        clock=clock,
        policy=policy,
        observer=metrics,
        unscoped_for_all=settings.unscoped_jobs == "any_credential",
        max_watchers=settings.max_watchers,
        subscriptions=subscriptions,
        limits=limits,
    )


def _report_writes(settings: Settings, tracker: JobTracker, metrics: Metrics, limits: TrackerLimits) -> None:
    """Report what gRPC clients use of the limits."""
    metrics.report_level(Level.WATCHERS, lambda: tracker.watcher_count, settings.max_watchers)
    metrics.report_level(Level.QUEUED_WRITES, lambda: tracker.queued_writes, limits.writes.max_waiting_commands)
    metrics.report_level(Level.QUEUED_WRITE_BYTES, lambda: tracker.queued_write_bytes, limits.writes.max_waiting_bytes)
    metrics.expect_writes([method.name for service in DESCRIPTORS for method in service.methods])


def _rpc_server(
    settings: Settings,
    tracker: JobTracker,
    virtual_keys: VirtualKeysServicer,
    metrics: Metrics,
    *,
    with_reflection: bool,
    is_child: bool,
    limits: RpcLimits,
    audit: AuditLog | None,
) -> RpcServer:
    return RpcServer(
        job_status=JobStatusServicer(tracker, max_result_bytes=settings.max_result_bytes, limits=limits),
        virtual_keys=virtual_keys,
        metrics=metrics,
        max_result_bytes=settings.max_result_bytes,
        tls=read_tls(settings),
        with_reflection=with_reflection,
        shared=is_child,
        limits=limits,
        audit=_call_audit(settings, audit),
    )


def _call_audit(settings: Settings, audit: AuditLog | None) -> CallAudit | None:
    if audit is None:
        return None
    return CallAudit(record=audit.record, methods=WRITES if settings.audit_writes else CHANGES)


def read_tls(settings: Settings) -> Tls | None:
    """Return the security of the gRPC port, None without TLS. Raises OSError when a file cannot be used."""
    files = settings.grpc_tls
    if files is None:
        return None
    return Tls(
        pem=files.read("gRPC"),
        allowed_clients=settings.grpc_allowed_clients,
        edge_clients=settings.grpc_edge_clients,
    )


async def _report_health(readiness: Readiness, rpc: RpcServer) -> None:
    await rpc.set_health(await readiness.check())


async def _sweep(sweeper: Sweeper, recount: Callable[[], Awaitable[object]], metrics: Metrics) -> None:
    """Sweep. Count jobs at once where this process begins or ceases to lead, as at a start."""
    led_before = sweeper.is_leader
    await sweeper.sweep()
    metrics.sweep_done(leads=sweeper.is_leader)
    if sweeper.is_leader is not led_before:
        await recount()


async def _count_jobs(
    sweeper: Sweeper, store: Store, clock: Timekeeper, metrics: Metrics, console: ServiceConsole
) -> None:
    """Count jobs in the process that sweeps only, so that several processes do not report the same jobs."""
    count = await store.count_jobs(clock.leases_count_from_ms()) if sweeper.is_leader else None
    metrics.jobs_counted(count, clock.ms())
    console.note(count)
