"""What the public port serves: the GET endpoint of the contract for all request types, and its OpenAPI document.

The hot path is a poll, so there is one handler for everything and neither router nor middleware. A request is answered
in one order: method, credential, job (whose id, type, owner and expiry are all judged by one call of the core).
"""

import asyncio
import importlib.resources
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final, Protocol

from aiohttp import web
from aiohttp.http import RawRequestMessage
from multidict import MultiMapping

from jobstatus.auth.errors import CredentialError, MissingCredential
from jobstatus.core.access import Principal
from jobstatus.core.job import RequestType
from jobstatus.core.poll import Poll
from jobstatus.core.watching.long_poll import CannotWait, Reauthenticate
from jobstatus.rest import event_stream, responses
from jobstatus.rest.headers import (
    entity_tag,
    is_known,
    last_event_version,
    prefers_events,
    request_id_of,
    retry_after_seconds,
    wait_seconds,
)
from jobstatus.rest.responses import PrebuiltResponse
from jobstatus.rest.routes import target
from jobstatus.telemetry.metrics import Metrics
from jobstatus.telemetry.throttle import LogThrottle

_log = logging.getLogger(__name__)

WAITING: Final = "waiting"
STREAMING: Final = "streaming"
"""Under which names polls that wait, and event streams, are counted, so that they do not spoil the times of others."""

OPENAPI_PATH: Final = "/openapi.json"


class Authenticates(Protocol):
    """What the edge needs of `auth`: raises CredentialError, or StoreUnavailable when it cannot tell."""

    def authenticate_cached(self, authorization: Sequence[str], virtual_key: Sequence[str]) -> Principal | None: ...

    async def authenticate(self, authorization: Sequence[str], virtual_key: Sequence[str]) -> Principal: ...


class Polls(Protocol):
    """What the edge needs of the core: raises JobNotFound or StoreUnavailable."""

    @property
    def poll_now(self) -> Callable[[str, RequestType, Principal], Poll | None] | None: ...

    async def poll(self, job_id: str, request_type: RequestType, principal: Principal) -> Poll: ...


class LongPolls(Protocol):
    """What the edge needs of the core for those who would rather wait; raises what the other two do, CannotWait."""

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
    ) -> None:
        """`retry_after_seconds` is the least that a poller is told to wait."""
        self._authenticate_cached = authenticator.authenticate_cached
        self._authenticate = authenticator.authenticate
        self._find = tracker.poll
        find_now = tracker.poll_now
        self.try_answer: Final = None if find_now is None else partial(self._try_answer, find_now)
        """The whole answer to a plain poll, where nothing has to be waited for; None to all that `answer` answers."""
        self._long_poller = long_poller
        self._metrics = metrics
        self._retry_after_seconds = retry_after_seconds
        self._unanswered = LogThrottle()
        self._openapi = importlib.resources.files("jobstatus.rest").joinpath("openapi.json").read_bytes()

    def _try_answer(
        self, find_now: Callable[[str, RequestType, Principal], Poll | None], message: RawRequestMessage
    ) -> bytes | None:
        started = time.perf_counter()
        headers = message.headers
        asked_for = target(message.path, message.url)
        if asked_for is None or "Prefer" in headers or ("Accept" in headers and _may_want_events(headers)):
            return None
        request_type, job_id = asked_for
        try:
            principal = self._authenticate_cached(*_credentials(headers))
            found = None if principal is None else find_now(job_id, request_type, principal)
        except Exception:  # noqa: BLE001  # `answer` meets it as well, and tells of it
            return None
        if found is None:
            return None
        response = self._found(found, headers, request_id_of(headers.get("X-Request-Id")))
        if not isinstance(response, PrebuiltResponse):
            return None
        self._metrics.request_answered(request_type.value, response.status, time.perf_counter() - started)
        return response.whole()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to any request. All of a plain poll is here: each coroutine more would cost it a microsecond."""
        started = time.perf_counter()
        headers = request.headers
        request_id = request_id_of(headers.get("X-Request-Id"))
        asked_for = target(request.raw_path, request.rel_url)
        if asked_for is None:
            response, counted_as = self._other(request, request_id)
        else:
            request_type, job_id = asked_for
            counted_as = request_type.value
            try:
                if request.method not in responses.ALLOWED_METHODS:
                    response = responses.problem_answer(responses.METHOD_NOT_ALLOWED, request_id)
                elif "Accept" in headers and _wants_events(request):
                    counted_as = STREAMING
                    response = await self._stream(request, request_type, job_id, request_id)
                elif "Prefer" in headers and (seconds := wait_seconds(headers.getall("Prefer"))):
                    counted_as = WAITING
                    response = await self._wait(request, request_type, job_id, seconds, request_id)
                else:
                    principal = await self._authenticate(*_credentials(headers))
                    response = self._found(await self._find(job_id, request_type, principal), headers, request_id)
            except Exception as error:  # noqa: BLE001  # the last line: the log is told all, a stranger nothing
                response = self._refusal(error, request_id)
        self._metrics.request_answered(counted_as, response.status, time.perf_counter() - started)
        return response

    async def _wait(
        self, request: web.BaseRequest, request_type: RequestType, job_id: str, seconds: int, request_id: str
    ) -> web.StreamResponse:
        """The answer when the job has ended, or after so many seconds; at once where nobody can wait any more."""
        reauthenticate, lines = self._reauthenticate(request), f"Preference-Applied: wait={seconds}\r\n"
        try:
            found = await self._long_poller.wait(job_id, request_type, reauthenticate, seconds)
        except CannotWait:
            found, lines = await self._find(job_id, request_type, await reauthenticate()), ""
        return self._found(found, request.headers, request_id, lines)

    async def _stream(
        self, request: web.BaseRequest, request_type: RequestType, job_id: str, request_id: str
    ) -> web.StreamResponse:
        """The job's events until it ends; the plain answer where nobody can wait any more."""
        reauthenticate, loop = self._reauthenticate(request), asyncio.get_running_loop()
        known = last_event_version(request.headers.get("Last-Event-ID"))
        next_at = lambda: loop.time() + event_stream.QUIET_SECONDS  # noqa: E731
        async with aclosing(self._long_poller.updates(job_id, request_type, reauthenticate, next_at)) as updates:
            try:
                first = await anext(updates)
            except CannotWait:
                found = await self._find(job_id, request_type, await reauthenticate())
                return self._found(found, request.headers, request_id)
            if first.is_terminal and first.version == known:
                return responses.nothing_new(request_id)
            response = responses.event_stream(request_id)
            await event_stream.send(request, response, first, updates, known)
            return response

    def _reauthenticate(self, request: web.BaseRequest) -> Reauthenticate:
        return partial(self._authenticate, *_credentials(request.headers))

    def _found(self, found: Poll, headers: MultiMapping[str], request_id: str, lines: str = "") -> web.StreamResponse:
        if found.is_terminal:
            tag = entity_tag(found.version, found.created_at_ms)
            if "If-None-Match" in headers and is_known(headers.getall("If-None-Match"), tag):
                return responses.not_modified(request_id, tag)
            return responses.answer(200, found.body, request_id, f"{lines}ETag: {tag}\r\n", is_kept=True)
        if found.progress is not None:
            lines = f"{lines}Job-Progress: {found.progress:.4g}\r\n"
        retry_after = retry_after_seconds(found.retry_after_ms, self._retry_after_seconds)
        return responses.answer(202, found.body, request_id, f"{lines}Retry-After: {retry_after}\r\n")

    def _refusal(self, error: Exception, request_id: str) -> web.Response:
        """The answer that an error stands for; what an operator should know of it goes to the log."""
        if isinstance(error, CredentialError):
            self._metrics.credential_refused(error.reason)
            _log.debug(
                "A credential was refused.",
                extra={"event": "credential_refused", "request_id": request_id, "reason": error.reason},
            )
            missing = isinstance(error, MissingCredential)
            return responses.problem_answer(
                responses.MISSING_CREDENTIALS if missing else responses.INVALID_CREDENTIALS, request_id
            )
        problem = responses.PROBLEMS.get(type(error), responses.INTERNAL)
        if problem is responses.STORE_UNAVAILABLE:
            if polls := self._unanswered.should_log():
                cause = type(error.__cause__).__name__
                _log.warning(
                    "Polls could not be answered because the store failed.",
                    extra={"event": "polls_unanswered", "request_id": request_id, "cause": cause, "polls": polls},
                )
        elif problem is responses.INTERNAL:
            _log.error(
                "A poll failed because of a bug of this program.",
                extra={"event": "poll_failed", "request_id": request_id},
                exc_info=error,
            )
        return responses.problem_answer(problem, request_id)

    def _other(self, request: web.BaseRequest, request_id: str) -> tuple[web.StreamResponse, str]:
        """The answer at a path where there are no jobs, and how it is counted."""
        if request.path != OPENAPI_PATH:
            return responses.problem_answer(responses.PATH_NOT_FOUND, request_id), "other"
        if request.method not in responses.ALLOWED_METHODS:
            return responses.problem_answer(responses.METHOD_NOT_ALLOWED, request_id), "openapi"
        return responses.answer(200, self._openapi, request_id), "openapi"


def _credentials(headers: MultiMapping[str]) -> tuple[Sequence[str], Sequence[str]]:
    return headers.getall("Authorization", ()), headers.getall("x-bf-vk", ())


def _wants_events(request: web.BaseRequest) -> bool:
    headers = request.headers
    return _may_want_events(headers) and request.method == "GET" and prefers_events(headers.getall("Accept"))


def _may_want_events(headers: MultiMapping[str]) -> bool:
    return "stream" in "".join(headers.getall("Accept")).lower()
