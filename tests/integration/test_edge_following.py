"""An edge of its own lets clients wait, and learns of changes: whatever becomes of the service inside meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import grpc
import pytest
from harness.certificates import Authorities
from harness.events import ACCEPT, events
from harness.faults import MeddledStore
from harness.fronts import listening_edge, poll_patiently, until_it_listens, waiting
from harness.http import Answer, request
from harness.jobs import complete, completion, create, creation, start
from harness.raw import talk
from harness.service import AS_SERVED, AT_ONCE, Service, edge_here, service_here
from harness.stand_in import stand_in
from harness.tokens import admin_token, bearer, virtual_key_token
from harness.waiting import until
from harness.wire import channel_to
from jobstatus.app.edge import EdgeLimits
from jobstatus.core.errors import StoreUnavailable
from jobstatus.core.tracker import TrackerLimits
from jobstatus.upstream.follower import FollowerLimits
from jobstatus.upstream.reader import UpstreamLimits
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1 import virtual_keys_pb2 as vk_pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub

OWNER: Final = bearer(virtual_key_token("vk-1"))
ADMIN: Final = bearer(admin_token())
LONG: Final = "Prefer: wait=45"
IN_TIME: Final = 10.0
"""Well before a wait is over, and long enough for a connection to be made anew."""


async def in_time(poll: asyncio.Task[Answer]) -> Answer:
    async with asyncio.timeout(IN_TIME):
        return await poll


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Level and code of each warning that polls cannot wait."""
    said = [vars(record) for record in caplog.records if vars(record).get("event") == "polls_cannot_wait"]
    return [f"{record['levelname']} {record['code']}" for record in said]


class Inside:
    """A service on a file that can be ended and started again at the same address, and another one beside it."""

    def __init__(self, folder: Path) -> None:
        self._store = f"sqlite:///{folder / 'jobs.db'}"
        self._grpc = "127.0.0.1:0"
        self._stack = AsyncExitStack()

    async def start(self) -> Service:
        service = await self._stack.enter_async_context(service_here(self._store, grpc=self._grpc))
        self._grpc = f"127.0.0.1:{service.grpc_port}"
        return service

    async def stop(self) -> None:
        await self._stack.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def beside(self) -> Any:
        """Another process on the same store, at another address."""
        return service_here(self._store)


@pytest.fixture
async def inside(tmp_path: Path) -> AsyncIterator[Inside]:
    async with Inside(tmp_path) as running:
        yield running


# --- a service that comes and goes ---


async def test_a_poll_that_waits_survives_a_restart(inside: Inside) -> None:
    """What happens after the service is back ends the wait, as if nothing had been."""
    service = await inside.start()
    await create(service, "j1")
    async with listening_edge(service) as edge:
        poll = asyncio.create_task(poll_patiently(edge, "j1", OWNER, LONG))
        await waiting(edge, 1)
        await inside.stop()
        service = await inside.start()
        await until(lambda: follows(service))
        assert not poll.done()
        await complete(service, "j1")
        answer = await in_time(poll)
    assert (answer.status, answer.headers["preference-applied"]) == (200, "wait=45")


async def follows(service: Service) -> bool:
    """Whether an edge has followed a job at the service: it answers what the edge then reads."""
    metrics = (await request(service.admin_port, "/metrics")).body.decode()
    return 'jobstatus_store_seconds_count{operation="read_jobs"}' in metrics


async def test_what_happens_during_a_restart_is_learned_after_it(inside: Inside) -> None:
    """A job that another process ends while the edge has no service ends the wait when there is one again."""
    service = await inside.start()
    for name in ("j1", "j2"):
        await create(service, name)
    async with listening_edge(service) as edge, events(edge, "j1", OWNER) as stream:
        await stream.event()
        polls = [asyncio.create_task(poll_patiently(edge, name, OWNER, LONG)) for name in ("j1", "j2")]
        await waiting(edge, 3)
        await inside.stop()
        async with inside.beside() as other:
            await start(other, "j1")
            await complete(other, "j1")
        assert not polls[0].done()
        service = await inside.start()
        assert (await in_time(polls[0])).json["status"] == "completed"
        assert [event.json["status"] for event in await stream.rest(IN_TIME)] == ["completed"]
        assert not polls[1].done()
        await complete(service, "j2")
        assert (await in_time(polls[1])).status == 200


async def test_nobody_begins_to_wait_while_there_is_no_service(inside: Inside) -> None:
    """Polls are 503 at once, as without a wish to wait; when the service is back they wait again."""
    service = await inside.start()
    await create(service, "j1")
    async with listening_edge(service, limits=AS_SERVED) as edge:
        await inside.stop()
        for header in (LONG, ACCEPT):
            async with asyncio.timeout(IN_TIME):
                assert (await edge.poll("j1", OWNER, header)).status == 503
        service = await inside.start()
        await until_it_listens(service.behind(edge.http_port, edge.admin_port))
        poll = asyncio.create_task(poll_patiently(edge, "j1", OWNER, LONG))
        await waiting(edge, 1)
        await complete(service, "j1")
        assert (await in_time(poll)).headers["preference-applied"] == "wait=45"


async def test_a_wait_whose_time_is_up_while_the_service_is_silent_is_a_503() -> None:
    """The edge cannot tell what became of the job; until then the wait goes on, and later polls are answered again."""
    store, gate = MeddledStore(), asyncio.Event()

    async def hang(job_ids: list[str]) -> Any:
        await gate.wait()
        return await store.real.read_answers(job_ids)

    limits = EdgeLimits(upstream=UpstreamLimits(call_seconds=2))
    async with service_here(store) as service, listening_edge(service, limits=limits) as edge:
        await create(service, "j1")
        poll = asyncio.create_task(edge.poll("j1", OWNER, "Prefer: wait=1"))
        await waiting(edge, 1)
        store.replace("read_answers", hang)
        answer = await in_time(poll)
        assert (answer.status, answer.headers["retry-after"]) == (503, "2")
        assert "preference-applied" not in answer.headers
        gate.set()
        assert (await edge.poll("j1", OWNER)).status == 202


async def test_a_service_that_is_away_is_said_once(inside: Inside, caplog: pytest.LogCaptureFixture) -> None:
    """However often it is called in vain; and once more when it goes again."""
    limits = EdgeLimits(follower=FollowerLimits(steady_seconds=0))
    service = await inside.start()
    async with listening_edge(service, limits=limits) as edge:
        for times in (1, 2):
            await inside.stop()
            await until(partial(has_said, caplog, times))
            service = await inside.start()
            await until_it_listens(service.behind(edge.http_port, edge.admin_port))
            assert warnings(caplog) == ["WARNING UNAVAILABLE"] * times


def has_said(caplog: pytest.LogCaptureFixture, times: int) -> bool:
    """Whether there are so many warnings."""
    return len(warnings(caplog)) == times


async def test_a_store_inside_that_fails_does_not_end_the_wait() -> None:
    """The service ends the stream when it cannot compare; the edge calls again, and those who wait hear of the end."""
    store, has_failed = MeddledStore(), False

    async def read_jobs(job_ids: list[str], **options: Any) -> Any:
        nonlocal has_failed
        if not has_failed:
            has_failed = True
            raise StoreUnavailable
        return await store.real.read_jobs(job_ids, **options)

    async with service_here(store) as service, listening_edge(service) as edge:
        for name in ("j1", "j2"):
            await create(service, name)
        before = await job_reads(service)
        first = asyncio.create_task(poll_patiently(edge, "j1", OWNER, LONG))
        await waiting(edge, 1)
        await until(lambda: has_read(service, before + 1))  # to compare what the edge named
        store.replace("read_jobs", read_jobs)
        second = asyncio.create_task(poll_patiently(edge, "j2", OWNER, LONG))

        async def has_ended() -> bool:
            return await told(service, "UNAVAILABLE") == 1

        await until(has_ended)
        for name in ("j1", "j2"):
            await complete(service, name)
        assert [(await in_time(poll)).status for poll in (first, second)] == [200, 200]


async def test_a_stream_that_ends_at_once_every_time_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """It begins each time, and is of no use: as good as none."""
    limits = replace(AT_ONCE, tracker=TrackerLimits(max_followed=0))
    async with service_here(limits=limits) as service, listening_edge(service) as edge:
        await create(service, "j1")
        async with events(edge, "j1", OWNER) as stream:
            await stream.event()
            await until(partial(has_said, caplog, 1))
            before = await told(service, "RESOURCE_EXHAUSTED")

            async def is_called_again() -> bool:
                return await told(service, "RESOURCE_EXHAUSTED") > before + 2

            await until(is_called_again)
        assert warnings(caplog) == ["WARNING RESOURCE_EXHAUSTED"]


async def has_read(service: Service, times: float) -> bool:
    """Whether the service has read jobs of its store so often."""
    return await job_reads(service) >= times


async def job_reads(service: Service) -> float:
    """How often the service has read jobs of its store."""
    lines = (await request(service.admin_port, "/metrics")).body.decode().splitlines()
    counted = 'jobstatus_store_seconds_count{operation="read_jobs"'
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(counted))


async def told(service: Service, code: str) -> float:
    """How many calls of FollowJobs the service has ended with this code."""
    lines = (await request(service.admin_port, "/metrics")).body.decode().splitlines()
    counted = f'jobstatus_rpcs_total{{code="{code}",method="FollowJobs"'
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(counted))


# --- a service of another kind ---


async def version(_: vk_pb.BatchGetVirtualKeysRequest) -> vk_pb.BatchGetVirtualKeysResponse:
    """There are no virtual keys."""
    return vk_pb.BatchGetVirtualKeysResponse(version=1)


async def pending(asked: pb.BatchGetJobsRequest) -> pb.BatchGetJobsResponse:
    """Every job is."""
    hour = {"seconds": 3600}
    fields: dict[str, Any] = {
        "request_type": pb.REQUEST_TYPE_TRANSCRIPTION,
        "state": pb.JOB_STATE_PENDING,
        "version": 1,
        "virtual_key_id": "vk-1",
        "created_at": hour,
        "result_ttl": hour,
    }
    return pb.BatchGetJobsResponse(jobs=[pb.Job(job_id=job_id, **fields) for job_id in asked.job_ids])


async def test_a_service_that_does_not_know_the_call_is_answered_for_at_once(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """One of an earlier version: nobody waits, nobody is told that they have, and one warning says why."""
    async with (
        stand_in(BatchGetJobs=pending, BatchGetVirtualKeys=version) as address,
        edge_here(service, upstream=address) as edge,
    ):
        await until(lambda: warnings(caplog) == ["WARNING UNIMPLEMENTED"])
        for header in (LONG, ACCEPT):
            async with asyncio.timeout(IN_TIME):
                answer = await edge.poll("j1", OWNER, header)
            assert (answer.status, answer.headers["content-type"]) == (202, "application/json")
            assert "preference-applied" not in answer.headers
        assert warnings(caplog) == ["WARNING UNIMPLEMENTED"]


async def test_a_service_that_does_not_know_the_call_may_be_replaced_by_one_that_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is asked again now and then, without a word for each time; then clients wait."""
    limits = EdgeLimits(follower=FollowerLimits(unknown_call_seconds=0.05))
    asked = 0

    async def count_and_answer(request_: vk_pb.BatchGetVirtualKeysRequest) -> vk_pb.BatchGetVirtualKeysResponse:
        nonlocal asked
        asked += 1
        return await version(request_)

    async with AsyncExitStack() as stack:
        async with stand_in(BatchGetJobs=pending, BatchGetVirtualKeys=count_and_answer) as address:
            front = edge_here(await stack.enter_async_context(service_here()), limits=limits, upstream=address)
            edge = await stack.enter_async_context(front)
            await until(lambda: asked > 2 and bool(warnings(caplog)))
            assert warnings(caplog) == ["WARNING UNIMPLEMENTED"]
        service = await stack.enter_async_context(service_here(grpc=address))
        await until_it_listens(service.behind(edge.http_port, edge.admin_port))


async def test_an_edge_that_may_only_read_lets_clients_wait(tmp_path: Path) -> None:
    """Over mutual TLS, with a certificate of GRPC_EDGE_CLIENTS, it hears of changes as well."""
    authorities = Authorities()
    settings = authorities.settings(tmp_path) | {"grpc_allowed_clients": {"worker"}, "grpc_edge_clients": {"edge"}}
    async with (
        service_here(**settings) as service,
        edge_here(service, **authorities.upstream_settings(tmp_path, "edge")) as edge,
        grpc.aio.secure_channel(f"127.0.0.1:{service.grpc_port}", authorities.client("worker")) as channel,
    ):
        jobs = JobStatusStub(channel)
        await jobs.CreateJob(creation("probe"))
        await jobs.CompleteJob(completion("probe"))

        async def can_wait() -> bool:
            return "preference-applied" in (await edge.poll("probe", OWNER, LONG)).headers

        await until(can_wait)
        await jobs.CreateJob(creation("j1"))
        async with events(edge, "j1", OWNER) as stream:
            assert (await stream.event()).json["status"] == "pending"
            poll = asyncio.create_task(poll_patiently(edge, "j1", OWNER, LONG))
            await waiting(edge, 2)
            await jobs.CompleteJob(completion("j1"))
            assert (await in_time(poll)).status == 200
            assert [event.json["status"] for event in await stream.rest()] == ["completed"]


async def test_an_edge_that_may_not_follow_answers_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A certificate that the service does not accept is no reason to hang, and is said once."""
    authorities = Authorities()
    settings = authorities.settings(tmp_path) | {"grpc_allowed_clients": {"worker"}, "grpc_edge_clients": {"edge"}}
    files = authorities.upstream_settings(tmp_path, "another")
    async with service_here(**settings) as service, edge_here(service, **files) as edge:
        await until(lambda: bool(warnings(caplog)))
        async with asyncio.timeout(IN_TIME):
            assert (await edge.poll("j1", OWNER, LONG)).status == 503
        assert warnings(caplog) == ["WARNING PERMISSION_DENIED"]


# --- what clients do ---


@pytest.mark.parametrize("target", [b"not.an.id", b"%FF", b"%ED%A0%80", b"%00", b"x" * 4000, b"a%0Ab"])
async def test_ids_that_can_be_none_do_not_hinder_the_others(service: Service, target: bytes) -> None:
    """A stranger to the grammar is told 404, and those who wait for real jobs hear of them as before."""
    async with listening_edge(service) as edge:
        await create(edge, "j1")
        poll = asyncio.create_task(poll_patiently(edge, "j1", OWNER, LONG))
        await waiting(edge, 1)
        for header in (LONG, ACCEPT):
            head = b"GET /v1/async/audio/transcriptions/" + target + b" HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
            answer = await talk(edge.http_port, head + f"{OWNER}\r\n{header}\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 404 "), answer
        await create(edge, "j2")
        other = asyncio.create_task(poll_patiently(edge, "j2", OWNER, LONG))
        await waiting(edge, 2)
        for name in ("j1", "j2"):
            await complete(edge, name)
        assert [(await in_time(task)).status for task in (poll, other)] == [200, 200]


async def test_a_job_is_followed_no_longer_than_somebody_waits() -> None:
    """The service asks its store for the jobs alone that somebody waits for; who comes back later is told as before."""
    store = MeddledStore()

    def looked_for() -> set[str]:
        calls = store.calls_of("changed")
        return set(calls[-1][1]) if calls else set()

    async with service_here(store) as service, listening_edge(service) as edge:
        for name in ("j1", "j2"):
            await create(edge, name)
        other = asyncio.create_task(poll_patiently(edge, "j2", OWNER, LONG))
        for _ in range(20):
            async with events(edge, "j1", OWNER) as stream:
                await stream.event()
        await until(lambda: looked_for() == {"j2"})
        poll = asyncio.create_task(poll_patiently(edge, "j1", OWNER, LONG))
        await until(lambda: looked_for() == {"j1", "j2"})
        for name in ("j1", "j2"):
            await complete(edge, name)
        assert [(await in_time(task)).status for task in (poll, other)] == [200, 200]


async def test_many_wait_for_one_job_and_the_service_is_asked_once_or_little_more(service: Service) -> None:
    """Two hundred clients, one end: each gets it, for a few calls inside."""
    async with listening_edge(service, max_waiting_polls_each=200) as edge:
        await create(edge, "j1")
        polls = [asyncio.create_task(poll_patiently(edge, "j1", OWNER, LONG)) for _ in range(200)]
        await waiting(edge, 200)
        before = await reads(service)
        await complete(edge, "j1")
        answers = [await in_time(poll) for poll in polls]
        assert {answer.status for answer in answers} == {200}
        assert await reads(service) - before <= 20


async def reads(service: Service) -> float:
    """How often the service was asked for jobs."""
    lines = (await request(service.admin_port, "/metrics")).body.decode().splitlines()
    counted = 'jobstatus_rpcs_total{code="OK",method="BatchGetJobs"'
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(counted))


async def test_an_edge_that_stops_answers_all_who_wait(service: Service) -> None:
    """With the job as it is, and leaves nothing behind at the service."""
    async with listening_edge(service) as edge:
        await create(edge, "j1")
        polls = [asyncio.create_task(poll_patiently(edge, "j1", OWNER, LONG)) for _ in range(20)]
        await waiting(edge, 20)
    answers = [await in_time(poll) for poll in polls]
    assert {(answer.status, answer.json["status"]) for answer in answers} == {(202, "pending")}
    async with channel_to(service.grpc_port) as channel:
        assert (await JobStatusStub(channel).GetJob(pb.GetJobRequest(job_id="j1"))).job.job_id == "j1"
