"""The progress of polling, on standard error: one live line on a terminal, else a line for each change."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from jobstatus.cli.output import note


class Display(Protocol):
    """Shows every poll. `status` is the last one that the service reported, "" before the first.

    `wait_seconds` is how long a poll may wait for the end, and so how old the progress on display may get.
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
        self._say(f"{self._job_id} {status}{percent(progress)}")

    def show_problem(self, problem: str, pause_seconds: float) -> None:  # noqa: ARG002 (as the protocol)
        self._say(f"{problem}; trying again")

    def _say(self, line: str) -> None:
        if line != self._last:
            self._last = line
            note(line)


@contextmanager
def open_display(job_id: str) -> Iterator[Display]:
    """Open the display that fits standard error."""
    if sys.stderr is not None and sys.stderr.isatty():
        from jobstatus.cli.live_display import open_live_display  # noqa: PLC0415 (rich is slow to import)

        with open_live_display(job_id) as display:
            yield display
    else:
        yield PlainDisplay(job_id)


def percent(progress: str | None) -> str:
    """Return Job-Progress for a person, "" for what is not a number."""
    try:
        return "" if progress is None else f" {float(progress):.0%}"
    except ValueError:
        return ""
