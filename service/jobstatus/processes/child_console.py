"""The console on the supervisor's admin port: what it shows comes from the children.

Any child can answer, so that the page goes on when one dies. Streams end at the supervisor, which outlives children.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from aiohttp import web

from jobstatus.console.handler import Console
from jobstatus.console.limits import ConsoleLimits
from jobstatus.console.links import SignInLinks
from jobstatus.console.messages import UNAVAILABLE, Answer, Question, Watch
from jobstatus.console.open_id import OpenIdProvider
from jobstatus.console.pulse import Pulse
from jobstatus.processes.child import ChildProcess
from jobstatus.telemetry.throttle import LogThrottle

ANSWER_SECONDS = 5.0
"""The time that a child has to answer a question of a page."""
FIGURES_SECONDS = 2.0

_log = logging.getLogger(__name__)


class ChildConsole:
    """Serves the console by asking children. Build and use it inside the running loop."""

    def __init__(
        self,
        children: Callable[[], Sequence[ChildProcess]],
        links: SignInLinks | None,
        limits: ConsoleLimits = ConsoleLimits(),  # noqa: B008  # a frozen value
        open_id: OpenIdProvider | None = None,
    ) -> None:
        """`children` returns those that are up."""
        self._children = children
        self._limits = limits
        self._failed = LogThrottle()
        self._pulse = Pulse(self._figures, clock=_now_ms, monotonic=time.monotonic, limits=limits)
        self._console = Console(
            self._ask,
            self._pulse,
            clock=_now_ms,
            monotonic=time.monotonic,
            links=links,
            limits=limits,
            open_id=open_id,
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the response to any request below /console."""
        return await self._console.handle(request)

    async def run(self) -> NoReturn:
        """Collect figures for as long as this is not cancelled."""
        while True:
            await self._refresh()
            await asyncio.sleep(self._limits.pulse_seconds)

    async def _refresh(self) -> None:
        try:
            await self._pulse.refresh()
        except Exception:  # noqa: BLE001  # the supervisor must outlive a bug of the console
            if times := self._failed.should_log():
                _log.exception(
                    "The figures of the console could not be collected because of a bug of this program.",
                    extra={"event": "console_figures_failed", "times": times},
                )

    async def _ask(self, question: Question) -> Answer:
        """Ask one child after the other until one answers. Whatever is asked may be done twice."""
        text = question.to_text()
        for child in self._children():
            answer = await child.ask("console", text, seconds=ANSWER_SECONDS)
            if answer is not None:
                return Answer.from_text(answer)
        return UNAVAILABLE

    async def _figures(self, watch: Watch) -> list[str]:
        """Ask all children; where a count is needed of a process that does not lead, ask one for it."""
        watches = [watch._replace(is_alone=watch.is_alone and not place) for place in range(len(self._children()))]
        answers = await asyncio.gather(
            *(
                child.ask("console_figures", each.to_text(), seconds=FIGURES_SECONDS)
                for child, each in zip(self._children(), watches, strict=True)
            )
        )
        return [answer for answer in answers if answer is not None]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
