"""`jobstatus jobs`: what a worker, or the gateway in front of it, does, from a shell."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import click

from jobstatus.cli.connect import with_client
from jobstatus.cli.errors import EPILOG, CommandError, ExitCode
from jobstatus.cli.output import emit, emit_job, emit_job_fields, emit_jobs, emit_json, emit_line, job_json, note
from jobstatus.cli.params import REQUEST_TYPE, SPAN, TIME, GroupInOrder, InputFile, json_option
from jobstatus.core.job import ErrorField, Job, JobError, JobState, RequestType

if TYPE_CHECKING:  # help does not wait for gRPC
    from jobstatus.client import JobFilter, JobStatusClient

_attempt: Final = click.option(
    "--attempt",
    type=click.IntRange(min=0),
    default=0,
    help="The attempt that `start` printed. Required while the job has a lease.",
)


def _read_result(callback: Callable[..., int | None]) -> Callable[..., int | None]:
    """Pass the bytes of the file `result` to the callback, which runs the event loop.

    They are read before, because Ctrl-C only asks a running loop to stop, which a read that waits does not notice.
    """

    @functools.wraps(callback)
    def read(*, result: BinaryIO, **arguments: Any) -> int | None:
        if result.isatty():
            note("Reading the result from standard input; Ctrl-D ends it.")
        return callback(result=result.read(), **arguments)

    return read


@click.group(name="jobs", cls=GroupInOrder, epilog=EPILOG)
def command() -> None:
    """Write and read jobs over gRPC, as a worker does.

    \b
    Example, the life of a job:
      jobstatus jobs create transcription --job-id demo --virtual-key-id team-a
      jobstatus jobs start demo --worker-id shell --lease 5m
      jobstatus jobs heartbeat demo --attempt 1 --progress 0.4 --message decoding
      echo '{"text": "hello"}' | jobstatus jobs complete demo --attempt 1
      jobstatus jobs get demo --result
    """


@command.command(epilog=EPILOG)
@click.argument("request_type", type=REQUEST_TYPE, metavar="REQUEST_TYPE")
@click.option("--job-id", help="The id of the new job. Generated if not given.")
@click.option("--virtual-key-id", help="The virtual key whose holders may poll the job. Without one, only admins may.")
@click.option("--result-ttl", type=SPAN, default="1h", help="How long the job can be polled after its end.")
@click.option("--provider", help="The provider that runs the job.")
@click.option("--model-requested", help="The model that the client requested.")
@click.option("--max-attempts", type=int, default=1, help="How many times a job with a lease may be started.")
@json_option
@with_client
async def create(
    client: JobStatusClient,
    *,
    request_type: str,
    job_id: str | None,
    virtual_key_id: str | None,
    result_ttl: timedelta,
    provider: str | None,
    model_requested: str | None,
    max_attempts: int,
    as_json: bool,
) -> None:
    """Create a pending job and print its id.

    REQUEST_TYPE is transcription, speech, chat_completion, text_completion, responses, embedding, image_generation,
    image_edit, image_variation, rerank or ocr.

    \b
    Example:
      id=$(jobstatus jobs create transcription --virtual-key-id team-a)
    """
    job = await client.create_job(
        request_type=RequestType(request_type),
        job_id=job_id,
        virtual_key_id=virtual_key_id,
        result_ttl=result_ttl,
        provider=provider,
        model_requested=model_requested,
        max_attempts=max_attempts,
    )
    if as_json:
        emit_job(job, as_json=True)
    else:
        emit_line(job.job_id)


@command.command(epilog=EPILOG)
@click.argument("job_id")
@click.option("--worker-id", required=True, help="The worker that starts the job. Each process needs its own id.")
@click.option(
    "--lease", type=SPAN, help="How long the claim holds without a heartbeat. Not given: the job has no lease."
)
@json_option
@with_client
async def start(
    client: JobStatusClient, *, job_id: str, worker_id: str, lease: timedelta | None, as_json: bool
) -> None:
    """Claim a job: it becomes processing, and its attempt increases by one."""
    emit_job(await client.start_job(job_id, worker_id=worker_id, lease=lease), as_json=as_json)


@command.command(epilog=EPILOG)
@click.argument("job_id")
@_attempt
@click.option("--progress", type=float, help="The progress of the job, from 0 to 1.")
@click.option("--message", help="What the worker is doing.")
@json_option
@with_client
async def heartbeat(
    client: JobStatusClient, *, job_id: str, attempt: int, progress: float | None, message: str | None, as_json: bool
) -> None:
    """Renew the lease and report progress."""
    job = await client.heartbeat_job(job_id, attempt=attempt, progress=progress, message=message)
    emit_job(job, as_json=as_json)


@command.command(epilog=EPILOG)
@click.argument("job_id")
@_attempt
@click.option("--result", type=InputFile("rb"), default="-", help="The file with the JSON. - is standard input.")
@click.option("--status-code", type=int, default=200, help="The HTTP status code of the outcome.")
@json_option
@_read_result
@with_client
async def complete(
    client: JobStatusClient, *, job_id: str, attempt: int, result: bytes, status_code: int, as_json: bool
) -> None:
    """Complete a job with its result: JSON, stored and served byte for byte.

    \b
    Example:
      jobstatus jobs complete demo --attempt 1 --result transcript.json
    """
    job = await client.complete_job(job_id, result, attempt=attempt, status_code=status_code)
    emit_job(job, as_json=as_json)


@command.command(epilog=EPILOG)
@click.argument("job_id")
@_attempt
@click.option("--message", required=True, help="What went wrong, as a sentence for a person.")
@click.option("--type", "error_type", help="A class of errors, such as invalid_request_error.")
@click.option("--code", help="A stable code, such as audio_too_short.")
@click.option("--status-code", type=int, default=500, help="The HTTP status code of the outcome.")
@json_option
@with_client
async def fail(
    client: JobStatusClient,
    *,
    job_id: str,
    attempt: int,
    message: str,
    error_type: str | None,
    code: str | None,
    status_code: int,
    as_json: bool,
) -> None:
    """Fail a job with an error.

    \b
    Example:
      jobstatus jobs fail demo --attempt 1 --message "The audio is too short." --code audio_too_short --status-code 422
    """
    error = JobError(error=ErrorField(message=message, type=error_type, code=code))
    emit_job(await client.fail_job(job_id, error, attempt=attempt, status_code=status_code), as_json=as_json)


@command.command(epilog=EPILOG)
@click.argument("job_id")
@click.option("--reason", help="The message of the job's error, a sentence for a person.")
@json_option
@with_client
async def cancel(client: JobStatusClient, *, job_id: str, reason: str | None, as_json: bool) -> None:
    """Cancel a job that nobody wants any more: it fails with status code 499, and its worker stops.

    No attempt is needed. Cancelling a job again changes nothing.

    \b
    Example:
      jobstatus jobs cancel demo --reason "The caller hung up."
    """
    emit_job(await client.cancel_job(job_id, reason), as_json=as_json)


@command.command(epilog=EPILOG)
@click.argument("job_id")
@click.option("--result", "only_result", is_flag=True, help="Print only the result, byte for byte.")
@json_option
@with_client
async def get(client: JobStatusClient, *, job_id: str, only_result: bool, as_json: bool) -> None:
    """Show a job."""
    job = await client.get_job(job_id)
    if only_result:
        emit(_result_of(job))
    elif as_json:
        emit_job(job, as_json=True)
    else:
        emit_job_fields(job)


def _result_of(job: Job) -> bytes:
    if job.result is None:
        raise CommandError(f"job {job.job_id} has no result: it is {job.state}", ExitCode.REFUSED)
    return job.result + (b"\n" if sys.stdout is not None and sys.stdout.isatty() else b"")


@command.command(name="list", epilog=EPILOG)
@click.option(
    "--state",
    "states",
    type=click.Choice([state.value for state in JobState]),
    multiple=True,
    help="Only jobs in this state. May be given several times.",
)
@click.option("--request-type", type=REQUEST_TYPE, help="Only jobs of this type.")
@click.option("--virtual-key-id", help="Only jobs of this virtual key.")
@click.option(
    "--created-after",
    type=TIME,
    help="Only jobs created at or after this time: 2026-01-31T12:00:00Z, or 1h for an hour ago.",
)
@click.option("--created-before", type=TIME, help="Only jobs created before this time; 1h: older than an hour.")
@click.option("--worker-id", help="Only jobs that this worker runs, or ran when they ended.")
@click.option("--error-code", help="Only failed jobs whose error has this code, such as lease_expired.")
@click.option("--status-code", type=int, help="Only jobs that ended with this HTTP status code.")
@click.option("--limit", type=click.IntRange(min=1), default=50, help="List at most this many jobs.")
@json_option
@with_client
async def list_(
    client: JobStatusClient,
    *,
    states: Sequence[str],
    request_type: str | None,
    virtual_key_id: str | None,
    created_after: datetime | None,
    created_before: datetime | None,
    worker_id: str | None,
    error_code: str | None,
    status_code: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """List jobs, newest first, without their results. A line on standard error says when there are more.

    \b
    Example, the jobs of the last day that failed:
      jobstatus jobs list --state failed --created-after 1d
    """
    given = {
        "states": [JobState(state) for state in states],
        "request_type": None if request_type is None else RequestType(request_type),
        "virtual_key_id": virtual_key_id,
        "created_after": created_after,
        "created_before": created_before,
        "worker_id": worker_id,
        "error_code": error_code,
        "status_code": status_code,
    }
    filters = cast("JobFilter", {name: value for name, value in given.items() if value is not None})
    jobs = _first(client.list_jobs(page_size=min(limit + 1, 1000), **filters), limit)
    if as_json:
        async for job in jobs:
            emit(job_json(job) + b"\n")
    else:
        emit_jobs([job async for job in jobs])


async def _first(jobs: AsyncIterator[Job], limit: int) -> AsyncIterator[Job]:
    """Yield at most so many. Say when there are more."""
    async for job in jobs:
        if not limit:
            note("There are more jobs; --limit lists more of them.")
            return
        yield job
        limit -= 1


@command.command(epilog=EPILOG)
@click.argument("job_id")
@json_option
@with_client
async def watch(client: JobStatusClient, *, job_id: str, as_json: bool) -> int:
    """Watch a job until it ends, and print a line for each change.

    A change that is followed at once by another may be skipped, but never the last one. The command waits for a service
    that restarts.
    """
    async for job in client.watch_job(job_id, omit_result=not as_json):
        emit_job(job, as_json=as_json)
        if job.state is JobState.FAILED:
            return ExitCode.REFUSED
    return ExitCode.FINE


@command.command(epilog=EPILOG)
@click.argument("job_id")
@json_option
@with_client
async def delete(client: JobStatusClient, *, job_id: str, as_json: bool) -> None:
    """Delete a job, whatever its state."""
    await client.delete_job(job_id)
    if as_json:
        emit_json({"job_id": job_id})
    else:
        emit_line(f"{job_id} deleted")
