"""Polling as the REST contract wants it: as often as Retry-After says, until an answer is the last one.

A client like any other: it knows nothing of the service but the contract.
"""

import asyncio
import json
import os
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

USUAL_PAUSE_SECONDS: Final = 1.0
SHORTEST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 60.0
PATIENCE_SECONDS: Final = 60.0
"""How long a service is waited for that has answered before, or says that it will."""

_BUSY: Final = frozenset({429, 502, 503, 504})
_BAD_CREDENTIAL: Final = (ExitCode.CREDENTIAL, "the credential is refused ({}); `jobstatus token` mints another one")
_NO_JOB: Final = (
    ExitCode.NOT_FOUND,
    "{}, or not of this --request-type, or not for this --token; `jobstatus jobs list` shows the jobs there are",
)
_REFUSALS: Final = {401: _BAD_CREDENTIAL, 403: _BAD_CREDENTIAL, 404: _NO_JOB}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer; `document` is empty when the body is not a JSON object."""

    code: int
    body: bytes
    document: dict[str, Any]
    pause_seconds: float
    progress: str | None

    @property
    def message(self) -> str:
        """What a BifrostError of the edge says."""
        error = self.document.get("error")
        message = error.get("message") if isinstance(error, dict) else None
        return visible(str(message or f"HTTP {self.code}")).rstrip(".")


class Poller:
    """Polls one job."""

    def __init__(self, session: aiohttp.ClientSession, address: URL, display: Display) -> None:
        self._session = session
        self._address = address
        self._display = display
        self._now = asyncio.get_running_loop().time
        self._started_at = self._gives_up_at = self._now()

    async def poll_until_end(self) -> Answer:
        """The answer that says how the job ended. Raises CommandError when there will be none."""
        while True:
            try:
                answer = await self._ask()
            except (aiohttp.ClientError, TimeoutError) as error:
                pause_seconds = self._be_patient(f"nothing answers at {self._address.origin()} ({_reason(error)})")
            else:
                if answer.code == 200 and "status" in answer.document:
                    return answer
                pause_seconds = self._take(answer)
            await asyncio.sleep(pause_seconds)

    async def _ask(self) -> Answer:
        async with self._session.get(self._address, allow_redirects=False) as response:
            body = await response.read()
            return Answer(
                code=response.status,
                body=body,
                document=_document(body),
                pause_seconds=_pause_seconds(response.headers.get("Retry-After")),
                progress=response.headers.get("Job-Progress"),
            )

    def _take(self, answer: Answer) -> float:
        """Seconds until the next poll, after an answer that is not the last."""
        if answer.code == 202:
            self._gives_up_at = self._now() + PATIENCE_SECONDS
            self._display.show(str(answer.document.get("status")), answer.progress, answer.pause_seconds)
            return answer.pause_seconds
        if answer.code in _BUSY:
            self._gives_up_at = max(self._gives_up_at, self._started_at + PATIENCE_SECONDS)
            return self._be_patient(f"the service at {self._address.origin()} cannot answer", answer.pause_seconds)
        if answer.code in _REFUSALS:
            code, sentence = _REFUSALS[answer.code]
            raise CommandError(sentence.format(answer.message), code)
        raise CommandError(
            f"the answer {answer.code} of {self._address.origin()} is not one of a JobStatus service; --url or"
            " JOBSTATUS_URL names another place",
            ExitCode.REFUSED,
        )

    def _be_patient(self, problem: str, pause_seconds: float = USUAL_PAUSE_SECONDS) -> float:
        """Seconds until the next poll, after none or an unhappy answer; raises once that has lasted too long."""
        if self._now() >= self._gives_up_at:
            raise CommandError(
                f"{problem}; is `jobstatus serve` running there? --url or JOBSTATUS_URL names another place",
                ExitCode.UNAVAILABLE,
            )
        self._display.show_problem(problem, pause_seconds)
        return pause_seconds


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return "no answer in time" if isinstance(error, TimeoutError) else str(error)


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _pause_seconds(retry_after: str | None) -> float:
    """Retry-After (RFC 9110, section 10.2.3) in seconds, within our bounds."""
    seconds = USUAL_PAUSE_SECONDS
    if retry_after is not None:
        with suppress(ValueError, OverflowError):
            seconds = float(retry_after) if retry_after.isdecimal() else _seconds_until(retry_after)
    return min(max(seconds, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)


def _seconds_until(http_date: str) -> float:
    date = parsedate_to_datetime(http_date)
    return (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
