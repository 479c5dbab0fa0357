"""The log: one JSON object a line, or coloured lines on a terminal, on standard error.

Set up once, before anything of gRPC exists: gRPC logs under a lock of its own, and changing the logging set-up from
another thread at that moment can stop the process for good.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

LIBRARY_EVENT: Final = "library_log"
"""The event of every record that names none, as those of libraries do."""


def configure(*, level: str, log_format: str, child: int | None = None) -> None:
    """Send the log of this process and its libraries to standard error. `log_format`: auto, json or pretty.

    `child` is this process's number among several, and each line carries it.
    """
    pretty = log_format == "pretty" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        _separate_message,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if child is None else [lambda _logger, _name, line: {"child": child} | line]),
    ]
    last: list[Any] = (
        [
            structlog.dev.ConsoleRenderer(
                event_key="message",  # the sentence leads the line; the event's name is among the fields
                exception_formatter=structlog.dev.plain_traceback,  # shows no values of variables
            )
        ]
        if pretty
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _separate_message(_logger: object, _name: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Move the sentence to `message`, so that `event` holds the stable name that ExtraAdder then finds, if any."""
    return {**line, "event": LIBRARY_EVENT, "message": line["event"]}
