"""Jobs in dictionaries: for tests, and as the shortest example of a store. They are lost with the process."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

from jobstatus.core.errors import InvalidField
from jobstatus.core.job import Job, JobState, RequestType
from jobstatus.core.rules import Policy, leased_until
from jobstatus.core.store import (
    Answer,
    Change,
    Claim,
    JobCount,
    JobPage,
    Listing,
    StoreError,
    WorkerSigns,
    answer_of,
)
from jobstatus.core.virtual_keys import VirtualKey


class MemoryJobStore:
    """Implements `core.store.Store`. No operation suspends, so each is atomic, and there is no other process."""

    reads_at_once = True
    notices = None

    def __init__(self) -> None:
        self._jobs: dict[str, tuple[Job, bytes]] = {}
        self._virtual_keys: dict[str, VirtualKey] = {}
        self._virtual_keys_version = 0
        self._sweeper: str | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def read_answers(self, job_ids: Sequence[str]) -> list[Answer | StoreError | None]:
        return [self.try_read_answer(job_id) for job_id in job_ids]

    def try_read_answer(self, job_id: str) -> Answer | StoreError | None:
        row = self._jobs.get(job_id)
        return answer_of(*row) if row else None

    async def read_jobs(self, job_ids: Sequence[str], *, with_results: bool) -> list[Job | StoreError | None]:
        rows = [self._jobs.get(job_id) for job_id in job_ids]
        return [None if row is None else row[0] if with_results else row[0]._replace(result=None) for row in rows]

    def part_of(self, job_id: str) -> None:
        """There is one part."""

    async def commit(self, changes: Sequence[Change]) -> dict[str, StoreError | None]:
        lost: dict[str, StoreError | None] = {}
        for change in changes:
            row = self._jobs.get(change.job_id)
            if (row[0].version if row else 0) != change.replaces:
                lost[change.job_id] = None
            elif change.job is None or change.answer is None:
                del self._jobs[change.job_id]
            else:
                self._jobs[change.job_id] = (change.job, change.answer)
        return lost

    async def confirm(self, job_ids: Sequence[str]) -> dict[str, StoreError]:  # noqa: ARG002  # the port's
        return {}

    async def changed(self, versions: Mapping[str, int]) -> dict[str, int]:  # noqa: ARG002  # the port's
        return {}

    async def try_lead(self, holder: str, for_ms: int) -> Claim:
        if self._sweeper in (None, holder):
            self._sweeper = holder if for_ms else None
        return Claim(self._sweeper == holder, None)

    async def due(self, now_ms: int, limit: int) -> list[str]:
        due = [
            (job.due_at_ms, job_id)
            for job_id, (job, _) in self._jobs.items()
            if (job.due_at_ms or now_ms + 1) <= now_ms
        ]
        return [job_id for _, job_id in sorted(due)[:limit]]

    async def purge(self, now_ms: int, limit: int) -> int:
        expired = [job_id for job_id, (job, _) in self._jobs.items() if job.is_expired(now_ms)][:limit]
        for job_id in expired:
            del self._jobs[job_id]
        return len(expired)

    async def list_page(self, listing: Listing, now_ms: int) -> JobPage:
        jobs = [job._replace(result=None) for job, _ in self._jobs.values() if _is_wanted(job, listing, now_ms)]
        page = sorted(jobs, key=_listing_key, reverse=True)[: listing.limit]
        return JobPage(page, _listing_key(page[-1]) if len(page) < len(jobs) else None)

    async def count_jobs(self, leases_count_from_ms: int = 0) -> JobCount:
        of_state: dict[JobState, list[Job]] = {state: [] for state in JobState}
        for job, _ in self._jobs.values():
            of_state[job.state].append(job)
        policy = Policy(leases_count_from_ms=leases_count_from_ms)
        return JobCount(
            by_state={state: len(jobs) for state, jobs in of_state.items()},
            oldest_created_ms=min((job.created_at_ms for job in of_state[JobState.PENDING]), default=None),
            leased_until_ms=min((leased_until(job, policy) for job in of_state[JobState.PROCESSING]), default=None),
        )

    async def count_types(self) -> dict[tuple[JobState, RequestType], int]:
        return dict(Counter((job.state, job.request_type) for job, _ in self._jobs.values()))

    async def worker_signs(self) -> WorkerSigns:
        processing = [job for job, _ in self._jobs.values() if job.state is JobState.PROCESSING]
        leases = [(job.lease_expires_at_ms or 0, job.lease_ms) for job in processing if job.lease_ms is not None]
        return WorkerSigns(
            heard_ms=max((ends_at_ms - lease_ms for ends_at_ms, lease_ms in leases), default=None),
            on_time_until_ms=max((ends_at_ms - lease_ms * 3 // 5 for ends_at_ms, lease_ms in leases), default=None),
            unleased=len(processing) - len(leases),
        )

    async def probe(self) -> None:
        return None

    async def read_virtual_keys(self, virtual_key_ids: Sequence[str]) -> list[VirtualKey | None]:
        return [self._virtual_keys.get(virtual_key_id) for virtual_key_id in virtual_key_ids]

    async def find_virtual_keys(self, digests: Sequence[bytes]) -> list[VirtualKey | None]:
        owners = {
            digest: virtual_key for virtual_key in self._virtual_keys.values() for digest in virtual_key.key_sha256
        }
        return [owners.get(digest) for digest in digests]

    async def put_virtual_key(self, virtual_key: VirtualKey) -> VirtualKey:
        for owner in await self.find_virtual_keys(virtual_key.key_sha256):
            if owner is not None and owner.virtual_key_id != virtual_key.virtual_key_id:
                raise InvalidField.of("key_sha256", "must not be registered for another virtual key")
        before = self._virtual_keys.get(virtual_key.virtual_key_id, virtual_key)
        self._virtual_keys[virtual_key.virtual_key_id] = replace(virtual_key, created_at_ms=before.created_at_ms)
        self._virtual_keys_version += 1
        return self._virtual_keys[virtual_key.virtual_key_id]

    async def disable_virtual_key(self, virtual_key_id: str, now_ms: int) -> bool:
        before = self._virtual_keys.get(virtual_key_id)
        if before is None:
            return False
        self._virtual_keys[virtual_key_id] = replace(before, disabled=True, updated_at_ms=now_ms)
        self._virtual_keys_version += 1
        return True

    async def delete_virtual_key(self, virtual_key_id: str) -> bool:
        self._virtual_keys_version += 1
        return self._virtual_keys.pop(virtual_key_id, None) is not None

    async def list_virtual_keys(self, after: str, limit: int) -> list[VirtualKey]:
        return [self._virtual_keys[key] for key in sorted(self._virtual_keys) if key > after][:limit]

    async def virtual_keys_version(self) -> int:
        return self._virtual_keys_version


def _listing_key(job: Job) -> tuple[int, str]:
    return job.created_at_ms, job.job_id


def _is_wanted(job: Job, listing: Listing, now_ms: int) -> bool:
    return (
        not job.is_expired(now_ms)
        and (not listing.states or job.state in listing.states)
        and listing.request_type in (None, job.request_type)
        and listing.virtual_key_id in (None, job.virtual_key_id)
        and (listing.created_after_ms is None or job.created_at_ms >= listing.created_after_ms)
        and (listing.created_before_ms is None or job.created_at_ms < listing.created_before_ms)
        and listing.worker_id in (None, job.worker_id)
        and listing.status_code in (None, job.status_code)
        and (listing.error_code is None or (job.error is not None and job.error.error.code == listing.error_code))
        and (listing.before is None or _listing_key(job) < listing.before)
    )
