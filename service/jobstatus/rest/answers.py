"""The answers that the edge gives on its own account, and the headers of every answer. Pure: no request, no core."""

import random
import re
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from jobstatus.core import errors
from jobstatus.core.answer import to_json
from jobstatus.rest.small_answer import MAX_BYTES, small_answer

ALLOWED_METHODS: Final = ("GET", "HEAD")
MAX_RETRY_AFTER_SECONDS: Final = 30
_AGE_PER_SECOND: Final = 10
"""A poller of a job that is n seconds old is asked to wait n / 10 seconds: it learns the end a tenth late at most."""

_is_sane_request_id: Final = re.compile("[A-Za-z0-9._-]{1,128}").fullmatch


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer without a job: its HTTP code, and the type, code and message of its BifrostError."""

    status: int
    type: str
    code: str
    message: str

    def body(self, request_id: str) -> bytes:
        """The BifrostError; it depends on nothing but the request's id."""
        return to_json(
            {
                "event_id": request_id,
                "is_bifrost_error": False,
                "status_code": self.status,
                "error": {"type": self.type, "code": self.code, "message": self.message},
                "extra_fields": {},
            }
        )


MISSING_CREDENTIALS: Final = Problem(401, "authentication_error", "missing_credentials", "Credentials are required")
INVALID_CREDENTIALS: Final = Problem(401, "authentication_error", "invalid_credentials", "The credentials are invalid")
JOB_NOT_FOUND: Final = Problem(404, "not_found", "job_not_found", "Job not found or expired")
PATH_NOT_FOUND: Final = Problem(404, "not_found", "path_not_found", "There is nothing at this path")
METHOD_NOT_ALLOWED: Final = Problem(405, "method_not_allowed", "method_not_allowed", "Only GET and HEAD are allowed")
STORE_UNAVAILABLE: Final = Problem(503, "unavailable", "store_unavailable", "Temporarily unavailable, try again later")
INTERNAL: Final = Problem(500, "internal_error", "internal_error", "Internal error")

PROBLEMS: Final[dict[type[Exception], Problem]] = {
    errors.JobNotFound: JOB_NOT_FOUND,
    errors.StoreUnavailable: STORE_UNAVAILABLE,
    errors.StoreFull: STORE_UNAVAILABLE,
    errors.Overloaded: STORE_UNAVAILABLE,
    errors.ShuttingDown: STORE_UNAVAILABLE,
    # What only a write can meet says nothing to a reader: should it come up here it is a fault of ours.
    errors.VirtualKeyNotFound: INTERNAL,
    errors.InvalidField: INTERNAL,
    errors.ResultNotJson: INTERNAL,
    errors.ResultTooLarge: INTERNAL,
    errors.JobExists: INTERNAL,
    errors.JobTerminal: INTERNAL,
    errors.JobNotStarted: INTERNAL,
    errors.LeaseHeld: INTERNAL,
    errors.LeaseLost: INTERNAL,
    errors.ClientNotIdentified: INTERNAL,
    errors.ClientNotAllowed: INTERNAL,
}

_CHALLENGE: Final = 'Bearer realm="jobstatus"'
_PROBLEM_HEADERS: Final[dict[Problem, dict[str, str]]] = {
    MISSING_CREDENTIALS: {"WWW-Authenticate": _CHALLENGE},
    INVALID_CREDENTIALS: {"WWW-Authenticate": f'{_CHALLENGE}, error="invalid_token"'},
    METHOD_NOT_ALLOWED: {"Allow": ", ".join(ALLOWED_METHODS)},
    STORE_UNAVAILABLE: {"Retry-After": "2"},
}


def request_id_of(given: str | None) -> str:
    """The caller's id when it is sane, else a new one of 32 hexadecimal digits."""
    if given is not None and _is_sane_request_id(given):
        return given
    return f"{random.getrandbits(128):032x}"  # it has to be unlikely twice, not secret


def retry_after_seconds(age_seconds: float, first_seconds: int) -> int:
    """When to poll again: soon while the job is young, later as it gets old, `first_seconds` to 30 s."""
    return min(MAX_RETRY_AFTER_SECONDS, max(first_seconds, int(age_seconds / _AGE_PER_SECOND)))


def answer(status: int, body: bytes, request_id: str, retry_after: int | None = None) -> web.StreamResponse:
    """A 200 or 202 with a job's document or another JSON body."""
    if len(body) <= MAX_BYTES:
        retry = "" if retry_after is None else f"Retry-After: {retry_after}\r\n"
        return small_answer(status, body, f"{_LINES_OF_EVERY_ANSWER}X-Request-Id: {request_id}\r\n{retry}")
    headers = _headers(request_id)
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return web.Response(status=status, body=body, headers=headers)


def problem_answer(problem: Problem, request_id: str) -> web.Response:
    """An answer without a job."""
    headers = _headers(request_id)
    headers.extend(_PROBLEM_HEADERS.get(problem, {}))
    return web.Response(status=problem.status, body=problem.body(request_id), headers=headers)


_EVERY_ANSWER: Final = CIMultiDict(
    {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Server": "jobstatus",  # else aiohttp tells its version
    }
)
_LINES_OF_EVERY_ANSWER: Final = "".join(f"{name}: {value}\r\n" for name, value in _EVERY_ANSWER.items())


def _headers(request_id: str) -> CIMultiDict[str]:
    headers = _EVERY_ANSWER.copy()
    headers["X-Request-Id"] = request_id
    return headers
