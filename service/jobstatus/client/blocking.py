"""The client for programs whose work is threads: the same calls, arguments and errors, which block.

    with BlockingJobStatusClient("127.0.0.1:50051") as client, client.run_job(job_id) as run:
        for done, page in enumerate(pages, start=1):
            read(page)
            run.report(progress=done / len(pages))  # raises LeaseLost when the job is no longer ours
        run.complete({"text": "hello"})

The calls are those of the asyncio client, which runs on an event loop in a thread of its own. Signatures and docstrings
come from there, so a new call takes one line and a new argument none.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent import futures
from contextlib import AbstractAsyncContextManager, suppress
from functools import wraps
from inspect import signature
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from jobstatus.client.client import JobStatusClient
from jobstatus.client.loop_thread import ClientClosed, LoopThread
from jobstatus.client.run import JobRun
from jobstatus.core.job import Job

P = ParamSpec("P")
T = TypeVar("T")
Served = TypeVar("Served", bound=AbstractAsyncContextManager[Any])


def arguments_of(
    source: Callable[Concatenate[Any, P], object],
) -> Callable[[Callable[..., T]], Callable[Concatenate[Any, P], T]]:
    """Return a decorator that gives a method the signature of another one, which it passes its arguments on to."""

    def decorate(method: Callable[..., T]) -> Callable[Concatenate[Any, P], T]:
        returns = signature(method).return_annotation
        vars(method)["__signature__"] = signature(source).replace(return_annotation=returns)
        return method

    return decorate


class Blocking(Generic[Served]):
    """Something of asyncio, opened on a loop in a thread: when its context is entered, or by its first call.

    It may be used from many threads at once, but neither in a forked child nor after `close`. A program that ends
    without `close` closes it at exit.
    """

    def __init__(self, served: Served) -> None:
        self._served = served
        self._thread = LoopThread(served)

    def __enter__(self) -> Self:
        self._thread.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it. Calls in progress in other threads raise ClientClosed, as later ones do."""
        self._thread.close()


def blocking_call(
    method: Callable[Concatenate[Served, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Blocking[Served], P], T]:
    """Return the coroutine method as one that blocks."""

    @wraps(method)
    def call(self: Blocking[Served], /, *arguments: P.args, **options: P.kwargs) -> T:
        return self._thread.call(method, self._served, *arguments, **options)

    return call


def blocking_iterator(
    method: Callable[Concatenate[Served, P], AsyncIterator[T]],
) -> "Callable[Concatenate[Blocking[Served], P], BlockingIterator[T]]":
    """Return the method, which makes an asynchronous iterator of anything but None, as one that makes a plain one."""

    @wraps(method)
    def iterate(self: Blocking[Served], /, *arguments: P.args, **options: P.kwargs) -> BlockingIterator[T]:
        return BlockingIterator(self._thread, method(self._served, *arguments, **options))

    vars(iterate)["__signature__"] = signature(method).replace(return_annotation=BlockingIterator)
    return iterate


class BlockingIterator(Iterator[T]):
    """A plain iterator over an asynchronous one. One thread at a time may iterate."""

    def __init__(self, thread: LoopThread, items: AsyncIterator[T]) -> None:
        self._thread = thread
        self._items = items
        self._lock = threading.RLock()
        self._reading: futures.Future[T | None] | None = None
        self._is_closed = False

    def __next__(self) -> T:
        with self._lock:
            if self._is_closed:
                raise StopIteration
            self._reading = futures.Future()
        try:
            self._thread.begin(self._reading, _next, self._items)
            item = self._thread.result(self._reading)
        except ClientClosed:
            if self._is_closed:
                raise StopIteration from None
            raise
        except BaseException:
            self._reading.cancel()
            raise
        if item is None:
            raise StopIteration
        return item

    def close(self) -> None:
        """End the iteration. May be called from any thread: one that waits for the next item finds the end."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            if self._reading is None or not self._reading.cancel():
                with suppress(ClientClosed):  # then the iterator is closed as well
                    self._thread.begin(futures.Future(), _close, self._items)


async def _next(items: AsyncIterator[T]) -> T | None:
    return await anext(items, None)


async def _close(items: AsyncIterator[Any]) -> None:
    if isinstance(items, AsyncGenerator):
        await items.aclose()


class BlockingJobRun:
    """An attempt at a job, made by `BlockingJobStatusClient.run_job`. It can be entered once.

    Its methods may be called from any thread.
    """

    def __init__(self, thread: LoopThread, run: JobRun) -> None:
        self._thread = thread
        self._run = run
        self._attempt: futures.Future[None] | None = None
        self._left: asyncio.Future[BaseException | None] | None = None

    @property
    def job(self) -> Job:
        """The job as it was started."""
        return self._run.job

    @property
    def attempt(self) -> int:
        """The number of this attempt at the job, from 1."""
        return self._run.attempt

    @property
    def is_lost(self) -> bool:
        """Whether the job no longer belongs to this attempt. `check` raises the reason."""
        attempt = self._attempt
        return attempt is not None and attempt.done() and (attempt.cancelled() or attempt.exception() is not None)

    def check(self) -> None:
        """Raise what has ended the attempt, if anything: LeaseLost with its cause, JobCancelled, or ClientClosed."""
        self._thread.check_process()
        if self._attempt is not None and self._attempt.done():
            self._thread.result(self._attempt)

    @arguments_of(JobRun.report)
    def report(self, *arguments: Any, **options: Any) -> None:
        """Report progress (0 to 1) and a message with the next heartbeat, which is then sent soon. Raises as `check`.

        At most about four heartbeats a second are sent, each with the latest report. Raises InvalidField.
        """
        self.check()
        self._run.report(*arguments, **options)

    @arguments_of(JobRun.complete)
    def complete(self, *arguments: Any, **options: Any) -> None:
        """Complete the job with this result (see `complete_job`) when the block ends."""
        self._run.complete(*arguments, **options)

    @arguments_of(JobRun.fail)
    def fail(self, *arguments: Any, **options: Any) -> None:
        """Fail the job with this error when the block ends."""
        self._run.fail(*arguments, **options)

    def __enter__(self) -> Self:
        if self._attempt is not None:
            raise RuntimeError("a run can be entered once")
        entered: futures.Future[None] = futures.Future()
        self._attempt = futures.Future()
        try:
            self._thread.begin(self._attempt, self._hold, entered)
            futures.wait((entered, self._attempt), return_when=futures.FIRST_COMPLETED)
        except BaseException:
            self._attempt.cancel()
            raise
        if not entered.done():
            self._thread.result(self._attempt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._attempt is None:
            return
        try:
            self._thread.soon(self._leave, error)
            self._thread.result(self._attempt)
        except Exception as problem:
            if error is None:
                raise
            if problem is not error:
                error.add_note(f"{problem} ({problem.__cause__})" if problem.__cause__ else str(problem))
        except BaseException:
            self._attempt.cancel()
            raise

    async def _hold(self, entered: futures.Future[None]) -> None:
        """Be the task that the asyncio run belongs to, and is cancelled by it when the job is lost.

        What the block raised is passed on as a value: raised here, a KeyboardInterrupt would end the event loop.
        """
        await self._run.__aenter__()
        self._left = asyncio.get_running_loop().create_future()
        entered.set_result(None)
        try:
            error = await self._left
        except asyncio.CancelledError as cancelled:
            error = cancelled
        finally:
            self._left = None  # it would keep the exception alive, and all that the block's frames hold
        await self._run.__aexit__(None if error is None else type(error), error, None)
        if isinstance(error, asyncio.CancelledError):
            raise error

    def _leave(self, error: BaseException | None) -> None:
        if self._left is not None and not self._left.done():
            # A run that meets GeneratorExit may not wait, and would leave the job to its lease. Here it may.
            self._left.set_result(asyncio.CancelledError() if isinstance(error, GeneratorExit) else error)


class BlockingJobStatusClient(Blocking[JobStatusClient]):
    """A client of one JobStatus service for threads. One is enough for a process, whatever the number of threads.

    Arguments, calls, errors and retries are those of JobStatusClient. Ctrl-C in a thread that waits for a call cancels
    the call. A client that is made before a fork may be used after it if it was not used before.
    """

    @arguments_of(JobStatusClient.__init__)
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(JobStatusClient(*arguments, **options))

    create_job = blocking_call(JobStatusClient.create_job)
    start_job = blocking_call(JobStatusClient.start_job)
    heartbeat_job = blocking_call(JobStatusClient.heartbeat_job)
    complete_job = blocking_call(JobStatusClient.complete_job)
    fail_job = blocking_call(JobStatusClient.fail_job)
    cancel_job = blocking_call(JobStatusClient.cancel_job)
    batch_write = blocking_call(JobStatusClient.batch_write)
    get_job = blocking_call(JobStatusClient.get_job)
    get_jobs = blocking_call(JobStatusClient.get_jobs)
    list_jobs_page = blocking_call(JobStatusClient.list_jobs_page)
    list_jobs = blocking_iterator(JobStatusClient.list_jobs)
    watch_job = blocking_iterator(JobStatusClient.watch_job)
    wait_for_job = blocking_call(JobStatusClient.wait_for_job)
    delete_job = blocking_call(JobStatusClient.delete_job)
    put_virtual_key = blocking_call(JobStatusClient.put_virtual_key)
    get_virtual_key = blocking_call(JobStatusClient.get_virtual_key)
    list_virtual_keys = blocking_iterator(JobStatusClient.list_virtual_keys)
    delete_virtual_key = blocking_call(JobStatusClient.delete_virtual_key)

    @arguments_of(JobStatusClient.run_job)
    def run_job(self, *arguments: Any, **options: Any) -> BlockingJobRun:
        """Return one attempt at a job as a context: `with client.run_job(job_id) as run`.

        Entering starts the job and raises what `start_job` raises. Inside, heartbeats keep its lease, while the thread
        computes: the library that it calls must release Python's interpreter lock. Leaving ends it:

        * with what `run.complete` or `run.fail` was given;
        * as failed when an exception leaves the block, Ctrl-C included. The exception is always raised on. Its class
          and text stand in the job's error, which everyone who may poll the job can read;
        * as failed, with RuntimeError, when the block called neither.

        A thread cannot be interrupted. Where the job no longer belongs to this attempt, LeaseLost is raised, with its
        cause, by the next `run.report` or `run.check` and on leaving; JobCancelled where it was cancelled.
        `run.is_lost` is true from then on. A result that cannot be written (ResultNotJson, ResultTooLarge) is raised,
        and fails the job only at its last attempt. Two runs must not share a `worker_id`, because the service takes
        them for one worker.
        """
        return BlockingJobRun(self._thread, self._served.run_job(*arguments, **options))
