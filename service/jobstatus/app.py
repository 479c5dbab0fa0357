"""The composition root: the only place that builds everything, starts it in order and stops it in order."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn

from jobstatus.auth.authenticator import Authenticator
from jobstatus.auth.issuers import TokenVerifier
from jobstatus.core.errors import JobStatusError
from jobstatus.core.rules import Policy
from jobstatus.core.store import Store
from jobstatus.core.sweeper import Sweeper
from jobstatus.core.tracker import JobTracker
from jobstatus.metrics import Metrics
from jobstatus.rest.admin import Readiness, admin_application
from jobstatus.rest.edge import Edge
from jobstatus.rest.server import HttpServer
from jobstatus.rpc.job_status import JobStatusServicer
from jobstatus.rpc.server import RpcServer, Tls
from jobstatus.rpc.virtual_keys import VirtualKeysServicer
from jobstatus.settings import Address, IssuerSettings, Settings
from jobstatus.stores import open_store

GRACE_SECONDS: Final = 3.0
"""How long calls under way may take when the service stops."""
REFUSING_SECONDS: Final = 0.2
"""How long calls are still picked up, to be told why they are refused; gRPC cancels those that wait when it stops."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """The addresses that became of the settings' (which may ask for any free port)."""

    http: Address
    grpc: Address
    admin: Address


@asynccontextmanager
async def serving(
    settings: Settings, issuers: tuple[IssuerSettings, ...], *, with_reflection: bool
) -> AsyncIterator[Listening]:
    """The whole service, up while the context lasts; leaving it stops gracefully.

    Raises KeyConfigError, StoreConfigError or OSError when something cannot be had.
    """
    metrics = Metrics()
    verifier = TokenVerifier([issuer.config() for issuer in issuers]) if issuers else None
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings.store))
        authenticator = Authenticator(verifier=verifier, store=store, clock=time.time, monotonic=time.monotonic)
        await authenticator.refresh()
        tracker = _tracker(settings, store, metrics)
        stack.push_async_callback(tracker.close)
        readiness = Readiness(store)
        job_status = JobStatusServicer(tracker, max_result_bytes=settings.max_result_bytes)
        virtual_keys = VirtualKeysServicer(store=store, clock=_now_ms, on_change=authenticator.forget_virtual_keys)
        rpc = RpcServer(
            job_status=job_status,
            virtual_keys=virtual_keys,
            metrics=metrics,
            max_result_bytes=settings.max_result_bytes,
            tls=_tls(settings),
            with_reflection=with_reflection,
        )
        edge = Edge(
            authenticator=authenticator,
            tracker=tracker,
            metrics=metrics,
            clock=_now_ms,
            retry_after_seconds=settings.retry_after_seconds,
        )
        sweeper = Sweeper(tracker, store, clock=_now_ms, observer=metrics)
        admin = HttpServer(admin_application(readiness, metrics), max_connections=100, grace_seconds=GRACE_SECONDS)
        public = HttpServer(edge.application(), max_connections=settings.max_connections, grace_seconds=GRACE_SECONDS)
        for stop in (admin.stop, public.stop, partial(rpc.stop, 0)):
            stack.push_async_callback(stop)
        listening = Listening(
            http=settings.http._replace(port=await public.start(*settings.http)),
            grpc=settings.grpc._replace(port=await rpc.start(str(settings.grpc))),
            admin=settings.admin._replace(port=await admin.start(*settings.admin)),
        )
        await _start_tasks(
            stack,
            _every(settings.sweep_interval_seconds, "sweep", sweeper.sweep, metrics),
            _every(1.0, "refresh_credentials", authenticator.refresh, metrics),
            _every(2.0, "report_health", partial(_report_health, readiness, rpc), metrics),
            _every(15.0, "count_jobs", partial(_count_jobs, store, metrics), metrics),
        )
        try:
            yield listening
        finally:
            readiness.stop()
            await rpc.say_stopping()
            await asyncio.sleep(settings.stop_delay_seconds)
            tracker.refuse()
            await asyncio.sleep(REFUSING_SECONDS)
            await asyncio.gather(rpc.stop(GRACE_SECONDS), public.stop())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _tracker(settings: Settings, store: Store, metrics: Metrics) -> JobTracker:
    policy = Policy(
        pending_timeout_ms=int(settings.pending_timeout_seconds * 1000),
        processing_timeout_ms=int(settings.processing_timeout_seconds * 1000),
    )
    return JobTracker(
        store,
        clock=_now_ms,
        policy=policy,
        observer=metrics,
        unscoped_for_all=settings.unscoped_jobs == "any_credential",
        max_watchers=settings.max_watchers,
    )


def _tls(settings: Settings) -> Tls | None:
    certificate, key, client_ca = settings.grpc_tls_cert, settings.grpc_tls_key, settings.grpc_tls_client_ca
    if not (certificate and key and client_ca):
        return None
    allowed = settings.grpc_allowed_clients
    return Tls(certificate=certificate, key=key, client_ca=client_ca, allowed_clients=allowed)


async def _start_tasks(stack: AsyncExitStack, *endless: Coroutine[Any, Any, NoReturn]) -> None:
    """Run them in the background until the stack unwinds."""
    group = await stack.enter_async_context(asyncio.TaskGroup())
    tasks = [group.create_task(work) for work in endless]
    stack.callback(lambda: [task.cancel() for task in tasks])


async def _every(seconds: float, chore: str, work: Callable[[], Awaitable[None]], metrics: Metrics) -> NoReturn:
    """Do it for ever; a failure is logged, counted and tried again."""
    while True:
        try:
            await work()
        except JobStatusError as error:
            metrics.chore_failed(chore)
            _log.warning("%s failed: %s", chore, error.message, extra={"reason": error.reason})
        except Exception:  # noqa: BLE001  # one chore must not end the service
            metrics.chore_failed(chore)
            _log.exception("%s failed for a reason that is a fault of this program", chore)
        await asyncio.sleep(seconds)


async def _report_health(readiness: Readiness, rpc: RpcServer) -> None:
    await rpc.set_serving(serving=not await readiness.problem())


async def _count_jobs(store: Store, metrics: Metrics) -> None:
    metrics.jobs_counted(await store.count_jobs())
