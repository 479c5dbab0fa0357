"""What the core is told of the call that a write came with. Each call has a context, and sets these in it."""

from contextvars import ContextVar
from typing import Final

WRITER: Final[ContextVar[str | None]] = ContextVar("jobstatus_writer", default=None)
"""The name in the client's certificate. None without one, and where the service itself writes."""
TRACEPARENT: Final[ContextVar[str | None]] = ContextVar("jobstatus_traceparent", default=None)
"""The valid traceparent of the call, see `traceparent`; None without one."""
