"""The log: one JSON object a line, or coloured lines on a terminal, on standard error.

A thread writes the lines, so that a reader who stalls (a full pipe, a paused terminal) never stops the service. Lines
that find no room are dropped, counted, and told of when the reader goes on.

Set up once, before anything of gRPC exists: gRPC logs under a lock of its own, and changing the logging set-up from
another thread at that moment can stop the process for good.
"""

import json
import logging
import os
import queue
import select
import sys
import threading
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, Final

LIBRARY_EVENT: Final = "library_log"
"""The event of every record that names none, as those of libraries do."""

MAX_LINES: Final = 2000
"""Lines that wait for the reader of the log."""
EXIT_SECONDS: Final = 1.0
"""How long the end of the process waits for the reader of the log."""

_log = logging.getLogger(__name__)

_IN_EVERY_RECORD: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def configure(*, level: str, log_format: str, child: int | None = None) -> None:
    """Send the log of this process and its libraries to standard error. `log_format`: auto, json or pretty.

    `child` is this process's number among several, and each line carries it.
    """
    is_pretty = log_format == "pretty" or (log_format == "auto" and sys.stderr is not None and sys.stderr.isatty())
    handler = _handler()
    handler.setFormatter(_pretty_formatter(child) if is_pretty else _JsonFormatter(child))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """Log from this level on, as `configure` has set up."""
    logging.getLogger().setLevel(level.upper())


def _handler() -> logging.Handler:
    if sys.stderr is None:  # it is closed
        return logging.NullHandler()
    try:
        return LineHandler(sys.stderr.fileno())
    except OSError:  # it is no file, because a program that runs this in itself has put something in its place
        return logging.StreamHandler()


def dropped_lines() -> int:
    """Return how many lines of this process's log found no room."""
    return sum(handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, LineHandler))


class LineHandler(logging.Handler):
    """Hands lines to a thread that writes them to a file descriptor. Only `flush` waits, for a moment.

    The queue must be a SimpleQueue, because a destructor may log while a line is being put, as asyncio's tasks do: the
    lock of an ordinary queue would stop the process for good.
    """

    def __init__(self, descriptor: int, max_lines: int = MAX_LINES) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._max_lines = max_lines
        self._lines: queue.SimpleQueue[str | threading.Event | None] = queue.SimpleQueue()
        """Lines; events to set when those before are written; None at the end."""
        self._told = self.dropped = 0
        self._thread = threading.Thread(target=self._write_lines, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Give the line to the thread, or drop it."""
        if self._lines.qsize() >= self._max_lines:
            self.dropped += 1
            return
        try:
            self._lines.put(self.format(record))
        except Exception:  # noqa: BLE001  # as every handler: a value that cannot be formatted stops nobody
            self.handleError(record)
        else:
            self._tell_dropped()

    def flush(self) -> None:
        """Wait until the lines so far are written, for at most EXIT_SECONDS."""
        if self._thread.is_alive():
            are_written = threading.Event()
            self._lines.put(are_written)
            are_written.wait(EXIT_SECONDS)

    def close(self) -> None:
        """Have the thread end once it has written the lines so far. `flush` waits for them, as at the process' end."""
        self._lines.put(None)
        super().close()

    def _tell_dropped(self) -> None:
        """Log how many lines were dropped, once there is room for more than that."""
        lines = self.dropped - self._told
        if lines and self._lines.qsize() <= self._max_lines // 2:
            self._told = self.dropped
            _log.warning(
                "Nobody read the log; lines were dropped.", extra={"event": "log_lines_dropped", "lines": lines}
            )

    def _write_lines(self) -> None:
        while (line := self._lines.get()) is not None:
            if isinstance(line, threading.Event):
                line.set()
                continue
            try:
                _write(self._descriptor, f"{line}\n".encode(errors="backslashreplace"))
            except OSError:
                self.dropped += 1  # the reader has gone for good


def _write(descriptor: int, data: bytes) -> None:
    """Write all of it. Wait for room, also where another program has made the shared terminal or pipe non-blocking."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            room = select.poll()
            room.register(descriptor, select.POLLOUT)
            room.poll()


class _JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object with the record's `extra`."""

    def __init__(self, child: int | None) -> None:
        super().__init__()
        self._first: dict[str, Any] = {} if child is None else {"child": child}

    def format(self, record: logging.LogRecord) -> str:
        line = self._first | {
            "event": LIBRARY_EVENT,
            "message": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        line |= {name: value for name, value in vars(record).items() if name not in _IN_EVERY_RECORD}
        line["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack_info"] = record.stack_info
        return json.dumps(line, default=repr)


def _pretty_formatter(child: int | None) -> logging.Formatter:
    import structlog  # noqa: PLC0415  # slow to import, and services seldom log to a terminal

    shared: list[Any] = [
        _separate_message,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if child is None else [lambda _logger, _name, line: {"child": child} | line]),
    ]
    renderer = structlog.dev.ConsoleRenderer(
        event_key="message",  # the sentence leads the line; the event's name is among the fields
        exception_formatter=structlog.dev.plain_traceback,  # shows no values of variables
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )


def _separate_message(_logger: object, _name: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Move the sentence to `message`, so that `event` holds the stable name that ExtraAdder then finds, if any."""
    return {**line, "event": LIBRARY_EVENT, "message": line["event"]}
