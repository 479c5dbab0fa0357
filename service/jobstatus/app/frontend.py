"""What strangers reach, built alike for a whole service and for an edge of its own: credentials, polls, the ports."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from jobstatus.auth.authenticator import Authenticator
from jobstatus.auth.issuers import TokenVerifier
from jobstatus.core.store import VirtualKeyReader
from jobstatus.core.watching.long_poll import LongPoller
from jobstatus.core.watching.subscriptions import JobSubscriptions
from jobstatus.rest.admin import Readiness, admin_handler
from jobstatus.rest.handler import PollHandler, Polls
from jobstatus.rest.server import HttpServer
from jobstatus.settings import IssuerSettings, Settings
from jobstatus.telemetry.metrics import Metrics

_ADMIN_CONNECTIONS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontend:
    """Its parts, none of them started yet."""

    authenticator: Authenticator
    readiness: Readiness
    public: HttpServer
    admin: HttpServer


def build_frontend(
    settings: Settings,
    issuers: tuple[IssuerSettings, ...],
    *,
    polls: Polls,
    virtual_keys: VirtualKeyReader,
    probe: Callable[[], Awaitable[None]],
    subscriptions: JobSubscriptions,
    metrics: Metrics,
    grace_seconds: float,
    hears_of_changes: Callable[[], bool] = lambda: True,
) -> Frontend:
    """To be called inside the running loop. Raises KeyConfigError when the key of an issuer cannot be had.

    `probe` raises when the service can do no work; `grace_seconds` is how long polls under way may take at a stop;
    `hears_of_changes` as LongPoller has it.
    """
    authenticator = Authenticator(
        verifier=TokenVerifier([issuer.config() for issuer in issuers]) if issuers else None,
        store=virtual_keys,
        clock=time.time,
        monotonic=time.monotonic,
        on_change=subscriptions.wake_all,
    )
    long_poller = LongPoller(
        polls.poll,
        subscriptions,
        clock=now_ms,
        limit=settings.max_waiting_polls,
        limit_each=settings.max_waiting_polls_each,
        hears_of_changes=hears_of_changes,
    )
    metrics.count_waiting(lambda: long_poller.count)
    edge = PollHandler(
        authenticator=authenticator,
        tracker=polls,
        long_poller=long_poller,
        metrics=metrics,
        retry_after_seconds=settings.retry_after_seconds,
    )
    readiness = Readiness(probe)
    admin = admin_handler(readiness.problem, metrics.exposition)
    return Frontend(
        authenticator=authenticator,
        readiness=readiness,
        public=HttpServer(
            edge.answer,
            edge.try_answer,
            max_connections=settings.max_connections,
            grace_seconds=grace_seconds,
        ),
        admin=HttpServer(admin, max_connections=_ADMIN_CONNECTIONS, grace_seconds=grace_seconds),
    )


def now_ms() -> int:
    """The wall clock, in ms since the epoch."""
    return time.time_ns() // 1_000_000
