"""The jobs that are polled, and who polls them: every second job completed, each by a credential of one of three kinds.

Job n belongs to virtual key n modulo the number of credentials. Ids look as random as those that the service makes, so
that no index profits from their order, and tell by their last digit whether the job is completed.
"""

import hashlib
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from harness.tokens import admin_token, virtual_key_token
from jobstatus.core.answer import RESULT_TAIL, render
from jobstatus.core.commands import MAX_RESULT_TTL_MS, CompleteJob, CreateJob
from jobstatus.core.job import Job, RequestType
from jobstatus.core.rules import Policy, decide
from jobstatus.core.store import Change, Store
from jobstatus.core.virtual_keys import KEY_PREFIX, VirtualKey, hash_key
from jobstatus.rest.routes import PATHS
from jobstatus.stores import open_store

from benchmarks.figures import Options

PATH: Final = PATHS[RequestType.TRANSCRIPTION]
KINDS_OF_CREDENTIALS: Final = 3
SMALL: Final = 1024
"""Bytes of an ordinary result."""
_BATCH_BYTES: Final = 32 * 1024 * 1024
_BATCH_JOBS: Final = 1000
_LARGE_BATCH_JOBS: Final = 20_000
_REQUESTS: Final = 100_000
"""Different requests that a generator asks, again and again."""
_POLICY: Final = Policy(pending_timeout_ms=MAX_RESULT_TTL_MS)


def job_id_of(number: int) -> str:
    """A UUID whose last digit is the state: 0 pending, 1 completed."""
    digits = hashlib.blake2b(number.to_bytes(8), digest_size=16).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:31]}{number % 2}"


def is_completed(job_id: str) -> bool:
    """Whether the job with this id is one of those that are completed."""
    return job_id[-1] == "1"


def result_of(size: int) -> bytes:
    """A JSON document of so many bytes."""
    head, tail = b'{"text":"', b'"}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """So many jobs with results of so many bytes, polled with so many credentials."""

    jobs: int
    credentials: int
    result_bytes: int = SMALL
    asks_pending: bool = True
    """Whether pending jobs are polled too."""
    now_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    """When all of it happened."""

    def job(self, number: int) -> Job:
        """As the rules make it."""
        job_id, owner = job_id_of(number), virtual_key_id_of(number % self.credentials)
        create = CreateJob(
            job_id=job_id,
            request_type=RequestType.TRANSCRIPTION,
            virtual_key_id=owner,
            result_ttl_ms=MAX_RESULT_TTL_MS,
            provider="acme",
            model_requested="whisper-1",
        )
        job, _ = decide(None, create, self.now_ms, _POLICY)
        if is_completed(job_id):
            complete = CompleteJob(job_id=job_id, result=result_of(self.result_bytes))
            job, _ = decide(job, complete, self.now_ms, _POLICY)
        assert job is not None
        return job

    def batches(self, first: int = 0, size: int = _BATCH_JOBS) -> Iterator[list[Job]]:
        """All jobs from this one on, in parts for one commit: so many jobs at most, fewer where they are large."""
        size = max(1, min(size, _BATCH_BYTES // self.result_bytes))
        for start in range(first, self.jobs, size):
            yield [self.job(number) for number in range(start, min(start + size, self.jobs))]

    def requests(self) -> list[bytes]:
        """Polls of random jobs, each by a credential that may read it."""
        lines = [credential_line(number) for number in range(self.credentials)]
        asked = range(self.jobs) if self.asks_pending else range(1, self.jobs, 2)
        numbers = random.Random(1).choices(asked, k=_REQUESTS)
        return [poll_request(job_id_of(number), lines[number % self.credentials]) for number in numbers]

    def virtual_keys(self) -> list[VirtualKey]:
        """Those that the jobs belong to, with the hashes of the keys that stand for them."""
        return [
            VirtualKey(
                virtual_key_id=virtual_key_id_of(number),
                key_sha256=(hash_key(key_of(number)),),
                created_at_ms=self.now_ms,
                updated_at_ms=self.now_ms,
            )
            for number in range(self.credentials)
        ]


def virtual_key_id_of(number: int) -> str:
    return f"vk-{number}"


def key_of(number: int) -> str:
    """The key of a virtual key; fixed, so that every process knows it."""
    return KEY_PREFIX + hashlib.sha256(b"key %d" % number).hexdigest()


def credential_line(number: int) -> str:
    """The header of a credential: a token of a virtual key, a key, or a token of an admin, in turn."""
    until = int(time.time()) + 24 * 3600
    match number % KINDS_OF_CREDENTIALS:
        case 0:
            return f"Authorization: Bearer {virtual_key_token(virtual_key_id_of(number), exp=until)}"
        case 1:
            return f"x-bf-vk: {key_of(number)}"
        case _:
            return f"Authorization: Bearer {admin_token(sub=f'admin-{number}', exp=until)}"


def is_admin(number: int) -> bool:
    """Whether the credential is one that may read every job."""
    return number % KINDS_OF_CREDENTIALS == KINDS_OF_CREDENTIALS - 1


def poll_request(job_id: str, *lines: str) -> bytes:
    """A whole request, as it goes over the wire."""
    head = "".join(f"{line}\r\n" for line in (f"GET {PATH}{job_id} HTTP/1.1", "Host: bench", *lines))
    return f"{head}\r\n".encode()


def document(job: Job) -> bytes:
    """What a poll of the job answers."""
    return render(job) if job.result is None else render(job) + job.result + RESULT_TAIL


async def seed(url: str, workload: Workload, options: Options) -> None:
    """Fill an empty store with the jobs and virtual keys."""
    async with open_store(url) as store:
        for virtual_key in options.track(workload.virtual_keys(), "storing virtual keys"):
            await store.put_virtual_key(virtual_key)
        await _add(store, workload.batches(), options, workload.jobs)


async def grow(url: str, workload: Workload, options: Options, first: int) -> None:
    """Add the jobs from this one on, in large commits, as is quickest on SQLite."""
    async with open_store(url) as store:
        await _add(store, workload.batches(first, _LARGE_BATCH_JOBS), options, workload.jobs - first)


async def _add(store: Store, batches: Iterable[list[Job]], options: Options, total: int) -> None:
    with options.progress("storing jobs", total) as advance:
        for jobs in batches:
            changes = [Change(job_id=job.job_id, replaces=0, job=job, answer=render(job)) for job in jobs]
            if await store.commit(changes):
                raise RuntimeError("a job could not be stored")
            advance(len(jobs))
