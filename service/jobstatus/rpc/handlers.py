"""What every RPC has in common: it identifies the client, parses bytes, translates errors and counts the call.

This is done around the handlers rather than in an interceptor, because gRPC parses requests before it calls one: a
malformed message would be answered with UNKNOWN and the text of a traceback.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from traceback import clear_frames
from typing import Any, Final, NoReturn, Protocol

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from jobstatus.core.errors import InvalidField, JobStatusError, Overloaded, StoreFull, StoreUnavailable
from jobstatus.rpc.audit import DONE, CallAudit, outcome_of
from jobstatus.rpc.errors import INTERNAL, REASON_KEY, internal_status, status_of
from jobstatus.rpc.intake import LARGE_MESSAGE_BYTES, Context, Intake, Place, Refuse
from jobstatus.rpc.pacing import Pace
from jobstatus.telemetry.throttle import LogThrottle

Identify = Callable[[Context, str], None]
"""Given a call's context and the method's name, raises ClientNotIdentified or ClientNotAllowed."""

LARGE_REQUESTS: Final = frozenset({"CompleteJob", "FailJob", "BatchWrite"})
"""The calls whose requests may have results or errors. Those of other calls are small."""

_CODE_NAMES: Final = {code.value[0]: code.name for code in grpc.StatusCode}
_log = logging.getLogger(__name__)


class RpcObserver(Protocol):
    """What the calls report to the metrics."""

    def rpc_answered(self, method: str, code: str, seconds: float) -> None:
        """A call of this method was answered with the status code of this name after so many seconds."""
        ...


class RpcAdapter:
    """Makes gRPC handlers from a servicer's methods, which return messages or their bytes."""

    def __init__(
        self, metrics: RpcObserver, identify: Identify, intake: Intake, audit: CallAudit | None = None
    ) -> None:
        """`audit` records the calls that concern it; None: nobody does."""
        self._metrics = metrics
        self._identify = identify
        self._intake = intake
        self._audit = audit
        self._pace = Pace()
        self._throttles: Final[defaultdict[tuple[str, str], LogThrottle]] = defaultdict(LogThrottle)
        """By RPC, and reason or class of an error without one. These are closed lists, so their number is bounded."""
        self._held: asyncio.Event | None = None
        """Set by `release`; answers wait for it."""
        self._has_come = asyncio.Event()
        """Set by each single call that comes while answers are held back."""

    def hold(self) -> None:
        """Keep the answers of single calls back until `release`, so that clients which wait for them send no more."""
        self._held = asyncio.Event()

    async def next_call(self, limit_seconds: float) -> None:
        """Return when the next single call comes while answers are held back, or after the limit."""
        self._has_come.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._has_come.wait(), limit_seconds)

    def release(self) -> None:
        """Send what was kept back."""
        if self._held is not None:
            self._held.set()

    def service(
        self, descriptor: ServiceDescriptor, servicer: object, *, name: str | None = None
    ) -> grpc.GenericRpcHandler:
        """Return handlers for the service. The servicer has a method of the same name for each of its own.

        `name` is the service's full name where it differs from the descriptor's.
        """
        handlers = {method.name: self._handler(method, getattr(servicer, method.name)) for method in descriptor.methods}
        return grpc.method_handlers_generic_handler(name or descriptor.full_name, handlers)

    def _handler(self, method: MethodDescriptor, serve: Callable[[Any], Any]) -> "grpc.RpcMethodHandler[Any, Any]":
        _, request_type, _ = _named(method)
        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(method.name, lambda messages: serve(self._parsed(request_type, messages)))
            )
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(method.name, lambda data: serve(_parse(request_type, data)))
            )
        if method.name in LARGE_REQUESTS:  # to gRPC a stream, whose handler says when a message is read
            return grpc.stream_unary_rpc_method_handler(self._receiving(method, serve))
        return grpc.unary_unary_rpc_method_handler(self._unary(method, serve))

    def _unary(
        self, method: MethodDescriptor, serve: Callable[[Any], Awaitable[Message | bytes]]
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        name, request_type, response_type = _named(method)
        audit = self._audit_of(name)

        async def handle(data: bytes, context: Context) -> bytes:
            started, request = time.perf_counter(), None
            if self._held is not None:
                self._has_come.set()
            try:
                self._identify(context, name)
                request = _parse(request_type, data)
                response = await serve(request)
                if self._held is not None:
                    await self._held.wait()
            except BaseException as error:  # noqa: BLE001  # translated, or raised again, by _abort
                if audit is not None:
                    audit.note(context, name, request=request, outcome=outcome_of(error))
                await self._abort(context, name, started, error)
            if audit is not None:
                audit.note(context, name, request=request, outcome=DONE, response=_as_message(response_type, response))
            self._metrics.rpc_answered(name, "OK", time.perf_counter() - started)
            return _as_bytes(response)

        return handle

    def _receiving(
        self, method: MethodDescriptor, serve: Callable[[Any], Awaitable[Message | bytes]]
    ) -> Callable[[Any, Context], Awaitable[bytes]]:
        """Return what `_unary` does, for a call whose message is counted from its arrival."""
        name, request_type, response_type = _named(method)
        audit = self._audit_of(name)

        async def handle(_: Any, context: Context) -> bytes:
            started, recorded = time.perf_counter(), None
            if self._held is not None:
                self._has_come.set()
            with self._intake.place() as place:
                try:
                    self._identify(context, name)
                    refuse = self._refuse(context, name, started)
                    request = [await self._received(request_type, context, place, refuse)]
                    recorded = None if audit is None else request[0]
                    response = await serve(request.pop())  # which may drop it as soon as it has read it
                    if self._held is not None:
                        await self._held.wait()
                except BaseException as error:  # noqa: BLE001  # as above
                    if audit is not None:
                        audit.note(context, name, request=recorded, outcome=outcome_of(error))
                    await self._abort(context, name, started, error, is_refused=place.refusal is not None)
            if audit is not None:
                audit.note(context, name, request=recorded, outcome=DONE, response=_as_message(response_type, response))
            self._metrics.rpc_answered(name, "OK", time.perf_counter() - started)
            return _as_bytes(response)

        return handle

    async def _received(self, request_type: type[Message], context: Context, place: Place, refuse: Refuse) -> Message:
        data = await self._intake.receive(context, place, refuse)
        if len(data) > LARGE_MESSAGE_BYTES:
            await self._pace.turn()  # one such message is parsed in each round of the event loop
        return _parse(request_type, data)

    def _streaming(
        self, name: str, serve: Callable[[Any], AsyncGenerator[Message | bytes]]
    ) -> Callable[[Any, Context], AsyncGenerator[bytes]]:
        """`serve` is called with what gRPC passes: the bytes of a request, or an iterator of those of all requests.

        It yields messages, or bytes where many calls send the same message.
        """

        async def handle(received: Any, context: Context) -> AsyncGenerator[bytes]:
            started = time.perf_counter()
            try:
                self._identify(context, name)
                async with aclosing(serve(received)) as responses:
                    async for response in responses:
                        yield _as_bytes(response)
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001
                await self._abort(context, name, started, error)
            self._metrics.rpc_answered(name, "OK", time.perf_counter() - started)

        return handle

    def _audit_of(self, name: str) -> CallAudit | None:
        return self._audit if self._audit is not None and self._audit.concerns(name) else None

    async def _parsed(self, request_type: type[Message], messages: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        async for data in messages:
            with self._intake.place() as place:
                self._intake.count(place, len(data))
                yield _parse(request_type, data)

    def _refuse(self, context: Context, name: str, started: float) -> Callable[[Overloaded], "asyncio.Task[NoReturn]"]:
        """Return what aborts a call whose handler reads its message."""

        def refuse(error: Overloaded) -> "asyncio.Task[NoReturn]":
            aborting = asyncio.create_task(self._abort(context, name, started, error), name="jobstatus-refuse")
            aborting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # the reader raises it
            return aborting

        return refuse

    async def _abort(
        self, context: Context, name: str, started: float, error: BaseException, *, is_refused: bool = False
    ) -> NoReturn:
        """Count the call and abort it. Raise a cancellation, and whatever ends the process, again.

        A call that `is_refused` has been aborted already.
        """
        if is_refused:
            _let_go(error)
            raise error
        seconds = time.perf_counter() - started
        if not isinstance(error, Exception):
            if isinstance(error, asyncio.CancelledError):
                self._metrics.rpc_answered(name, "CANCELLED", seconds)
            raise error
        status = self._status(name, error)
        self._metrics.rpc_answered(name, _CODE_NAMES[status.code], seconds)
        reason = error.reason if isinstance(error, JobStatusError) else INTERNAL
        told = rpc_status.to_status(status)
        _let_go(error)
        await context.abort(told.code, told.details, (*told.trailing_metadata, (REASON_KEY, reason)))
        raise AssertionError("abort raises")

    def _status(self, name: str, error: Exception) -> Status:
        if not isinstance(error, JobStatusError):
            if calls := self._throttles[name, type(error).__name__].should_log():
                _log.error(
                    "An RPC failed because of a bug of this program.",
                    extra={"event": "rpc_failed", "method": name, "calls": calls},
                    exc_info=error,
                )
            return internal_status()
        failed = isinstance(error, StoreUnavailable | StoreFull) and error.__cause__ is not None
        if failed and (calls := self._throttles[name, error.reason].should_log()):
            _log.warning(
                "RPCs could not be answered because the store failed.",
                extra={
                    "event": "rpcs_unanswered",
                    "method": name,
                    "reason": error.reason,
                    "cause": type(error.__cause__).__name__,
                    "calls": calls,
                },
            )
        return status_of(error)


def _let_go(error: BaseException | None) -> None:
    """Have an error that has been reported keep nothing of the call, such as its message.

    gRPC keeps the error that aborts a call, and all that belongs to it, until the garbage collector comes by.
    """
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _named(method: MethodDescriptor) -> tuple[str, type[Message], type[Message]]:
    """Return the method's name, and the types of its request and response."""
    return method.name, GetMessageClass(method.input_type), GetMessageClass(method.output_type)


def _as_bytes(response: Message | bytes) -> bytes:
    return response if isinstance(response, bytes) else response.SerializeToString()


def _as_message(response_type: type[Message], response: Message | bytes) -> Message:
    return response_type.FromString(response) if isinstance(response, bytes) else response


def _parse(request_type: type[Message], data: bytes) -> Message:
    try:
        return request_type.FromString(data)
    except DecodeError as error:
        raise InvalidField.of("request", f"is not a {request_type.DESCRIPTOR.name}") from error


def service_names(descriptors: Iterable[ServiceDescriptor]) -> list[str]:
    """Return the full names, which health and reflection need."""
    return [descriptor.full_name for descriptor in descriptors]
