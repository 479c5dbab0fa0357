"""One gRPC channel to a service, and how a call is made on it: with a deadline, and again when that may help.

A name may stand for several replicas. Calls take turns among those that are connected, so a retry does not return to
the one that has just gone. Every write of the contract is idempotent, so every call may be repeated. This module does
not know what the messages mean.
"""

import asyncio
import json
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

import grpc

from jobstatus.client import errors
from jobstatus.client.forks import check_process
from jobstatus.client.trace_context import trace_metadata
from jobstatus.core.errors import JobStatusError
from jobstatus.core.traceparent import TRACEPARENT_KEY
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub
from jobstatus.v1.virtual_keys_pb2_grpc import VirtualKeysStub

Request = TypeVar("Request")
Response = TypeVar("Response")

Balancing = Literal["round_robin", "pick_first"]
"""Whether calls take turns among all addresses of a name, or stay with the first that can be reached."""
Metadata = Sequence[tuple[str, str | bytes]]
Options = Sequence[tuple[str, Any]]

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 2.0
RETIRED_SECONDS: Final = 30.0
"""How long a channel that was replaced stays open: longer than any call that began on it, streams aside."""
OVERTIME_SECONDS: Final = 1.0
"""How much longer than its deadline a call is awaited: gRPC ends it then, unless its connection hangs inside gRPC."""
SHORTEST_TRY_SECONDS: Final = 0.05
"""A shorter try would only hide why the last one failed."""
FIRST_TRY_PART: Final = 3
"""The first try gets this part of the time, because the server it meets may hang. Each further try gets twice as much,
because the message may be large and the line slow."""

OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 30_000),  # the service closes connections that ping more often than every 20 s
    ("grpc.keepalive_timeout_ms", 10_000),  # only data; gRPC gives pings another limit:
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),  # a watch may be silent for hours
    ("grpc.initial_reconnect_backoff_ms", 100),  # gRPC's own back-off grows from 1 s to 2 minutes:
    ("grpc.max_reconnect_backoff_ms", 2_000),  # a worker would miss its lease after a restart of the service
    ("grpc.min_reconnect_backoff_ms", 5_000),  # despite its name, the time limit of one attempt to connect
    ("grpc.max_send_message_length", -1),  # the service decides how large a result may be
    ("grpc.max_receive_message_length", -1),
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),  # gRPC's 30 s are a lease in which all replicas may have moved
)

LOOPBACK: Final = ("127.", "localhost:", "[::1]:", "unix:")
"""Addresses that gRPC would reach through the environment's http_proxy, although they are on this machine."""
READS: Final = ("Get", "BatchGet", "List", "Watch")
_SCHEME: Final = re.compile("(dns:(///?)?|ipv4:|ipv6:)")
_METADATA_NAME: Final = re.compile("[0-9a-z_.-]+")


def channel_options(target: str, *, balancing: Balancing = "round_robin", options: Options = ()) -> Options:
    """Return the options of a channel to this target. Of an option that is given twice gRPC takes the first."""
    chosen: dict[str, Any] = dict(OPTIONS)
    chosen["grpc.service_config"] = json.dumps({"loadBalancingConfig": [{balancing: {}}]})
    addresses = _SCHEME.sub("", target, count=1).split(",")
    if all(address.startswith(LOOPBACK) for address in addresses):
        chosen["grpc.enable_http_proxy"] = 0
    return list((chosen | dict(options)).items())


def checked_metadata(metadata: Metadata) -> Metadata:
    """Return the pairs with names in lower case. Raise ValueError for what gRPC cannot send; it never says a value."""
    pairs = [(name.lower(), value) for name, value in metadata]
    for name, value in pairs:
        if not _METADATA_NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of metadata")
        if name.endswith("-bin"):
            if not isinstance(value, bytes):
                raise ValueError(f"the value of the metadata {name!r} must be bytes, as its name ends in -bin")
        elif not _is_printable_ascii(value):
            raise ValueError(f"the value of the metadata {name!r} has characters that are not printable ASCII")
    return pairs


def _is_printable_ascii(value: str | bytes) -> bool:
    return value.isascii() and (value.decode() if isinstance(value, bytes) else value).isprintable()


def pauses() -> Iterator[float]:
    """Yield the seconds to wait before each further try: doubling, bounded, with jitter that spreads clients out."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause * random.uniform(0.5, 1)  # noqa: S311 (no secret)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _is_read(request: object) -> bool:
    """Return whether the request asks for what is there, by its name in the contract."""
    return type(request).__name__.startswith(READS)


async def in_time(call: Awaitable[Response], seconds: float, *, overtime_seconds: float = OVERTIME_SECONDS) -> Response:
    """Return the response to a call that has its deadline in so many seconds.

    Raises AioRpcError as the call does. A connection that its server had closed has been seen to hang inside gRPC, and
    all calls on it.
    """
    try:
        async with asyncio.timeout(seconds + overtime_seconds):
            return await call
    except TimeoutError:
        raise errors.deadline_exceeded() from None


class ServiceChannel:
    """A channel to one service, open while its context is entered."""

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None,
        timeout_seconds: float,
        retry: bool,
        balancing: Balancing = "round_robin",
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
        metadata: Metadata | Callable[[], Metadata] = (),
        options: Options = (),
        first_try_part: int = FIRST_TRY_PART,
        transient: tuple[type[JobStatusError], ...] = errors.TRANSIENT,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Only calls that fail with a `transient` error are tried again.

        With `first_try_part` 1 one that hangs is not tried again. Raises ValueError for metadata that cannot be sent.
        """
        self._target = target
        self._first_try_part = first_try_part
        self._transient = transient
        self._credentials = credentials
        self._interceptors = interceptors
        self._options = channel_options(target, balancing=balancing, options=options)
        self._metadata = metadata if callable(metadata) else checked_metadata(metadata)
        self._sleep = sleep
        self._channel: grpc.aio.Channel | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self.timeout_seconds = timeout_seconds
        self.retry = retry

    async def __aenter__(self) -> Self:
        check_process()
        # Not in the constructor: a channel belongs to the loop that runs when it is made.
        self._use(self._open(self._credentials))
        return self

    async def replace_credentials(self, credentials: grpc.ChannelCredentials, *, within_seconds: float) -> None:
        """Use these credentials for calls from now on; calls under way end on the connection that they began on.

        Raises ConnectionError, and changes nothing, when they give no connection in this time although those in use do.
        """
        old, new = self._channel, self._open(credentials)
        assert old is not None, "the context is entered"  # noqa: S101 (for the type checker)
        try:
            async with asyncio.timeout(within_seconds):
                await new.channel_ready()
        except TimeoutError:
            if old.get_state() is grpc.ChannelConnectivity.READY:
                await new.close()
                raise ConnectionError(f"they give no connection to {self._target}, and those from before do") from None
        self._use(new)
        retiring = asyncio.create_task(self._retire(old), name="jobstatus-retire-channel")
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    def _open(self, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
        if credentials is None:
            return grpc.aio.insecure_channel(self._target, self._options, interceptors=self._interceptors)
        return grpc.aio.secure_channel(self._target, credentials, self._options, interceptors=self._interceptors)

    def _use(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self.jobs = JobStatusStub(channel)
        self.virtual_keys = VirtualKeysStub(channel)

    async def _retire(self, channel: grpc.aio.Channel) -> None:
        try:
            await self._sleep(RETIRED_SECONDS)
        finally:
            await channel.close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for retiring in self._retiring:
            retiring.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()

    def metadata(self) -> Metadata:
        """Return what a call carries now: what the caller's function returns, or the same at any time.

        The current span is named, too, unless the caller names one.
        """
        given = checked_metadata(self._metadata()) if callable(self._metadata) else self._metadata
        traced = trace_metadata()
        return (*given, *traced) if traced and not any(name == TRACEPARENT_KEY for name, _ in given) else given

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        limit_seconds: float | None = None,
    ) -> Response:
        """Return the response, retried as `retried` does it.

        Raises the error that the last failure stands for, with gRPC's own error as its cause.
        """
        return await self.retried(lambda seconds: self.call_once(method, request, seconds), limit_seconds)

    async def call_once(
        self, method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request, seconds: float
    ) -> Response:
        """Return the response of one try. Raises as `call` does."""
        try:
            return await in_time(method(request, timeout=seconds, metadata=self.metadata()), seconds)
        except grpc.aio.AioRpcError as error:
            raise self.failure(error, request) from error

    def failure(self, error: grpc.aio.AioRpcError, request: object) -> JobStatusError:
        """Return the error that a failed call with this request stands for."""
        return errors.from_call(error, self._target, is_read=_is_read(request))

    def may_help(self, failure: JobStatusError) -> bool:
        """Return whether a try that failed so may succeed a little later."""
        return isinstance(failure, self._transient)

    async def retried(
        self, attempt: Callable[[float], Awaitable[Response]], limit_seconds: float | None = None
    ) -> Response:
        """Return what an attempt returns, which is given the seconds that it may take.

        Try again while that may help and the limit (default: the client's timeout) has not passed; then raise the error
        of the last attempt.
        """
        now = asyncio.get_running_loop().time
        limit_seconds = self.timeout_seconds if limit_seconds is None else limit_seconds
        ends_at = now() + limit_seconds
        try_seconds = min(limit_seconds / self._first_try_part, self.timeout_seconds) if self.retry else limit_seconds
        for pause in pauses():
            try:
                return await attempt(try_seconds)
            except JobStatusError as failure:
                if not self.retry or not self.may_help(failure) or ends_at - now() - pause < SHORTEST_TRY_SECONDS:
                    raise
                await self._sleep(pause)
                try_seconds = min(2 * try_seconds, ends_at - now())
                if try_seconds < SHORTEST_TRY_SECONDS:
                    raise
        raise AssertionError("pauses never end")

    async def stream(
        self, method: grpc.aio.UnaryStreamMultiCallable[Request, Response], request: Request
    ) -> AsyncGenerator[Response, None]:
        """Yield the responses of one stream, without a deadline. Raise as `call` does, also when the stream ends."""
        responses = method(request, metadata=self.metadata())
        try:
            async for response in responses:
                yield response
        except grpc.aio.AioRpcError as error:
            raise errors.from_stream(error, self._target) from error
        finally:
            responses.cancel()
        raise errors.StreamBroken("The service ended the stream.")
