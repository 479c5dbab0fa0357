"""What a load is told to do, what came of it, and what all loads are made of."""

import asyncio
import base64
import os
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Kind = Literal["requests", "slow", "unread", "connects", "held", "watches", "results"]
AT_ONCE: Final = 200
"""Connections that are made at the same time."""
_RANDOM: Final = re.compile(r"\{random:(\d+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do. `requests` are whole requests, in which `{random:N}` stands for N random bytes, base64url."""

    kind: Kind
    http_port: int
    grpc_port: int
    seconds: float
    connections: int
    requests: Sequence[str] = ()
    head_only: bool = False
    job_id: str = ""
    """The job that is waited for; it gets heartbeats."""
    beats: float = 2.0
    """Heartbeats a second."""
    shapes: Sequence[str] = ()
    """The shapes of the results that are written."""
    result_bytes: int = 0
    prefix: str = ""
    """What the ids of the jobs begin with that it writes."""


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    count: int = 0
    """How often it did what it does: requests answered, heartbeats, results."""
    answers: Counter[str] = field(default_factory=Counter)
    spans: list[tuple[str, float, float]] = field(default_factory=list)
    """What was under way from when to when, on the monotonic clock."""


Run = Callable[[], Awaitable[Outcome]]
Prepared = AbstractAsyncContextManager[Run]


def request_maker(template: str) -> Callable[[], bytes]:
    """Return what makes the bytes of a request, new ones each time where it has a random part."""
    parts = _RANDOM.split(template)
    if len(parts) == 1:
        data = template.encode("latin-1")
        return lambda: data
    head, size, tail = parts[0].encode("latin-1"), int(parts[1]), parts[2].encode("latin-1")
    return lambda: head + base64.urlsafe_b64encode(os.urandom(size)).rstrip(b"=") + tail


async def connected(count: int, connect: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Make connections, some at a time."""
    made: list[Any] = []
    for first in range(0, count, AT_ONCE):
        made += await asyncio.gather(*(connect() for _ in range(min(AT_ONCE, count - first))))
    return made
