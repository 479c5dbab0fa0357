"""The blocking client: the calls of the asyncio client for threads, and runs whose thread computes meanwhile."""

import asyncio
import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import timedelta
from typing import Any, cast

import grpc
import pytest
from harness.waiting import LIMIT_SECONDS, until
from jobstatus.client import (
    BlockingIterator,
    BlockingJobRun,
    BlockingJobStatusClient,
    ClientClosed,
    CompleteJob,
    CreateJob,
    Job,
    JobCancelled,
    JobNotFound,
    JobState,
    JobStatusClient,
    JobTerminal,
    LeaseHeld,
    LeaseLost,
    RequestType,
    ResultNotJson,
    ServiceUnreachable,
    ShuttingDown,
    hash_key,
)
from jobstatus.testing import BlockingServiceDouble

LEASE = timedelta(seconds=1)
"""The shortest lease: a heartbeat is sent three times a second."""


@pytest.fixture
def service() -> Iterator[BlockingServiceDouble]:
    with BlockingServiceDouble() as service:
        yield service


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


@pytest.fixture
def client(
    service: BlockingServiceDouble,
    pool: ThreadPoolExecutor,  # noqa: ARG001  # ends after the client, for which its threads may wait
) -> Iterator[BlockingJobStatusClient]:
    with BlockingJobStatusClient(service.target) as client:
        yield client


@pytest.fixture
def job_id(client: BlockingJobStatusClient) -> str:
    return client.create_job(request_type=RequestType.TRANSCRIPTION, max_attempts=2).job_id


def wait_until(condition: Callable[[], bool]) -> None:
    asyncio.run(until(condition))


def calls_in_progress(client: BlockingJobStatusClient) -> int:
    return len(client._thread._calls)


def in_thread(pool: ThreadPoolExecutor, client: BlockingJobStatusClient, call: Callable[[], Any]) -> Any:
    """The future of a call in another thread, which is in progress when this returns."""
    before = set(client._thread._calls)
    future = pool.submit(call)
    wait_until(lambda: bool(client._thread._calls - before))
    return future


def error_code(job: Job) -> str | None:
    assert job.error is not None
    return job.error.error.code


def test_each_call_of_the_asyncio_client_is_there_with_its_arguments() -> None:
    """What is added to one client is added to the other: a call by one line, an argument by none."""
    names = [name for name in vars(JobStatusClient) if not name.startswith("_")]
    assert set(names) < set(dir(BlockingJobStatusClient))
    for name in ("__init__", *names):
        theirs, ours = getattr(JobStatusClient, name), getattr(BlockingJobStatusClient, name)
        assert inspect.signature(ours).parameters == inspect.signature(theirs).parameters
        assert not inspect.iscoroutinefunction(ours)
        assert name == "__init__" or ours.__doc__
    assert inspect.signature(BlockingJobStatusClient.run_job).return_annotation is BlockingJobRun
    assert inspect.signature(BlockingJobStatusClient.watch_job).return_annotation is BlockingIterator


def test_a_job_is_created_started_kept_alive_completed_and_deleted(client: BlockingJobStatusClient) -> None:
    """The calls return what the asyncio client's return."""
    job = client.create_job(request_type=RequestType.OCR, job_id="a", virtual_key_id="vk-1")
    assert client.start_job("a", worker_id="w", lease=timedelta(seconds=30)).attempt == 1
    assert client.heartbeat_job("a", attempt=1, progress=0.5).progress == 0.5
    assert client.complete_job("a", {"text": "ä"}, attempt=1).state is JobState.COMPLETED
    assert client.wait_for_job("a").result == client.get_job("a").result == '{"text":"ä"}'.encode()
    assert [each.job_id for each in client.get_jobs(["a", "none"])] == [job.job_id]
    outcomes = client.batch_write(
        [CreateJob(job_id="b", request_type=RequestType.OCR), CompleteJob(job_id="c", result=b"1")]
    )
    assert [type(outcome) for outcome in outcomes] == [Job, JobNotFound]
    assert client.fail_job("b", "no audio").state is JobState.FAILED
    assert {each.job_id for each in client.list_jobs(page_size=1, request_type=RequestType.OCR)} == {"a", "b"}
    assert len(client.list_jobs_page(page_size=1).jobs) == 1
    client.delete_job("a")
    with pytest.raises(JobNotFound) as caught:
        client.get_job("a")
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)


def test_virtual_keys_are_put_read_listed_and_deleted(client: BlockingJobStatusClient) -> None:
    """The calls of the other service, too."""
    put = client.put_virtual_key("vk", key_sha256=[hash_key("sk-bf-1")])
    assert [client.get_virtual_key("vk"), *client.list_virtual_keys()] == [put, put]
    client.delete_virtual_key("vk")
    assert list(client.list_virtual_keys()) == []


def test_many_threads_share_a_client_that_opens_with_the_first_call(
    service: BlockingServiceDouble, pool: ThreadPoolExecutor
) -> None:
    """It need not be entered, and starts one thread, whoever is first."""
    client = BlockingJobStatusClient(service.target)
    together = threading.Barrier(16)

    def work(number: int) -> bytes | None:
        together.wait(LIMIT_SECONDS)
        job_id = client.create_job(request_type=RequestType.SPEECH).job_id
        with client.run_job(job_id) as run:
            run.report(progress=0.5)
            run.complete(number)
        return client.get_job(job_id).result

    threads_before = threading.active_count()
    assert list(pool.map(work, range(16))) == [str(number).encode() for number in range(16)]
    assert threading.active_count() == threads_before + 16 + 1
    client.close()


def test_errors_are_retried_as_by_the_asyncio_client(client: BlockingJobStatusClient, job_id: str) -> None:
    """A call that may help again is made again until the client's timeout."""
    with (
        BlockingJobStatusClient("127.0.0.1:1", timeout=timedelta(seconds=0.3)) as nobody,
        pytest.raises(ServiceUnreachable),
    ):
        nobody.get_job(job_id)
    with pytest.raises(TimeoutError):
        client.wait_for_job(job_id, timeout=timedelta(seconds=0.05))


def test_a_restart_of_the_service_is_waited_for(
    service: BlockingServiceDouble, client: BlockingJobStatusClient, job_id: str, pool: ThreadPoolExecutor
) -> None:
    """Calls made meanwhile, a watch and a run all go on."""
    watching = in_thread(pool, client, lambda: [job.state for job in client.watch_job(job_id)])
    with client.run_job(job_id, lease=10 * LEASE) as run:
        service.stop()
        reading = in_thread(pool, client, lambda: client.get_job(job_id))
        service.start()
        service.fail_next("CompleteJob", ShuttingDown())
        assert reading.result(LIMIT_SECONDS).state is JobState.PROCESSING
        run.complete({})
    assert watching.result(LIMIT_SECONDS)[-1] is JobState.COMPLETED


def test_ctrl_c_cancels_the_call_that_is_waited_for(
    service: BlockingServiceDouble, client: BlockingJobStatusClient, job_id: str
) -> None:
    """The service is left in peace, and the client goes on to be usable."""

    def interrupt() -> None:
        wait_until(lambda: calls_in_progress(client) == 1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def wait() -> None:
        threading.Thread(target=interrupt).start()
        client.wait_for_job(job_id)

    with pytest.raises(KeyboardInterrupt):
        wait()
    wait_until(lambda: calls_in_progress(client) == 0)
    assert ("WatchJob", "OK") not in service.answered
    assert client.get_job(job_id).state is JobState.PENDING


def test_a_watch_follows_the_job_to_its_end(client: BlockingJobStatusClient, job_id: str) -> None:
    """Each version once, ending after the terminal one."""
    states = []
    for job in client.watch_job(job_id):
        states.append(job.state)
        if job.state is JobState.PENDING:
            client.complete_job(job_id, {})
    assert states == [JobState.PENDING, JobState.COMPLETED]
    with pytest.raises(JobNotFound):
        next(client.watch_job("none"))


def test_a_watch_can_be_closed_by_its_thread_and_by_another(
    service: BlockingServiceDouble, client: BlockingJobStatusClient, job_id: str, pool: ThreadPoolExecutor
) -> None:
    """The loop over it ends as if there were no more versions, and the service is told at once."""
    with closing(client.watch_job(job_id)) as watch:
        assert next(watch).version == 1
    assert list(watch) == []
    wait_until(lambda: service.answered.count(("WatchJob", "CANCELLED")) == 1)
    other = client.watch_job(job_id, after_version=1)
    reading = in_thread(pool, client, lambda: list(other))
    other.close()
    other.close()
    assert reading.result(LIMIT_SECONDS) == []
    unused = client.watch_job(job_id)
    client.close()
    unused.close()


def test_a_watch_that_is_dropped_is_closed(
    service: BlockingServiceDouble, client: BlockingJobStatusClient, job_id: str
) -> None:
    """A loop that breaks off leaves no stream behind."""
    assert next(client.watch_job(job_id)).version == 1
    wait_until(lambda: ("WatchJob", "CANCELLED") in service.answered)


def test_a_run_completes_or_fails_its_job(client: BlockingJobStatusClient, job_id: str) -> None:
    """With what the block said, and with a lease meanwhile."""
    with client.run_job(job_id, worker_id="w", lease=LEASE) as run:
        assert (run.job.worker_id, run.attempt, run.is_lost) == ("w", 1, False)
        assert client.get_job(job_id).lease_expires_at_ms == run.job.lease_expires_at_ms
        with pytest.raises(LeaseHeld), client.run_job(job_id):
            pytest.fail("entered")
        run.complete({"text": "hello"}, status_code=203)
        run.check()
    job = client.get_job(job_id)
    assert (job.state, job.result, job.status_code, run.is_lost) == (
        *(JobState.COMPLETED, b'{"text":"hello"}', 203),
        False,
    )
    run.check()
    with pytest.raises(RuntimeError, match="once"):
        run.__enter__()
    other = client.create_job(request_type=RequestType.OCR)
    with client.run_job(other.job_id) as run:
        run.fail("no audio", status_code=422)
    assert client.get_job(other.job_id).status_code == 422


def test_heartbeats_go_on_while_the_thread_computes(
    service: BlockingServiceDouble, client: BlockingJobStatusClient, job_id: str
) -> None:
    """By themselves, and soon after a report."""
    with client.run_job(job_id, lease=LEASE) as run:
        wait_until(lambda: service.answered.count(("HeartbeatJob", "OK")) == 2)
        run.report(progress=0.25, message="decoding")
        progress = next(job.progress for job in client.watch_job(job_id) if job.progress)
        run.complete({"progress": progress})
    assert client.get_job(job_id).result == b'{"progress":0.25}'


def lose_the_lease(service: BlockingServiceDouble, _: BlockingJobStatusClient, job_id: str) -> None:
    service.lose_lease(job_id)


def end_it(_: BlockingServiceDouble, client: BlockingJobStatusClient, job_id: str) -> None:
    client.fail_job(job_id, "by the operator", attempt=1)


def delete_it(_: BlockingServiceDouble, client: BlockingJobStatusClient, job_id: str) -> None:
    client.delete_job(job_id)


Lose = Callable[[BlockingServiceDouble, BlockingJobStatusClient, str], None]
LOSSES = [(lose_the_lease, LeaseLost), (end_it, JobTerminal), (delete_it, JobNotFound)]


@pytest.mark.parametrize(("lose", "cause"), LOSSES)
def test_a_lost_job_is_told_by_the_next_report_and_by_check(
    service: BlockingServiceDouble, client: BlockingJobStatusClient, lose: Lose, cause: type[Exception]
) -> None:
    """LeaseLost with its cause, which leaves the block as it is."""

    def work(tell: Callable[[BlockingJobRun], None]) -> None:
        with client.run_job(client.create_job(request_type=RequestType.OCR, max_attempts=2).job_id) as run:
            lose(service, client, run.job.job_id)
            run.report(progress=0.5)
            wait_until(lambda: run.is_lost)
            tell(run)
            pytest.fail("was not told")

    for tell in (BlockingJobRun.check, lambda run: run.report(progress=0.6)):
        with pytest.raises(LeaseLost) as caught:
            work(tell)
        assert type(caught.value.__cause__) is cause


@pytest.mark.parametrize(("lose", "cause"), LOSSES)
def test_a_lost_job_is_told_at_the_end_of_the_block(
    service: BlockingServiceDouble, client: BlockingJobStatusClient, lose: Lose, cause: type[Exception]
) -> None:
    """To a thread that asked nothing while it computed, whether a heartbeat found out or the outcome does."""

    def work(*, computes: bool) -> None:
        job_id = client.create_job(request_type=RequestType.OCR, max_attempts=2).job_id
        with client.run_job(job_id, lease=LEASE) as run:
            lose(service, client, job_id)
            wait_until(lambda: run.is_lost or not computes)
            run.complete("1")

    for computes in (False, True):
        with pytest.raises(LeaseLost) as caught:
            work(computes=computes)
        assert type(caught.value.__cause__) is cause


def test_a_cancelled_job_is_told_as_such(client: BlockingJobStatusClient, job_id: str) -> None:
    """By the next check, as the asyncio client ends its block with it."""

    def work() -> None:
        with client.run_job(job_id) as run:
            client.cancel_job(job_id, "no longer wanted")
            run.report(progress=0.5)
            wait_until(lambda: run.is_lost)
            run.check()
            pytest.fail("was not told")

    with pytest.raises(JobCancelled):
        work()
    assert error_code(client.get_job(job_id)) == "cancelled_by_client"


def test_an_error_of_the_block_hides_no_lost_job(client: BlockingJobStatusClient, job_id: str) -> None:
    """The block's own error is raised, with a note."""

    def work() -> None:
        with client.run_job(job_id) as run:
            client.delete_job(job_id)
            run.report(progress=0.5)
            wait_until(lambda: run.is_lost)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        work()
    assert "has lost the job. (Job not found or expired.)" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ZeroDivisionError("1/0"), "ZeroDivisionError"),
        (StopIteration(), "StopIteration"),
        (KeyboardInterrupt(), "worker_stopped"),
        (SystemExit(1), "worker_stopped"),
        (GeneratorExit(), "worker_stopped"),
    ],
)
def test_what_leaves_the_block_fails_the_job(
    client: BlockingJobStatusClient, job_id: str, error: BaseException, code: str
) -> None:
    """Whatever it is, the very same exception is raised on, and the client stays usable."""
    with pytest.raises(type(error)) as caught, client.run_job(job_id):
        raise error
    assert caught.value is error
    assert error_code(client.get_job(job_id)) == code


def test_a_block_that_failed_keeps_nothing_alive(client: BlockingJobStatusClient, job_id: str) -> None:
    """What its frames held, perhaps a GPU's memory, is free as soon as its exception is, without a collection."""

    class Tensor:
        pass

    def work() -> None:
        tensor = Tensor()
        tensors.append(weakref.ref(tensor))
        with client.run_job(job_id) as run:
            run.report(progress=0.5)
            raise ZeroDivisionError

    tensors: list[weakref.ref[Tensor]] = []
    gc.disable()
    try:
        with suppress(ZeroDivisionError):
            work()
        wait_until(lambda: tensors[0]() is None)
    finally:
        gc.enable()


def test_a_block_without_an_outcome_or_with_a_wrong_one_fails_the_job(
    client: BlockingJobStatusClient, job_id: str
) -> None:
    """As in the asyncio client."""
    with pytest.raises(RuntimeError, match="without"), client.run_job(job_id):
        pass
    assert error_code(client.get_job(job_id)) == "no_result"
    other = client.create_job(request_type=RequestType.OCR).job_id
    with pytest.raises(ResultNotJson), client.run_job(other) as run:
        run.complete(b"{")
    assert error_code(client.get_job(other)) == "ResultNotJson"
    with pytest.raises(JobTerminal), client.run_job(other):
        pytest.fail("entered")


def test_ctrl_c_in_a_block_that_computes_fails_the_job(client: BlockingJobStatusClient, job_id: str) -> None:
    """The signal arrives in the thread's own code."""
    with pytest.raises(KeyboardInterrupt), client.run_job(job_id):
        signal.raise_signal(signal.SIGINT)
    assert error_code(client.get_job(job_id)) == "worker_stopped"


def test_a_run_inside_a_generator_ends_with_it(client: BlockingJobStatusClient, job_id: str) -> None:
    """A generator that is closed half-way leaves no job behind that waits for its lease to end."""

    def pages() -> Generator[int]:
        with client.run_job(job_id):
            yield 1

    half = pages()
    assert next(half) == 1
    half.close()
    assert error_code(client.get_job(job_id)) == "worker_stopped"


def test_close_ends_calls_and_runs_in_progress(
    service: BlockingServiceDouble, client: BlockingJobStatusClient, job_id: str, pool: ThreadPoolExecutor
) -> None:
    """Threads that wait are told so at once, and a job whose heartbeats end has failed."""
    waiting = in_thread(pool, client, lambda: client.wait_for_job(job_id))
    watching = in_thread(pool, client, lambda: list(client.watch_job(job_id, after_version=10)))

    def work() -> None:
        with client.run_job(job_id) as run:
            client.close()
            assert run.is_lost
            run.report(progress=0.5)

    with pytest.raises(ClientClosed):
        work()
    for call in (waiting, watching):
        with pytest.raises(ClientClosed):
            call.result(LIMIT_SECONDS)
    for again in (lambda: client.get_job(job_id), client.__enter__, lambda: next(client.watch_job(job_id))):
        with pytest.raises(ClientClosed):
            again()
    client.close()
    with BlockingJobStatusClient(service.target) as other:
        assert error_code(other.get_job(job_id)) == "worker_stopped"


def test_an_outcome_on_its_way_survives_ctrl_c_and_close(
    service: BlockingServiceDouble, client: BlockingJobStatusClient, job_id: str, pool: ThreadPoolExecutor
) -> None:
    """It has the last seconds that the asyncio client gives it, although the thread goes on at once."""

    def interrupt(run: BlockingJobRun) -> None:
        wait_until(lambda: run._left is None)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def work() -> None:
        with client.run_job(job_id) as run:
            service.stop()
            run.complete({})
            pool.submit(interrupt, run)

    with pytest.raises(KeyboardInterrupt):
        work()
    closing = pool.submit(client.close)
    wait_until(client._thread._stopping.is_set)
    service.start()
    closing.result(LIMIT_SECONDS)
    with BlockingJobStatusClient(service.target) as other:
        assert other.get_job(job_id).state is JobState.COMPLETED


def test_a_client_that_cannot_open_says_why(pool: ThreadPoolExecutor) -> None:
    """Each call raises it, from each thread, and closing is possible."""
    client = BlockingJobStatusClient("127.0.0.1:1", credentials=cast("grpc.ChannelCredentials", "none"))
    for call in (client.__enter__, lambda: pool.submit(client.get_job, "a").result(LIMIT_SECONDS)):
        with pytest.raises(AttributeError):
            call()
    client.close()


def test_a_blocking_call_on_its_own_loop_is_refused(client: BlockingJobStatusClient, job_id: str) -> None:
    """It would wait for itself."""

    async def call() -> Job:
        return client.get_job(job_id)

    with pytest.raises(RuntimeError, match="itself"):
        client._thread.call(call)


def run_script(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    environment = os.environ | {"GRPC_VERBOSITY": "ERROR"}  # it says much about forks
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


SCRIPT = """
import atexit, os, signal, sys, threading
from datetime import timedelta
from jobstatus.client import *
from jobstatus.testing import *

def in_child(*calls):
    child = os.fork()
    if not child:
        signal.alarm(30)
        for call in calls:
            try:
                call()
            except Exception as error:
                print(type(error).__name__, error, flush=True)
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0

"""


def test_a_client_used_before_a_fork_says_so_in_the_child() -> None:
    """gRPC's calls would wait for ever there. A client that was only made is good in the child and in the parent."""
    done = run_script(
        SCRIPT
        + """
early = BlockingJobStatusClient("127.0.0.1:1", timeout=timedelta(seconds=0.1))
in_child(lambda: early.get_job("a"))
with BlockingServiceDouble() as service, BlockingJobStatusClient(service.target) as client:
    job_id = client.create_job(request_type=RequestType.OCR).job_id
    watch = client.watch_job(job_id)
    with client.run_job(job_id) as run:
        in_child(
            lambda: client.get_job(job_id),
            lambda: next(watch),
            lambda: run.report(progress=0.5),
            lambda: early.get_job("a"),
            lambda: BlockingJobStatusClient(service.target).get_job(job_id),
        )
        run.complete(1)
    held, done = threading.Event(), threading.Event()

    def hold():
        with client._thread._lock:
            held.set()
            done.wait()

    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    in_child(client.close)
    done.set()
    print(client.get_job(job_id).state)
"""
    )
    first, *others, last = done.stdout.splitlines()
    assert first.startswith("ServiceUnreachable"), done.stderr
    assert len(others) == 5
    assert all(line.startswith("RuntimeError the client was used before this process was forked") for line in others)
    assert (last, done.returncode) == ("completed", 0)


def test_a_program_that_ends_without_close_ends() -> None:
    """In silence, and the job of a run in a daemon thread has failed, because its heartbeats end."""
    done = run_script(
        SCRIPT
        + """
service = BlockingServiceDouble()
service.__enter__()
other, client = BlockingJobStatusClient(service.target), BlockingJobStatusClient(service.target)
job_id = other.create_job(request_type=RequestType.OCR).job_id
atexit.register(lambda: print(other.get_job(job_id).error.error.code))
entered = threading.Event()

def work():
    with client.run_job(job_id):
        entered.set()
        threading.Event().wait()

threading.Thread(target=work, daemon=True).start()
entered.wait()
print(next(other.watch_job(job_id)).state)
"""
    )
    assert (done.stdout.split(), done.stderr, done.returncode) == (["processing", "worker_stopped"], "", 0)
