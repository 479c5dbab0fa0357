"""The composition root of the service: builds all parts, starts them in order and stops them in order."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NoReturn

from jobstatus.app.background import run_once, run_periodically, start_tasks
from jobstatus.app.clocks import Clocks, keep_time
from jobstatus.app.console import ServiceConsole
from jobstatus.app.frontend import Frontend, Reload, build_frontend, open_audit_log
from jobstatus.app.limits import ServiceLimits
from jobstatus.app.tracing import Tracing, open_tracing
from jobstatus.console.links import SignInLinks
from jobstatus.core.readiness import Readiness
from jobstatus.core.rules import Policy
from jobstatus.core.store import Store
from jobstatus.core.sweeper import Sweeper
from jobstatus.core.timekeeper import Timekeeper
from jobstatus.core.tracker import JobTracker, TrackerLimits
from jobstatus.core.watching.notices import ChangeNotices, NoticeLimits
from jobstatus.core.watching.subscriptions import JobSubscriptions
from jobstatus.rpc.audit import CHANGES, WRITES, CallAudit
from jobstatus.rpc.job_status import JobStatusServicer
from jobstatus.rpc.options import DESCRIPTORS
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
    async with AsyncExitStack() as stack:
        core = await _open_core(stack, settings, store, limits, clocks)
        console = _console(core, links, is_child=is_child)
        frontend = await _frontend(core, issuers, console)
        rpc = _rpc_server(core, frontend, with_reflection=with_reflection, is_child=is_child)
        stack.push_async_callback(run_once, "give_up_sweep", core.sweeper.resign, core.metrics)
        for stop in (frontend.admin.stop, frontend.public.stop, partial(rpc.stop, 0)):
            stack.push_async_callback(stop)
        core.metrics.tls_files_read(_certificate_dates(settings))
        listening = await _listen(core, frontend, rpc, console, is_child=is_child)
        await start_tasks(stack, *_chores(core, frontend, rpc, console))
        await frontend.start_refreshing(stack, core.metrics)
        try:
            yield listening
        finally:
            await _stop(core, frontend, rpc)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Core:
    """What the ports and the chores are built upon: the store, and all that is between it and them.

    `store` is `untraced` with a span around each of its calls, or the same where there are no traces.
    """

    settings: Settings
    limits: ServiceLimits
    clocks: Clocks
    clock: Timekeeper
    metrics: Metrics
    tracing: Tracing | None
    audit: AuditLog | None
    untraced: Store
    store: Store
    subscriptions: JobSubscriptions
    notices: ChangeNotices | None
    tracker: JobTracker
    sweeper: Sweeper


async def _open_core(
    stack: AsyncExitStack,
    settings: Settings,
    given: AbstractAsyncContextManager[Store] | None,
    limits: ServiceLimits,
    clocks: Clocks,
) -> _Core:
    """Open the store, the one `given` if there is one, and build what is upon it. The stack closes all of it."""
    metrics = Metrics(clocks.seconds, clocks.monotonic)
    tracing = await stack.enter_async_context(open_tracing())
    audit = open_audit_log(settings, stack, metrics)
    opening = given or open_store(settings.store, redis_replicas=settings.redis_replicas)
    store = untraced = await stack.enter_async_context(opening)
    if tracing is not None:
        store = tracing.store(untraced, settings.store)
        stack.push_async_callback(tracing.close)
    clock = clocks.timekeeper(limits.time, metrics)
    subscriptions = JobSubscriptions()
    notices = _notices(settings, store, subscriptions, limits.notices)
    tracker = _tracker(settings, store, metrics, subscriptions, notices, limits=limits.tracker, clock=clock)
    _report_writes(settings, tracker, metrics, limits.tracker)
    sweeper = Sweeper(tracker, store, clock=clock, observer=metrics, every_seconds=settings.sweep_interval_seconds)
    await run_once("ask_time", sweeper.ask_time, metrics)
    clock.restart_leases(clock.ms())
    stack.push_async_callback(tracker.close)
    return _Core(
        settings=settings,
        limits=limits,
        clocks=replace(clocks, seconds=clock.seconds, ms=clock.ms),
        clock=clock,
        metrics=metrics,
        tracing=tracing,
        audit=audit,
        untraced=untraced,
        store=store,
        subscriptions=subscriptions,
        notices=notices,
        tracker=tracker,
        sweeper=sweeper,
    )


def _notices(
    settings: Settings, store: Store, subscriptions: JobSubscriptions, limits: NoticeLimits
) -> ChangeNotices | None:
    channel = store.notices if settings.change_notices else None
    return None if channel is None else ChangeNotices(channel, subscriptions, limits)


def _console(core: _Core, links: SignInLinks | None, *, is_child: bool) -> ServiceConsole:
    return ServiceConsole(
        core.settings,
        tracker=core.tracker,
        store=core.store,
        sweeper=core.sweeper,
        clock=core.clock,
        clocks=core.clocks,
        metrics=core.metrics,
        audit=core.audit,
        links=links,
        is_child=is_child,
        limits=core.limits,
    )


async def _frontend(core: _Core, issuers: tuple[IssuerSettings, ...], console: ServiceConsole) -> Frontend:
    """Build the HTTP ports, and read the virtual keys that they accept."""
    frontend = build_frontend(
        core.settings,
        issuers,
        polls=core.tracker.poller,
        virtual_keys=core.store,
        readiness=Readiness(core.store.probe, core.store.virtual_keys_version),
        subscriptions=core.subscriptions,
        metrics=core.metrics,
        grace_seconds=GRACE_SECONDS,
        limits=core.limits.rest,
        jwks=core.limits.jwks,
        lookups=core.limits.lookups,
        clocks=core.clocks,
        audit=core.audit,
        traced=None if core.tracing is None else partial(core.tracing.polls, core.untraced),
        build_console=console.build,
    )
    await frontend.authenticator.refresh()
    return frontend


async def _listen(
    core: _Core, frontend: Frontend, rpc: RpcServer, console: ServiceConsole, *, is_child: bool
) -> Listening:
    """Open the ports, the admin port last, and not in a child."""
    http, grpc_address, admin = core.settings.http, core.settings.grpc, core.settings.admin
    return Listening(
        http=http._replace(port=await frontend.public.start(*http, shared=is_child)),
        grpc=grpc_address._replace(port=await rpc.start(str(grpc_address))),
        admin=admin if is_child else admin._replace(port=await frontend.admin.start(*admin)),
        health=partial(_health, frontend.readiness),
        exposition=partial(_exposition, core.metrics),
        restart_leases=partial(_restart_leases, core.clock),
        reload=partial(_reload, frontend, rpc, core.metrics),
        console=console.answers,
    )


def _chores(
    core: _Core, frontend: Frontend, rpc: RpcServer, console: ServiceConsole
) -> list[Coroutine[Any, Any, NoReturn]]:
    """Return what is done again and again while the service runs."""
    metrics, every_seconds = core.metrics, core.settings.sweep_interval_seconds
    count = partial(_count_jobs, core.sweeper, core.store, core.clock, metrics, console)
    sweep = partial(_sweep, core.sweeper, partial(run_once, "count_jobs", count, metrics), metrics)
    ask = partial(_ask, core.tracker, core.notices)
    return [
        run_periodically(every_seconds, "sweep", sweep, metrics),
        keep_time(core.clock, metrics),
        run_periodically(CHANGE_CHECK_SECONDS, "look_for_changes", ask, metrics),
        *(() if core.notices is None else (core.notices.run(),)),
        run_periodically(2.0, "report_health", partial(_report_health, frontend.readiness, rpc), metrics),
        run_periodically(core.limits.count_jobs_seconds, "count_jobs", count, metrics),
        *console.tasks(),
    ]


async def _stop(core: _Core, frontend: Frontend, rpc: RpcServer) -> None:
    """Tell clients to connect elsewhere before anything is refused.

    So the tracker stays open until the end of the grace. Only what would last longer ends once they have been told.
    """
    frontend.readiness.stop()
    await rpc.say_stopping()
    await asyncio.sleep(core.settings.stop_delay_seconds)
    await asyncio.gather(rpc.stop(GRACE_SECONDS, on_goaway=core.tracker.end_watches), frontend.public.stop())


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
    notices: ChangeNotices | None,
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
        announce=None if notices is None else notices.announce,
        limits=limits,
    )


def _report_writes(settings: Settings, tracker: JobTracker, metrics: Metrics, limits: TrackerLimits) -> None:
    """Report what gRPC clients use of the limits."""
    metrics.report_level(Level.WATCHERS, lambda: tracker.watcher_count, settings.max_watchers)
    metrics.report_level(Level.QUEUED_WRITES, lambda: tracker.queued_writes, limits.writes.max_waiting_commands)
    metrics.report_level(Level.QUEUED_WRITE_BYTES, lambda: tracker.queued_write_bytes, limits.writes.max_waiting_bytes)
    metrics.expect_writes([method.name for service in DESCRIPTORS for method in service.methods])


def _rpc_server(core: _Core, frontend: Frontend, *, with_reflection: bool, is_child: bool) -> RpcServer:
    settings, limits = core.settings, core.limits.rpc
    virtual_keys = VirtualKeysServicer(
        store=core.store,
        clock=core.clocks.ms,
        on_change=frontend.authenticator.forget_virtual_keys,
        pages=limits.pages,
    )
    return RpcServer(
        job_status=JobStatusServicer(core.tracker, max_result_bytes=settings.max_result_bytes, limits=limits),
        virtual_keys=virtual_keys,
        metrics=core.metrics,
        max_result_bytes=settings.max_result_bytes,
        tls=read_tls(settings),
        with_reflection=with_reflection,
        shared=is_child,
        limits=limits,
        audit=_call_audit(settings, core.audit),
        interceptors=() if core.tracing is None else core.tracing.server_interceptors(),
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


async def _ask(tracker: JobTracker, notices: ChangeNotices | None) -> None:
    """Ask the store for changes made elsewhere, more seldom while they are announced."""
    if notices is None or notices.should_ask():
        await tracker.notify_remote_changes()


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
