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
from jobstatus.core.errors import JobStatusError
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
        for request_type, path in PATHS.items():
            app.router.add_route("*", path + "{job_id:.*}", self._route(request_type, self._poll(request_type)))
        app.router.add_route("*", "/openapi.json", self._route("openapi", _openapi()))
        app.router.add_route("*", "/{path:.*}", self._route("other", _nothing_here))
        return app

    def _route(self, name: str, handle: "Callable[[web.Request, str], Awaitable[web.Response]]") -> Handler:
        """What surrounds every handler: the request's id, errors as answers, the count."""

        async def serve(request: web.Request) -> web.Response:
            started = time.perf_counter()
            request_id = answers.request_id_of(request.headers.get("X-Request-Id"))
            try:
                response = await handle(request, request_id)
            except JobStatusError as error:
                response = self._problem(answers.PROBLEMS[type(error)], request_id, error)
            except Exception as error:  # noqa: BLE001  # the last line: a stranger is told nothing of it, the log all
                response = self._problem(answers.INTERNAL, request_id, error)
            self._metrics.request_answered(name, response.status, time.perf_counter() - started)
            return response

        return serve

    def _problem(self, problem: answers.Problem, request_id: str, error: Exception) -> web.Response:
        if problem is answers.STORE_UNAVAILABLE:
            cause = type(error.__cause__).__name__
            _log.warning("a poll could not be answered", extra={"request_id": request_id, "cause": cause})
        elif problem is answers.INTERNAL:
            _log.error("a poll met a fault of this program", extra={"request_id": request_id}, exc_info=error)
        return answers.problem_answer(problem, request_id)

    def _poll(self, request_type: RequestType) -> Callable[[web.Request, str], Awaitable[web.Response]]:
        async def poll(request: web.Request, request_id: str) -> web.Response:
            if request.method not in answers.ALLOWED_METHODS:
                return answers.problem_answer(answers.METHOD_NOT_ALLOWED, request_id)
            headers = request.headers
            try:
                principal = await self._authenticator.authenticate(
                    headers.getall("Authorization", ()), headers.getall("x-bf-vk", ())
                )
            except CredentialError as error:
                return self._unauthorized(error, request_id)
            found = await self._tracker.poll(request.match_info["job_id"], request_type, principal)
            if found.is_terminal:
                return answers.answer(200, found.body, request_id)
            age_seconds = (self._clock() - found.created_at_ms) / 1000
            retry_after = answers.retry_after_seconds(age_seconds, self._retry_after_seconds)
            return answers.answer(202, found.body, request_id, retry_after)

        return poll

    def _unauthorized(self, error: CredentialError, request_id: str) -> web.Response:
        self._metrics.credential_refused(error.reason)
        _log.debug("a credential was refused", extra={"request_id": request_id, "reason": error.reason})
        missing = isinstance(error, MissingCredential)
        problem = answers.MISSING_CREDENTIALS if missing else answers.INVALID_CREDENTIALS
        return answers.problem_answer(problem, request_id)


OPENAPI: Final = "openapi.json"


def _openapi() -> Callable[[web.Request, str], Awaitable[web.Response]]:
    document = importlib.resources.files("jobstatus.rest").joinpath(OPENAPI).read_bytes()

    async def openapi(request: web.Request, request_id: str) -> web.Response:
        if request.method not in answers.ALLOWED_METHODS:
            return answers.problem_answer(answers.METHOD_NOT_ALLOWED, request_id)
        return answers.answer(200, document, request_id)

    return openapi


async def _nothing_here(_: web.Request, request_id: str) -> web.Response:
    return answers.problem_answer(answers.PATH_NOT_FOUND, request_id)
