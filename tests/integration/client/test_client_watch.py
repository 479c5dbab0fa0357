"""Watches of the client, which outlive the service's absence."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

import pytest
from google.protobuf.message import Message
from harness.cutting_proxy import Cut, cutting_proxy
from harness.replica import COMPLETED, PENDING
from harness.staged_service import LIMIT_SECONDS, StagedService
from harness.waiting import until
from jobstatus.client import JobState, JobStatusClient, ServiceFailed, ServiceUnreachable
from jobstatus.client.errors import StreamBroken
from jobstatus.client.watching import Patience, WatchLimits
from jobstatus.core import errors
from jobstatus.v1 import job_status_pb2 as pb

SIGN_OF_LIFE: Final = pb.WatchJobResponse()
JOB_AT_FIRST: Final = pb.WatchJobResponse(job=PENDING)
JOB_AT_LAST: Final = pb.WatchJobResponse(job=COMPLETED)


async def test_a_watch_follows_the_job_to_its_end(client: JobStatusClient, job_id: str) -> None:
    """The job as it is now, then each newer version, ending after the terminal one, its result included."""
    states = []
    async for job in client.watch_job(job_id):
        states.append(job.state)
        if job.state is JobState.PENDING:
            await client.complete_job(job_id, {"text": "x"})
    assert states == [JobState.PENDING, JobState.COMPLETED]
    assert job.result == b'{"text":"x"}'


async def test_a_watch_that_breaks_goes_on_after_the_last_version(
    client: JobStatusClient, service: StagedService, job_id: str
) -> None:
    """No version is seen twice, and the end is not missed."""
    service.stage.answers_before_break = 1
    versions = []
    async for job in client.watch_job(job_id):
        versions.append(job.version)
        if not job.is_terminal:
            service.stage.failures["WatchJob"].append(errors.ShuttingDown())
            await client.complete_job(job_id, {})
    assert versions == [1, 2]
    asked = [(await service.stage.next_request("WatchJob")).after_version for _ in range(3)]
    assert asked == [0, 1, 1]


async def test_a_watch_that_was_quiet_for_long_is_taken_up_again(
    client: JobStatusClient, service: StagedService, job_id: str
) -> None:
    """Patience counts from when the service goes away, not from its last answer."""
    watch = client.watch_job(job_id, patience=timedelta(seconds=3))
    assert (await anext(watch)).version == 1
    following = asyncio.create_task(anext(watch))
    await asyncio.wait((following,), timeout=3.2)
    await service.server.stop(0)
    await service.start()
    await client.complete_job(job_id, {})
    assert (await asyncio.wait_for(following, LIMIT_SECONDS)).state is JobState.COMPLETED


async def test_a_watch_ends_when_the_job_or_the_patience_does(
    client: JobStatusClient, service: StagedService, job_id: str
) -> None:
    """An unknown job is said to be one at once, a service that stays away after the patience."""
    with pytest.raises(errors.JobNotFound):
        await anext(client.watch_job("none"))
    service.stage.failures["WatchJob"].extend([errors.ShuttingDown()] * 100)
    with pytest.raises(errors.ShuttingDown):
        await anext(client.watch_job(job_id, patience=timedelta(seconds=0.2)))


def in_turn(*answers: Sequence[Message]) -> Callable[[bytes], Sequence[Message]]:
    """The first for the first stream, and so on."""
    left = deque(answers)
    return lambda _: left.popleft()


@pytest.mark.parametrize("cut", Cut)
async def test_a_watch_that_a_proxy_cuts_goes_on(cut: Cut) -> None:
    """However the stream ends, and although one of its parts brought nothing new."""
    answers = in_turn([JOB_AT_FIRST, SIGN_OF_LIFE], [], [], [SIGN_OF_LIFE, JOB_AT_LAST])
    versions = []
    async with cutting_proxy(answers, cut) as proxy, JobStatusClient(proxy.target) as client:
        async for job in client.watch_job("job-1"):
            versions.append(job.version)
            proxy.cut_open()
    assert versions == [1, 2]
    requests = [pb.WatchJobRequest.FromString(request) for request in proxy.requests]
    assert [request.HasField("after_version") for request in requests] == [False, True, True, True]
    assert [request.after_version for request in requests] == [0, 1, 1, 1]
    assert {request.idle_interval.ToSeconds() for request in requests} == {25}


@pytest.mark.parametrize("cut", Cut)
async def test_a_wait_that_a_proxy_cuts_goes_on(cut: Cut) -> None:
    """To the job's end."""
    answers = in_turn([JOB_AT_FIRST, SIGN_OF_LIFE], [], [SIGN_OF_LIFE, JOB_AT_LAST])
    async with cutting_proxy(answers, cut) as proxy, JobStatusClient(proxy.target) as client:
        waiting = asyncio.create_task(client.wait_for_job("job-1"))
        await until(lambda: len(proxy.requests) == 1)
        proxy.cut_open()
        assert (await asyncio.wait_for(waiting, LIMIT_SECONDS)).version == 2


async def test_a_watch_that_is_cut_again_and_again_is_given_up() -> None:
    """After the patience, which a proxy in front of nothing would otherwise use up for ever."""
    async with cutting_proxy(lambda _: [], Cut.INTERNAL_ERROR) as proxy, JobStatusClient(proxy.target) as client:
        with pytest.raises(ServiceUnreachable, match="RST_STREAM"):
            await anext(client.watch_job("job-1", patience=timedelta(seconds=0.2)))
        with pytest.raises(ServiceUnreachable, match="RST_STREAM"):
            await client.wait_for_job("job-1", patience=timedelta(seconds=0.2))


@pytest.mark.parametrize("cut", [Cut.NO_TRAILERS, Cut.INTERNAL_ERROR, Cut.NO_ERROR])
async def test_a_unary_call_that_is_cut_is_not_sent_again(cut: Cut) -> None:
    """A fault of the service may end like this, and the call may have done its work."""
    async with cutting_proxy(lambda _: [], cut) as proxy, JobStatusClient(proxy.target) as client:
        with pytest.raises(ServiceFailed):
            await client.get_job("job-1")
    assert len(proxy.requests) == 1


async def test_a_fault_of_the_service_ends_a_watch(
    client: JobStatusClient, service: StagedService, job_id: str
) -> None:
    """It comes with an ErrorInfo, so it was no proxy."""
    service.stage.failures["WatchJob"].extend([ZeroDivisionError(), ZeroDivisionError()])
    with pytest.raises(ServiceFailed):
        await anext(client.watch_job(job_id))
    with pytest.raises(ServiceFailed):
        await client.wait_for_job(job_id)


@pytest.mark.parametrize(("interval", "asked"), [(timedelta(seconds=7), 7), (None, None)])
async def test_signs_of_life_are_asked_for(
    client: JobStatusClient,
    service: StagedService,
    job_id: str,
    interval: timedelta | None,
    asked: int | None,
) -> None:
    """As often as the caller says, or not at all."""
    await client.complete_job(job_id, {})
    assert [job.state async for job in client.watch_job(job_id, idle_interval=interval)] == [JobState.COMPLETED]
    assert (await client.wait_for_job(job_id, idle_interval=interval)).state is JobState.COMPLETED
    for _ in range(2):
        request = await service.stage.next_request("WatchJob")
        assert (request.idle_interval.ToSeconds() if request.HasField("idle_interval") else None) == asked


class Hands:
    """Of a clock; the test moves them."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def tries(patience: Patience, hands: Hands, error: errors.JobStatusError, *, lasting: float, most: int) -> int:
    """How many streams that last so long end with this error before the patience does, up to a bound."""
    for count in range(most):
        patience.begin_try()
        hands.seconds += lasting
        try:
            hands.seconds += patience.pause_after(error)
        except type(error):
            return count
    return most


@pytest.mark.parametrize(
    ("error", "lasting", "is_proven"),
    [
        (StreamBroken(), 50.0, True),
        (StreamBroken(), 2.0, True),
        (StreamBroken(), 0.5, False),
        (ServiceUnreachable(), 50.0, True),
        (ServiceUnreachable(), 40.0, False),
        (errors.ShuttingDown(), 0.1, False),
    ],
)
def test_a_silent_stream_that_lasts_was_alive(error: errors.JobStatusError, lasting: float, *, is_proven: bool) -> None:
    """A proxy that ends silent streams for hours uses up no patience, while a service that is away does."""
    hands = Hands()
    for at_first in (True, False):
        patience = Patience(60, WatchLimits(), now=hands, at_first=at_first)
        assert (tries(patience, hands, error, lasting=lasting, most=200) == 200) is is_proven


def test_pauses_grow_although_each_stream_begins_well() -> None:
    """A stream that is cut right after its first response is not opened ten times a second for ever."""
    hands = Hands()
    patience = Patience(60, WatchLimits(), now=hands, at_first=True)
    lengths = []
    for _ in range(12):
        patience.begin_try()
        patience.note_response()
        lengths.append(patience.pause_after(StreamBroken()))
    assert min(lengths[6:]) >= 1
    patience.begin_try()
    hands.seconds += 10
    assert patience.pause_after(StreamBroken()) <= 0.1
