"""What the commands print: JSON in the contract's names for scripts, lines and columns for people.

Anyone may have written the text of a job, so control characters are escaped before they reach a terminal.
"""

import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import click

from jobstatus.cli.errors import CommandError, ExitCode
from jobstatus.core.answer import error_document, timestamp, to_json
from jobstatus.core.job import Job, JobError
from jobstatus.core.virtual_keys import VirtualKey

_VISIBLE: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_JOB_COLUMNS: Final = ("JOB ID", "STATE", "TYPE", "VIRTUAL KEY", "ATTEMPT", "PROGRESS", "CREATED")
_KEY_COLUMNS: Final = ("VIRTUAL KEY", "STATE", "KEYS", "EXPIRES", "UPDATED")


def emit(data: bytes) -> None:
    """Write to standard output and flush. If its reader has gone away, end the command without an error.

    Raise CommandError if it was closed from the start, or cannot be written.
    """
    if sys.stdout is None:  # as with `>&-`
        raise CommandError("standard output is closed", ExitCode.OUTPUT_CLOSED)
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        # Python would try again, and complain, when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise click.exceptions.Exit(ExitCode.OUTPUT_CLOSED) from None
        raise CommandError(f"standard output cannot be written ({error.strerror})", ExitCode.OUTPUT_CLOSED) from None


def emit_line(text: str) -> None:
    emit(visible(text).encode(errors="replace") + b"\n")


def emit_json(document: object) -> None:
    emit(to_json(document) + b"\n")


def note(text: str) -> None:
    """Print a line for the person, which is not part of the command's output, to standard error."""
    click.echo(visible(text), err=True)


def visible(text: str) -> str:
    """Return the text with control characters escaped."""
    return text.translate(_VISIBLE)


def emit_job(job: Job, *, as_json: bool) -> None:
    if as_json:
        emit(job_json(job) + b"\n")
    else:
        emit_line(job_line(job))


def job_json(job: Job) -> bytes:
    """Return the job as one line of JSON. The result is the worker's, with line ends between tokens replaced."""
    document = to_json(job_document(job))
    if job.result is None:
        return document
    return document[:-1] + b',"result":' + one_line(job.result) + b"}"


def one_line(document: bytes) -> bytes:
    """Return the JSON without line ends, which can only stand between its tokens."""
    return document.replace(b"\n", b" ").replace(b"\r", b" ")


def job_document(job: Job) -> dict[str, Any]:
    """Return the contract's Job in its own names, without absent fields and without the result."""
    return _present(
        job_id=job.job_id,
        request_type=job.request_type.value,
        state=job.state.value,
        version=job.version,
        virtual_key_id=job.virtual_key_id,
        provider=job.provider,
        model_requested=job.model_requested,
        created_at=_time(job.created_at_ms),
        started_at=_time(job.started_at_ms),
        completed_at=_time(job.completed_at_ms),
        expires_at=_time(job.expires_at_ms),
        result_ttl=_span(job.result_ttl_ms),
        status_code=job.status_code,
        error=None if job.error is None else error_document(job.error),
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        worker_id=job.worker_id,
        lease_expires_at=_time(job.lease_expires_at_ms),
        progress=job.progress,
        message=job.message,
        last_writer=job.last_writer,
        traceparent=job.traceparent,
    )


def job_line(job: Job) -> str:
    """Return the job as a line for a person who watches it."""
    parts = [f"{job.job_id} {job.state.value}"]
    if job.attempt and not job.is_terminal:
        parts.append(
            f"attempt {job.attempt} of {job.max_attempts}" if job.lease_expires_at_ms else f"attempt {job.attempt}"
        )
    if job.lease_expires_at_ms is not None:
        parts.append(f"lease until {_time(job.lease_expires_at_ms)}")
    if job.progress is not None and not job.is_terminal:
        parts.append(_percent(job.progress))
    if job.message is not None and not job.is_terminal:
        parts.append(job.message)
    if job.error is not None:
        parts.append(error_text(job.error))
    if job.expires_at_ms is not None:
        parts.append(f"readable until {_time(job.expires_at_ms)}")
    return ", ".join(parts)


def error_text(error: JobError) -> str:
    """Return a job's error as a sentence."""
    kind = "/".join(part for part in (error.error.type, error.error.code) if part)
    return f"{error.error.message} ({kind})" if kind else error.error.message


def emit_job_fields(job: Job) -> None:
    """Print a job, a line for each field, and of its result only the size."""
    fields = job_document(job)
    if job.error is not None:
        fields["error"] = to_json(fields["error"]).decode()
    if job.result is not None:
        fields["result"] = f"{len(job.result)} bytes (--result prints them)"
    for name, value in fields.items():
        emit_line(f"{name:<16} {value}")


def emit_jobs(jobs: Iterable[Job]) -> None:
    """Print jobs in columns."""
    _emit_columns(
        _JOB_COLUMNS,
        [
            (
                job.job_id,
                job.state.value,
                job.request_type.value,
                job.virtual_key_id or "-",
                str(job.attempt),
                "-" if job.progress is None else _percent(job.progress),
                timestamp(job.created_at_ms),
            )
            for job in jobs
        ],
    )


def virtual_key_document(virtual_key: VirtualKey) -> dict[str, Any]:
    """Return the contract's VirtualKey in its own names, with hashes in hexadecimal."""
    return _present(
        virtual_key_id=virtual_key.virtual_key_id,
        key_sha256=[digest.hex() for digest in virtual_key.key_sha256],
        disabled=virtual_key.disabled,
        expires_at=_time(virtual_key.expires_at_ms),
        created_at=_time(virtual_key.created_at_ms),
        updated_at=_time(virtual_key.updated_at_ms),
    )


def emit_virtual_keys(virtual_keys: Iterable[VirtualKey]) -> None:
    """Print virtual keys in columns."""
    _emit_columns(
        _KEY_COLUMNS,
        [
            (
                virtual_key.virtual_key_id,
                _key_state(virtual_key),
                str(len(virtual_key.key_sha256)),
                _time(virtual_key.expires_at_ms) or "never",
                timestamp(virtual_key.updated_at_ms),
            )
            for virtual_key in virtual_keys
        ],
    )


def _key_state(virtual_key: VirtualKey) -> str:
    """Return what keeps its keys from working, else "enabled"."""
    reasons = {"disabled": virtual_key.disabled, "expired": virtual_key.has_expired(now_ms())}
    return ",".join(reason for reason, applies in reasons.items() if applies) or "enabled"


def now_ms() -> int:
    """Return milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _emit_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        emit_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _present(**fields: object) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else timestamp(at_ms)


def _span(span_ms: int) -> str:
    seconds, rest_ms = divmod(span_ms, 1000)
    return f"{seconds}.{rest_ms:03}s" if rest_ms else f"{seconds}s"


def _percent(progress: float) -> str:
    return f"{progress:.0%}"
