"""A page of a listing, merged from the buckets: each has its own jobs in order, and returns them part by part.

A server has one thread for everything, so listings leave most of it to polls: a part scans a bounded number of jobs,
few parts are read at a time, all listings of this process take turns, and after each turn there is a pause as long as
the turn. A page ends after a while; then it has what was found down to the place that every bucket was read to. There
is no index for virtual keys: it would make every write dearer, and processes of earlier versions would not keep it.

Without a filter the newest entries of each bucket's index are enough to tell which jobs are on the page, and only those
are read: a twentieth of the work.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from jobstatus.core.job import Job
from jobstatus.core.store import JobPage, Listing, Place
from jobstatus.stores.redis import scripts
from jobstatus.stores.redis.cluster.connection import Word, pack
from jobstatus.stores.redis.cluster.router import ClusterClient, Command
from jobstatus.stores.redis.encoding import job_in, row_text
from jobstatus.stores.redis.errors import raise_first
from jobstatus.stores.redis.keys import BUCKETS, Bucket
from jobstatus.stores.rows import error_code_text
from jobstatus.stores.scan_turns import ScanTurns

AT_ONCE: Final = 2
"""How many buckets are read at a time."""
INDEXES_AT_ONCE: Final = 16
"""The same where only the indexes are read."""
ROWS_AT_ONCE: Final = 50
"""How many jobs are read at a time that are known to be on the page."""

_Key = tuple[int, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingLimits:
    """The bounds of listings."""

    max_scans: int = 32
    """How many jobs of one bucket one part of a listing scans."""
    page_seconds: float = 0.05
    """How long a page is looked for. Each bucket is read once at least, so that each page goes on further."""
    pause_share: float = 1.0
    """The pause after a turn, as a multiple of the time that the turn took."""


@dataclass(slots=True)
class _Part:
    """What is known of one bucket: the jobs found so far, and where its next part begins (None: there is none)."""

    bucket: Bucket
    begins: _Key | None
    is_new: bool = True
    found: list[tuple[_Key, bytes]] = field(default_factory=list)


class Listings:
    """Reads the pages of all listings of one process."""

    def __init__(self, client: ClusterClient, buckets: Sequence[Bucket], limits: ListingLimits) -> None:
        self._client = client
        self._buckets = buckets
        self._limits = limits
        self._turns = ScanTurns(limits.pause_share)

    async def page(self, listing: Listing, now_ms: int) -> JobPage:
        """As `JobStore.list_page`. Raises StoreUnavailable."""
        if listing.is_plain and (page := await self._plain_page(listing, now_ms)) is not None:
            return page
        parts = [_Part(bucket, None) for bucket in self._buckets]
        now = asyncio.get_running_loop().time
        ends_at = now() + self._limits.page_seconds
        while asking := _unfinished(parts, listing.limit):
            for first in range(0, len(asking), AT_ONCE):
                if now() >= ends_at and not asking[first].is_new:
                    return _merged(parts, listing.limit)
                await self._ask(asking[first : first + AT_ONCE], listing, now_ms)
        return _merged(parts, listing.limit)

    async def _plain_page(self, listing: Listing, now_ms: int) -> JobPage | None:
        """Return the page, or None where more jobs of one bucket have the same time than are looked at."""
        created_at_ms, before = _begin(listing)
        end = (int(created_at_ms), before.encode()) if created_at_ms != "" else None
        found, read_to = list[tuple[_Key, Bucket]](), None
        for bucket, entries in zip(self._buckets, await self._newest(listing, created_at_ms), strict=True):
            keys = [(int(at_ms), job_id) for job_id, at_ms in zip(entries[::2], entries[1::2], strict=True)]
            sought = [key for key in keys if end is None or key < end]
            if len(keys) == _newest_of(listing):
                if not sought:
                    return None
                read_to = sought[-1] if read_to is None else max(read_to, sought[-1])
            found += ((key, bucket) for key in sought)
        sure = sorted((item for item in found if read_to is None or item[0] >= read_to), key=_key_of, reverse=True)
        on_page = sure[: listing.limit]
        goes_on = read_to is not None or len(sure) > len(on_page)
        jobs = await self._jobs(on_page, now_ms)
        return JobPage(jobs, (on_page[-1][0][0], on_page[-1][0][1].decode()) if goes_on else None)

    async def _newest(self, listing: Listing, before_ms: int | str) -> list[list[bytes]]:
        """Return from each bucket the ids and times of its newest jobs that are not newer than this."""
        greatest = "+inf" if before_ms == "" else before_ms
        least = "-inf" if listing.created_after_ms is None else listing.created_after_ms
        words = (greatest, least, "WITHSCORES", "LIMIT", 0, _newest_of(listing))
        newest: list[list[bytes]] = []
        for first in range(0, len(self._buckets), INDEXES_AT_ONCE):
            asked = self._buckets[first : first + INDEXES_AT_ONCE]
            newest += await self._in_turn(
                [Command(bucket.slot, pack("ZREVRANGEBYSCORE", bucket.indexes[0], *words)) for bucket in asked]
            )
        return newest

    async def _jobs(self, places: Sequence[tuple[_Key, Bucket]], now_ms: int) -> list[Job]:
        """Return the jobs at these places that are still there and have not expired.

        A job that was removed and created again in between is at another place.
        """
        jobs: list[Job] = []
        for first in range(0, len(places), ROWS_AT_ONCE):
            asked = places[first : first + ROWS_AT_ONCE]
            rows = await self._in_turn(
                [Command(bucket.slot, pack("HGET", bucket.job(job_id), "row")) for (_, job_id), bucket in asked]
            )
            there = [(at_ms, job_in(row, None)) for ((at_ms, _), _), row in zip(asked, rows, strict=True) if row]
            jobs += (job for at_ms, job in there if job.created_at_ms == at_ms and not job.is_expired(now_ms))
        return jobs

    async def _in_turn(self, commands: Sequence[Command]) -> list[Any]:
        async with self._turns.turn():
            replies = await self._client.execute(commands)
        raise_first(replies)
        return replies

    async def _ask(self, parts: Sequence[_Part], listing: Listing, now_ms: int) -> None:
        most = self._limits.max_scans
        commands = [Command(part.bucket.slot, _command(part, listing, now_ms, most)) for part in parts]
        replies = await self._in_turn(commands)
        for part, (page, created_at_ms, job_id) in zip(parts, replies, strict=True):
            part.is_new = False
            part.begins = None if created_at_ms is None else (int(created_at_ms), job_id)
            part.found += (((int(at_ms), found_id), row) for at_ms, found_id, row in page)


def _key_of(item: tuple[_Key, Bucket]) -> _Key:
    return item[0]


def _newest_of(listing: Listing) -> int:
    """Return how many of a bucket's jobs are looked at: more than its share of a page, with room for chance."""
    return 2 * listing.limit // BUCKETS + 8


def _unfinished(parts: Sequence[_Part], limit: int) -> list[_Part]:
    """Return the buckets that may still have jobs newer than the last one of the page so far."""
    found = sorted((place for part in parts for place, _ in part.found), reverse=True)[:limit]
    last = found[-1] if len(found) == limit else (-1, b"")
    return [part for part in parts if part.is_new or (part.begins is not None and part.begins > last)]


def _merged(parts: Sequence[_Part], limit: int) -> JobPage:
    """Return the jobs found down to the place that every bucket was read to."""
    read_to = max((part.begins for part in parts if part.begins is not None), default=None)
    found = sorted((item for part in parts for item in part.found), reverse=True)
    sure = [item for item in found if read_to is None or item[0] >= read_to]
    page = sure[:limit]
    ends = page[-1][0] if len(page) == limit and (len(sure) > limit or read_to is not None) else read_to
    next_before = None if ends is None else (ends[0], ends[1].decode())
    return JobPage([job_in(row, None) for _, row in page], next_before)


def _command(part: _Part, listing: Listing, now_ms: int, max_scans: int) -> bytes:
    created_at_ms, before = _begin(listing) if part.is_new else part.begins or ("", "")
    arguments: list[Any] = [
        part.bucket.job_prefix,
        created_at_ms,
        before,
        "" if listing.created_after_ms is None else listing.created_after_ms,
        now_ms,
        ",".join(state.value for state in listing.states),
        listing.request_type.value if listing.request_type else "",
        listing.virtual_key_id or "",
        _newest_of(listing),
        max_scans,
        *_contained(listing),
    ]
    return scripts.PAGE.call(part.bucket.indexes, arguments)


def _contained(listing: Listing) -> list[Word]:
    """Return the text that the error of a wanted job contains, or '', then those that its row contains."""
    code = "" if listing.error_code is None else error_code_text(listing.error_code)
    sought = {"worker_id": listing.worker_id, "status_code": listing.status_code}
    members = [row_text({name: value})[1:-1] for name, value in sought.items() if value is not None]
    return [code, *members, *([row_text(code)[1:-1]] if code else [])]


def _begin(listing: Listing) -> tuple[int | str, str]:
    """Return the created_at_ms and id before which the page begins: the earlier of those that the listing has."""
    places: list[Place] = [] if listing.before is None else [listing.before]
    if listing.created_before_ms is not None:
        places.append((listing.created_before_ms, ""))
    return min(places, default=("", ""))
