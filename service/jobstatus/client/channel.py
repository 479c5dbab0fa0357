"""One gRPC channel to a service, and how a call is made on it: with a deadline, and again when that may help.

Every write of the contract is idempotent, so every call may be repeated. This module does not know what the messages
mean.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Final, Self, TypeVar

import grpc

from jobstatus.client import errors
from jobstatus.core.errors import JobStatusError
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub
from jobstatus.v1.virtual_keys_pb2_grpc import VirtualKeysStub

Request = TypeVar("Request")
Response = TypeVar("Response")

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 2.0
SHORTEST_TRY_SECONDS: Final = 0.05
"""A shorter try would only hide why the last one failed."""
FIRST_TRY_PART: Final = 3
"""The first try gets this part of the time, because the server it meets may hang. Each further try gets twice as much,
because the message may be large and the line slow."""

OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 30_000),  # the service closes connections that ping more often than every 20 s
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),  # a watch may be silent for hours
    ("grpc.initial_reconnect_backoff_ms", 100),  # gRPC's own back-off grows from 1 s to 2 minutes:
    ("grpc.max_reconnect_backoff_ms", 2_000),  # a worker would miss its lease after a restart of the service
    ("grpc.min_reconnect_backoff_ms", 5_000),  # despite its name, the time limit of one attempt to connect
    ("grpc.max_send_message_length", -1),  # the service decides how large a result may be
    ("grpc.max_receive_message_length", -1),
)

LOOPBACK: Final = ("127.", "localhost:", "[::1]:", "unix:")
"""Targets that gRPC would send through the environment's http_proxy, although they are on this machine."""


def pauses() -> Iterator[float]:
    """Yield the seconds to wait before each further try: doubling, bounded, with jitter that spreads clients out."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause * random.uniform(0.5, 1)  # noqa: S311 (no secret)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


class ServiceChannel:
    """A channel to one service, open while its context is entered."""

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None,
        timeout_seconds: float,
        retry: bool,
        first_try_part: int = FIRST_TRY_PART,
        transient: tuple[type[JobStatusError], ...] = errors.TRANSIENT,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """With `first_try_part` 1 a call that hangs is not tried again, only one that fails.

        Only calls that fail with a `transient` error are tried again.
        """
        self._target = target
        self._first_try_part = first_try_part
        self._transient = transient
        self._credentials = credentials
        self._sleep = sleep
        self._channel: grpc.aio.Channel | None = None
        self.timeout_seconds = timeout_seconds
        self.retry = retry

    async def __aenter__(self) -> Self:
        # Not in the constructor: a channel belongs to the loop that runs when it is made.
        is_here = self._target.startswith(LOOPBACK)
        options = (*OPTIONS, ("grpc.enable_http_proxy", 0)) if is_here else OPTIONS
        if self._credentials is None:
            self._channel = grpc.aio.insecure_channel(self._target, options=options)
        else:
            self._channel = grpc.aio.secure_channel(self._target, self._credentials, options=options)
        self.jobs = JobStatusStub(self._channel)
        self.virtual_keys = VirtualKeysStub(self._channel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._channel is not None:
            await self._channel.close()

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        limit_seconds: float | None = None,
    ) -> Response:
        """Return the response. Retry while that may help and the limit (default: the client's timeout) has not passed.

        Raises the error that the last failure stands for, with gRPC's own error as its cause.
        """
        now = asyncio.get_running_loop().time
        limit_seconds = self.timeout_seconds if limit_seconds is None else limit_seconds
        ends_at = now() + limit_seconds
        try_seconds = min(limit_seconds / self._first_try_part, self.timeout_seconds) if self.retry else limit_seconds
        for pause in pauses():
            try:
                return await method(request, timeout=try_seconds)
            except grpc.aio.AioRpcError as error:
                failure = errors.from_call(error, self._target)
                may_help = self.retry and isinstance(failure, self._transient)
                if may_help and ends_at - now() - pause >= SHORTEST_TRY_SECONDS:
                    await self._sleep(pause)
                    try_seconds = min(2 * try_seconds, ends_at - now())
                    if try_seconds >= SHORTEST_TRY_SECONDS:
                        continue
                raise failure from error
        raise AssertionError("pauses never end")

    async def stream(
        self, method: grpc.aio.UnaryStreamMultiCallable[Request, Response], request: Request
    ) -> AsyncGenerator[Response, None]:
        """Yield the responses of one stream, without a deadline. Raise as `call` does, also when the stream ends."""
        responses = method(request)
        try:
            async for response in responses:
                yield response
        except grpc.aio.AioRpcError as error:
            raise errors.from_call(error, self._target) from error
        finally:
            responses.cancel()
        raise errors.ServiceUnreachable("The service ended the stream.")
