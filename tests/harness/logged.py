"""What the log of a test holds, to the last attribute: a secret must be in none of it."""

import logging
from typing import Final

import pytest

PIECE: Final = 12
"""So many characters in a row of a credential are a piece of it."""


def everything_logged(caplog: pytest.LogCaptureFixture) -> str:
    """Messages, their arguments, extra attributes and tracebacks, of all loggers."""
    formatter = logging.Formatter()
    return "\n".join(f"{formatter.format(record)} {vars(record)!r}" for record in caplog.records)


def events_logged(caplog: pytest.LogCaptureFixture, *, level: int = logging.NOTSET) -> list[str]:
    """The names of the events of this level and above, in order; records of libraries have none."""
    return [record.event for record in caplog.records if record.levelno >= level and hasattr(record, "event")]


def pieces_logged(caplog: pytest.LogCaptureFixture, secret: str) -> list[str]:
    """The pieces of the secret that are in the log. A shorter secret has none: it could be any word."""
    logged = everything_logged(caplog)
    pieces = {secret[start : start + PIECE] for start in range(len(secret) - PIECE + 1)}
    return sorted(piece for piece in pieces if piece in logged)
