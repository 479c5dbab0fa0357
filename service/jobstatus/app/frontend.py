"""Build the HTTP ports and the parts behind them, for the service and for an edge alike."""

import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias, get_args

from jobstatus.app.background import run_periodically, start_tasks
from jobstatus.app.clocks import Clocks
from jobstatus.app.issuers import AcceptedIssuers, PreparedIssuers
from jobstatus.auth.authenticator import Authenticator
from jobstatus.auth.errors import Reason
from jobstatus.auth.remote_keys import JwksLimits
from jobstatus.core.batch_reader import BatchReaderLimits
from jobstatus.core.poll import Poller
from jobstatus.core.readiness import Readiness
from jobstatus.core.store import VirtualKeyReader
from jobstatus.core.watching.long_poll import LongPoller
from jobstatus.core.watching.subscriptions import JobSubscriptions
from jobstatus.rest.admin import admin_handler
from jobstatus.rest.admission import Admission, RateLimit, RateLimiter, record_read
from jobstatus.rest.connection_table import Limit
from jobstatus.rest.cors import Cors
from jobstatus.rest.cors_handler import cors_handler, cors_prepare
from jobstatus.rest.event_stream import EventSender
from jobstatus.rest.fast_path import Prepare
from jobstatus.rest.handler import PollHandler
from jobstatus.rest.limits import RestLimits
from jobstatus.rest.openapi import OpenApiDocument
from jobstatus.rest.protocol import Handler
from jobstatus.rest.send_limits import LargeResponses
from jobstatus.rest.server import HttpServer
from jobstatus.rest.waiting import WaitHandler
from jobstatus.settings import IssuerSettings, Settings
from jobstatus.telemetry.audit import AuditLog
from jobstatus.telemetry.metrics import Level, Metrics

Reload: TypeAlias = Callable[[Settings, tuple[IssuerSettings, ...]], Awaitable[list[str]]]
"""Takes the reloadable part of these settings into use, or raises and changes nothing."""

TracedPolls: TypeAlias = Callable[[Handler, Prepare], tuple[Handler, Prepare]]
"""Returns both, with a span for each request."""
BuildConsole: TypeAlias = Callable[[Authenticator, Callable[[], int]], Handler | None]
"""Takes what authenticates, and what returns how many polls wait."""

_ADMIN_CONNECTIONS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontend:
    """The HTTP ports and what else must be started, run or stopped; nothing is started yet."""

    authenticator: Authenticator
    issuers: AcceptedIssuers
    readiness: Readiness
    public: HttpServer
    admin: HttpServer

    async def start_refreshing(self, stack: AsyncExitStack, metrics: Metrics) -> None:
        """Keep virtual keys and issuers' keys up to date until the stack unwinds."""
        await stack.enter_async_context(self.issuers)
        await start_tasks(stack, run_periodically(1.0, "refresh_credentials", self.authenticator.refresh, metrics))

    def use_issuers(self, prepared: PreparedIssuers) -> None:
        """Accept these issuers from now on, and only these."""
        self.issuers.use(prepared, self.authenticator)


def build_frontend(
    settings: Settings,
    issuers: tuple[IssuerSettings, ...],
    *,
    polls: Poller,
    virtual_keys: VirtualKeyReader,
    readiness: Readiness,
    subscriptions: JobSubscriptions,
    metrics: Metrics,
    grace_seconds: float,
    limits: RestLimits,
    jwks: JwksLimits,
    lookups: BatchReaderLimits,
    clocks: Clocks,
    hears_of_changes: Callable[[], bool] = lambda: True,
    audit: AuditLog | None = None,
    traced: TracedPolls | None = None,
    build_console: BuildConsole = lambda *_: None,
) -> Frontend:
    """Build the front end; call this in the running loop. Raise KeyConfigError when an issuer's key is unusable.

    `grace_seconds` is how long polls under way may take at a stop; `hears_of_changes` as in LongPoller; `audit` records
    the polls of admins; `traced` puts spans around polls. `build_console` returns what handles /console on the admin
    port, if anything does.
    """
    accepted = AcceptedIssuers(replace(jwks, keep_seconds=settings.jwks_keep_seconds), clocks, metrics)
    waits = LongPoller(
        polls,
        subscriptions,
        clock=clocks.ms,
        limit=settings.max_waiting_polls,
        limit_each=settings.max_waiting_polls_each,
        hears_of_changes=hears_of_changes,
    )
    authenticator = Authenticator(
        verifier=accepted.begin_with(accepted.prepare(issuers)),
        accepts_keys=settings.virtual_keys == "on",
        store=virtual_keys,
        clock=clocks.seconds,
        monotonic=clocks.monotonic,
        lookups=lookups,
        on_change=waits.check_credentials,
    )
    polling = _Polling(
        settings=settings,
        limits=limits,
        clocks=clocks,
        metrics=metrics,
        authenticator=authenticator,
        polls=polls,
        waits=waits,
        large=limits.large_responses(metrics.large_answer_refused),
        cors=Cors(settings.cors_origins),
        admission=_admission(settings, clocks, audit),
    )
    public = _public_port(polling, traced, grace_seconds)
    _report(polling, public, readiness)
    console = build_console(authenticator, lambda: waits.count)
    admin = admin_handler(readiness.check, metrics.exposition, console=console)
    return Frontend(
        authenticator=authenticator,
        issuers=accepted,
        readiness=readiness,
        public=public,
        admin=HttpServer(admin, max_connections=_ADMIN_CONNECTIONS, grace_seconds=grace_seconds, limits=limits),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Polling:
    """What the handlers of polls share."""

    settings: Settings
    limits: RestLimits
    clocks: Clocks
    metrics: Metrics
    authenticator: Authenticator
    polls: Poller
    waits: LongPoller
    large: LargeResponses
    cors: Cors
    admission: Admission | None


def _public_port(polling: _Polling, traced: TracedPolls | None, grace_seconds: float) -> HttpServer:
    """Return the port of polls: one handler answers them, another has them wait without a task of their own."""
    settings, cors = polling.settings, polling.cors
    handler = _poll_handler(polling)
    waits = _wait_handler(polling, handler)
    answer: Handler = handler.answer
    prepare: Prepare = handler.prepare
    if cors.is_on:
        answer, prepare = cors_handler(answer, cors, polling.metrics), cors_prepare(prepare, cors)
    if traced is not None:
        answer, prepare = traced(answer, prepare)
    return HttpServer(
        answer,
        prepare if polling.polls.polls_at_once else None,
        waits.begin_wait if traced is None else None,  # the handler's waits have spans
        max_connections=settings.max_connections,
        max_connections_each=settings.connections_each,
        on_refused=polling.metrics.connection_refused,
        recognise=handler.recognise,
        keepalive_seconds=settings.keepalive_seconds,
        grace_seconds=grace_seconds,
        limits=polling.limits,
    )


def _poll_handler(polling: _Polling) -> PollHandler:
    settings, limits, large = polling.settings, polling.limits, polling.large
    documents_each = limits.documents_each if settings.connections_each else 0
    return PollHandler(
        authenticator=polling.authenticator,
        tracker=polling.polls,
        long_poller=polling.waits,
        metrics=polling.metrics,
        retry_after_seconds=settings.retry_after_seconds,
        max_wait_seconds=settings.max_wait_seconds,
        event_sender=EventSender(
            read_result=polling.polls.read_result, large=large, quiet_seconds=limits.quiet_seconds
        ),
        large=large,
        cors=polling.cors,
        openapi=OpenApiDocument(each_second=documents_each, monotonic=polling.clocks.monotonic),
        admission=polling.admission,
    )


def _wait_handler(polling: _Polling, handler: PollHandler) -> WaitHandler:
    return WaitHandler(
        authenticator=polling.authenticator,
        polls=polling.polls,
        waits=polling.waits,
        outcomes=handler.outcomes,
        metrics=polling.metrics,
        max_wait_seconds=polling.settings.max_wait_seconds,
        large=polling.large,
        cors=polling.cors,
        admission=polling.admission,
    )


def _report(polling: _Polling, public: HttpServer, readiness: Readiness) -> None:
    """Report what clients use of the limits, the health, and how old keys are."""
    metrics, settings, authenticator = polling.metrics, polling.settings, polling.authenticator
    metrics.expect_refusals(Reason, get_args(Limit))
    metrics.report_level(Level.CONNECTIONS, lambda: public.connection_count, settings.max_connections)
    metrics.report_level(Level.WAITING_POLLS, lambda: polling.waits.count, settings.max_waiting_polls)
    metrics.report_level(Level.LARGE_ANSWER_BYTES, lambda: polling.large.held_bytes, polling.limits.max_large_bytes)
    metrics.report_health(lambda: readiness.health)
    metrics.report_keys(files=authenticator.files_changed_at, fetched=authenticator.fetched_ages)


def _admission(settings: Settings, clocks: Clocks, audit: AuditLog | None) -> Admission | None:
    """Return what is to happen before a poll; None where it is nothing, so that polls do not pay for it."""
    if settings.rate_limit is None and audit is None:
        return None
    limiter = None
    if settings.rate_limit is not None:
        limit = RateLimit(per_second=settings.rate_limit, burst=settings.burst)
        limiter = RateLimiter(limit, clocks.monotonic)
    return Admission(limiter=limiter, audit=None if audit is None else partial(record_read, audit.record))


def open_audit_log(settings: Settings, stack: AsyncExitStack, metrics: Metrics) -> AuditLog | None:
    """Return the audit log, which the stack closes; None where there is none. Raises OSError."""
    if settings.audit_log is None:
        return None
    return stack.enter_context(AuditLog(settings.audit_log, clock=time.time, on_lost=metrics.audit_lines_lost))
