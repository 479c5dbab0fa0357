"""The audit log: one JSON object a line, appended to a file, for each change that somebody will ask about.

A thread writes, so that a disk or a reader that stalls never stops the service. A line that cannot be written is lost,
counted and told of in the log: the service goes on, because whoever could fill the disk could otherwise stop it.

Several processes may append to one file, because each line is written by one call in append mode. A file that was
renamed or removed is made anew for the next line, so that any program may rotate it without a signal.
"""

import json
import logging
import os
import queue
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

MAX_LINES: Final = 10_000
"""Lines that wait to be written."""
EXIT_SECONDS: Final = 1.0
"""How long the end of the process waits for the lines to be written."""
_STALLED: Final = "lines come faster than they can be written"

_log = logging.getLogger(__name__)


class AuditLog:
    """Appends lines to a file. Open it with `with`; `record` never waits."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float],
        on_lost: Callable[[], None] = lambda: None,
        max_lines: int = MAX_LINES,
    ) -> None:
        """`clock` returns seconds since the epoch; `on_lost` is called for each line that is lost, from any thread."""
        self._path = path
        self._clock = clock
        self._on_lost = on_lost
        self._lines: queue.Queue[bytes | None] = queue.Queue(max_lines)
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
            problem = error.strerror or error
            raise OSError(f"cannot write the audit log {self._path} (JOBSTATUS_AUDIT_LOG): {problem}") from error
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write the lines so far, if that takes no longer than a moment, and end."""
        try:
            self._lines.put(None, timeout=EXIT_SECONDS)
        except queue.Full:
            return
        self._thread.join(EXIT_SECONDS)

    def record(self, action: str, **facts: Any) -> None:
        """Append a line about what was done. Values must be fit for JSON, and those of strangers bounded."""
        timestamp = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        line = {"timestamp": timestamp.replace("+00:00", "Z"), "action": action, **facts}
        try:
            self._lines.put_nowait(f"{json.dumps(line)}\n".encode("ascii"))
        except queue.Full:
            self._lose(_STALLED)

    def _write_lines(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._write(line)
            except OSError as error:
                self._lose(error.strerror or str(error))
            else:
                self._recover()
        os.close(self._descriptor)

    def _write(self, line: bytes) -> None:
        """Append the line; where only a part of one was written before, the next one begins a new line."""
        if self._has_moved():
            os.close(self._descriptor)
            self._descriptor = -1
        if self._descriptor < 0:
            self._open()
        data = b"\n" + line if self._is_torn else line
        written = os.write(self._descriptor, data)
        if written < len(data):
            self._is_torn = True
            raise OSError("only a part of a line could be written")
        self._is_torn = False

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

    def _lose(self, problem: str) -> None:
        with self._lock:
            self._lost += 1
            is_first = self._lost == 1
        self._on_lost()
        if is_first:
            _log.error(
                "The audit log cannot be written; its lines are lost.",
                extra={"event": "audit_log_failed", "problem": problem},
            )

    def _recover(self) -> None:
        """Log how many lines were lost, once lines are written again and there is room for more."""
        if not self._lost or self._lines.qsize() > self._lines.maxsize // 2:
            return
        with self._lock:
            lines, self._lost = self._lost, 0
        _log.warning(
            "The audit log is written again; lines were lost.", extra={"event": "audit_log_recovered", "lines": lines}
        )
