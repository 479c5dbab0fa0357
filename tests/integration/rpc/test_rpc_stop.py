"""A stop as clients see it that never try a call again and know of another replica."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any, Final

import grpc
from harness.http import LIMIT_SECONDS
from harness.jobs import create, creation
from harness.service import service_here
from harness.staged_service import StagedService
from harness.waiting import until
from harness.wire import PREFACE, Refusal, channel_to, refused
from jobstatus.app.limits import ServiceLimits
from jobstatus.rpc.options import RpcLimits
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub

WRITERS: Final = 20
HELD_LONG: Final = ServiceLimits(rpc=RpcLimits(hold_seconds=0.5))
"""Answers are held back for longer than it takes a busy machine to accept what has arrived."""
MOST_REFUSALS: Final = 10
"""Of calls that arrive while the GOAWAY is on its way, which takes a busy machine a moment."""
OWN: Final = (("grpc.use_local_subchannel_pool", 1),)


async def test_a_stop_refuses_no_write() -> None:
    """Clients that write one job after the other through a stop of their replica go on at the next one.

    Few calls, if any, end without an answer: those that are on their way when gRPC closes, which it ends by itself.
    """
    written, ended = [0] * WRITERS, list[grpc.aio.AioRpcError]()
    async with AsyncExitStack() as stack, service_here() as stays:
        stops = await stack.enter_async_context(service_here(limits=HELD_LONG))
        target = f"ipv4:127.0.0.1:{stops.grpc_port},127.0.0.1:{stays.grpc_port}"

        async def write(writer: int) -> None:
            async with grpc.aio.insecure_channel(target, OWN) as channel:
                jobs: Any = JobStatusStub(channel)
                while True:
                    try:
                        await jobs.CreateJob(creation(f"job-{writer}-{written[writer]}"), timeout=LIMIT_SECONDS)
                    except grpc.aio.AioRpcError as error:
                        ended.append(error)
                    else:
                        written[writer] += 1

        writers = [asyncio.create_task(write(writer)) for writer in range(WRITERS)]
        try:
            await until(lambda: min(written) > 1)
            await stack.aclose()
            before = list(written)
            await until(lambda: all(now > was + 1 for now, was in zip(written, before, strict=True)))
        finally:
            for writer in writers:
                writer.cancel()
            await asyncio.gather(*writers, return_exceptions=True)
        assert not any("jobstatus-reason" in dict(error.trailing_metadata()) for error in ended), ended
        assert len(ended) < WRITERS / 2, ended
        assert (await stays.jobs.ListJobs(pb.ListJobsRequest())).jobs


async def test_a_stop_ends_what_would_last_longer() -> None:
    """Watches and edges' streams end with SHUTTING_DOWN, so that a stop does not wait for them."""
    told = Refusal(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(service_here())
        await create(service, "j1")
        async with channel_to(service.grpc_port) as channel:
            jobs: Any = JobStatusStub(channel)
            stream, follow = jobs.WatchJob(pb.WatchJobRequest(job_id="j1")), jobs.FollowJobs()
            await stream.read()
            await follow.read()
            async with asyncio.timeout(LIMIT_SECONDS):
                await stack.aclose()
            assert await refused(stream.read()) == told
            assert await refused(follow.read()) == told


async def test_watches_opened_during_a_stop_find_the_next_replica() -> None:
    """None is refused before the GOAWAY is on its way, so hardly any is."""
    outcomes: list[str] = []
    async with AsyncExitStack() as stack, service_here() as stays:
        stops = await stack.enter_async_context(service_here(limits=HELD_LONG))
        await create(stops, "j1")
        await create(stays, "j1", provider="another")
        target = f"ipv4:127.0.0.1:{stops.grpc_port},127.0.0.1:{stays.grpc_port}"

        async def watch() -> None:
            async with grpc.aio.insecure_channel(target, OWN) as channel:
                jobs: Any = JobStatusStub(channel)
                while True:
                    stream = jobs.WatchJob(pb.WatchJobRequest(job_id="j1"), timeout=LIMIT_SECONDS)
                    try:
                        outcomes.append((await stream.read()).job.provider)
                    except grpc.aio.AioRpcError as error:
                        outcomes.append(error.code().name)
                    stream.cancel()

        watcher = asyncio.create_task(watch())
        try:
            await until(lambda: "" in outcomes)
            await stack.aclose()
            await until(lambda: "another" in outcomes)
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
    refusals = [outcome for outcome in outcomes if outcome.isupper()]
    assert len(refusals) <= MOST_REFUSALS, refusals


async def test_a_stop_that_is_cancelled_sends_the_answers_that_it_held_back() -> None:
    """A committed write is answered OK, whatever becomes of the stop."""
    service = StagedService()
    await service.start()
    service.stage.gates["CreateJob"] = gate = asyncio.Event()
    async with grpc.aio.insecure_channel(service.target) as channel:
        jobs: Any = JobStatusStub(channel)
        call = jobs.CreateJob(creation("j1"), timeout=LIMIT_SECONDS)
        await service.stage.next_request("CreateJob")
        stopping = asyncio.create_task(service.server.stop(1))
        await asyncio.sleep(0)
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        gate.set()
        assert (await call).job.job_id == "j1"
    await service.server.stop(0)
    await service.tracker.close()


async def test_connections_end_by_age_without_a_lost_call() -> None:
    """A connection is told to go when it has its age, and calls on it notice nothing."""
    limits = ServiceLimits(rpc=RpcLimits(max_age_ms=50, hold_seconds=0))
    async with service_here(limits=limits) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.grpc_port)
        writer.write(PREFACE)
        aged = asyncio.create_task(reader.readuntil(b"max_age"))
        async with asyncio.timeout(LIMIT_SECONDS):
            number = 0
            while not aged.done() or number < 100:
                await create(service, f"j{number}")
                number += 1
        assert await aged
        writer.close()
