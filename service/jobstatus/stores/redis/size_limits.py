"""How large a result may be, so that the servers take it and send it back.

A server closes the connection of a client whose command or unread replies are larger than its limits, which would fail
everything else that is under way there, too.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

SETTINGS: Final = ("proto-max-bulk-len", "client-query-buffer-limit", "client-output-buffer-limit")

_UNLIMITED: Final = sys.maxsize
_MARGIN: Final = 2
"""Servers count their overhead too, and hold what they have read or not sent yet."""
_ITEM_BYTES: Final = 64 * 1024
"""A row or an answer with a small result is hardly ever larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeLimits:
    """The smallest limits of all servers."""

    result_bytes: int = _UNLIMITED
    """The largest result that is written."""
    items_at_once: int = _UNLIMITED
    """Rows or answers that one exchange may ask for."""
    results_at_once: int = _UNLIMITED
    """The same for large results."""


def size_limits(configurations: Iterable[Mapping[str, str]]) -> SizeLimits:
    """Return the limits of servers with these configurations; a setting that is absent is no limit."""
    words, replies = [_UNLIMITED], [_UNLIMITED]
    for found in configurations:
        words.append(int(found.get("proto-max-bulk-len") or _UNLIMITED))
        words.append(int(found.get("client-query-buffer-limit") or _UNLIMITED) // _MARGIN)
        replies += _output_limits(found.get("client-output-buffer-limit", ""))
    reply_bytes = min(replies) // _MARGIN
    is_limited = min(replies) < _UNLIMITED
    return SizeLimits(
        result_bytes=min(*words, reply_bytes),
        items_at_once=max(1, reply_bytes // _ITEM_BYTES),
        results_at_once=1 if is_limited else _UNLIMITED,
    )


def _output_limits(setting: str) -> list[int]:
    """Return the hard and the soft limit for normal clients, where there are any."""
    _, _, normal = setting.partition("normal ")
    return [limit for limit in map(int, normal.split()[:2]) if limit]
