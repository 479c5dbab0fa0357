"""A page of a listing, merged from the buckets: each has its own jobs in order, and returns them part by part.

A part scans a bounded number of jobs, and few buckets are read at a time, so that a filter that few jobs pass does not
keep a server from answering polls.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from jobstatus.core.errors import StoreUnavailable
from jobstatus.core.job import Job
from jobstatus.core.store import Listing
from jobstatus.stores.redis import scripts
from jobstatus.stores.redis.cluster.connection import Word
from jobstatus.stores.redis.cluster.router import ClusterClient, Command
from jobstatus.stores.redis.encoding import job_in, row_text
from jobstatus.stores.redis.errors import raise_first
from jobstatus.stores.redis.keys import BUCKETS, Bucket
from jobstatus.stores.rows import error_code_text

AT_ONCE: Final = 4
"""How many buckets are read at a time."""
LIMIT_SECONDS: Final = 30.0

_Place = tuple[int, bytes]


@dataclass(slots=True)
class _Part:
    """What is known of one bucket: the jobs found so far, and where its next part begins (None: there is none)."""

    bucket: Bucket
    begins: _Place | None
    is_new: bool = True
    found: list[tuple[_Place, bytes]] = field(default_factory=list)


async def list_jobs(
    client: ClusterClient, buckets: Sequence[Bucket], listing: Listing, now_ms: int, max_scans: int
) -> list[Job]:
    """As `JobStore.list_jobs`; one part scans at most `max_scans` jobs. Raises StoreUnavailable, also on a timeout."""
    parts = [_Part(bucket, None) for bucket in buckets]
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            while asking := _unfinished(parts, listing.limit):
                for first in range(0, len(asking), AT_ONCE):
                    await _ask(client, asking[first : first + AT_ONCE], listing, now_ms, max_scans)
    except TimeoutError as error:
        raise StoreUnavailable from error
    found = sorted((item for part in parts for item in part.found), reverse=True)
    return [job_in(row, None) for _, row in found[: listing.limit]]


def _unfinished(parts: Sequence[_Part], limit: int) -> list[_Part]:
    """Return the buckets that may still have jobs newer than the last one of the page so far."""
    found = sorted((place for part in parts for place, _ in part.found), reverse=True)[:limit]
    last = found[-1] if len(found) == limit else (-1, b"")
    return [part for part in parts if part.is_new or (part.begins is not None and part.begins > last)]


async def _ask(client: ClusterClient, parts: Sequence[_Part], listing: Listing, now_ms: int, max_scans: int) -> None:
    commands = [Command(part.bucket.slot, _command(part, listing, now_ms, max_scans)) for part in parts]
    replies = await client.execute(commands)
    raise_first(replies)
    for part, (page, created_at_ms, job_id) in zip(parts, replies, strict=True):
        part.is_new = False
        part.begins = None if created_at_ms is None else (int(created_at_ms), job_id)
        part.found += (((int(at_ms), found_id), row) for at_ms, found_id, row in page)


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
        2 * listing.limit // BUCKETS + 8,
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
    places: list[tuple[int, str]] = [] if listing.before is None else [listing.before]
    if listing.created_before_ms is not None:
        places.append((listing.created_before_ms, ""))
    return min(places, default=("", ""))
