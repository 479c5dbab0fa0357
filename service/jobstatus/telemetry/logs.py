"""The log: one JSON object a line, or coloured lines on a terminal, on standard error.

Set up once, before anything of gRPC exists: gRPC logs under a lock of its own, and changing the logging set-up from
another thread at that moment can stop the process for good.
"""

import logging
import sys
from typing import Any

import structlog


def configure(*, level: str, log_format: str, worker: int | None = None) -> None:
    """Send the log of this process and its libraries to standard error. `log_format`: auto, json or pretty.

    `worker` is the number that each line carries where there are several.
    """
    pretty = log_format == "pretty" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if worker is None else [lambda _logger, _name, line: {**line, "worker": worker}]),
    ]
    last: list[Any] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]  # no values of variables
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
