"""The children of `jobstatus serve --workers N`, as the system shows them, and what the log says of them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import psutil

from harness.service import Process

WORKERS: Final = 2
HANGING_SECONDS: Final = 40.0
"""More than what a child is given to answer its supervisor, or to stop."""


def children_of(process: Process) -> list[psutil.Process]:
    """The children that are alive."""
    assert process.child is not None
    return [child for child in psutil.Process(process.child.pid).children() if child.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def suspended(child: psutil.Process) -> Iterator[None]:
    """It hangs, as long as this lasts."""
    child.suspend()
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            child.resume()


def log_of(process: Process, event: str) -> list[dict[str, Any]]:
    """The lines of the log about this event."""
    lines = process.log_path.read_text().splitlines(keepends=True)
    whole = (json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n"))
    return [line for line in whole if line["event"] == event]
