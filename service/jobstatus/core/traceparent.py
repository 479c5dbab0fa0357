"""The W3C `traceparent` that a job keeps: which trace, and which span of it, submitted the job.

Anyone may have sent one, so only what has the format of https://www.w3.org/TR/trace-context/ is kept, in 55 characters.
"""

import re
from typing import Final

_FORMAT: Final = re.compile("([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_LENGTH: Final = 55
_MAX_LENGTH: Final = 512
"""Of a version to come, which may have more parts."""


def valid_traceparent(text: str) -> str | None:
    """Return the traceparent as version 00 has it; None for what is not one. A later version begins with the same."""
    if not _LENGTH <= len(text) <= _MAX_LENGTH or (found := _FORMAT.fullmatch(text)) is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest is not None) or not (int(trace_id, 16) and int(span_id, 16)):
        return None
    return f"00-{trace_id}-{span_id}-{flags}"
