"""The handler of the public port: the contract's GET endpoint for all request types, and its OpenAPI document.

Nearly every request is a poll, so one handler serves everything, without router and middleware. It checks in this
order: method, credential, job (one call of the core judges the job's id, type, owner and expiry).
"""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final, NamedTuple, Protocol, TypeAlias, cast

from aiohttp import HttpVersion11, web
from aiohttp.http import RawRequestMessage
from multidict import MultiMapping

from jobstatus.auth.credential import Fingerprint, fingerprint_of
from jobstatus.auth.errors import CredentialError
from jobstatus.core.access import Principal
from jobstatus.core.answer import RESULT_TAIL
from jobstatus.core.job import RequestType
from jobstatus.core.poll import LargeResult, Poll
from jobstatus.core.watching.long_poll import CannotWait, Reauthenticate
from jobstatus.rest import responses
from jobstatus.rest.admission import Admission
from jobstatus.rest.cors import Cors
from jobstatus.rest.event_stream import EventSender, event_id
from jobstatus.rest.fast_path import TryAnswer
from jobstatus.rest.headers import (
    ACCEPT,
    PREFER,
    X_REQUEST_ID,
    Conditions,
    conditions_in,
    credentials_of,
    ends_connection,
    prefers_events,
    request_id_of,
    wait_seconds,
)
from jobstatus.rest.openapi import OPENAPI_PATH, OpenApiDocument
from jobstatus.rest.outcomes import Outcomes, Response
from jobstatus.rest.responses import MAX_BYTES, LargeResponse, document_bytes
from jobstatus.rest.routes import target
from jobstatus.rest.send_limits import LargeResponses, pieces
from jobstatus.rest.turns import ADMINS
from jobstatus.telemetry.metrics import Metrics

_Refuse: TypeAlias = Callable[[], CredentialError]
"""Returns what is to be raised for a request in which no credential can be read."""
WAITING: Final = "waiting"
STREAMING: Final = "streaming"
"""Routes under which long polls and event streams are counted, so that they do not distort the times of plain polls."""


class Authenticates(Protocol):
    """What the handler needs of `auth`: raises CredentialError, or StoreUnavailable or KeysUnavailable when the store
    or an issuer does not answer."""

    def recall(self, credential: Fingerprint) -> Principal | None:
        """Return the principal of a credential that is known to be good, at the cost of a look-up; None for others.

        Raise InvalidCredential for one that is known to be bad.
        """
        ...

    def try_authenticate(self, authorization: Sequence[str], keys: Sequence[str]) -> Principal | None:
        """Return the principal, or None when only `authenticate` can tell."""
        ...

    async def authenticate(self, authorization: Sequence[str], keys: Sequence[str]) -> Principal: ...


class Polls(Protocol):
    """What the handler needs of the core: raises JobNotFound or StoreUnavailable."""

    @property
    def polls_at_once(self) -> bool:
        """Whether `try_poll` ever returns a poll."""
        ...

    def try_poll(self, job_id: str, request_type: RequestType, principal: Principal) -> Poll | None:
        """Return what `poll` returns, or None when only `poll` can tell."""
        ...

    async def poll(self, job_id: str, request_type: RequestType, principal: Principal) -> Poll: ...

    async def read_result(self, large: LargeResult) -> bytes:
        """Return the result that a poll has found and not read."""
        ...


class LongPolls(Protocol):
    """What the handler needs of the core for long polls: raises CannotWait, and what the other two raise."""

    async def wait(
        self, job_id: str, request_type: RequestType, reauthenticate: Reauthenticate, seconds: float
    ) -> Poll: ...

    def updates(
        self, job_id: str, request_type: RequestType, reauthenticate: Reauthenticate, next_at: Callable[[], float]
    ) -> AsyncGenerator[Poll]: ...


class PollHandler:
    """Answers polls."""

    def __init__(
        self,
        *,
        authenticator: Authenticates,
        tracker: Polls,
        long_poller: LongPolls,
        metrics: Metrics,
        retry_after_seconds: int,
        max_wait_seconds: int,
        event_sender: EventSender,
        large: LargeResponses,
        cors: Cors,
        openapi: OpenApiDocument,
        admission: Admission | None = None,
    ) -> None:
        """`retry_after_seconds` is the least Retry-After, `max_wait_seconds` the longest wait that is granted.

        Of `cors` only what is sent in parts needs to know: event streams and large answers.
        """
        self._recall = authenticator.recall
        self._try_authenticate = authenticator.try_authenticate
        self._authenticate = authenticator.authenticate
        self._try_poll = tracker.try_poll
        self._poll = tracker.poll
        self._read_result = tracker.read_result
        self._long_poller = long_poller
        self._max_wait_seconds = max_wait_seconds
        self._events = event_sender
        self._large = large
        self._cors = cors
        self._metrics = metrics
        self._outcomes = Outcomes(metrics=metrics, retry_after_seconds=retry_after_seconds)
        self._openapi = openapi
        self._admission = admission

    @property
    def outcomes(self) -> Outcomes:
        """What makes the responses, for those who wait without this handler too."""
        return self._outcomes

    def prepare(self, message: RawRequestMessage) -> TryAnswer | None:
        """Return what answers a plain poll, whatever its outcome; None for all that only `answer` can answer.

        `message` is a GET or HEAD over HTTP/1.1 without a body, on a connection that stays open.
        """
        headers = message.headers
        asked_for = target(message.path, message.url)
        if asked_for is None or PREFER in headers or (ACCEPT in headers and may_want_events(headers)):
            return None
        request_type, job_id = asked_for
        credential: Fingerprint | _Refuse
        try:
            credential = fingerprint_of(*credentials_of(headers))
        except CredentialError as error:
            credential = error.again()
        plain = _PlainPoll(request_type, job_id, credential, conditions_in(headers), message.method == "HEAD")
        return partial(self._try_answer, plain)

    def _try_answer(self, plain: "_PlainPoll", message: RawRequestMessage | None, given_id: str | None) -> bytes | None:
        """Return the whole answer to a plain poll, or None where only `answer` can answer.

        `given_id` is the request's X-Request-Id. Without `message` it is None also for a credential that has still to
        be verified.
        """
        started = time.perf_counter()
        request_type, job_id, credential, conditions, is_head = plain
        request_id, admission, admitted = request_id_of(given_id), self._admission, None
        try:
            principal = self._authenticate_at_once(credential, message)
            if admission is not None and principal is not None:
                admission.check(principal)
                admitted = principal
            poll = None if principal is None else self._try_poll(job_id, request_type, principal)
            if poll is None:
                return None
            response = self._outcomes.found(poll, conditions, request_id)
        except Exception as error:  # noqa: BLE001  # the last line of defence, as in `answer`
            response = self._outcomes.refused(error, request_id)
        if isinstance(response, LargeResponse):
            if not is_head:
                return None
            response = response.without_body()
        if admission is not None and admitted is not None:
            admission.count(admitted, request_type.value, job_id, request_id)
        self._metrics.request_answered(request_type.value, response.status, time.perf_counter() - started)
        return response.head() if is_head else response.whole()

    def _authenticate_at_once(
        self, credential: "Fingerprint | _Refuse", message: RawRequestMessage | None
    ) -> Principal | None:
        """Return what `try_authenticate` returns; None also where that has to read `message`, and there is none."""
        if not isinstance(credential, Fingerprint):
            raise credential()
        principal = self._recall(credential)
        if principal is None and message is not None:
            return self._try_authenticate(*credentials_of(message.headers))
        return principal

    def recognise(self, authorization: Sequence[str], keys: Sequence[str]) -> str | None:
        """Return whose credential this is, None unless it is known to be good: one of Recognise."""
        try:
            principal = self._recall(fingerprint_of(authorization, keys))
        except CredentialError:
            return None
        return None if principal is None else principal.virtual_key_id or ADMINS

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the response to any request. Plain polls are inlined: each further coroutine costs a microsecond."""
        started = time.perf_counter()
        headers = request.headers
        request_id = request_id_of(headers.get(X_REQUEST_ID))
        asked_for = target(request.raw_path, request.rel_url)
        response: Response | web.StreamResponse
        if asked_for is None:
            response, counted_as = self._other(request, request_id)
        else:
            request_type, job_id = asked_for
            counted_as = request_type.value
            try:
                if request.method not in responses.ALLOWED_METHODS:
                    response = responses.problem_answer(responses.METHOD_NOT_ALLOWED, request_id)
                elif ACCEPT in headers and _wants_events(request):
                    counted_as = STREAMING
                    response = await self._stream(request, request_type, job_id, request_id)
                elif PREFER in headers and (seconds := self._wait_seconds(headers)):
                    counted_as = WAITING
                    response = await self._wait(request, request_type, job_id, seconds, request_id)
                else:
                    principal = await self._authenticate(*credentials_of(headers))
                    if self._admission is not None:
                        self._admission.check(principal)
                        self._admission.count(principal, request_type.value, job_id, request_id)
                    poll = await self._poll(job_id, request_type, principal)
                    response = self._outcomes.found(poll, conditions_in(headers), request_id)
                if isinstance(response, LargeResponse):
                    if request.method == "HEAD":
                        response = response.without_body()
                    else:
                        response, sending_seconds = await self._send_large(request, response)
                        started += sending_seconds
            except Exception as error:  # noqa: BLE001  # the last line of defence: no error reaches aiohttp
                response = self._outcomes.refused(error, request_id)
        self._metrics.request_answered(counted_as, response.status, time.perf_counter() - started)
        return cast("web.StreamResponse", response)  # which PrebuiltResponse is to aiohttp

    async def _send_large(
        self, request: web.BaseRequest, large: LargeResponse
    ) -> tuple[Response | web.StreamResponse, float]:
        """Return the response, sent unless it is small, and the seconds for which the client has read it.

        Raise NoRoomForLarge before the result is read, and what reading it raises before anything is sent.
        """
        poll, parts = large.poll, (b"", large.poll.body, b"")
        with self._large.hold(poll.reader, document_bytes(poll)):
            if poll.large_result is not None:
                parts = (poll.body, await self._read_result(poll.large_result), RESULT_TAIL)
            if (length := sum(map(len, parts))) <= MAX_BYTES:
                return large.small(b"".join(parts)), 0.0
            response = large.begun(length, self._cors.lines(request.headers.get("Origin")))
            if ends_connection(request.headers):
                response.force_close()
            began = time.perf_counter()
            await self._large.send(request, response, pieces(*parts))
            return response, time.perf_counter() - began

    def _wait_seconds(self, headers: MultiMapping[str]) -> int:
        return wait_seconds(headers.getall(PREFER), self._max_wait_seconds)

    async def _wait(
        self, request: web.BaseRequest, request_type: RequestType, job_id: str, seconds: int, request_id: str
    ) -> Response:
        """Return the response once the job has ended, or after `seconds`; at once where no more polls can wait."""
        reauthenticate = self._reauthenticate(request, request_type, job_id, request_id)
        lines = f"Preference-Applied: wait={seconds}\r\n"
        try:
            poll = await self._long_poller.wait(job_id, request_type, reauthenticate, seconds)
        except CannotWait:
            poll, lines = await self._poll(job_id, request_type, await reauthenticate()), ""
        return self._outcomes.found(poll, conditions_in(request.headers), request_id, lines)

    async def _stream(
        self, request: web.BaseRequest, request_type: RequestType, job_id: str, request_id: str
    ) -> Response | web.StreamResponse:
        """Send the job's events until it ends; return the plain response where no more polls can wait."""
        reauthenticate = self._reauthenticate(request, request_type, job_id, request_id)
        known_id = request.headers.get("Last-Event-ID")
        stream = self._events.stream(request, known_id)
        async with aclosing(self._long_poller.updates(job_id, request_type, reauthenticate, stream.next_at)) as updates:
            try:
                first = await anext(updates)
            except CannotWait:
                poll = await self._poll(job_id, request_type, await reauthenticate())
                return self._outcomes.found(poll, conditions_in(request.headers), request_id)
            if refused := self._outcomes.unexpected(first, conditions_in(request.headers), request_id):
                return refused
            if first.is_terminal and event_id(first) == known_id:
                return responses.nothing_new(request_id)
            response = responses.event_stream(request_id, self._cors.lines(request.headers.get("Origin")))
            if request.version != HttpVersion11 or ends_connection(request.headers):
                response.force_close()
            await stream.send(response, first, updates)
            return response

    def _reauthenticate(
        self, request: web.BaseRequest, request_type: RequestType, job_id: str, request_id: str
    ) -> Reauthenticate:
        authenticate = partial(self._authenticate, *credentials_of(request.headers))
        if self._admission is None:
            return authenticate
        return self._admission.once(authenticate, request_type.value, job_id, request_id)

    def _other(self, request: web.BaseRequest, request_id: str) -> tuple[Response, str]:
        """Return the response at a path without jobs, and the route under which it is counted."""
        if request.path != OPENAPI_PATH:
            return responses.problem_answer(responses.PATH_NOT_FOUND, request_id), "other"
        if request.method not in responses.ALLOWED_METHODS:
            return responses.problem_answer(responses.METHOD_NOT_ALLOWED, request_id), "openapi"
        return self._openapi.answer(request, request_id), "openapi"


class _PlainPoll(NamedTuple):
    """What a plain poll says: all that its answer depends on but the job, the time and the request's id.

    It is kept, without a secret.
    """

    request_type: RequestType
    job_id: str
    credential: "Fingerprint | _Refuse"
    conditions: Conditions | None
    is_head: bool


def _wants_events(request: web.BaseRequest) -> bool:
    headers = request.headers
    return may_want_events(headers) and request.method == "GET" and prefers_events(headers.getall(ACCEPT))


def may_want_events(headers: MultiMapping[str]) -> bool:
    return "stream" in "".join(headers.getall(ACCEPT)).lower()
