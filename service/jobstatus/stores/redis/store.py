"""Redis and Valkey behind the port.

Acknowledged means: in the memory of the primary, on as many replicas as are required, and, where the server can confirm
it, on the primary's disk and theirs. `keys` names the keys, `scripts` change them, `encoding` is how a job is stored;
`cluster` sends commands to the right nodes, also after a failover.
"""

import heapq
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

from jobstatus.core.errors import ResultTooLarge, StoreUnavailable
from jobstatus.core.job import Job, JobState, RequestType
from jobstatus.core.store import (
    NOT_NOW,
    OLDEST_SOUGHT,
    Answer,
    Change,
    Claim,
    CommitError,
    JobCount,
    JobPage,
    Listing,
    NotNow,
    StoreError,
    WorkerSigns,
)
from jobstatus.stores.redis import scripts
from jobstatus.stores.redis.checks import opened
from jobstatus.stores.redis.cluster.connection import Word, pack
from jobstatus.stores.redis.cluster.errors import is_error
from jobstatus.stores.redis.cluster.limits import ClusterLimits
from jobstatus.stores.redis.cluster.nodes import Nodes
from jobstatus.stores.redis.cluster.router import ClusterClient, Command
from jobstatus.stores.redis.cluster.url import NodeAddress
from jobstatus.stores.redis.encoding import ANSWER_FIELDS, RESULT_FIELDS, answer_of, change_arguments, job_in
from jobstatus.stores.redis.errors import raise_first, store_error
from jobstatus.stores.redis.keys import BUCKETS, Bucket, Keys, bucket_of, encoded
from jobstatus.stores.redis.listing import ListingLimits, Listings
from jobstatus.stores.redis.notices import RedisNotices
from jobstatus.stores.redis.size_limits import SizeLimits
from jobstatus.stores.redis.url import parse_url
from jobstatus.stores.redis.virtual_keys import VirtualKeys

COMPARED_AT_ONCE: Final = 500
"""Jobs whose versions are read at a time, so that polls are answered in between."""
BUCKETS_AT_ONCE: Final = 8
"""Buckets that are swept at a time, for the same reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisLimits:
    """The limits of the store and of its client."""

    cluster: ClusterLimits = ClusterLimits()  # noqa: RUF009  # a frozen value
    listings: ListingLimits = ListingLimits()  # noqa: RUF009  # a frozen value
    types_at_once: int = 500
    """How many jobs of one bucket one part of a count by type reads."""


_log = logging.getLogger(__name__)


class RedisJobStore(VirtualKeys):
    """Implements `core.store.Store`. Any number of processes may have it open."""

    reads_at_once = False

    def __init__(self, url: str, *, replicas: int | None = None, limits: RedisLimits = RedisLimits()) -> None:
        """`replicas`: on how many an acknowledged write is; None: on one where there are any, else on none.

        Raises StoreConfigError for a URL that cannot be used.
        """
        self._limits = limits
        self._config = parse_url(url)
        keys = Keys(self._config.prefix)
        self._nodes = Nodes(self._config.cluster, keys.slots, limits.cluster)
        super().__init__(ClusterClient(self._nodes, scripts.LOADING, limits.cluster), keys)
        self._replicas = replicas
        self._buckets = keys.buckets
        self._first = self._buckets[0]
        self.notices = RedisNotices(
            self._client, self._nodes, self._config.cluster, self._config.prefix, limits.cluster.connect_seconds
        )
        self._listings = Listings(self._client, self._buckets, limits.listings)
        self._confirmed = keys.confirmed
        self._refusing = 0
        self._sizes = SizeLimits()

    async def __aenter__(self) -> Self:
        try:
            self._client.durability, self._sizes = await opened(
                self._nodes, self._config, self._replicas, self._limits.cluster.durable_ms
            )
        except BaseException:
            await self._nodes.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
        await self._nodes.close()

    def try_read_answer(self, job_id: str) -> NotNow:  # noqa: ARG002  # the port's
        return NOT_NOW

    async def read_answers(self, job_ids: Sequence[str]) -> list[Answer | StoreError | None]:
        replies = await self._read_all(job_ids, _ANSWER, self._sizes.items_at_once)
        return [answer_of(reply) if type(reply) is list else store_error(reply) for reply in replies]

    async def read_jobs(self, job_ids: Sequence[str], *, with_results: bool) -> list[Job | StoreError | None]:
        fields = _JOB_WITH_RESULT if with_results else _JOB
        at_once = self._sizes.results_at_once if with_results else self._sizes.items_at_once
        replies = await self._read_all(job_ids, fields, at_once)
        return [_job(reply) if type(reply) is list else store_error(reply) for reply in replies]

    def part_of(self, job_id: str) -> NodeAddress | None:
        owner = self._nodes.owner(self._buckets[bucket_of(encoded(job_id))].slot)
        return None if owner is None else owner.address

    async def commit(self, changes: Sequence[Change]) -> dict[str, CommitError | None]:
        not_done: dict[str, CommitError | None] = {}
        together: dict[int, list[Change]] = {}
        for change in changes:
            if (error := self._refusal(change)) is not None:
                not_done[change.job_id] = error
                continue
            together.setdefault(bucket_of(encoded(change.job_id)), []).append(change)
        commands = [_commit(self._buckets[number], part) for number, part in together.items()]
        replies = await self._client.execute(commands, durable=True)
        for part, reply in zip(together.values(), replies, strict=True):
            if isinstance(reply, list):
                not_done |= {part[place].job_id: None for place in reply}
            else:
                not_done |= {change.job_id: store_error(reply) for change in part}
        return not_done

    async def confirm(self, job_ids: Sequence[str]) -> dict[str, StoreError]:
        """Write a small value beside the jobs, and wait until that is as durable as a commit.

        Servers keep the order of writes, so everything before is durable then. That does not hold where a node has
        taken over, or was restarted, since the jobs were read, because it may have less than was read.
        """
        buckets = {job_id: self._buckets[bucket_of(encoded(job_id))] for job_id in job_ids}
        asked = list({bucket.slot: bucket for bucket in buckets.values()}.values())
        commands = [Command(bucket.slot, pack("SET", bucket.confirmed, 1)) for bucket in asked]
        replies = await self._client.execute(commands, durable=True)
        failed = {
            bucket.slot: store_error(reply) for bucket, reply in zip(asked, replies, strict=True) if is_error(reply)
        }
        long_enough = 2 * self._limits.cluster.operation_seconds  # to read, to commit, and to confirm what was read
        for bucket in asked:
            if bucket.slot not in failed and self._nodes.stable_seconds(bucket.slot) < long_enough:
                failed[bucket.slot] = StoreUnavailable()
        return {job_id: failed[bucket.slot] for job_id, bucket in buckets.items() if bucket.slot in failed}

    async def changed(self, versions: Mapping[str, int]) -> dict[str, int]:
        found: dict[str, int] = {}
        job_ids = list(versions)
        for first in range(0, len(job_ids), COMPARED_AT_ONCE):
            part = job_ids[first : first + COMPARED_AT_ONCE]
            replies = await self._client.execute([self._read(job_id, _VERSION) for job_id in part])
            for job_id, reply in zip(part, replies, strict=True):
                if type(reply) is list and (version := int(reply[0] or 0)) != versions[job_id]:
                    found[job_id] = version
        return found

    async def try_lead(self, holder: str, for_ms: int) -> Claim:
        claim = scripts.CLAIM.call((self._first.sweeper,), [holder, for_ms])
        (reply,) = await self._client.execute([Command(self._first.slot, claim)])
        raise_first((reply,))
        leads, now_ms = reply
        return Claim(bool(leads), now_ms)

    async def due(self, now_ms: int, limit: int) -> list[str]:
        replies = await self._in_buckets(
            lambda bucket: scripts.DUE.call(bucket.indexes, [bucket.job_prefix, now_ms, limit]), self._buckets
        )
        due = heapq.nsmallest(limit, (pair for reply in replies for pair in _pairs(reply)))
        return [job_id.decode("utf-8", "surrogatepass") for _, job_id in due]

    async def purge(self, now_ms: int, limit: int) -> int:
        shares = await self._expired(now_ms, limit)
        replies = await self._in_buckets(
            lambda bucket: scripts.PURGE.call(bucket.indexes, [bucket.job_prefix, now_ms, shares[bucket]]), list(shares)
        )
        return sum(replies)

    async def list_page(self, listing: Listing, now_ms: int) -> JobPage:
        return await self._listings.page(listing, now_ms)

    async def count_jobs(self, leases_count_from_ms: int = 0) -> JobCount:
        """Count in each bucket, a few at a time; raise what any of them raises."""
        share = OLDEST_SOUGHT // BUCKETS
        replies = await self._in_all_buckets(
            lambda bucket: scripts.COUNT.call(bucket.indexes, [bucket.job_prefix, share, leases_count_from_ms])
        )
        *counts, created, leased = zip(*replies, strict=True)
        return JobCount(dict(zip(JobState, map(sum, counts), strict=True)), _least(created), _least(leased))

    async def count_types(self) -> dict[tuple[JobState, RequestType], int]:
        """Count part by part, a few buckets at a time; raise what any of them raises."""
        counts: Counter[tuple[JobState, RequestType]] = Counter()
        for place, state in enumerate(JobState, start=1):
            for first in range(0, BUCKETS, BUCKETS_AT_ONCE):
                await self._count_types_in(self._buckets[first : first + BUCKETS_AT_ONCE], place, state, counts)
        return dict(counts)

    async def _count_types_in(
        self, buckets: Sequence[Bucket], place: int, state: JobState, counts: Counter[tuple[JobState, RequestType]]
    ) -> None:
        """Add the jobs of a state in these buckets, whose index of the state is at this place of `Bucket.indexes`."""
        start, at_once = 0, self._limits.types_at_once
        while buckets:
            last = start + at_once - 1
            replies: list[Any] = await self._client.execute(
                [
                    Command(
                        bucket.slot, scripts.COUNT_TYPES.call([bucket.indexes[place]], [bucket.job_prefix, start, last])
                    )
                    for bucket in buckets
                ]
            )
            raise_first(replies)
            for _, *found in replies:
                for name, number in zip(found[::2], found[1::2], strict=True):
                    counts[state, RequestType(name.decode())] += number
            buckets = [bucket for bucket, reply in zip(buckets, replies, strict=True) if reply[0] == at_once]
            start += at_once

    async def worker_signs(self) -> WorkerSigns:
        share = OLDEST_SOUGHT // BUCKETS
        replies = await self._in_all_buckets(
            lambda bucket: scripts.WORKER_SIGNS.call(bucket.indexes, [bucket.job_prefix, share])
        )
        heard, on_time, unleased = zip(*replies, strict=True)
        return WorkerSigns(_greatest(heard), _greatest(on_time), sum(unleased))

    async def probe(self) -> None:
        """Write to every primary. Raises only where all refuse; fewer are logged when their number changes."""
        slots = list(self._nodes.primaries().values())
        replies = await self._client.execute(
            [Command(slot, pack("SET", self._confirmed[slot], 1)) for slot in slots], durable=True
        )
        refusing = [store_error(reply) for reply in replies if is_error(reply)]
        if len(refusing) != self._refusing:
            self._refusing = len(refusing)
            self._report(refusing, len(slots))
        if len(refusing) == len(slots):
            raise refusing[0] if refusing else StoreUnavailable()

    def _report(self, refusing: Sequence[StoreError], primaries: int) -> None:
        if not refusing:
            _log.info(
                "All primaries of the store accept writes again.",
                extra={"event": "primaries_accept_writes", "primaries": primaries},
            )
            return
        reasons = sorted({reply.reason for reply in refusing})
        _log.warning(
            "Primaries of the store refuse writes.",
            extra={
                "event": "primaries_refuse_writes",
                "refusing": len(refusing),
                "primaries": primaries,
                "reasons": reasons,
            },
        )

    # --- the buckets ---

    def _refusal(self, change: Change) -> ResultTooLarge | None:
        """Return the error for a result that the servers could not send back."""
        size = len(change.job.result) if change.job and change.job.result else 0
        most = self._sizes.result_bytes
        if size <= most:
            return None
        return ResultTooLarge(f"The result has {size} bytes; the servers of the store can send back at most {most}.")

    async def _read_all(self, job_ids: Sequence[str], what: "_Read", at_once: int) -> list[Any]:
        """Read so many jobs in one exchange. Return a reply for each, or an error in its place."""
        replies: list[Any] = []
        for first in range(0, len(job_ids), at_once):
            part = job_ids[first : first + at_once]
            replies += await self._client.execute([self._read(job_id, what) for job_id in part])
        return replies

    def _read(self, job_id: str, what: "_Read") -> Command:
        name = encoded(job_id)
        bucket = self._buckets[bucket_of(name)]
        key = bucket.job_prefix + name
        return Command(bucket.slot, b"%b%d\r\n%b%b" % (what.head, len(key), key, what.tail))

    async def _expired(self, now_ms: int, limit: int) -> dict[Bucket, int]:
        """Return the buckets that have expired jobs, with how many, at most `limit` together."""
        indexes = [(bucket, index) for bucket in self._buckets for index in bucket.indexes[-2:]]
        replies = await self._client.execute(
            [Command(bucket.slot, pack("ZCOUNT", index, "-inf", now_ms)) for bucket, index in indexes]
        )
        _raise_if_all_failed(replies)
        shares: dict[Bucket, int] = {}
        for (bucket, _), count in zip(indexes, replies, strict=True):
            if isinstance(count, int) and (share := min(count, limit - sum(shares.values()))):
                shares[bucket] = shares.get(bucket, 0) + share
        return shares

    async def _in_all_buckets(self, command: Callable[[Bucket], bytes]) -> list[Any]:
        """Execute a command in every bucket, a few at a time; raise what any of them raises."""
        replies: list[Any] = []
        for first in range(0, BUCKETS, BUCKETS_AT_ONCE):
            part = self._buckets[first : first + BUCKETS_AT_ONCE]
            replies += await self._client.execute([Command(bucket.slot, command(bucket)) for bucket in part])
            raise_first(replies)
        return replies

    async def _in_buckets(self, command: Callable[[Bucket], bytes], buckets: Sequence[Bucket]) -> list[Any]:
        """Execute a command in each bucket. Return the replies of those that answer; raise when none does."""
        replies: list[Any] = []
        for first in range(0, len(buckets), BUCKETS_AT_ONCE):
            part = buckets[first : first + BUCKETS_AT_ONCE]
            replies += await self._client.execute([Command(bucket.slot, command(bucket)) for bucket in part])
        _raise_if_all_failed(replies)
        return [reply for reply in replies if not is_error(reply)]


class _Read(NamedTuple):
    """HMGET of some fields, without the key and its length."""

    head: bytes
    tail: bytes


def _read_of(*fields: str) -> _Read:
    packed = pack("HMGET", "", *fields)
    head, _, tail = packed.partition(b"$0\r\n")
    return _Read(head + b"$", tail)


_ANSWER: Final = _read_of(*ANSWER_FIELDS)
_JOB: Final = _read_of("row")
_JOB_WITH_RESULT: Final = _read_of("row", *RESULT_FIELDS)
_VERSION: Final = _read_of("version")


def _job(found: Sequence[bytes | None]) -> Job | None:
    """Decode the values of `_JOB` or `_JOB_WITH_RESULT`."""
    row, *results = found
    return None if row is None else job_in(row, next((result for result in results if result is not None), None))


def _commit(bucket: Bucket, changes: Sequence[Change]) -> Command:
    keys: list[Word] = [*bucket.indexes, *(bucket.job_prefix + encoded(change.job_id) for change in changes)]
    script = scripts.COMMIT if any(change.job for change in changes) else scripts.REMOVE
    arguments = [word for change in changes for word in change_arguments(change)]
    return Command(bucket.slot, script.call(keys, arguments))


def _least(times: Iterable[bytes | None]) -> int | None:
    return min((int(time) for time in times if time is not None), default=None)


def _greatest(times: Iterable[bytes | None]) -> int | None:
    return max((int(time) for time in times if time is not None), default=None)


def _pairs(reply: Sequence[bytes]) -> Iterable[tuple[int, bytes]]:
    """Return pairs of due_at_ms and id."""
    return zip(map(int, reply[::2]), reply[1::2], strict=True)


def _raise_if_all_failed(replies: Sequence[Any]) -> None:
    if replies and all(map(is_error, replies)):
        raise_first(replies)
