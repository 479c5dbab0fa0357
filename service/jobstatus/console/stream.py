"""The one event stream of a page: lines of JSON, each with what has changed since the line before.

Nothing is queued for a slow reader. A line is made when the one before it has left, so that it has the newest state.
Each look asks anew whether the token is valid, so the stream ends with the token.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final, Protocol

from jobstatus.console.limits import ConsoleLimits
from jobstatus.console.looks import UsualSeconds
from jobstatus.console.messages import Answer, Ask, Question
from jobstatus.console.pulse import Pulse

VIEWS: Final = ("now", "jobs", "job", "failures", "workers", "keys")
_SLOW: Final[Mapping[str, float]] = {"failures": 5.0, "workers": 2.0, "keys": 5.0}
"""The least seconds between two looks at what costs more."""
_ASKED_WITHOUT_VIEW: Final = "session"


class Line(Protocol):
    """Where lines go. `write` returns when there is room for the next one."""

    async def write(self, data: bytes, /) -> None: ...


class View:
    """What one page looks at. The jobs of a table stay the same; only what becomes of them is told."""

    def __init__(self, name: str, question: Question) -> None:
        self._name = name
        self._question = question
        self._known: dict[str, int] = {}
        self._top = ""
        self._last = ""

    def next_question(self) -> Question:
        """Return what to ask at the next look."""
        if self._name == "now":
            return self._question._replace(what=_ASKED_WITHOUT_VIEW)
        if self._name == "jobs" and self._known:
            arguments = self._question.arguments | {"known": self._known, "top": self._top}
            return self._question._replace(what="rows", arguments=arguments)
        return self._question._replace(what=self._name)

    def change(self, answer: Answer) -> str:
        """Return what the answer adds to the line: the name of a part and its value, or nothing if it is known."""
        if self._name == "now":
            return ""
        if self._name == "jobs":
            return self._change_of_table(answer)
        if answer.body == self._last:
            return ""
        self._last = answer.body
        return f'"{self._name}":{answer.body}'

    def _change_of_table(self, answer: Answer) -> str:
        if not self._known:  # the first jobs of an empty table are shown at once
            if answer.body == self._last:
                return ""
            found, self._last = json.loads(answer.body), answer.body
            self._known = {row["id"]: row["version"] for row in found["jobs"]}
            self._top = found["top"] or ""
            return f'"jobs":{answer.body}'
        found = json.loads(answer.body)
        self._known |= {row["id"]: row["version"] for row in found["rows"]}
        for job_id in found["gone"]:
            self._known.pop(job_id)
        new = str(found["new"])
        if not found["rows"] and not found["gone"] and new == self._last:
            return ""
        self._last = new
        return f'"rows":{answer.body}'


class Streamer:
    """Makes the lines of all streams."""

    def __init__(self, ask: Ask, pulse: Pulse, *, clock: Callable[[], int], limits: ConsoleLimits) -> None:
        """`clock` returns ms since the epoch."""
        self._ask = ask
        self._pulse = pulse
        self._clock = clock
        self._limits = limits

    async def send(
        self, response: Line, view: str, question: Question, first: Answer, unread: Callable[[], int]
    ) -> None:
        """Write lines until the token is no longer valid, which the last line says.

        `first` is the answer to a question about the session. `unread` returns how many bytes have not left yet.
        Raises ConnectionError or TimeoutError when the reader is gone.
        """
        async with aclosing(self._lines(view, question, first)) as lines:
            async for line in lines:
                async with asyncio.timeout(self._limits.stall_seconds):
                    await response.write(f"{line}\n".encode("utf-8", "surrogatepass"))
                    await self._until_read(unread)

    async def _until_read(self, unread: Callable[[], int]) -> None:
        while unread():  # noqa: ASYNC110  # a transport has no event for this
            await asyncio.sleep(self._limits.tick_seconds)

    async def _lines(self, name: str, question: Question, first: Answer) -> AsyncGenerator[str]:
        view, points, now, said_at = View(name, question), 0, "", 0.0
        loop, usual = asyncio.get_running_loop(), UsualSeconds()
        parts = [f'"session":{first.body}', f'"limits":{{"points":{self._limits.samples}}}']
        while True:
            began = time.perf_counter()
            answer = await self._ask(view.next_question())
            if answer.status in (401, 403):
                yield json.dumps({"end": answer.message, "status": answer.status})
                return
            if answer.status == 200:
                parts.append(view.change(answer))
            else:
                parts.append(f'"problem":{json.dumps({"status": answer.status, "message": answer.message})}')
            if self._pulse.now != now:
                now = self._pulse.now
                parts.append(f'"now":{now}')
            if name == "now" and (new := self._pulse.curves.since(points)):
                points = self._pulse.curves.added
                parts.append(f'"points":{json.dumps(new, separators=(",", ":"))}')
            parts = [part for part in parts if part]
            if parts or loop.time() - said_at >= self._limits.quiet_seconds:
                said_at = loop.time()
                yield f'{{"at":{self._clock()}{"".join(f",{part}" for part in parts)}}}'
            parts = []
            seconds = usual.after(time.perf_counter() - began)
            await asyncio.sleep(pause_seconds(name, seconds, self._limits))


def pause_seconds(view: str, seconds: float, limits: ConsoleLimits) -> float:
    """Return how long to wait after a look at this view, which usually takes so long."""
    polite = min(seconds / limits.look_share, limits.slowest_tick_seconds)
    return max(limits.tick_seconds, _SLOW.get(view, 0.0), polite)


def arguments_of(query: Mapping[str, str], names: tuple[str, ...], max_chars: int) -> dict[str, Any]:
    """Return the parameters of these names that are short enough to be meant."""
    return {name: query[name] for name in names if name in query and len(query[name]) <= max_chars}
