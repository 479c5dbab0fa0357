"""The log: one JSON object a line, or coloured lines on a terminal, on standard error.

Set up once, before anything of gRPC exists: gRPC logs under a lock of its own, and changing the logging set-up from
another thread at that moment can stop the process for good.
"""

import json
import logging
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, Final

LIBRARY_EVENT: Final = "library_log"
"""The event of every record that names none, as those of libraries do."""

_IN_EVERY_RECORD: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def configure(*, level: str, log_format: str, child: int | None = None) -> None:
    """Send the log of this process and its libraries to standard error. `log_format`: auto, json or pretty.

    `child` is this process's number among several, and each line carries it.
    """
    is_pretty = log_format == "pretty" or (log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(_pretty_formatter(child) if is_pretty else _JsonFormatter(child))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """Log from this level on, as `configure` has set up."""
    logging.getLogger().setLevel(level.upper())


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
