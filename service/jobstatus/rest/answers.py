"""The answers that the edge gives on its own account, and the headers of every answer. Pure: no request, no core."""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from jobstatus.core import errors
from jobstatus.core.answer import to_json
from jobstatus.rest.small_answer import MAX_BYTES, headers_of, small_answer

ALLOWED_METHODS: Final = ("GET", "HEAD")
MAX_RETRY_AFTER_SECONDS: Final = 30
MAX_WAIT_SECONDS: Final = 60

EVENT_STREAM: Final = "text/event-stream"

_is_weight: Final = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?").fullmatch
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


def retry_after_seconds(pause_ms: int, least_seconds: int) -> int:
    """After how many whole seconds to poll again, `least_seconds` to 30 s, where the core would have it so."""
    return min(MAX_RETRY_AFTER_SECONDS, max(least_seconds, pause_ms // 1000))


def entity_tag(version: int, created_at_ms: int) -> str:
    """The strong validator of a job's document (RFC 9110, section 8.8.3): no two documents of an id have the same."""
    return f'"{created_at_ms:x}-{version}"'


def is_known(if_none_match: Iterable[str], tag: str) -> bool:
    """Whether the client has this document already (RFC 9110, section 13.1.2: compared weakly)."""
    tags = [known.strip() for line in if_none_match for known in line.split(",")]
    return "*" in tags or tag in (known.removeprefix("W/") for known in tags)


def wait_seconds(prefer: Iterable[str]) -> int:
    """How long a client would rather wait than ask again (RFC 7240, section 4.3), at most MAX_WAIT_SECONDS; 0: not."""
    for line in prefer:
        for preference in line.split(","):
            name, _, value = preference.partition(";")[0].partition("=")
            number = value.strip().strip('"')
            if name.strip().lower() == "wait" and number.isascii() and number.isdecimal() and len(number) < 10:
                return min(int(number), MAX_WAIT_SECONDS)  # the first one counts (section 2)
    return 0


def prefers_events(accept: Iterable[str]) -> bool:
    """Whether a client would rather have an event stream than JSON (RFC 9110, section 12.5.1).

    It has to name the type: one that takes anything, or both alike, gets JSON.
    """
    ranges = [part.partition(";") for line in accept for part in line.lower().split(",")]
    weights = {name.strip(): _weight(parameters) for name, _, parameters in ranges}
    return weights.get(EVENT_STREAM, 0) > weights.get("application/json", 0)


def _weight(parameters: str) -> float:
    """The `q` of a media range; 1 where there is none, 0 where it cannot be read."""
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            value = value.strip()
            return float(value) if _is_weight(value) else 0
    return 1


def last_event_version(last_event_id: str | None) -> int | None:
    """The version that a client has seen last; None where it has seen none, or says what is no version."""
    if last_event_id and last_event_id.isascii() and last_event_id.isdecimal() and len(last_event_id) < 20:
        return int(last_event_id)
    return None


def event_stream(request_id: str) -> web.StreamResponse:
    """A 200 whose events are still to be written."""
    headers = _headers(request_id)
    headers.update({"Content-Type": EVENT_STREAM, "X-Accel-Buffering": "no"})
    return web.StreamResponse(headers=headers)


def nothing_new(request_id: str) -> web.Response:
    """A 204: the client has had the last event of the stream, and is to ask no more (HTML standard, section 9.2.2)."""
    headers = _headers(request_id)
    del headers["Content-Type"]
    return web.Response(status=204, headers=headers)


def answer(status: int, body: bytes, request_id: str, lines: str = "", *, is_kept: bool = False) -> web.StreamResponse:
    """A 200 or 202 with a job's document or another JSON body.

    `lines` are further header lines, each with its CRLF; `is_kept`: the client may keep the answer, and ask whether it
    is still the same.
    """
    of_every = _LINES_OF_KEPT_ANSWERS if is_kept else _LINES_OF_EVERY_ANSWER
    whole = f"{of_every}X-Request-Id: {request_id}\r\n{lines}"
    if len(body) <= MAX_BYTES:
        return small_answer(status, body, whole)
    return web.Response(status=status, body=body, headers=headers_of(whole))


def not_modified(request_id: str, tag: str) -> web.Response:
    """A 304: the client has it already."""
    headers = _headers(request_id)
    del headers["Content-Type"]
    headers.update({"Cache-Control": _KEPT, "ETag": tag})
    return web.Response(status=304, headers=headers)


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
_KEPT: Final = "private, no-cache"
_LINES_OF_EVERY_ANSWER: Final = "".join(f"{name}: {value}\r\n" for name, value in _EVERY_ANSWER.items())
_LINES_OF_KEPT_ANSWERS: Final = _LINES_OF_EVERY_ANSWER.replace("no-store", _KEPT)


def _headers(request_id: str) -> CIMultiDict[str]:
    headers = _EVERY_ANSWER.copy()
    headers["X-Request-Id"] = request_id
    return headers
