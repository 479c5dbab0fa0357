"""Polls that wait, and those of large results, answered without a handler: what each keeps, and how it is answered.

While it waits, a request is two small objects, this one and the core's Wait, on a parked connection. A task runs only
while something has to be awaited, such as the store or a client that reads a large result.

The handler serves waits too: those that are pipelined, over HTTP/1.0 or the last on their connection, and all of them
where the fast path is off.
"""

import asyncio
import time
from typing import Final, Protocol

from aiohttp.http import RawRequestMessage

from jobstatus.core.access import Principal
from jobstatus.core.answer import RESULT_TAIL
from jobstatus.core.job import RequestType
from jobstatus.core.poll import Poll
from jobstatus.core.watching.long_poll import CannotWait
from jobstatus.core.watching.waits import Wait, WaitClient
from jobstatus.rest.admission import Admission
from jobstatus.rest.cors import Cors
from jobstatus.rest.handler import WAITING, Authenticates, Polls, may_want_events
from jobstatus.rest.headers import (
    ACCEPT,
    PREFER,
    X_REQUEST_ID,
    conditions_in,
    credentials_of,
    request_id_of,
    wait_seconds,
)
from jobstatus.rest.outcomes import Outcomes
from jobstatus.rest.parked import Parkable, ParkedConnection
from jobstatus.rest.responses import MAX_BYTES, LargeResponse, PrebuiltResponse, document_bytes
from jobstatus.rest.routes import target
from jobstatus.rest.send_limits import LargeResponses, pieces
from jobstatus.telemetry.metrics import Metrics


class Waits(Protocol):
    """What is needed of the core: raises CannotWait."""

    def wait_for(
        self, job_id: str, request_type: RequestType, principal: Principal, seconds: float, client: WaitClient
    ) -> Wait: ...


class WaitHandler:
    """Begins waits, and has what all of them share."""

    def __init__(
        self,
        *,
        authenticator: Authenticates,
        polls: Polls,
        waits: Waits,
        outcomes: Outcomes,
        metrics: Metrics,
        max_wait_seconds: int,
        large: LargeResponses,
        cors: Cors,
        admission: Admission | None = None,
    ) -> None:
        """`max_wait_seconds` is the longest wait that is granted."""
        self.authenticator: Final = authenticator
        self.polls: Final = polls
        self.waits: Final = waits
        self.outcomes: Final = outcomes
        self.metrics: Final = metrics
        self.large: Final = large
        self.admission: Final = admission
        self._max_wait_seconds = max_wait_seconds
        self._cors = cors

    def begin_wait(self, message: RawRequestMessage, connection: Parkable) -> bytes | None:
        """Return the whole answer to a poll that need not wait; an empty one where the connection was parked; None
        for all that only the handler can answer.

        A plain poll of a large result is answered on a parked connection too, where polls are answered at once.
        `message` is a GET or HEAD over HTTP/1.1 without a body, on a connection that stays open.
        """
        headers = message.headers
        if PREFER not in headers and not self.polls.polls_at_once:
            return None
        started, asked_for = time.perf_counter(), target(message.path, message.url)
        if asked_for is None or (ACCEPT in headers and may_want_events(headers)):
            return None
        seconds = wait_seconds(headers.getall(PREFER, ()), self._max_wait_seconds)
        if not seconds and PREFER in headers:
            return None
        lines = self._cors.lines(headers.get("Origin"))
        waiting = WaitingRequest(self, message, *asked_for, seconds=seconds, started=started, lines=lines)
        return waiting.begin(connection)


class WaitingRequest:
    """One request that waits: a WaitClient and a Guest."""

    __slots__ = (
        "_conditions",
        "_connection",
        "_credentials",
        "_is_head",
        "_is_wait",
        "_job_id",
        "_lines",
        "_parts",
        "_request_id",
        "_request_type",
        "_seconds",
        "_started",
        "_task",
        "_wait",
    )

    def __init__(
        self,
        parts: WaitHandler,
        message: RawRequestMessage,
        request_type: RequestType,
        job_id: str,
        *,
        seconds: int,
        started: float,
        lines: str,
    ) -> None:
        """`lines` are header lines of every answer."""
        headers = message.headers
        self._parts = parts
        self._request_type = request_type
        self._job_id = job_id
        self._credentials = credentials_of(headers)
        self._conditions = conditions_in(headers)
        self._request_id = request_id_of(headers.get(X_REQUEST_ID))
        self._is_head = message.method == "HEAD"
        self._seconds = seconds
        self._is_wait = bool(seconds)
        self._started = started
        self._lines = lines
        self._connection: ParkedConnection | None = None
        self._wait: Wait | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self, connection: Parkable) -> bytes | None:
        """Return the whole answer, an empty one where it comes later, or None to leave it to the handler."""
        principal: Principal | None = None
        found: Poll | None = None
        try:
            principal = self.try_authenticate()
            if principal is not None:
                found = self._begin(principal)
        except Exception as error:  # noqa: BLE001  # it is the answer, and the last line of defence
            return self._whole(self._refused(error))
        if found is not None:
            response = self._response(found)
            if isinstance(response, PrebuiltResponse):
                return self._whole(response)
        elif not self._is_wait:
            return None
        self._connection = connection.park(self)
        if found is not None:
            self.answer(found)
        elif self._wait is None:
            self._task = asyncio.create_task(self._begin_in_task(principal), name="jobstatus-begin-wait")
        return b""

    def try_authenticate(self) -> Principal | None:
        return self._parts.authenticator.try_authenticate(*self._credentials)

    async def authenticate(self) -> Principal:
        return await self._parts.authenticator.authenticate(*self._credentials)

    def cancel(self) -> None:
        """Wait no longer."""
        if self._wait is not None:
            self._wait.cancel()
        if self._task is not None:
            self._task.cancel()

    def answer(self, found: Poll | Exception) -> None:
        """Send the answer; in a task where the client has to be awaited too."""
        response = self._response(found)
        if isinstance(response, LargeResponse):
            self._task = asyncio.create_task(self._answer_large(response), name="jobstatus-large-answer")
        else:
            self._parked.answer(self._whole(response))

    @property
    def _parked(self) -> ParkedConnection:
        assert self._connection is not None  # noqa: S101  # for the type checker: set before anything is sent
        return self._connection

    def _begin(self, principal: Principal) -> Poll | None:
        """Return the poll if the answer is known at once. Without a wait, None means that the poll must be awaited."""
        parts = self._parts
        if parts.admission is not None:
            parts.admission.check(principal)
            parts.admission.count(principal, self._request_type.value, self._job_id, self._request_id)
        if not self._seconds:
            return parts.polls.try_poll(self._job_id, self._request_type, principal)
        try:
            wait = parts.waits.wait_for(self._job_id, self._request_type, principal, self._seconds, self)
        except CannotWait:
            self._seconds = 0
            return parts.polls.try_poll(self._job_id, self._request_type, principal)
        self._wait = wait
        return wait.begin(principal)

    async def _begin_in_task(self, principal: Principal | None) -> None:
        """Begin once the credential is known. Poll without a wait where none is granted."""
        found: Poll | None = None
        try:
            if principal is None:
                principal = await self.authenticate()
                found = self._begin(principal)
            if found is None and self._wait is None:
                found = await self._parts.polls.poll(self._job_id, self._request_type, principal)
        except Exception as error:  # noqa: BLE001  # it is the answer
            self.answer(error)
        else:
            self._task = None
            if found is not None:
                self.answer(found)

    def _response(self, found: Poll | Exception) -> PrebuiltResponse | LargeResponse:
        if isinstance(found, Exception):
            return self._refused(found)
        applied = f"Preference-Applied: wait={self._seconds}\r\n" if self._seconds else ""
        response = self._parts.outcomes.found(found, self._conditions, self._request_id, applied)
        if self._is_head and isinstance(response, LargeResponse):
            response = response.without_body()
        return response

    def _refused(self, error: Exception) -> PrebuiltResponse:
        return self._parts.outcomes.refused(error, self._request_id)

    def _whole(self, response: PrebuiltResponse) -> bytes:
        """Return the bytes of an answer, and count it."""
        response.add(self._lines)
        self._count(response.status)
        return response.head() if self._is_head else response.whole()

    def _count(self, status: int) -> None:
        route = WAITING if self._is_wait else self._request_type.value
        self._parts.metrics.request_answered(route, status, time.perf_counter() - self._started)

    async def _answer_large(self, large: LargeResponse) -> None:
        """Read the result and send it, as slowly as the client reads."""
        poll, parts = large.poll, (b"", large.poll.body, b"")
        try:
            with self._parts.large.hold(poll.reader, document_bytes(poll)):
                if poll.large_result is not None:
                    parts = (poll.body, await self._parts.polls.read_result(poll.large_result), RESULT_TAIL)
                if (length := sum(map(len, parts))) <= MAX_BYTES:
                    self._parked.answer(self._whole(large.small(b"".join(parts))))
                    return
                self._count(large.status)
                await self._parts.large.send_directly(self._parked, large.head(length, self._lines), pieces(*parts))
        except Exception as error:  # noqa: BLE001  # it is the answer
            self._parked.answer(self._whole(self._refused(error)))
        else:
            self._parked.end()
