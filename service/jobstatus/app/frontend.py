"""Build the HTTP ports and the parts behind them, for the service and for an edge alike."""

from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn, get_args

from jobstatus.app.background import run_periodically
from jobstatus.app.clocks import Clocks
from jobstatus.app.key_fetching import fetch
from jobstatus.auth.authenticator import Authenticator
from jobstatus.auth.errors import Reason
from jobstatus.auth.issuer_config import IssuerConfig
from jobstatus.auth.issuers import TokenVerifier
from jobstatus.auth.remote_keys import JwksLimits, RemoteKeys
from jobstatus.core.batch_reader import BatchReaderLimits
from jobstatus.core.readiness import Readiness
from jobstatus.core.store import VirtualKeyReader
from jobstatus.core.watching.long_poll import LongPoller
from jobstatus.core.watching.subscriptions import JobSubscriptions
from jobstatus.rest.admin import admin_handler
from jobstatus.rest.connection_table import Limit
from jobstatus.rest.cors import Cors
from jobstatus.rest.cors_handler import cors_handler, cors_try_answer
from jobstatus.rest.event_stream import EventSender
from jobstatus.rest.fast_path import TryAnswer
from jobstatus.rest.handler import PollHandler, Polls
from jobstatus.rest.limits import RestLimits
from jobstatus.rest.openapi import OpenApiDocument
from jobstatus.rest.protocol import Handler
from jobstatus.rest.server import HttpServer
from jobstatus.settings import IssuerSettings, Settings
from jobstatus.telemetry.metrics import Level, Metrics

_ADMIN_CONNECTIONS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontend:
    """The HTTP ports and what else must be started, run or stopped; nothing is started yet."""

    authenticator: Authenticator
    remote_keys: tuple[RemoteKeys, ...]
    readiness: Readiness
    public: HttpServer
    admin: HttpServer

    def refresh_credentials(self, stack: AsyncExitStack, metrics: Metrics) -> list[Coroutine[Any, Any, NoReturn]]:
        """Return the work that keeps keys up to date, each issuer's by itself; the stack ends what it began."""
        for keys in self.remote_keys:
            stack.push_async_callback(keys.close)
        fetching = [run_periodically(1.0, "fetch_keys", keys.refresh, metrics) for keys in self.remote_keys]
        return [run_periodically(1.0, "refresh_credentials", self.authenticator.refresh, metrics), *fetching]


def build_frontend(
    settings: Settings,
    issuers: tuple[IssuerSettings, ...],
    *,
    polls: Polls,
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
) -> Frontend:
    """Build the front end; call this in the running loop. Raise KeyConfigError when an issuer's key is unusable.

    `grace_seconds` is how long polls under way may take at a stop;
    `hears_of_changes` as in LongPoller.
    """
    configs = [issuer.config() for issuer in issuers]
    remote_keys = _remote_keys(configs, replace(jwks, keep_seconds=settings.jwks_keep_seconds), clocks)
    local = [config for config in configs if not config.is_remote]
    authenticator = Authenticator(
        verifier=TokenVerifier(local, remote_keys) if configs else None,
        accepts_keys=settings.virtual_keys == "on",
        store=virtual_keys,
        clock=clocks.seconds,
        monotonic=clocks.monotonic,
        lookups=lookups,
        on_change=subscriptions.wake_all,
    )
    long_poller = LongPoller(
        polls.poll,
        subscriptions,
        clock=clocks.ms,
        limit=settings.max_waiting_polls,
        limit_each=settings.max_waiting_polls_each,
        hears_of_changes=hears_of_changes,
    )
    large = limits.large_responses(metrics.large_answer_refused)
    cors = Cors(settings.cors_origins)
    handler = PollHandler(
        authenticator=authenticator,
        tracker=polls,
        long_poller=long_poller,
        metrics=metrics,
        retry_after_seconds=settings.retry_after_seconds,
        max_wait_seconds=settings.max_wait_seconds,
        event_sender=EventSender(read_result=polls.read_result, large=large, quiet_seconds=limits.quiet_seconds),
        large=large,
        cors=cors,
        openapi=OpenApiDocument(
            each_second=limits.documents_each if settings.connections_each else 0, monotonic=clocks.monotonic
        ),
    )
    answer: Handler = handler.answer
    try_answer: TryAnswer = handler.try_answer
    if cors.is_on:
        answer, try_answer = cors_handler(answer, cors, metrics), cors_try_answer(try_answer, cors)
    public = HttpServer(
        answer,
        try_answer if polls.polls_at_once else None,
        max_connections=settings.max_connections,
        max_connections_each=settings.connections_each,
        on_refused=metrics.connection_refused,
        keepalive_seconds=settings.keepalive_seconds,
        grace_seconds=grace_seconds,
        limits=limits,
        large=large,
    )
    metrics.expect_refusals(Reason, get_args(Limit))
    metrics.report_level(Level.CONNECTIONS, lambda: public.connection_count, settings.max_connections)
    metrics.report_level(Level.WAITING_POLLS, lambda: long_poller.count, settings.max_waiting_polls)
    metrics.report_level(Level.LARGE_ANSWER_BYTES, lambda: large.held_bytes, limits.max_large_bytes)
    metrics.report_health(lambda: readiness.health)
    metrics.report_keys(files=authenticator.files_changed_at, fetched=authenticator.fetched_ages)
    admin = admin_handler(readiness.check, metrics.exposition)
    return Frontend(
        authenticator=authenticator,
        remote_keys=remote_keys,
        readiness=readiness,
        public=public,
        admin=HttpServer(
            admin, max_connections=_ADMIN_CONNECTIONS, grace_seconds=grace_seconds, limits=limits, large=large
        ),
    )


def _remote_keys(configs: Iterable[IssuerConfig], limits: JwksLimits, clocks: Clocks) -> tuple[RemoteKeys, ...]:
    """Return the keys of the issuers whose provider hands them out; nothing is fetched yet."""
    return tuple(
        RemoteKeys(config, fetch, clock=clocks.seconds, monotonic=clocks.monotonic, limits=limits)
        for config in configs
        if config.is_remote
    )
