"""How polling goes, on standard error: one live line on a terminal, else a line for each change."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from jobstatus.cli.output import note, visible


class Display(Protocol):
    """Told of every poll; `status` is what the service last said, "" before that.

    `wait_seconds` is how long a poll may wait for the end: what is shown of the job's progress gets that old.
    """

    status: str
    wait_seconds: int

    def show(self, status: str, progress: str | None, pause_seconds: float) -> None: ...

    def show_problem(self, problem: str, pause_seconds: float) -> None: ...


class PlainDisplay:
    """A line for each change, for logs and pipes."""

    wait_seconds = 30

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._last = ""
        self.status = ""

    def show(self, status: str, progress: str | None, pause_seconds: float) -> None:  # noqa: ARG002 (as the protocol)
        self.status = status
        self._say(f"{self._job_id} {status}{_percent(progress)}")

    def show_problem(self, problem: str, pause_seconds: float) -> None:  # noqa: ARG002 (as the protocol)
        self._say(f"{problem}; trying again")

    def _say(self, line: str) -> None:
        if line != self._last:
            self._last = line
            note(line)


class LiveDisplay:
    """What rich draws several times a second: status, time passed, polls, and the time to the next one."""

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
        self._note(status + _percent(progress), pause_seconds)

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
def open_display(job_id: str) -> Iterator[Display]:
    """The display that fits standard error; it leaves nothing on a terminal."""
    console = Console(stderr=True)
    if console.is_terminal:
        display = LiveDisplay(visible(job_id))
        with Live(display, console=console, transient=True, refresh_per_second=8):
            yield display
    else:
        yield PlainDisplay(job_id)


def _percent(progress: str | None) -> str:
    """Job-Progress for a person; what is no number is left out."""
    try:
        return "" if progress is None else f" {float(progress):.0%}"
    except ValueError:
        return ""
