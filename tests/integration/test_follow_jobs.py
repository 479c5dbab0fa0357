"""FollowJobs, over gRPC: one stream that tells an edge which of many jobs to read again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from harness.certificates import Authorities
from harness.faults import MeddledStore
from harness.hostile_requests import BAD_IDS
from harness.http import request
from harness.jobs import complete, create, creation, start
from harness.service import AT_ONCE, Service, service_here
from harness.stores import SHARED, STORES
from harness.waiting import LIMIT_SECONDS, until
from harness.wire import Refusal, channel_to, refused
from jobstatus.core.errors import StoreUnavailable
from jobstatus.core.tracker import TrackerLimits
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub

UNREAD: Final = -1
GONE: Final = 0


class Followed:
    """One call, its requests and its responses."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def say(self, forgotten: tuple[str, ...] = (), **versions: int) -> None:
        """Follow these, forget those."""
        names = {job_id.replace("_", "-"): version for job_id, version in versions.items()}
        await self.call.write(pb.FollowJobsRequest(versions=names, forgotten_job_ids=forgotten))

    async def told(self) -> set[str]:
        """The jobs of the next response, which has to come; raises what refuses the call."""
        async with asyncio.timeout(LIMIT_SECONDS):
            response = await self.call.read()
        assert response is not grpc.aio.EOF
        return set(response.job_ids)

    async def told_of(self, *job_ids: str) -> None:
        """Return once all of these, and none besides, were told of; perhaps one by one. A marker may be told again."""
        missing = set(job_ids)
        while missing:
            told = await self.told() - {"marker"}
            assert told <= set(job_ids)
            missing -= told

    async def refusal(self) -> Refusal:
        """How the call is refused, after whatever it tells before."""
        return await refused(self._endlessly_told())

    async def _endlessly_told(self) -> None:
        while True:
            await self.told()


@asynccontextmanager
async def following(service: Service) -> AsyncIterator[Followed]:
    """A call whose first response has come: it is empty, and changes are reported from then on."""
    call = service.jobs.FollowJobs()
    followed = Followed(call)
    try:
        assert await followed.told() == set()
        yield followed
    finally:
        call.cancel()


async def test_the_first_response_comes_before_anything_is_said(service: Service) -> None:
    """So that an edge without waiting clients knows whether clients can wait."""
    async with following(service):
        pass


async def test_each_change_of_a_job_is_told(service: Service) -> None:
    """Whatever changes it; other jobs are not reported."""
    job = await create(service, "j1")
    await create(service, "j2")
    async with following(service) as followed:
        await followed.say(j1=job.version)
        await until(lambda: in_step(followed, service))
        await start(service, "j2")
        job = await start(service, "j1")
        await followed.told_of("j1")
        await followed.say(j1=job.version)
        await service.jobs.HeartbeatJob(pb.HeartbeatJobRequest(job_id="j1", progress=0.5))
        await followed.told_of("j1")
        await complete(service, "j1")
        await followed.told_of("j1")
        await service.jobs.DeleteJob(pb.DeleteJobRequest(job_id="j1"))
        await followed.told_of("j1")


async def in_step(followed: Followed, service: Service) -> bool:
    """Whether all requests were handled: a job that was named last, and has changed, is reported."""
    await create(service, "marker")
    await followed.say(marker=GONE)
    while "marker" not in await followed.told():
        continue  # others may be told of once too often
    await followed.say(forgotten=("marker",))
    return True


async def test_what_has_changed_before_it_was_named_is_told_at_once(service: Service) -> None:
    """Another version than was read, a job that is new, one that has gone, one that was not read; no others."""
    for name in ("same", "newer", "new", "unread"):
        await create(service, name)
    await start(service, "newer")
    async with following(service) as followed:
        await followed.say(same=1, newer=1, new=GONE, gone=5, never=GONE, unread=UNREAD)
        await followed.told_of("newer", "new", "gone", "unread")


async def test_a_job_that_is_made_after_it_was_named_is_told(service: Service) -> None:
    """Nothing is there yet, and then it is."""
    async with following(service) as followed:
        await followed.say(j1=GONE)
        await in_step(followed, service)
        await create(service, "j1")
        await followed.told_of("j1")


async def test_what_is_forgotten_is_told_no_more(service: Service) -> None:
    """Forgetting what was never followed is no fault, whatever its name; what is named again is followed again."""
    job = await create(service, "j1")
    async with following(service) as followed:
        await followed.say(j1=job.version)
        await followed.say(forgotten=("j1", "unknown", *BAD_IDS))
        await in_step(followed, service)
        await start(service, "j1")
        await create(service, "j2")
        await followed.say(j2=UNREAD)
        await followed.told_of("j2")
        await followed.say(forgotten=("j1",), j1=1)
        await followed.told_of("j1")


async def test_a_thousand_jobs_are_one_message(service: Service) -> None:
    """All that change at a time are reported, in a few responses, even more than a thousand."""
    names = [f"job-{number}" for number in range(2500)]
    await write_all([pb.Operation(create_job=creation(name)) for name in names], service)
    async with following(service) as followed:
        for begin in range(0, len(names), 1000):
            versions = dict.fromkeys(names[begin : begin + 1000], 1)
            await followed.call.write(pb.FollowJobsRequest(versions=versions))
        await in_step(followed, service)
        done = [pb.Operation(complete_job=pb.CompleteJobRequest(job_id=name, result=b"1")) for name in names]
        await write_all(done, service)
        await followed.told_of(*names)


async def write_all(operations: list[pb.Operation], service: Service) -> None:
    """As few calls as there may be."""
    for begin in range(0, len(operations), 1000):
        response = await service.jobs.BatchWrite(pb.BatchWriteRequest(operation=operations[begin : begin + 1000]))
        assert all(result.HasField("job") for result in response.result)


@pytest.mark.parametrize("kind", SHARED)
async def test_changes_made_through_another_process_are_told(kind: str, tmp_path: Path) -> None:
    """On every store that processes share."""
    store = STORES[kind](tmp_path)
    async with service_here(store) as one, service_here(store) as two, following(two) as followed:
        job = await create(one, "j1")
        await followed.say(j1=job.version)
        await in_step(followed, two)
        await complete(one, "j1")
        await followed.told_of("j1")


async def test_several_follow_one_job(service: Service) -> None:
    """Two edges and a watch: each is notified, and one that goes away does not affect the others."""
    job = await create(service, "j1")
    async with following(service) as one:
        async with following(service) as other:
            for followed in (one, other):
                await followed.say(j1=job.version)
                await in_step(followed, service)
                await service.jobs.DeleteJob(pb.DeleteJobRequest(job_id="marker"))
            await start(service, "j1")
            await one.told_of("j1")
            await other.told_of("j1")
        await complete(service, "j1")
        await one.told_of("j1")


@pytest.mark.parametrize("name", BAD_IDS)
async def test_a_malformed_id_is_refused(service: Service, name: str) -> None:
    """The field is named."""
    async with following(service) as followed:
        await followed.call.write(pb.FollowJobsRequest(versions={name: 1}))
        refusal = await followed.refusal()
    assert refusal == Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", {"field": "versions"})


async def test_too_many_in_one_message_are_refused(service: Service) -> None:
    """A thousand is the most."""
    async with following(service) as followed:
        await followed.call.write(pb.FollowJobsRequest(versions={f"job-{number}": 1 for number in range(1001)}))
        refusal = await followed.refusal()
    assert refusal == Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", {"field": "versions"})


async def test_too_many_jobs_are_refused() -> None:
    """However many messages named them."""
    limits = replace(AT_ONCE, tracker=TrackerLimits(max_followed=3))
    async with service_here(limits=limits) as service, following(service) as followed:
        await followed.say(j1=UNREAD, j2=UNREAD)
        await followed.say(j1=UNREAD, j3=UNREAD)
        await followed.say(j4=UNREAD)
        assert (await followed.refusal()).reason == "OVERLOADED"


async def test_what_is_no_message_is_refused(service: Service) -> None:
    """Bytes that are no message end the call with the same refusal as for other calls."""
    async with channel_to(service.grpc_port) as channel:
        make_call: Any = channel.stream_stream(
            "/jobstatus.v1.JobStatus/FollowJobs", response_deserializer=pb.FollowJobsResponse.FromString
        )
        followed = Followed(make_call())
        await followed.call.write(b"\xff\xff")
        assert (await followed.refusal()).reason == "INVALID_FIELD"


async def test_a_client_that_says_no_more_has_ended_the_call(service: Service) -> None:
    """Properly, and it is counted so."""
    async with following(service) as followed:
        await followed.say(j1=GONE)
        await followed.call.done_writing()
        async with asyncio.timeout(LIMIT_SECONDS):
            while await followed.call.read() is not grpc.aio.EOF:
                pass
            assert await followed.call.code() is grpc.StatusCode.OK

    async def is_counted() -> bool:
        metrics = (await request(service.admin_port, "/metrics")).body.decode()
        return 'jobstatus_rpcs_total{code="OK",method="FollowJobs"} 1.0' in metrics

    await until(is_counted)


async def test_a_stop_ends_the_call() -> None:
    """At once, with a code that lets the client call again."""
    async with AsyncExitStack() as stack:
        async with service_here() as service:
            channel = await stack.enter_async_context(channel_to(service.grpc_port))
            followed = Followed(JobStatusStub(channel).FollowJobs())
            assert await followed.told() == set()
            ending = asyncio.create_task(followed.refusal())
        refusal = await ending
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")


async def test_a_store_that_fails_ends_the_call() -> None:
    """No client may believe that a job has not changed."""
    store = MeddledStore()
    async with service_here(store) as service, following(service) as followed:
        store.fail_all(StoreUnavailable())
        await followed.say(j1=1)
        refusal = await followed.refusal()
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")


async def test_a_part_of_the_store_that_fails_is_news() -> None:
    """A job that cannot be compared is reported, and the others are followed as usual."""
    store = MeddledStore()
    async with service_here(store) as service:
        job = await create(service, "here")

        async def read_jobs(job_ids: list[str], **options: Any) -> list[Any]:
            jobs = await store.real.read_jobs(job_ids, **options)
            return [StoreUnavailable() if job_id == "away" else job for job_id, job in zip(job_ids, jobs, strict=True)]

        store.replace("read_jobs", read_jobs)
        async with following(service) as followed:
            await followed.say(away=1, here=job.version)
            await followed.told_of("away")
            await start(service, "here")
            await followed.told_of("here")


@pytest.mark.parametrize(("name", "code"), [("edge", None), ("worker", None), ("other", "CLIENT_NOT_ALLOWED")])
async def test_edges_may_follow(tmp_path: Path, name: str, code: str | None) -> None:
    """An edge's certificate is enough, a worker's is too, and a stranger's is not."""
    authorities = Authorities()
    settings = authorities.settings(tmp_path) | {"grpc_allowed_clients": {"worker"}, "grpc_edge_clients": {"edge"}}
    async with (
        service_here(**settings) as service,
        grpc.aio.secure_channel(f"127.0.0.1:{service.grpc_port}", authorities.client(name)) as channel,
    ):
        followed = Followed(JobStatusStub(channel).FollowJobs())
        if code is None:
            assert await followed.told() == set()
            followed.call.cancel()
        else:
            assert (await followed.refusal()).reason == code
