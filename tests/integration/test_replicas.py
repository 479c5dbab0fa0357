"""Two services upon one store: what is done through one is known to the other."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from harness.faults import Clock
from harness.http import request
from harness.jobs import complete, create, job_in, next_job, put_virtual_key, start
from harness.service import Service, service_here
from harness.stores import SHARED, STORES
from harness.tokens import bearer, virtual_key_token
from harness.waiting import until
from jobstatus.core.job import JobState
from jobstatus.core.virtual_keys import hash_key
from jobstatus.v1 import job_status_pb2 as pb

Pair = tuple[Service, Service]
OWNER = bearer(virtual_key_token("vk-1"))
HEARING_SECONDS = 60.0
"""A watch hears of another process's change within a quarter of a second; here it may take longer on a busy machine."""


@pytest.fixture(params=SHARED)
async def replicas(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    """Two services, each with connections of its own to the same store."""
    store = STORES[request.param](tmp_path)
    async with service_here(store) as one, service_here(store) as two:
        yield one, two


async def test_a_poll_sees_at_once_what_was_written_through_another(replicas: Pair) -> None:
    """Each step that one service has acknowledged is in the very next answer of the other."""
    one, two = replicas
    await create(one, "job-1")
    assert (await two.poll("job-1", OWNER)).json["status"] == "pending"
    await start(two, "job-1")
    assert (await one.poll("job-1", OWNER)).json["status"] == "processing"
    await complete(one, "job-1")
    answers = [await service.poll("job-1", OWNER) for service in replicas]
    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].body == answers[1].body


@pytest.mark.parametrize("kind", [kind for kind in SHARED if kind != "sqlite"])
async def test_replicas_whose_clocks_differ_have_one_time(kind: str, tmp_path: Path) -> None:
    """Jobs are dated, and tokens judged, by the clock of the store, which is this machine's here."""
    store = STORES[kind](tmp_path)
    ahead, behind = Clock(ahead_seconds=25 * 3600, follow_store=True), Clock(ahead_seconds=-300, follow_store=True)
    async with service_here(store, clock=ahead) as one, service_here(store, clock=behind) as two:
        for job_id, service in (("job-1", one), ("job-2", two)):
            job = await create(service, job_id)
            assert abs(job.created_at.ToMilliseconds() / 1000 - time.time()) < 60
        polls = [(await service.poll(job_id, OWNER)).status for job_id in ("job-1", "job-2") for service in (one, two)]
        assert polls == [202] * 4


async def test_a_watch_hears_of_what_was_written_through_another(replicas: Pair) -> None:
    """A stream of one service shows each change made through the other, and ends with the terminal one."""
    one, two = replicas
    await create(one, "job-1")
    stream = two.jobs.WatchJob(pb.WatchJobRequest(job_id="job-1"))
    assert (await next_job(stream)).state == pb.JOB_STATE_PENDING
    for step, state in ((start, pb.JOB_STATE_PROCESSING), (complete, pb.JOB_STATE_COMPLETED)):
        await step(one, "job-1")
        async with asyncio.timeout(HEARING_SECONDS):
            assert (await next_job(stream)).state == state


async def test_many_watches_hear_of_a_deletion_through_another(replicas: Pair) -> None:
    """A hundred streams of jobs that are deleted elsewhere all end, each with the reason."""
    one, two = replicas
    names = [f"job-{number}" for number in range(100)]
    await asyncio.gather(*(create(one, name) for name in names))
    streams = [two.jobs.WatchJob(pb.WatchJobRequest(job_id=name)) for name in names]
    await asyncio.gather(*(stream.read() for stream in streams))
    await asyncio.gather(*(one.jobs.DeleteJob(pb.DeleteJobRequest(job_id=name)) for name in names))
    async with asyncio.timeout(HEARING_SECONDS * 2):
        codes = await asyncio.gather(*(stream.code() for stream in streams))
    assert {code.name for code in codes} == {"NOT_FOUND"}


async def test_a_virtual_key_that_is_disabled_through_another_stops_working(replicas: Pair) -> None:
    """Within seconds the other service refuses the key that it has accepted before."""
    one, two = replicas
    await put_virtual_key(one, key_sha256=[hash_key("sk-bf-1")])
    await job_in(one, JobState.COMPLETED, "job-1")
    assert (await two.poll("job-1", "x-bf-vk: sk-bf-1")).status == 200
    await put_virtual_key(one, key_sha256=[hash_key("sk-bf-1")], disabled=True)

    async def is_refused() -> bool:
        return (await two.poll("job-1", "x-bf-vk: sk-bf-1")).status == 401

    await until(is_refused)


async def test_one_of_two_services_sweeps(replicas: Pair) -> None:
    """Expired jobs are purged once in all, and only the service that sweeps counts the jobs there are."""
    names = [f"job-{number}" for number in range(20)]
    for name in names:
        await create(replicas[0], name, result_ttl={"seconds": 1})
        await complete(replicas[0], name)

    async def purged() -> list[float]:
        return [await figure(service, 'jobstatus_swept_jobs_total{what="purged"}') for service in replicas]

    async def are_gone() -> bool:
        return sum(await purged()) >= len(names)

    await until(are_gone)
    assert sum(await purged()) == len(names)


async def figure(service: Service, name: str) -> float:
    """One sample of the service's metrics; 0 where there is none yet."""
    lines = (await request(service.admin_port, "/metrics")).body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))
