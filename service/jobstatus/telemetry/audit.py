"""The audit log: one JSON object a line, appended to a file, for each change that somebody will ask about.

A thread writes, so that a disk or a reader that stalls never stops the service. A line that cannot be written is lost,
counted and told of in the log: the service goes on, because whoever could fill the disk could otherwise stop it.

Several processes may append to one file or pipe, because no line is divided between two writes, and no write is larger
than what a pipe takes whole. A file that was renamed or removed is made anew for the next line, so that any program may
rotate it without a signal.
"""

import errno
import json
import logging
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

MAX_LINES: Final = 10_000
"""Lines that wait to be written."""
EXIT_SECONDS: Final = 1.0
"""How long the end of the process waits for the lines to be written."""
PAUSE_SECONDS: Final = 0.02
"""Lines of this time are written together, because to wake the thread for each costs as much as several polls."""
_MAX_BATCH: Final = 1000
_STALLED: Final = "lines come faster than they can be written"

_log = logging.getLogger(__name__)


class AuditLog:
    """Appends lines to a file. Open it with `with`; `record` never waits."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float],
        on_lost: Callable[[int], None] = lambda lines: None,  # noqa: ARG005
        max_lines: int = MAX_LINES,
    ) -> None:
        """`clock` returns seconds since the epoch; `on_lost` is called with a number of lost lines, from any thread."""
        self._path = path
        self._clock = clock
        self._on_lost = on_lost
        self._max_lines = max_lines
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        """The last one is None."""
        self._thread = threading.Thread(target=self._write_lines, name="audit", daemon=True)
        self._descriptor = -1
        self._is_torn = False
        self._lock = threading.Lock()
        self._lost = 0
        """Lines lost since the last one that was written."""

    def __enter__(self) -> Self:
        """Open the file, which is made if it is missing. Raises OSError with one sentence."""
        try:
            self._open()
        except OSError as error:
            raise _refusal(self._path, error) from error
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write the lines so far, if that takes no longer than a moment, and end."""
        self._lines.put(None)
        self._thread.join(EXIT_SECONDS)

    def record(self, action: str, **facts: Any) -> None:
        """Append a line about what was done. Values must be fit for JSON, and those of strangers bounded."""
        if self._lines.qsize() >= self._max_lines:
            self._lose(_STALLED, 1)
            return
        timestamp = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        line = {"timestamp": timestamp.replace("+00:00", "Z"), "action": action, **facts}
        self._lines.put(f"{json.dumps(line)}\n".encode("ascii"))

    def _write_lines(self) -> None:
        is_over = False
        while not is_over:
            batch, is_over = self._next_batch()
            for lines in _together(batch):
                self._append(lines)
            if not is_over:
                time.sleep(PAUSE_SECONDS)
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _next_batch(self) -> tuple[list[bytes], bool]:
        """Wait for lines; return those that are there, and whether they are the last ones."""
        batch = [self._lines.get()]
        batch += [self._lines.get_nowait() for _ in range(min(self._lines.qsize(), _MAX_BATCH))]
        return [line for line in batch if line is not None], batch[-1] is None

    def _append(self, lines: Sequence[bytes]) -> None:
        try:
            written = self._write(b"".join(lines))
        except OSError as error:
            self._lose(error.strerror or str(error), len(lines))
            return
        if written < len(lines):
            self._lose("only a part could be written", len(lines) - written)
        else:
            self._recover()

    def _write(self, data: bytes) -> int:
        """Return how many whole lines were written. Where one was cut off before, the next begins a new line."""
        if self._has_moved():
            os.close(self._descriptor)
            self._descriptor = -1
        if self._descriptor < 0:
            self._open()
        begin = b"\n" if self._is_torn else b""
        written = (begin + data)[: os.write(self._descriptor, begin + data)]
        self._is_torn = not written.endswith(b"\n")
        return written[len(begin) :].count(b"\n")

    def _has_moved(self) -> bool:
        if self._descriptor < 0:
            return False
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return True

    def _open(self) -> None:
        """Open the file for appending. A pipe without a reader is an error, not something to wait for."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        self._descriptor = os.open(self._path, flags, 0o640)
        os.set_blocking(self._descriptor, True)
        self._is_torn = False

    def _lose(self, problem: str, lines: int) -> None:
        with self._lock:
            is_first = not self._lost
            self._lost += lines
        self._on_lost(lines)
        if is_first:
            _log.error(
                "The audit log cannot be written; its lines are lost.",
                extra={"event": "audit_log_failed", "problem": problem},
            )

    def _recover(self) -> None:
        """Log how many lines were lost, once lines are written again and there is room for more."""
        if not self._lost or self._lines.qsize() > self._max_lines // 2:
            return
        with self._lock:
            lines, self._lost = self._lost, 0
        _log.warning(
            "The audit log is written again; lines were lost.", extra={"event": "audit_log_recovered", "lines": lines}
        )


def check_path(path: Path) -> None:
    """Raise the OSError with which `AuditLog` would refuse this path. Change nothing, and open no pipe."""
    try:
        problem = _problem_with(path)
    except OSError as error:
        raise _refusal(path, error) from error
    if problem:
        raise _refusal(path, OSError(problem, os.strerror(problem)))


def _problem_with(path: Path) -> int:
    """Return the number of the error that a start would meet, 0 for none."""
    if path.is_dir():
        return errno.EISDIR
    place, rights = (path, os.W_OK) if path.exists() else (path.parent, os.W_OK | os.X_OK)
    if not place.exists():
        return errno.ENOENT
    if place == path.parent and not place.is_dir():
        return errno.ENOTDIR
    return 0 if os.access(place, rights) else errno.EACCES


def _refusal(path: Path, error: OSError) -> OSError:
    return OSError(f"cannot write the audit log {path} (JOBSTATUS_AUDIT_LOG): {error.strerror or error}")


def _together(lines: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Yield the lines in parts that a pipe takes whole; a line that is longer is a part by itself."""
    part: list[bytes] = []
    size = 0
    for line in lines:
        if part and size + len(line) > select.PIPE_BUF:
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line)
    if part:
        yield part
