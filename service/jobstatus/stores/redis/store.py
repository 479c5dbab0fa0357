"""Redis and Valkey behind the port.

Acknowledged means: in the memory of the primary, on as many replicas as are required, and, where the server can tell,
on the primary's disk and theirs. `keys` says where things are, `scripts` how they change, `documents` what a job looks
like, `commands` how servers are asked, `servers` how the right ones are found again after a failure.
"""

import heapq
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

from jobstatus.core.errors import StoreUnavailable
from jobstatus.core.job import Job, JobState
from jobstatus.core.store import Answer, Change, Listing, StoreError
from jobstatus.stores.redis import listing as pages
from jobstatus.stores.redis import scripts
from jobstatus.stores.redis.checks import opened
from jobstatus.stores.redis.cluster.connection import Word, pack
from jobstatus.stores.redis.cluster.nodes import Nodes
from jobstatus.stores.redis.cluster.router import (
    LIMIT_SECONDS,
    ClusterClient,
    Command,
    is_error,
    raise_first,
    unavailable,
)
from jobstatus.stores.redis.cluster.url import parse_url
from jobstatus.stores.redis.encoding import ANSWER_FIELDS, RESULT_FIELDS, answer_of, change_arguments, job_in
from jobstatus.stores.redis.keys import Bucket, Keys, bucket_of, encoded
from jobstatus.stores.redis.virtual_keys import VirtualKeys

LOOKED_AT_ONCE: Final = 500
"""Jobs whose versions are asked for at a time, so that polls are answered in between."""
BUCKETS_AT_ONCE: Final = 8
"""Buckets that are swept at a time, for the same reason."""
STEADY_SECONDS: Final = 2 * LIMIT_SECONDS
"""Longer than it takes to read, to commit, and to confirm what was read."""

_log = logging.getLogger(__name__)


class KeyspaceJobStore(VirtualKeys):
    """Implements `core.store.Store`. Any number of processes may have it open."""

    read_answer_now = None

    def __init__(self, url: str, *, replicas: int | None = None) -> None:
        """`replicas`: on how many an acknowledged write is; None: on one where there are some, else on none."""
        self._config = parse_url(url)
        keys = Keys(self._config.prefix)
        self._nodes = Nodes(self._config, keys.slots)
        super().__init__(ClusterClient(self._nodes), keys)
        self._replicas = replicas
        self._buckets = keys.buckets
        self._first = self._buckets[0]
        self._confirmed = keys.confirmed
        self._refusing = 0

    async def __aenter__(self) -> Self:
        try:
            self._client.durability = await opened(self._nodes, self._config, self._replicas)
        except BaseException:
            await self._nodes.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
        await self._nodes.close()

    async def read_answers(self, job_ids: Sequence[str]) -> list[Answer | StoreError | None]:
        replies = await self._client.execute([self._read(job_id, _ANSWER) for job_id in job_ids])
        return [answer_of(reply) if type(reply) is list else reply for reply in replies]

    async def read_jobs(self, job_ids: Sequence[str], *, with_results: bool) -> list[Job | StoreError | None]:
        fields = _JOB_WITH_RESULT if with_results else _JOB
        replies = await self._client.execute([self._read(job_id, fields) for job_id in job_ids])
        return [_job(reply) if type(reply) is list else reply for reply in replies]

    async def commit(self, changes: Sequence[Change]) -> dict[str, StoreError | None]:
        together: dict[int, list[Change]] = {}
        for change in changes:
            together.setdefault(bucket_of(encoded(change.job_id)), []).append(change)
        commands = [_commit(self._buckets[number], part) for number, part in together.items()]
        replies = await self._client.execute(commands, durable=True)
        not_done: dict[str, StoreError | None] = {}
        for part, reply in zip(together.values(), replies, strict=True):
            if isinstance(reply, list):
                not_done |= {part[place].job_id: None for place in reply}
            else:
                not_done |= {change.job_id: reply for change in part}
        return not_done

    async def confirm(self, job_ids: Sequence[str]) -> dict[str, StoreError]:
        """Writes a trifle beside the jobs, and waits for that to be as durable as a commit.

        Servers keep the order, so everything before is durable then. That is worth nothing where a server has taken
        over, or has been started anew, since the jobs were read: it may know less than was read.
        """
        buckets = {job_id: self._buckets[bucket_of(encoded(job_id))] for job_id in job_ids}
        asked = list({bucket.slot: bucket for bucket in buckets.values()}.values())
        commands = [Command(bucket.slot, pack("SET", bucket.confirmed, 1)) for bucket in asked]
        replies = await self._client.execute(commands, durable=True)
        failed = {bucket.slot: reply for bucket, reply in zip(asked, replies, strict=True) if is_error(reply)}
        for bucket in asked:
            if bucket.slot not in failed and self._nodes.stable_seconds(bucket.slot) < STEADY_SECONDS:
                failed[bucket.slot] = unavailable(None)
        return {job_id: failed[bucket.slot] for job_id, bucket in buckets.items() if bucket.slot in failed}

    async def changed(self, versions: Mapping[str, int]) -> dict[str, int]:
        found: dict[str, int] = {}
        job_ids = list(versions)
        for first in range(0, len(job_ids), LOOKED_AT_ONCE):
            part = job_ids[first : first + LOOKED_AT_ONCE]
            replies = await self._client.execute([self._read(job_id, _VERSION) for job_id in part])
            for job_id, reply in zip(part, replies, strict=True):
                if type(reply) is list and (version := int(reply[0] or 0)) != versions[job_id]:
                    found[job_id] = version
        return found

    async def try_lead(self, holder: str, for_ms: int) -> bool:
        claim = scripts.CLAIM.call((self._first.sweeper,), [holder, for_ms])
        (has_it,) = await self._client.execute([Command(self._first.slot, claim)])
        raise_first((has_it,))
        return bool(has_it)

    async def due(self, now_ms: int, limit: int) -> list[str]:
        replies = await self._ask_buckets(
            lambda bucket: scripts.DUE.call(bucket.indexes, [bucket.job_prefix, now_ms, limit]), self._buckets
        )
        due = heapq.nsmallest(limit, (pair for reply in replies for pair in _pairs(reply)))
        return [job_id.decode("utf-8", "surrogatepass") for _, job_id in due]

    async def purge(self, now_ms: int, limit: int) -> int:
        shares = await self._expired(now_ms, limit)
        replies = await self._ask_buckets(
            lambda bucket: scripts.PURGE.call(bucket.indexes, [bucket.job_prefix, now_ms, shares[bucket]]), list(shares)
        )
        return sum(replies)

    async def list_jobs(self, listing: Listing) -> list[Job]:
        return await pages.list_jobs(self._client, self._buckets, listing)

    async def count_jobs(self) -> dict[JobState, int]:
        counts = dict.fromkeys(JobState, 0)
        for place, state in enumerate(JobState, 1):
            replies = await self._client.execute(
                [Command(bucket.slot, pack("ZCARD", bucket.indexes[place])) for bucket in self._buckets]
            )
            raise_first(replies)
            counts[state] = sum(replies)
        return counts

    async def probe(self) -> None:
        """Writes to every primary: a store of which a part cannot write is one that can, but says so in the log."""
        slots = list(self._nodes.primaries().values())
        replies = await self._client.execute(
            [Command(slot, pack("SET", self._confirmed[slot], 1)) for slot in slots], durable=True
        )
        refusing = [reply for reply in replies if is_error(reply)]
        if len(refusing) != self._refusing:
            self._refusing = len(refusing)
            self._report(refusing, len(slots))
        if len(refusing) == len(slots):
            raise_first(refusing)
            raise StoreUnavailable

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

    def _read(self, job_id: str, what: "_Read") -> Command:
        name = encoded(job_id)
        bucket = self._buckets[bucket_of(name)]
        key = bucket.job_prefix + name
        return Command(bucket.slot, b"%b%d\r\n%b%b" % (what.head, len(key), key, what.tail))

    async def _expired(self, now_ms: int, limit: int) -> dict[Bucket, int]:
        """The buckets that have expired jobs, and how many of them, at most `limit` together."""
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

    async def _ask_buckets(self, command: Callable[[Bucket], bytes], buckets: Sequence[Bucket]) -> list[Any]:
        """The replies of those that answer. Raises when none does."""
        replies: list[Any] = []
        for first in range(0, len(buckets), BUCKETS_AT_ONCE):
            part = buckets[first : first + BUCKETS_AT_ONCE]
            replies += await self._client.execute([Command(bucket.slot, command(bucket)) for bucket in part])
        _raise_if_all_failed(replies)
        return [reply for reply in replies if not is_error(reply)]


class _Read(NamedTuple):
    """HMGET of some fields, but for the key and its length."""

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
    """The job in the values of `_JOB` or `_JOB_WITH_RESULT`."""
    row, *results = found
    return None if row is None else job_in(row, next((result for result in results if result is not None), None))


def _commit(bucket: Bucket, changes: Sequence[Change]) -> Command:
    keys: list[Word] = [*bucket.indexes, *(bucket.job_prefix + encoded(change.job_id) for change in changes)]
    script = scripts.COMMIT if any(change.job for change in changes) else scripts.REMOVE
    arguments = [word for change in changes for word in change_arguments(change)]
    return Command(bucket.slot, script.call(keys, arguments))


def _pairs(reply: Sequence[bytes]) -> Iterable[tuple[int, bytes]]:
    """due_at_ms and id."""
    return zip(map(int, reply[::2]), reply[1::2], strict=True)


def _raise_if_all_failed(replies: Sequence[Any]) -> None:
    if replies and all(map(is_error, replies)):
        raise_first(replies)
