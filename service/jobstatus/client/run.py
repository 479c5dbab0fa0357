"""One attempt at a job as a block: started on entering, kept alive inside, ended on leaving, whatever happens.

The service fences what a worker that has lost its lease still sends; this module sees to it that the worker learns of
it: the block is cancelled, and leaves with LeaseLost. The cancellation is accounted for as `asyncio.timeout` does, so
that one from outside is never taken for ours.
"""

import asyncio
import os
import re
import secrets
import socket
from types import TracebackType
from typing import Final, Self

from jobstatus.client.connection import ServiceChannel
from jobstatus.client.errors import LOST
from jobstatus.client.heartbeat import Heartbeat
from jobstatus.client.writes import (
    complete_request,
    encoded_result,
    fail_request,
    heartbeat_request,
    job_error,
    job_error_from,
    start_request,
)
from jobstatus.core.commands import CompleteJob, FailJob, HeartbeatJob, StartJob
from jobstatus.core.errors import InvalidField, JobStatusError, LeaseLost, ResultNotJson, ResultTooLarge
from jobstatus.core.job import ErrorField, Job, JobError
from jobstatus.rpc.messages import job_from_message

LAST_WORDS_SECONDS: Final = 3.0
"""How long a worker that is being stopped goes on trying to say how its job ended."""

REFUSED: Final = (InvalidField, ResultNotJson, ResultTooLarge)
"""What says that an outcome can never be stored as it is."""


def new_worker_id() -> str:
    """An id that no other run has: two runs with one id would count as one worker and share an attempt."""
    host = re.sub("[^A-Za-z0-9_-]", "-", socket.gethostname())[:64]
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


class JobRun:
    """An attempt at a job; made by `JobStatusClient.run_job`, to be entered once.

    Heartbeats go out in the background and need the event loop: run what blocks in a thread.
    """

    def __init__(self, connection: ServiceChannel, command: StartJob, *, lease_seconds: float) -> None:
        self._connection = connection
        self._command = command
        self._lease_seconds = lease_seconds
        self._outcome: CompleteJob | FailJob | None = None
        self._job: Job | None = None
        self._lost: Exception | None = None
        self._is_leaving = False

    @property
    def job(self) -> Job:
        """The job as it was started."""
        if self._job is None:
            raise RuntimeError("enter the run first: async with client.run_job(…) as run")
        return self._job

    @property
    def attempt(self) -> int:
        """Which attempt at the job this is, from 1."""
        return self.job.attempt

    @property
    def is_lost(self) -> bool:
        """Whether the job is no longer ours; for code in a thread, which no cancellation reaches."""
        return self._lost is not None

    def report(self, *, progress: float | None = None, message: str | None = None) -> None:
        """Tell how far the work is (0 to 1) and what it is doing, with the next heartbeat, which this hastens.

        At most about four heartbeats a second are sent; what is reported in between replaces what was not yet sent.
        May be called from any thread. Raises InvalidField.
        """
        self._heartbeat.report(progress, message)

    def complete(self, result: object, *, status_code: int = 200) -> None:
        """Have the job completed with this result (see `JobStatusClient.complete_job`) on leaving the block."""
        self._settle_on(
            CompleteJob(
                job_id=self.job.job_id, attempt=self.attempt, result=encoded_result(result), status_code=status_code
            )
        )

    def fail(self, error: JobError | str, *, status_code: int = 500) -> None:
        """Have the job failed with this error on leaving the block."""
        self._settle_on(self._failure(job_error(error), status_code))

    def _settle_on(self, outcome: CompleteJob | FailJob) -> None:
        if self._outcome is not None:
            raise RuntimeError("the run has its outcome already")
        self._outcome = outcome

    def _failure(self, error: JobError, status_code: int = 500) -> FailJob:
        return FailJob(job_id=self.job.job_id, attempt=self.attempt, error=error, status_code=status_code)

    async def __aenter__(self) -> Self:
        if self._job is not None:
            raise RuntimeError("a run can be entered once")
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a run must be entered inside a task")
        answer = await self._connection.call(self._connection.jobs.StartJob, start_request(self._command))
        self._job = job_from_message(answer.job)
        self._task, self._cancelling = task, task.cancelling()
        self._heartbeat = Heartbeat(
            self._send_heartbeat,
            job_id=self._job.job_id,
            attempt=self._job.attempt,
            lease_seconds=self._lease_seconds,
            on_lost=self._lose,
        )
        self._beating = asyncio.create_task(self._heartbeat.run(), name=f"heartbeat of {self._job.job_id}")
        return self

    async def _send_heartbeat(self, command: HeartbeatJob, *, limit_seconds: float) -> None:
        limit_seconds = min(limit_seconds, self._connection.timeout_seconds)
        request = heartbeat_request(command)
        await self._connection.call(self._connection.jobs.HeartbeatJob, request, limit_seconds=limit_seconds)

    def _lose(self, cause: Exception) -> None:
        """Stop the block. Once it is being left the write that ends the job learns by itself what became of it."""
        if not self._is_leaving:
            self._lost = cause
            self._task.cancel(f"the lease of job {self.job.job_id} is lost")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_leaving = True
        if isinstance(error, GeneratorExit):  # nothing may be awaited any more
            self._beating.cancel()
            return
        try:
            if self._lost is not None:
                self._leave_lost(error, self._lost)
            elif error is not None:
                await self._leave_failed(error)
            else:
                await self._leave_settled()
        finally:
            self._beating.cancel()
            await asyncio.wait((self._beating,))

    def _leave_lost(self, error: BaseException | None, cause: Exception) -> None:
        is_stopped_from_outside = self._task.uncancel() > self._cancelling
        if isinstance(error, asyncio.CancelledError) and is_stopped_from_outside:
            return
        if error is None or isinstance(error, asyncio.CancelledError):
            raise self._lease_lost() from cause
        error.add_note(f"{self._lease_lost()} ({cause})")

    async def _leave_failed(self, error: BaseException) -> None:
        """Say why the block ended; the exception that ended it goes on, even if that cannot be said."""
        failure = self._failure(job_error_from(error))
        try:
            if isinstance(error, Exception):
                await self._send(failure)
            else:
                await self._send(failure, limit_seconds=LAST_WORDS_SECONDS, last_words_seconds=0)
        except JobStatusError as refusal:
            error.add_note(f"The job could not be failed: {refusal}")

    async def _leave_settled(self) -> None:
        if self._outcome is None:
            nothing = ErrorField(type="worker_error", code="no_result", message="The worker ended without a result.")
            await self._end(self._failure(JobError(error=nothing)))
            raise RuntimeError("the block ended without run.complete() or run.fail(); the job is failed")
        try:
            await self._end(self._outcome)
        except REFUSED as refusal:
            await self._leave_failed(refusal)
            raise

    async def _end(self, outcome: CompleteJob | FailJob) -> None:
        try:
            await self._send(outcome)
        except LOST as cause:
            raise self._lease_lost() from cause

    async def _send(
        self,
        outcome: CompleteJob | FailJob,
        *,
        limit_seconds: float | None = None,
        last_words_seconds: float = LAST_WORDS_SECONDS,
    ) -> None:
        """Send the outcome, trying for as long as the lease can last: it is worth that, and heartbeats go on meanwhile.

        A cancellation does not take it back, but leaves it only its last words.
        """
        sending = asyncio.create_task(self._call(outcome, limit_seconds))
        try:
            await asyncio.shield(sending)
        except asyncio.CancelledError:
            try:
                await asyncio.wait((sending,), timeout=last_words_seconds)
            finally:
                sending.cancel()
            raise
        finally:
            if sending.done() and not sending.cancelled():
                sending.exception()  # seen: asyncio need not complain of it

    async def _call(self, outcome: CompleteJob | FailJob, limit_seconds: float | None) -> None:
        call, jobs = self._connection.call, self._connection.jobs
        if limit_seconds is None:
            limit_seconds = max(self._connection.timeout_seconds, self._lease_seconds)
        if isinstance(outcome, CompleteJob):
            await call(jobs.CompleteJob, complete_request(outcome), limit_seconds=limit_seconds)
        else:
            await call(jobs.FailJob, fail_request(outcome), limit_seconds=limit_seconds)

    def _lease_lost(self) -> LeaseLost:
        return LeaseLost(f"Attempt {self.attempt} at job {self.job.job_id} has lost the job.")
