"""One attempt at a job as a context: entering starts the job, heartbeats keep it, leaving always ends it.

The service fences the writes of a worker that has lost its lease. This module tells the worker: it cancels the block,
which then raises LeaseLost, or JobCancelled where that is the cause. Cancellations are counted as `asyncio.timeout`
counts them, so that one from outside is never taken for our own.
"""

import asyncio
import os
import re
import secrets
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from jobstatus.client.encoding import Default
from jobstatus.client.errors import LOST, JobCancelled
from jobstatus.client.heartbeat import Heartbeat
from jobstatus.client.merging import WriteMerger
from jobstatus.client.writes import encoded_result, job_error, job_error_from
from jobstatus.core.commands import CompleteJob, FailJob, HeartbeatJob, StartJob
from jobstatus.core.errors import InvalidField, JobStatusError, LeaseLost, ResultNotJson, ResultTooLarge
from jobstatus.core.job import ErrorField, Job, JobError

REFUSED: Final = (InvalidField, ResultNotJson, ResultTooLarge)
"""These say that an outcome can never be stored as it is."""

UNWRITABLE: Final = (ResultNotJson, ResultTooLarge)
"""These say it of a result. The work was done, and another attempt may have a result that can be stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """How long a run that is being stopped may take."""

    last_words_seconds: float = 3.0
    """How long a worker that is being stopped tries to send the job's outcome."""


def new_worker_id() -> str:
    """Return a unique id. Two runs with one id would count as one worker and share an attempt."""
    host = re.sub("[^A-Za-z0-9_-]", "-", socket.gethostname())[:64]
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


class JobRun:
    """An attempt at a job, made by `JobStatusClient.run_job`. It can be entered once.

    Heartbeats are sent in the background and need the event loop: run blocking work in a thread.
    """

    def __init__(
        self,
        writes: WriteMerger,
        command: StartJob,
        *,
        lease_seconds: float,
        timeout_seconds: float,
        limits: RunLimits,
    ) -> None:
        self._writes = writes
        self._command = command
        self._lease_seconds = lease_seconds
        self._timeout_seconds = timeout_seconds
        self._limits = limits
        self._outcome: CompleteJob | FailJob | None = None
        self._job: Job | None = None
        self._lost: Exception | None = None
        self._is_leaving = False
        self._refusal: Exception | None = None
        """Why the block's latest result cannot be stored, until it has another outcome."""

    @property
    def job(self) -> Job:
        """The job as it was started."""
        if self._job is None:
            raise RuntimeError("enter the run first: async with client.run_job(…) as run")
        return self._job

    @property
    def attempt(self) -> int:
        """The number of this attempt at the job, from 1."""
        return self.job.attempt

    @property
    def is_lost(self) -> bool:
        """Whether the job no longer belongs to this attempt: its lease is lost, or it was cancelled.

        For code in a thread, which the cancellation of the block does not reach.
        """
        return self._lost is not None

    def report(self, *, progress: float | None = None, message: str | None = None) -> None:
        """Report progress (0 to 1) and a message with the next heartbeat, which is then sent soon.

        At most about four heartbeats a second are sent, each with the latest report. May be called from any thread.
        Raises InvalidField.
        """
        self._heartbeat.report(progress, message)

    def complete(self, result: object, *, status_code: int = 200, default: Default | None = None) -> None:
        """Complete the job with this result (see `JobStatusClient.complete_job`) when the block ends.

        Raises ResultNotJson. The run then has no outcome yet: give it another one, or leave the block, which keeps the
        attempts that are left unless an error leaves it that has nothing to do with this one.
        """
        try:
            encoded = encoded_result(result, default=default)
        except ResultNotJson as refusal:
            self._refusal = refusal
            raise
        self._set_outcome(
            CompleteJob(job_id=self.job.job_id, attempt=self.attempt, result=encoded, status_code=status_code)
        )

    def fail(self, error: JobError | str, *, status_code: int = 500) -> None:
        """Fail the job with this error when the block ends."""
        self._set_outcome(self._failure(job_error(error), status_code))

    def _set_outcome(self, outcome: CompleteJob | FailJob) -> None:
        if self._outcome is not None:
            raise RuntimeError("the run has its outcome already")
        self._outcome = outcome
        self._refusal = None

    def _failure(self, error: JobError, status_code: int = 500) -> FailJob:
        return FailJob(job_id=self.job.job_id, attempt=self.attempt, error=error, status_code=status_code)

    async def __aenter__(self) -> Self:
        if self._job is not None:
            raise RuntimeError("a run can be entered once")
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a run must be entered inside a task")
        started_at = asyncio.get_running_loop().time()
        self._job = await self._writes.apply(self._command)
        self._task, self._cancelling = task, task.cancelling()
        self._heartbeat = Heartbeat(
            self._send_heartbeat,
            job_id=self._job.job_id,
            attempt=self._job.attempt,
            lease_seconds=self._lease_seconds,
            started_at=started_at,
            is_last_attempt=self._job.attempt >= self._job.max_attempts,
            on_lost=self._lose,
        )
        self._beating = asyncio.create_task(self._heartbeat.run(), name=f"heartbeat of {self._job.job_id}")
        return self

    async def _send_heartbeat(self, command: HeartbeatJob, *, limit_seconds: float) -> None:
        await self._writes.apply(command, limit_seconds=min(limit_seconds, self._timeout_seconds))

    def _lose(self, cause: Exception) -> None:
        """Cancel the block. Once it is being left, the write that ends the job finds out by itself."""
        if not self._is_leaving:
            self._lost = cause
            self._task.cancel(self._loss(cause).message)

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
                await self._leave_normally()
        finally:
            self._refusal = None  # its traceback would keep alive what the block's frames hold
            self._beating.cancel()
            await asyncio.wait((self._beating,))

    def _leave_lost(self, error: BaseException | None, cause: Exception) -> None:
        is_stopped_from_outside = self._task.uncancel() > self._cancelling
        if isinstance(error, asyncio.CancelledError) and is_stopped_from_outside:
            return
        if error is None or isinstance(error, asyncio.CancelledError):
            raise self._loss(cause) from cause
        error.add_note(f"{self._loss(cause)} ({cause})")

    async def _leave_failed(self, error: BaseException) -> None:
        """Fail the job with the exception that ended the block, which is raised on even if that cannot be sent.

        A result that cannot be written is no reason to fail a job that has attempts left.
        """
        is_refused = isinstance(error, Exception) and _shows(error, self._refusal)
        if is_refused and self.attempt < self.job.max_attempts:
            error.add_note("The job has attempts left: it is not failed, and can be started when the lease has ended.")
            return
        failure = self._failure(job_error_from(error))
        try:
            if isinstance(error, Exception):
                await self._send(failure)
            else:
                await self._send(failure, limit_seconds=self._limits.last_words_seconds, last_words_seconds=0)
        except JobStatusError as refusal:
            error.add_note(f"The job could not be failed: {refusal}")

    async def _leave_normally(self) -> None:
        if self._outcome is None:
            await self._leave_without_outcome()
            return
        try:
            await self._end(self._outcome)
        except REFUSED as error:
            self._refusal = error if isinstance(error, UNWRITABLE) else None
            await self._leave_failed(error)
            raise

    async def _leave_without_outcome(self) -> None:
        if (refusal := self._refusal) is not None:
            await self._leave_failed(refusal)
            raise RuntimeError("the block ended without another outcome after its result was refused") from refusal
        nothing = ErrorField(type="worker_error", code="no_result", message="The worker ended without a result.")
        await self._end(self._failure(JobError(error=nothing)))
        raise RuntimeError("the block ended without run.complete() or run.fail(); the job is failed")

    async def _end(self, outcome: CompleteJob | FailJob) -> None:
        try:
            await self._send(outcome)
        except LOST as cause:
            raise self._loss(cause) from cause

    async def _send(
        self,
        outcome: CompleteJob | FailJob,
        *,
        limit_seconds: float | None = None,
        last_words_seconds: float | None = None,
    ) -> None:
        """Send the outcome, retrying for as long as the lease can last, because heartbeats go on meanwhile.

        A cancellation does not stop it at once, but leaves it `last_words_seconds` (default: those of the limits).
        """
        last_words_seconds = self._limits.last_words_seconds if last_words_seconds is None else last_words_seconds
        if limit_seconds is None:
            limit_seconds = max(self._timeout_seconds, self._lease_seconds)
        sending = asyncio.create_task(self._writes.apply(outcome, limit_seconds=limit_seconds))
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
                sending.exception()  # retrieved, so that asyncio does not log it

    def _loss(self, cause: Exception) -> LeaseLost | JobCancelled:
        """Return what the block raises when the job no longer belongs to this attempt."""
        if isinstance(cause, JobCancelled):
            return JobCancelled(f"Job {self.job.job_id} was cancelled.", **cause.metadata)
        return LeaseLost(f"Attempt {self.attempt} at job {self.job.job_id} has lost the job.")


def _shows(error: BaseException, refusal: Exception | None) -> bool:
    """Return whether the refusal is in the error's traceback: as the error, its cause or context, or in its group."""
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        if each is refusal:
            return True
        seen.add(id(each))
        left.append(each.__cause__ if each.__suppress_context__ else each.__context__)
        left.extend(each.exceptions if isinstance(each, BaseExceptionGroup) else ())
    return False
