"""The port: what every store can do, in enough words to write a new one from.

A store is a compare-and-set table of jobs and a small table of virtual keys. It decides nothing: the rules live in
`rules`, and expiry is judged by the caller. Every operation works on many items in one round trip, because the callers
above batch whatever arrives at the same time.

What holds for every operation:

* It raises StoreUnavailable when the store does not answer within the store's own time limit, and StoreFull when there
  is no room. It raises nothing else of its driver's; the cause is kept as `__cause__`.
* Where a store has parts that fail one by one (the shards of a cluster), what the failed part holds is answered with
  the error in its place, and the rest as ever.
* After a failure the store heals by itself once the cause is gone, without a restart.
* A caller that is cancelled while it waits harms nobody: what has begun is finished.
* Reads see every change whose commit has returned, to whomever it returned.
* Bytes come back exactly as they went in.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, Protocol, TypeAlias

from jobstatus.core.errors import StoreFull, StoreUnavailable
from jobstatus.core.job import Job, JobState, RequestType
from jobstatus.core.virtual_keys import VirtualKey

SMALL_RESULT_BYTES: Final = 16 * 1024
"""Results up to this size come along with an answer; larger ones only once the owner was compared (see Answer)."""

StoreError: TypeAlias = StoreUnavailable | StoreFull
"""How a store fails."""


class NotNow(Enum):
    """The type of NOT_NOW."""

    NOT_NOW = "not now"


NOT_NOW: Final = NotNow.NOT_NOW
"""What a read without waiting returns where it would have to wait."""


class Change(NamedTuple):
    """One step of one job: `job` takes the place of version `replaces`. A tuple, since it is made for each write.

    `replaces` 0: there must be no such job. `job` None: the job is removed. `answer` is what a poll of the new version
    answers, rendered by `answer.render`; None with `job` None.
    """

    job_id: str
    replaces: int
    job: Job | None
    answer: bytes | None


class Answer(NamedTuple):
    """What a poll needs of a job, and no more. A tuple, since it is made for each poll.

    `body` is the answer's bytes, up to but without the result where `result_size` says that there is one. `result` is
    None when it is larger than SMALL_RESULT_BYTES: that one is read in a second step, so that the time a poll takes
    tells a stranger nothing about a job that is not theirs.
    """

    request_type: str
    virtual_key_id: str | None
    created_at_ms: int
    expires_at_ms: int | None
    version: int
    progress: float | None
    body: bytes
    result_size: int | None
    result: bytes | None


def answer_of(job: Job, body: bytes) -> Answer:
    """What a poll of the job needs; `body` is what `answer.render` made of it."""
    result = job.result
    return Answer(
        request_type=job.request_type,
        virtual_key_id=job.virtual_key_id,
        created_at_ms=job.created_at_ms,
        expires_at_ms=job.expires_at_ms,
        version=job.version,
        progress=job.progress,
        body=body,
        result_size=None if result is None else len(result),
        result=None if result is None or len(result) > SMALL_RESULT_BYTES else result,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Which jobs a listing wants, newest first: by (created_at_ms, job_id), both descending.

    Every filter that is given must hold. `before` is the key of the last job of the page before. Jobs that expire at or
    before `now_ms` are left out.
    """

    now_ms: int
    limit: int
    states: Collection[JobState] = ()
    request_type: RequestType | None = None
    virtual_key_id: str | None = None
    created_after_ms: int | None = None
    created_before_ms: int | None = None
    before: tuple[int, str] | None = None


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
        """What polls of these jobs answer, in the order asked for; None where there is no such job.

        The ids may be any strings. Takes no longer for a job that exists than for one that does not, within noise.
        """
        ...

    async def read_jobs(self, job_ids: Sequence[str], *, with_results: bool) -> list[Job | StoreError | None]:
        """These jobs, in the order asked for; None where there is no such job."""
        ...


class JobStore(JobReader, Protocol):
    """Where jobs are kept."""

    async def commit(self, changes: Sequence[Change]) -> dict[str, StoreError | None]:
        """Make all those changes durable, in one step, whose `replaces` is still the stored version.

        Returns what did not certainly happen: by id, None for a change whose job is at another version, which is as it
        was, and an error for one of which only the store knows whether it happened (wholly or not at all). No two
        changes name the same job. When this returns the other changes are on stable storage, as the store's
        documentation defines it; when it raises, each fitting change happened or did not, and in a store without parts
        either all did or none.
        """
        ...

    async def confirm(self, job_ids: Sequence[str]) -> dict[str, StoreError]:
        """Return when what reads have shown of these jobs is on stable storage; by id, where that is not certain.

        For whoever acknowledges a write that changed nothing because it had happened before. A store whose reads only
        show what is on stable storage has nothing to do.
        """
        ...

    async def changed(self, versions: Mapping[str, int]) -> dict[str, int]:
        """The jobs among these that are at another version than the one given, and at which (0: there is no such job).

        Those that only this object has changed may be left out: its user knows of them. Asked several times a second,
        so it is one cheap look, and a part that does not answer is left out too.
        """
        ...

    async def try_lead(self, holder: str, for_ms: int) -> bool:
        """Whether `holder` is the one of all who share the store that looks after it for the next `for_ms`.

        One who asks again in time stays it. When it no longer asks another becomes it, at the latest after `for_ms`.
        `for_ms` 0 gives it back.
        """
        ...

    async def due(self, now_ms: int, limit: int) -> list[str]:
        """Ids of jobs with `due_at_ms` <= now, the longest due first, at most `limit`.

        A store with parts leaves out a part that does not answer, and raises when none does.
        """
        ...

    async def purge(self, now_ms: int, limit: int) -> int:
        """Free the space of at most `limit` jobs with `expires_at_ms` <= now; how many it were. Parts as in `due`."""
        ...

    async def list_jobs(self, listing: Listing) -> list[Job]:
        """A page of jobs without results. Must not hold up point reads and commits while it looks."""
        ...

    async def count_jobs(self) -> dict[JobState, int]:
        """How many jobs of each state are stored, for the metrics. Must not hold up point reads and commits."""
        ...

    async def probe(self) -> None:
        """Return if the store can really write now, by writing; raise StoreUnavailable or StoreFull if not."""
        ...


class VirtualKeyReader(Protocol):
    """What credentials need of a store."""

    async def read_virtual_keys(self, virtual_key_ids: Sequence[str]) -> list[VirtualKey | None]:
        """These virtual keys, in the order asked for; None where there is none."""
        ...

    async def find_virtual_keys(self, digests: Sequence[bytes]) -> list[VirtualKey | None]:
        """The virtual key for which each SHA-256 is registered, in the order asked for; None where there is none."""
        ...

    async def virtual_keys_version(self) -> int:
        """A number that differs after every put and delete, whoever made it. Cheap: asked about once a second."""
        ...


class VirtualKeyStore(VirtualKeyReader, Protocol):
    """Where virtual keys are kept. There are few of them, changed seldom."""

    async def put_virtual_key(self, virtual_key: VirtualKey) -> VirtualKey:
        """Durably record a virtual key in place of what was there; the first `created_at_ms` stays.

        Raises InvalidField("key_sha256") when a hash is registered for another virtual key.
        """
        ...

    async def delete_virtual_key(self, virtual_key_id: str) -> bool:
        """Durably forget a virtual key and its hashes; whether there was one."""
        ...

    async def list_virtual_keys(self, after: str, limit: int) -> list[VirtualKey]:
        """At most `limit` virtual keys with ids above `after`, in the order of their ids (by code point)."""
        ...


class Store(JobStore, VirtualKeyStore, AbstractAsyncContextManager["Store"], Protocol):
    """A store of both, open while its context is entered."""
