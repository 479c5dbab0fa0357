"""The port: what every store must do, in enough detail to implement a new one.

A store is a compare-and-set table of jobs and a small table of virtual keys. It decides nothing: the rules are in
`rules`, and the caller compares expiry with the clock. Every operation works on many items in one round trip, because
the core batches what arrives at the same time.

For every operation:

* It raises StoreUnavailable when the store does not answer within the store's own time limit, and StoreFull when there
  is no room. It raises no other error of its driver; the cause is kept as `__cause__`.
* A store may have parts that fail separately (the shards of a cluster). Each item of a failed part then has the error
  in its place, and the other items are answered as usual.
* After a failure the store recovers by itself once the cause is gone, without a restart.
* The caller may be cancelled while it waits. A write that has begun is then finished, and other callers are unaffected.
* Reads see every change whose commit has returned, in whichever process.
* Bytes come back exactly as they were given.
* Times are milliseconds since the Unix epoch.
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, Protocol, TypeAlias

from jobstatus.core.errors import ResultTooLarge, StoreFull, StoreUnavailable
from jobstatus.core.job import Job, JobState, RequestType
from jobstatus.core.rules import GIVEN_UP_CODES
from jobstatus.core.virtual_keys import VirtualKey

SMALL_RESULT_BYTES: Final = 16 * 1024
"""Results up to this size come along with an answer; larger ones are read after the owner was compared (see Answer)."""

UNKNOWN_SIZE: Final = -1
"""The `result_size` of a large result where the reader does not know the size."""

StoreError: TypeAlias = StoreUnavailable | StoreFull
"""The errors of a store, raised or in an item's place."""
CommitError: TypeAlias = StoreError | ResultTooLarge
"""The errors of one change: also that of a result which the store could not return."""


class NotNow(Enum):
    """The type of NOT_NOW."""

    NOT_NOW = "not now"


NOT_NOW: Final = NotNow.NOT_NOW
"""What a read without waiting returns where it would have to wait."""


class Change(NamedTuple):
    """One step of one job: `job` replaces version `replaces`. A tuple, because one is made for each write.

    `replaces` 0: there must be no such job. `job` None: the job is removed. `answer` is the body of a poll of the new
    version, rendered by `answer.render`; None where `job` is None.
    """

    job_id: str
    replaces: int
    job: Job | None
    answer: bytes | None


class Answer(NamedTuple):
    """What a poll needs of a job, and no more. A tuple, because one is made for each poll.

    `ended_at_ms` is when the worker's report ended the job; None while the job is under way, where a client or the
    service gave the job up, and where an earlier version did not store it. `body` is the document, up to the result
    where there is one. `result_size` is in bytes, None without a result. `result` is None when it is larger than
    SMALL_RESULT_BYTES: such a result is read in a second step, so that the time of a poll tells nothing about a job
    that the caller may not read.
    """

    request_type: str
    virtual_key_id: str | None
    created_at_ms: int
    expires_at_ms: int | None
    ended_at_ms: int | None
    version: int
    progress: float | None
    body: bytes
    result_size: int | None
    result: bytes | None


def ended_at_ms(job: Job) -> int | None:
    """Return `Answer.ended_at_ms` of a job: its end, unless the status code says that it was given up."""
    return None if job.status_code in GIVEN_UP_CODES else job.completed_at_ms


def answer_of(job: Job, body: bytes) -> Answer:
    """Return the answer for a job; `body` is its document as `answer.render` makes it."""
    result = job.result
    return Answer(
        request_type=job.request_type,
        virtual_key_id=job.virtual_key_id,
        created_at_ms=job.created_at_ms,
        expires_at_ms=job.expires_at_ms,
        ended_at_ms=ended_at_ms(job),
        version=job.version,
        progress=job.progress,
        body=body,
        result_size=None if result is None else len(result),
        result=None if result is None or len(result) > SMALL_RESULT_BYTES else result,
    )


class Claim(NamedTuple):
    """The answer to `try_lead`. `now_ms` is the time by the store's clock; None where it has none of its own."""

    leads: bool
    now_ms: int | None


Place: TypeAlias = tuple[int, str]
"""A place in the order of listings: (created_at_ms, job_id)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Which jobs a listing returns, newest first: by (created_at_ms, job_id), both descending.

    Every filter that is given must hold; `error_code` is that of `JobError.error`. `before` is where the page before
    ended.
    """

    limit: int
    states: Collection[JobState] = ()
    request_type: RequestType | None = None
    virtual_key_id: str | None = None
    created_after_ms: int | None = None
    created_before_ms: int | None = None
    worker_id: str | None = None
    error_code: str | None = None
    status_code: int | None = None
    before: Place | None = None

    @property
    def is_plain(self) -> bool:
        """Whether every job that has not expired and is of the time asked for is listed."""
        return not self.states and self.request_type is None and self.virtual_key_id is None and not self.needs_rows

    @property
    def needs_rows(self) -> bool:
        """Whether there is a filter of what the indexes for listings do not have."""
        return any(wanted is not None for wanted in (self.worker_id, self.error_code, self.status_code))


class JobPage(NamedTuple):
    """A part of a listing. `next_before` is the place before which the listing goes on, None where it has ended."""

    jobs: list[Job]
    next_before: Place | None


OLDEST_SOUGHT: Final = 10_000
"""Among how many jobs of a state, those that time out first, `count_jobs` looks for the oldest."""


class JobCount(NamedTuple):
    """What `count_jobs` found. Each time is None where there is no such job.

    `oldest_created_ms` is when the oldest pending job was created. `leased_until_ms` is the earliest end of a lease
    among the jobs that are processing, ended or not; a job without a lease counts from its start.
    """

    by_state: dict[JobState, int]
    oldest_created_ms: int | None
    leased_until_ms: int | None


class WorkerSigns(NamedTuple):
    """What `worker_signs` found of the jobs that are processing.

    `heard_ms` is when a worker last took or renewed a lease. `on_time_until_ms` is until when at least one worker is on
    time: a client renews a lease three times in its duration, so it is late after two fifths of it. Both are None
    without leases. `unleased` is the number of jobs that are processing without a lease.
    """

    heard_ms: int | None
    on_time_until_ms: int | None
    unleased: int


class JobReader(Protocol):
    """What polls need of a store."""

    @property
    def reads_at_once(self) -> bool:
        """Whether `try_read_answer` may return an answer: constant, and true where reads need not wait."""
        ...

    def try_read_answer(self, job_id: str) -> Answer | StoreError | NotNow | None:
        """Return what `read_answers` returns for one job; NOT_NOW where the read would have to wait."""
        ...

    async def read_answers(self, job_ids: Sequence[str]) -> list[Answer | StoreError | None]:
        """Return the answers for these jobs, in the order asked for; None where there is no such job.

        The ids may be any strings. The time does not depend on whether a job exists, apart from noise.
        """
        ...

    async def read_jobs(self, job_ids: Sequence[str], *, with_results: bool) -> list[Job | StoreError | None]:
        """Return these jobs, in the order asked for; None where there is no such job."""
        ...


class NoticeChannel(Protocol):
    """Carries short texts between the processes that share a store. Any text may be lost."""

    async def publish(self, text: str) -> None:
        """Send a text, of at most 7,000 bytes, to all processes that hear, this one included."""
        ...

    async def hear(self, heard: Callable[[str], None]) -> str:
        """Call `heard` with each text. Return why no more can be heard; raise StoreUnavailable when that fails."""
        ...


class JobStore(JobReader, Protocol):
    """Where jobs are kept."""

    @property
    def notices(self) -> NoticeChannel | None:
        """What carries notices of changes between processes; None where nothing does."""
        ...

    def part_of(self, job_id: str) -> Hashable:
        """Return the part that keeps the job at present; the same for every job where a store has no parts.

        Changes of jobs of different parts are committed apart, so that a part that is slow delays no other.
        """
        ...

    async def commit(self, changes: Sequence[Change]) -> Mapping[str, CommitError | None]:
        """Make durable, in one step, all changes whose `replaces` is still the stored version.

        Return by id what did not certainly happen: None for a change whose job is at another version and stays as it
        was; the error for a change that happened wholly or not at all, ResultTooLarge for one that did not happen. No
        two changes name the same job. On return the other changes are on stable storage, as the store's documentation
        defines it. When this raises, each fitting change happened or did not; in a store without parts all did or none.
        """
        ...

    async def confirm(self, job_ids: Sequence[str]) -> dict[str, StoreError]:
        """Return when what reads have shown of these jobs is on stable storage, with the errors of those uncertain.

        Used before acknowledging a write that changed nothing because it had happened before. A store whose reads only
        show what is on stable storage does nothing.
        """
        ...

    async def changed(self, versions: Mapping[str, int]) -> dict[str, int]:
        """Return the jobs that are at another version than the one given, with that version (0: there is no such job).

        Jobs that only this object has changed may be left out, because its user knows of them. A part that does not
        answer is left out. Called several times a second, so it must be cheap.
        """
        ...

    async def try_lead(self, holder: str, for_ms: int) -> Claim:
        """Return whether `holder` leads all processes that share the store for the next `for_ms`, and the store's time.

        The leader stays leader by calling again in time. Another can become leader at the latest `for_ms` after its
        last call. `for_ms` 0 resigns.
        """
        ...

    async def due(self, now_ms: int, limit: int) -> list[str]:
        """Return the ids of at most `limit` jobs with `due_at_ms` <= now, the longest due first.

        A part that does not answer is left out; raises when none answers.
        """
        ...

    async def purge(self, now_ms: int, limit: int) -> int:
        """Remove at most `limit` jobs with `expires_at_ms` <= now. Return how many. Parts as in `due`."""
        ...

    async def list_page(self, listing: Listing, now_ms: int) -> JobPage:
        """Return a page of the jobs that have not expired at `now_ms`, without results.

        The work is bounded, whatever the filters: a page may have fewer jobs than asked for, or none, although the
        listing goes on. Each page goes on further than the one before. Must not delay point reads and commits.
        """
        ...

    async def count_jobs(self, leases_count_from_ms: int = 0) -> JobCount:
        """Return how many jobs of each state are stored, and how old the oldest are, for the metrics.

        A lease counts from `leases_count_from_ms` at the earliest, as in `rules.Policy`. Where there are more than
        OLDEST_SOUGHT jobs of a state, the oldest is that of those which time out first: the very oldest, unless the
        timeouts were changed since it was created. Must not delay point reads and commits.
        """
        ...

    async def count_types(self) -> dict[tuple[JobState, RequestType], int]:
        """Return how many jobs of each state and type are stored; a pair without jobs may be left out.

        May take time in proportion to the number of jobs. Must not delay point reads and commits.
        """
        ...

    async def worker_signs(self) -> WorkerSigns:
        """Return when workers were heard last, by the OLDEST_SOUGHT jobs that are processing and time out last."""
        ...

    async def probe(self) -> None:
        """Write something, and return if that succeeds. Raises StoreUnavailable or StoreFull if not."""
        ...


class VirtualKeyReader(Protocol):
    """What credentials need of a store."""

    async def read_virtual_keys(self, virtual_key_ids: Sequence[str]) -> list[VirtualKey | None]:
        """Return these virtual keys, in the order asked for; None where there is none."""
        ...

    async def find_virtual_keys(self, digests: Sequence[bytes]) -> list[VirtualKey | None]:
        """Return the virtual key that each SHA-256 is registered for, in the order given; None where there is none."""
        ...

    async def virtual_keys_version(self) -> int:
        """Return a number that differs after each change by any process. Called every second: must be cheap."""
        ...


class VirtualKeyStore(VirtualKeyReader, Protocol):
    """Where virtual keys are kept. There are few, and they change rarely."""

    async def put_virtual_key(self, virtual_key: VirtualKey) -> VirtualKey:
        """Durably store a virtual key in place of what was there, with the `created_at_ms` of the first put.

        Return it as stored. Raises InvalidField (field `key_sha256`) when a hash is registered for another virtual key.
        """
        ...

    async def disable_virtual_key(self, virtual_key_id: str, now_ms: int) -> bool:
        """Durably disable a virtual key, as one step that loses no other change. Return whether there was one.

        `updated_at_ms` becomes `now_ms`; all else stays.
        """
        ...

    async def delete_virtual_key(self, virtual_key_id: str) -> bool:
        """Durably delete a virtual key and its hashes. Return whether there was one."""
        ...

    async def list_virtual_keys(self, after: str, limit: int) -> list[VirtualKey]:
        """Return at most `limit` virtual keys with ids above `after`, in the order of their ids (by code point)."""
        ...


class Store(JobStore, VirtualKeyStore, AbstractAsyncContextManager["Store"], Protocol):
    """A store of jobs and virtual keys, open while its context is entered."""
