"""The public application: the GET endpoint of the contract for all request types, and its OpenAPI document.

No middleware: the hot path is a poll, and each middleware would cost every poll a coroutine. A request is answered in
one order: method, credential, job (whose id, type, owner and expiry are all judged by one call of the core).
"""

import importlib.resources
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from aiohttp import web

from jobstatus.auth.errors import CredentialError, MissingCredential
from jobstatus.core.access import Principal
from jobstatus.core.job import RequestType
from jobstatus.core.tracker import Poll
from jobstatus.metrics import Metrics
from jobstatus.rest import answers
from jobstatus.rest.paths import PATHS

_log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Authenticates(Protocol):
    """What the edge needs of `auth`: raises CredentialError, or StoreUnavailable when it cannot tell."""

    async def authenticate(self, authorization: Sequence[str], virtual_key: Sequence[str]) -> Principal: ...


class Polls(Protocol):
    """What the edge needs of the core: raises JobNotFound or StoreUnavailable."""

    async def poll(self, job_id: str, request_type: RequestType, principal: Principal) -> Poll: ...


class Edge:
    """Answers polls."""

    def __init__(
        self,
        *,
        authenticator: Authenticates,
        tracker: Polls,
        metrics: Metrics,
        clock: Callable[[], int],
        retry_after_seconds: int,
    ) -> None:
        """`clock` tells ms since the epoch; `retry_after_seconds` is what the poller of a new job is told."""
        self._authenticator = authenticator
        self._tracker = tracker
        self._metrics = metrics
        self._clock = clock
        self._retry_after_seconds = retry_after_seconds

    def application(self) -> web.Application:
        """Everything that the public port serves."""
        app = web.Application()
        handlers = {path + "{job_id:(?s:.*)}": self._poll(request_type) for request_type, path in PATHS.items()}
        handlers["/openapi.json"] = self._fixed("openapi", _openapi())
        handlers["/{path:(?s:.*)}"] = self._fixed("other", _nothing_here)
        for path, handler in handlers.items():
            app.router.add_route("*", path, handler, expect_handler=_ignore_expectation)
        return app

    def _poll(self, request_type: RequestType) -> Handler:
        """One coroutine for all of a poll: each one more would cost every poll a microsecond."""
        route = request_type.value
        authenticate, find, count = self._authenticator.authenticate, self._tracker.poll, self._metrics.request_answered

        async def poll(request: web.Request) -> web.StreamResponse:
            started = time.perf_counter()
            headers = request.headers
            request_id = answers.request_id_of(headers.get("X-Request-Id"))
            try:
                if request.method in answers.ALLOWED_METHODS:
                    principal = await authenticate(headers.getall("Authorization", ()), headers.getall("x-bf-vk", ()))
                    response = self._found(
                        await find(request.match_info["job_id"], request_type, principal), request_id
                    )
                else:
                    response = answers.problem_answer(answers.METHOD_NOT_ALLOWED, request_id)
            except Exception as error:  # noqa: BLE001  # the last line: the log is told all, a stranger nothing
                response = self._refusal(error, request_id)
            count(route, response.status, time.perf_counter() - started)
            return response

        return poll

    def _found(self, found: Poll, request_id: str) -> web.StreamResponse:
        if found.is_terminal:
            return answers.answer(200, found.body, request_id)
        age_seconds = (self._clock() - found.created_at_ms) / 1000
        retry_after = answers.retry_after_seconds(age_seconds, self._retry_after_seconds)
        return answers.answer(202, found.body, request_id, retry_after)

    def _refusal(self, error: Exception, request_id: str) -> web.Response:
        """The answer that an error stands for; what an operator should know of it goes to the log."""
        if isinstance(error, CredentialError):
            self._metrics.credential_refused(error.reason)
            _log.debug("a credential was refused", extra={"request_id": request_id, "reason": error.reason})
            missing = isinstance(error, MissingCredential)
            return answers.problem_answer(
                answers.MISSING_CREDENTIALS if missing else answers.INVALID_CREDENTIALS, request_id
            )
        problem = answers.PROBLEMS.get(type(error), answers.INTERNAL)
        if problem is answers.STORE_UNAVAILABLE:
            cause = type(error.__cause__).__name__
            _log.warning("a poll could not be answered", extra={"request_id": request_id, "cause": cause})
        elif problem is answers.INTERNAL:
            _log.error("a poll met a fault of this program", extra={"request_id": request_id}, exc_info=error)
        return answers.problem_answer(problem, request_id)

    def _fixed(self, route: str, respond: Callable[[web.Request, str], web.StreamResponse]) -> Handler:
        """A handler whose answer depends on nothing but the request."""

        async def serve(request: web.Request) -> web.StreamResponse:
            started = time.perf_counter()
            response = respond(request, answers.request_id_of(request.headers.get("X-Request-Id")))
            self._metrics.request_answered(route, response.status, time.perf_counter() - started)
            return response

        return serve


async def _ignore_expectation(_: web.Request) -> None:
    """No body is ever read, so nobody is told to send one (RFC 9110, section 10.1.1); and none is worth a 417."""


OPENAPI: Final = "openapi.json"


def _openapi() -> Callable[[web.Request, str], web.StreamResponse]:
    document = importlib.resources.files("jobstatus.rest").joinpath(OPENAPI).read_bytes()

    def openapi(request: web.Request, request_id: str) -> web.StreamResponse:
        if request.method not in answers.ALLOWED_METHODS:
            return answers.problem_answer(answers.METHOD_NOT_ALLOWED, request_id)
        return answers.answer(200, document, request_id)

    return openapi


def _nothing_here(_: web.Request, request_id: str) -> web.Response:
    return answers.problem_answer(answers.PATH_NOT_FOUND, request_id)
