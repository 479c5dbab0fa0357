"""Answers about many jobs, bounded in bytes too: an ordinary client refuses messages of more than 4 MiB."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from google.protobuf.message import Message

from jobstatus.v1 import job_status_pb2 as pb

Item = TypeVar("Item")

_FRAMING_BYTES: Final = 6
"""At most so many bytes announce an item within a page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLimits:
    """The bounds of a page."""

    max_bytes: int = 3_500_000
    """A page with more than one item is no larger, and no answer about many jobs without their results."""
    slice_items: int = 200
    """Items read at a time, so that a page which is full after a few has not read a thousand."""


class Page(Protocol):
    """The items of a response: a repeated field."""

    def __len__(self) -> int: ...

    def __delitem__(self, key: int, /) -> None: ...


async def fill(
    page: Page,
    read: Callable[[Item | None, int], Awaitable[Sequence[Item]]],
    add: Callable[[Item], Message],
    *,
    count: int,
    limits: PageLimits,
) -> Item | None:
    """Fill an empty page with `count` items, or with fewer where they are large. Return its last item if more follow.

    `read` returns so many items after the one given, or from the beginning; with fewer the page ends, and None is
    returned. `add` appends an item to the page.
    """
    last, size = None, 0
    while True:
        wanted = min(limits.slice_items, count - len(page))
        found = await read(last, wanted + 1)
        for item in found[:wanted]:
            size += add(item).ByteSize() + _FRAMING_BYTES
            if size > limits.max_bytes and len(page) > 1:
                del page[-1]
                return last
            last = item
        if len(found) <= wanted:
            return None
        if len(page) == count:
            return last


def shorten(answer: Message, jobs: Iterable[pb.Job], max_bytes: int) -> None:
    """Leave errors and messages out of an answer's jobs, the longest first, until the answer is no larger.

    What remains of a thousand jobs always fits into an ordinary client's 4 MiB.
    """
    excess = answer.ByteSize() - max_bytes
    if excess <= 0:
        return
    for job in sorted(jobs, key=_text_bytes, reverse=True):
        excess -= _text_bytes(job)
        job.ClearField("error")
        job.ClearField("message")
        if excess <= 0:
            return


def _text_bytes(job: pb.Job) -> int:
    return job.error.ByteSize() + len(job.message.encode())
