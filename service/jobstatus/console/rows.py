"""What the console shows of jobs: pure functions from the domain's values to documents."""

from collections.abc import Iterable, Mapping
from typing import Any

from jobstatus.core.job import Job, JobState
from jobstatus.core.rules import outcome_of
from jobstatus.core.virtual_keys import VirtualKey

MAX_MESSAGE_CHARS = 500
"""Of a job's texts, so that an answer of a child fits into a line of its supervisor's."""


def row_of(job: Job) -> dict[str, Any]:
    """Return what a table shows of a job. Absent values are left out."""
    error = job.error
    values = {
        "id": job.job_id,
        "type": job.request_type.value,
        "state": job.state.value,
        "version": job.version,
        "key": job.virtual_key_id,
        "created": job.created_at_ms,
        "started": job.started_at_ms,
        "ended": job.completed_at_ms,
        "attempt": job.attempt,
        "attempts": job.max_attempts,
        "worker": job.worker_id,
        "lease": job.lease_ms,
        "leased_until": job.lease_expires_at_ms,
        "progress": job.progress,
        "message": shortened(job.message),
        "code": job.status_code,
        "error": None if error is None else shortened(error_name(job)),
        "error_message": None if error is None else shortened(error.error.message),
        "outcome": outcome_of(job).value if job.is_terminal else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def details_of(job: Job, *, result_bytes: int | None, path: str, readers: str) -> dict[str, Any]:
    """Return what the page of one job shows. `path` is that of a poll, `readers` is who may poll it."""
    error = job.error
    values = {
        "provider": job.provider,
        "model": job.model_requested,
        "expires": job.expires_at_ms,
        "due": job.due_at_ms,
        "result_ttl": job.result_ttl_ms,
        "result_bytes": result_bytes,
        "error_type": None if error is None else error.error.type,
        "error_code": None if error is None else error.error.code,
        "writer": job.last_writer,
        "traceparent": job.traceparent,
    }
    given = {name: value for name, value in values.items() if value is not None}
    return row_of(job) | given | {"path": path, "readers": readers}


def error_name(job: Job) -> str:
    """Return the name by which failures are grouped: the error's code, else its type, else the status code."""
    inner = None if job.error is None else job.error.error
    return (inner and (inner.code or inner.type)) or str(job.status_code or "unknown")


def shortened(text: str | None) -> str | None:
    """Return a text of bounded length."""
    if text is None or len(text) <= MAX_MESSAGE_CHARS:
        return text
    return f"{text[:MAX_MESSAGE_CHARS]}…"


def groups_of(failed: Iterable[Job]) -> list[dict[str, Any]]:
    """Return failed jobs, newest first, grouped by error; the largest group first."""
    groups: dict[tuple[str, int | None], dict[str, Any]] = {}
    for job in failed:
        row = row_of(job)
        group = groups.setdefault(
            (row["error"], job.status_code),
            {"error": row["error"], "code": job.status_code, "jobs": 0, "types": {}, "latest": row}
            | ({"filter": "error"} if job.error and job.error.error.code else {"filter": "status"}),
        )
        group["jobs"] += 1
        group["types"][row["type"]] = group["types"].get(row["type"], 0) + 1
    return sorted(groups.values(), key=lambda group: -group["jobs"])


def workers_of(held: Iterable[Job], seen: Iterable[Job]) -> list[dict[str, Any]]:
    """Return workers: which jobs they hold, when they were heard last, and how many of the seen jobs they ended.

    `held` are jobs that are processing, `seen` the newest jobs of any state.
    """
    workers: dict[str, dict[str, Any]] = {}

    def worker(job: Job) -> dict[str, Any]:
        name = job.worker_id or ""
        return workers.setdefault(name, {"id": name, "jobs": [], "completed": 0, "failed": 0, "heard": 0})

    for job in held:
        of_worker = worker(job)
        of_worker["jobs"].append(row_of(job))
        of_worker["heard"] = max(of_worker["heard"], heard_at_ms(job))
    for job in seen:
        if job.worker_id is not None and job.is_terminal:
            of_worker = worker(job)
            of_worker["completed" if job.state is JobState.COMPLETED else "failed"] += 1
            of_worker["heard"] = max(of_worker["heard"], heard_at_ms(job))
    return sorted(workers.values(), key=lambda each: (-len(each["jobs"]), each["id"]))


def heard_at_ms(job: Job) -> int:
    """Return when the job's worker was heard last: at its end, when it took or renewed its lease, or at its start.

    What the service ended, its worker did not report.
    """
    if job.is_terminal and outcome_of(job).value in ("completed", "failed"):
        return job.completed_at_ms or 0
    if job.lease_ms is not None and job.lease_expires_at_ms is not None:
        return job.lease_expires_at_ms - job.lease_ms
    return job.started_at_ms or 0


def key_of(virtual_key: VirtualKey, last_used: Mapping[str, int], now_ms: int) -> dict[str, Any]:
    """Return what the console shows of a virtual key: never a hash. `last_used` has when it created a job."""
    state = "disabled" if virtual_key.disabled else "expired" if virtual_key.has_expired(now_ms) else "active"
    return {
        "id": virtual_key.virtual_key_id,
        "state": state,
        "keys": len(virtual_key.key_sha256),
        "expires": virtual_key.expires_at_ms,
        "created": virtual_key.created_at_ms,
        "updated": virtual_key.updated_at_ms,
        "used": last_used.get(virtual_key.virtual_key_id),
    }


def last_used_of(seen: Iterable[Job]) -> dict[str, int]:
    """Return when each virtual key created the newest of these jobs, which come newest first."""
    used: dict[str, int] = {}
    for job in seen:
        if job.virtual_key_id is not None:
            used.setdefault(job.virtual_key_id, job.created_at_ms)
    return used
