"""Polling by the REST contract, until the job has ended.

The first poll does not wait and shows the state of the job. Each further poll asks to wait for the end (RFC 7240): if
the service waited, the next one follows at once, otherwise after Retry-After. This module knows only the contract.
"""

import asyncio
import json
import os
import random
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
from yarl import URL

from jobstatus.cli.errors import CommandError, ExitCode
from jobstatus.cli.output import visible
from jobstatus.cli.poll_display import Display
from jobstatus.core.json_text import members

USUAL_PAUSE_SECONDS: Final = 1.0
SHORTEST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 60.0
JITTER: Final = 0.1
"""A pause is lengthened by up to this part, so that clients with the same Retry-After do not come back together."""
FIRST_BACK_OFF_SECONDS: Final = 0.25
LONGEST_BACK_OFF_SECONDS: Final = 8.0
"""A pause after a failed poll is no shorter than the back-off, which doubles from the first to the longest."""
PATIENCE_SECONDS: Final = 60.0
"""How long to wait for a service that has answered before, or says that it will."""
ANSWER_SECONDS: Final = 30.0
"""How long an answer may take, besides the time that the poll asked to wait."""
SPACING_SECONDS: Final = 1.0
"""The shortest time from one poll to the next, however short the service's waits are."""
EARLY_SECONDS: Final = 0.5
"""An answer that comes more than this before the end of its wait has not waited, for example when the service stops."""

_applied_wait: Final = re.compile(r'(?:^|,)\s*wait\s*=\s*"?(\d{1,4})"?\s*(?:[;,]|$)', re.IGNORECASE | re.ASCII).search
_UNDER_WAY: Final = 202
_ENDED: Final = 200
_STATUSES: Final = {_UNDER_WAY: ("pending", "processing"), _ENDED: ("completed", "failed")}
_BUSY: Final = frozenset({429, 502, 503, 504})
"""From a service that is there, or a proxy before it."""
_TEMPORARY: Final = frozenset({408, 425, 429, *range(500, 600)})
_BAD_CREDENTIAL: Final = (ExitCode.CREDENTIAL, "the credential is refused ({}); `jobstatus token` mints another one")
_NO_JOB: Final = (
    ExitCode.NOT_FOUND,
    "{}, or not of this --request-type, or not for this --token; `jobstatus jobs list` shows the jobs there are",
)
_REFUSALS: Final = {401: _BAD_CREDENTIAL, 403: _BAD_CREDENTIAL, 404: _NO_JOB}


@dataclass(frozen=True, slots=True, kw_only=True)
class PollResponse:
    """One answer. `document` is empty when the body is not a JSON object; it lacks the result, which is never decoded.

    `wait_seconds` is how long the service says it would wait, 0 when it does not wait.
    """

    code: int
    body: bytes
    document: dict[str, Any]
    result: bytes
    pause_seconds: float
    wait_seconds: int
    progress: str | None

    @property
    def error(self) -> dict[str, Any]:
        """The inner error of the answer's BifrostError; empty when the body is none."""
        error = self.document.get("error")
        return error if isinstance(error, dict) else {}

    @property
    def message(self) -> str:
        """The message of the answer's BifrostError."""
        return visible(str(self.error.get("message") or f"HTTP {self.code}")).rstrip(".")

    def tells_state_of(self, job_id: str) -> bool:
        """Whether this is the contract's answer with the state of the job.

        Other software answers with some `status` too, so one that this version does not know must name the job.
        """
        status = self.document.get("status")
        is_named = isinstance(status, str) and self.document.get("id") == job_id
        return status in _STATUSES.get(self.code, ()) or (is_named and self.code in _STATUSES)


class PollLoop:
    """Polls one job."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        address: URL,
        display: Display,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._session = session
        self._address = address
        self._job_id = address.name
        self._display = display
        self._patience_seconds = patience_seconds
        self._now = asyncio.get_running_loop().time
        self._wait_seconds = 0
        self._longest_wait_seconds = display.wait_seconds
        self._is_known = False
        """Whether the service has answered, or has said that it will."""
        self._failures = 0
        """How many polls in a row have failed, and since when."""
        self._failing_since = 0.0

    async def poll_until_end(self) -> PollResponse:
        """Return the answer with the outcome of the job. Raises CommandError when there will be none."""
        while True:
            asked_at = self._now()
            try:
                answer = await self._ask()
            except (aiohttp.ClientError, TimeoutError) as error:
                pause_seconds = self._pause_after_failure(
                    f"nothing answers at {self._address.origin()} ({_reason(error)})"
                )
            else:
                if answer.code == _ENDED and answer.tells_state_of(self._job_id):
                    return answer
                pause_seconds = self._take(answer, self._now() - asked_at)
            await asyncio.sleep(pause_seconds)

    async def _ask(self) -> PollResponse:
        headers = {"Prefer": f"wait={self._wait_seconds}"} if self._wait_seconds else {}
        limit = aiohttp.ClientTimeout(total=self._wait_seconds + ANSWER_SECONDS)
        async with self._session.get(self._address, headers=headers, timeout=limit, allow_redirects=False) as response:
            body = await response.read()
            document, result = _decoded(body)
            return PollResponse(
                code=response.status,
                body=body,
                document=document,
                result=result,
                pause_seconds=_pause_seconds(response.headers.get("Retry-After")),
                wait_seconds=applied_wait_seconds(response.headers.get("Preference-Applied", "")),
                progress=response.headers.get("Job-Progress"),
            )

    def _take(self, answer: PollResponse, took_seconds: float) -> float:
        """Seconds until the next poll, after an answer that is not the last and took so long."""
        if answer.tells_state_of(self._job_id):
            pause_seconds = self._pause_under_way(answer, took_seconds)
            self._is_known, self._failures, self._wait_seconds = True, 0, self._longest_wait_seconds
            self._display.show(str(answer.document.get("status")), answer.progress, pause_seconds)
            return pause_seconds
        is_ours = bool(answer.error)
        self._is_known |= answer.code in _BUSY or (is_ours and answer.code in _TEMPORARY)
        if answer.code in _REFUSALS and (is_ours or not self._is_known):
            code, sentence = _REFUSALS[answer.code]
            raise CommandError(sentence.format(answer.message), code)
        if answer.code in _TEMPORARY and self._is_known:
            return self._pause_after_failure(
                f"the service at {self._address.origin()} cannot answer", answer.pause_seconds
            )
        problem = f"the answer {answer.code} of {self._address.origin()} is not one of a JobStatus service"
        if not self._is_known:
            raise CommandError(f"{problem}; --url or JOBSTATUS_URL names another place", ExitCode.REFUSED)
        return self._pause_after_failure(problem, answer.pause_seconds)

    def _pause_under_way(self, answer: PollResponse, took_seconds: float) -> float:
        """Return no pause where the next poll waits instead: after the first poll, and after one that has waited."""
        if not self._wait_seconds:
            return 0
        if answer.wait_seconds and took_seconds >= answer.wait_seconds - EARLY_SECONDS:
            return max(0, SPACING_SECONDS - took_seconds)
        return _jittered(answer.pause_seconds)

    def _pause_after_failure(self, problem: str, pause_seconds: float = USUAL_PAUSE_SECONDS) -> float:
        """Return the seconds until the next poll after a failed one. Raises once the failures last too long."""
        if not self._failures:
            self._failing_since = self._now()
        if self._now() - self._failing_since >= (self._patience_seconds if self._is_known else 0):
            raise CommandError(
                f"{problem}; is `jobstatus serve` running there? --url or JOBSTATUS_URL names another place",
                ExitCode.UNAVAILABLE,
            )
        pause_seconds = _jittered(max(pause_seconds, _back_off_seconds(self._failures)))
        self._failures += 1
        if self._wait_seconds:  # a proxy may have a shorter limit than the service
            self._longest_wait_seconds = max(1, self._wait_seconds // 2)
        self._wait_seconds = 0
        self._display.show_problem(problem, pause_seconds)
        return pause_seconds


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return "no answer in time" if isinstance(error, TimeoutError) else str(error)


def _decoded(body: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the members of an answer without the result, and the result as it stands there.

    The service may have accepted a result that this interpreter cannot decode.
    """
    try:
        found = members(body)
        result = found.pop("result", b"null")
        return {name: json.loads(text) for name, text in found.items()}, result
    except (ValueError, RecursionError):
        return {}, b"null"


def _pause_seconds(retry_after: str | None) -> float:
    """Return Retry-After (RFC 9110, section 10.2.3) in seconds, within the bounds."""
    seconds = USUAL_PAUSE_SECONDS
    if retry_after is not None:
        with suppress(ValueError, OverflowError):
            seconds = float(retry_after) if retry_after.isdecimal() else _seconds_until(retry_after)
    return min(max(seconds, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)


def applied_wait_seconds(preference_applied: str) -> int:
    """Return the wait among the preferences that the service applied (RFC 7240, section 3)."""
    applied = _applied_wait(preference_applied)
    return 0 if applied is None else int(applied[1])


def _back_off_seconds(failures: int) -> float:
    """Return the pause after so many failed polls in a row."""
    return min(FIRST_BACK_OFF_SECONDS * 2.0 ** min(failures, 10), LONGEST_BACK_OFF_SECONDS)


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(1, 1 + JITTER)  # noqa: S311 (no secret)


def _seconds_until(http_date: str) -> float:
    date = parsedate_to_datetime(http_date)
    return (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
