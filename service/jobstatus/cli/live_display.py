"""The progress of polling as one live line on a terminal. It stands apart because rich is slow to import."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from jobstatus.cli.output import visible
from jobstatus.cli.poll_display import percent


class LiveDisplay:
    """Rendered by rich several times a second: status, elapsed time, polls, and the time until the next poll."""

    wait_seconds = 10

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._started_at = self._next_at = time.monotonic()
        self._polls = 0
        self._state = "asking"
        self._spinner = Spinner("dots")
        self.status = ""

    def show(self, status: str, progress: str | None, pause_seconds: float) -> None:
        self.status = status
        self._note(status + percent(progress), pause_seconds)

    def show_problem(self, problem: str, pause_seconds: float) -> None:
        self._note(problem, pause_seconds)

    def _note(self, state: str, pause_seconds: float) -> None:
        self._state = visible(state)
        self._polls += 1
        self._next_at = time.monotonic() + pause_seconds

    def __rich__(self) -> RenderableType:
        now = time.monotonic()
        left = math.ceil(self._next_at - now)
        next_poll = f"next in {left} s" if left > 0 else "waiting"
        facts = f"  {now - self._started_at:.0f} s, {self._polls} polls, {next_poll}"
        text = Text.assemble((self._job_id, "bold"), " ", (self._state, "cyan"), (facts, "dim"), no_wrap=True)
        self._spinner.update(text=text)
        return self._spinner


@contextmanager
def open_live_display(job_id: str) -> Iterator[LiveDisplay]:
    """Draw the display on standard error until the context ends; it leaves nothing behind."""
    display = LiveDisplay(visible(job_id))
    with Live(display, console=Console(stderr=True), transient=True, refresh_per_second=8):
        yield display
