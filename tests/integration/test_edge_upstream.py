"""What an edge of its own makes of a service that hangs, is a stranger, or uses unknown words, and of many polls."""

import asyncio
import itertools
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from harness.certificates import Authorities
from harness.faults import MeddledStore
from harness.fronts import poll_patiently
from harness.http import Answer, request
from harness.jobs import complete, create, job_in, put_virtual_key
from harness.relays import Relay
from harness.service import AS_SERVED, Service, edge_here, service_here
from harness.stand_in import stand_in
from harness.tokens import admin_token, bearer, virtual_key_token
from harness.waiting import until
from jobstatus.app.edge import EdgeLimits
from jobstatus.core.circuit_breaker import BreakerLimits
from jobstatus.core.errors import StoreUnavailable
from jobstatus.core.job import JobState
from jobstatus.core.store import SMALL_RESULT_BYTES
from jobstatus.core.virtual_keys import hash_key
from jobstatus.upstream.reader import UpstreamLimits
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1 import virtual_keys_pb2 as vk_pb

OWNER: Final = bearer(virtual_key_token("vk-1"))
ADMIN: Final = bearer(admin_token())
LIMIT_SECONDS: Final = 3.0
"""What a poll may take while the service inside does not answer."""
SLACK_SECONDS: Final = 20.0
"""For all that this machine does meanwhile."""
HOUR: Final = {"seconds": 3600}
as_served: Final = partial(edge_here, limits=AS_SERVED)


async def timed(poll: Any) -> tuple[Answer, float]:
    """The answer, and how long it took."""
    started = time.monotonic()
    return await poll, time.monotonic() - started


def assert_all_unavailable(answers: list[tuple[Answer, float]]) -> None:
    """Each is a 503 that says when to come again, and came in time."""
    assert {(answer.status, answer.headers["retry-after"]) for answer, _ in answers} == {(503, "2")}
    assert max(seconds for _, seconds in answers) < LIMIT_SECONDS + SLACK_SECONDS


async def calls(service: Service, method: str) -> float:
    """How often the service was called with this method."""
    lines = (await request(service.admin_port, "/metrics")).body.decode().splitlines()
    counted = f'jobstatus_rpcs_total{{code="OK",method="{method}"'
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(counted))


# --- a service that hangs ---


@pytest.mark.parametrize("header", [OWNER, ADMIN])
async def test_many_polls_of_a_service_that_hangs_end_in_time(header: str) -> None:
    """However many wait, each is told after 3 s at most; and once the service answers again, so does the edge."""
    store, gate = MeddledStore(), asyncio.Event()
    async with service_here(store) as service, as_served(service) as edge:
        await create(service, "job-1")
        assert (await edge.poll("job-1", header)).status == 202

        async def hang(job_ids: list[str]) -> Any:
            await gate.wait()
            return await store.real.read_answers(job_ids)

        store.replace("read_answers", hang)
        assert_all_unavailable(await asyncio.gather(*(timed(edge.poll("job-1", header)) for _ in range(1000))))
        gate.set()

        async def answers() -> bool:
            return (await edge.poll("job-1", header)).status == 202

        await until(answers)


async def test_somebody_silent_in_the_place_of_the_service_is_a_503(service: Service) -> None:
    """A connection that is taken and never answered holds up neither the start, nor a poll, nor readiness for long."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:  # the system takes connections, and nobody else
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        async with asyncio.timeout(10 * LIMIT_SECONDS), as_served(service, upstream=address) as edge:
            polls = [timed(edge.poll("job-1", header)) for header in (OWNER, ADMIN) for _ in range(20)]
            assert_all_unavailable(await asyncio.gather(*polls))
            ready, seconds = await timed(request(edge.admin_port, "/readyz"))
            assert ready.status == 503
            assert seconds < LIMIT_SECONDS + SLACK_SECONDS


async def test_a_silent_service_is_waited_for_once(service: Service) -> None:
    """From then on polls are a 503 at once and nothing is sent but health checks, until one of them is answered."""
    asked, answers = Counter[str](), asyncio.Event()
    answers.set()

    async def keys(_: vk_pb.BatchGetVirtualKeysRequest) -> vk_pb.BatchGetVirtualKeysResponse:
        await answers.wait()
        return vk_pb.BatchGetVirtualKeysResponse(version=1)

    async def jobs(request: pb.BatchGetJobsRequest) -> pb.BatchGetJobsResponse:
        asked.update(request.job_ids)
        await answers.wait()
        return pb.BatchGetJobsResponse(jobs=[told(job_id) for job_id in request.job_ids])

    limits = EdgeLimits(upstream=UpstreamLimits(breaker=BreakerLimits(silence_seconds=0.05, pause_seconds=0.01)))
    async with (
        stand_in(BatchGetVirtualKeys=keys, BatchGetJobs=jobs) as address,
        as_served(service, limits=limits, upstream=address) as edge,
    ):
        assert (await edge.poll("job-1", ADMIN)).status == 202
        answers.clear()
        assert (await edge.poll("job-2", ADMIN)).status == 503
        for _ in range(50):
            assert (await edge.poll("job-3", ADMIN)).status == 503
        assert asked["job-3"] == 0
        answers.set()

        async def is_served() -> bool:
            return (await edge.poll("job-4", ADMIN)).status == 202

        await until(is_served)


async def test_a_service_whose_store_fails_is_asked_once_for_each_poll() -> None:
    """It answers at once, so the poll is a 503 at once; the client comes again."""
    store = MeddledStore()
    async with service_here(store) as service, as_served(service) as edge:
        await create(service, "job-1")
        store.fail_all(StoreUnavailable())
        store.calls.clear()
        for _ in range(3):
            assert (await edge.poll("job-1", ADMIN)).status == 503
        assert len(store.calls_of("read_answers")) == 3


async def test_a_malformed_id_is_unavailable_too(service: Service) -> None:
    """Who asks for what cannot be learns no more of a service that is away than anybody else, as inside."""
    async with as_served(service, upstream="127.0.0.1:1") as edge:
        assert_all_unavailable([await timed(edge.poll("not.an.id", ADMIN))])
    async with as_served(service) as edge:
        assert (await edge.poll("not.an.id", ADMIN)).status == 404


async def test_polls_under_way_are_answered_when_the_edge_stops() -> None:
    """A stop cuts nobody off, not even those who wait for a service that hangs."""
    store, asked = MeddledStore(), set[str]()

    async def hang(job_ids: list[str]) -> Any:
        asked.update(job_ids)
        await asyncio.Event().wait()

    store.replace("read_answers", hang)
    async with service_here(store) as service:
        async with as_served(service) as edge:
            polls = [asyncio.create_task(timed(edge.poll(name, ADMIN))) for name in ("job-1", "job-2")]
            await until(lambda: len(asked) == len(polls))
        assert_all_unavailable(await asyncio.gather(*polls))


# --- a service of several replicas ---


async def test_an_edge_spreads_its_polls_and_loses_none_when_a_replica_goes() -> None:
    """Over all addresses of the service's name, without a setting; with one they stay with the first."""
    async with AsyncExitStack() as stack:
        going = await stack.enter_async_context(service_here())
        async with service_here() as staying:
            replicas = (going, staying)
            for replica in replicas:
                await create(replica, "job-1")
            name = "ipv4:" + ",".join(f"127.0.0.1:{replica.grpc_port}" for replica in replicas)

            async def polled(edge: Service) -> list[float]:
                assert (await edge.poll("job-1", ADMIN)).status == 202
                return [await calls(replica, "BatchGetJobs") for replica in replicas]

            async with as_served(staying, upstream=name, upstream_balancing="pick_first") as edge:
                for _ in range(4):
                    counts = await polled(edge)
            assert sorted(counts) == [0, 4]
            async with as_served(staying, upstream=name) as edge:

                async def both_are_asked() -> bool:
                    return all(new > old for new, old in zip(await polled(edge), counts, strict=True))

                await until(both_are_asked)
                await stack.aclose()
                for _ in range(8):
                    assert (await edge.poll("job-1", ADMIN)).status == 202


# --- a service of another version, or none ---


def told(job_id: str, **fields: Any) -> pb.Job:
    """A job that a service tells of."""
    values: dict[str, Any] = {
        "request_type": pb.REQUEST_TYPE_TRANSCRIPTION,
        "state": pb.JOB_STATE_PENDING,
        "version": 1,
        "virtual_key_id": "vk-1",
        "created_at": HOUR,
        "result_ttl": HOUR,
    }
    return pb.Job(job_id=job_id, **(values | fields))


async def version(_: vk_pb.BatchGetVirtualKeysRequest) -> vk_pb.BatchGetVirtualKeysResponse:
    """There are no virtual keys."""
    return vk_pb.BatchGetVirtualKeysResponse(version=1)


async def test_a_job_in_unknown_words_is_a_503_for_itself_alone(service: Service) -> None:
    """A state, a type or a time that a later service may send does not fail the polls that were asked with it."""
    strange: dict[str, dict[str, Any]] = {
        "state": {"state": 99},
        "type": {"request_type": 99},
        "time": {"created_at": {"nanos": -1}},
    }

    async def batch(asked: pb.BatchGetJobsRequest) -> pb.BatchGetJobsResponse:
        jobs = [told(job_id, **strange.get(job_id, {})) for job_id in asked.job_ids if job_id != "unknown"]
        return pb.BatchGetJobsResponse(jobs=jobs)

    async with (
        stand_in(BatchGetJobs=batch, BatchGetVirtualKeys=version) as address,
        as_served(service, upstream=address) as edge,
    ):
        names = (*strange, "usual", "unknown")
        answers = await asyncio.gather(*(edge.poll(name, OWNER) for name in names))
        assert [answer.status for answer in answers] == [503, 503, 503, 202, 404]


async def test_an_answer_in_unknown_words_is_a_503_for_itself_alone(service: Service) -> None:
    """The same for the bytes of polls, of a service that tells those."""
    usual = {"request_type": pb.REQUEST_TYPE_TRANSCRIPTION, "virtual_key_id": "vk-1", "created_at_ms": 1, "body": b"{}"}
    fields_of: dict[str, dict[str, Any]] = {
        "type": usual | {"request_type": 99},
        "usual": usual,
        "unknown": {},
        "away": {},
    }
    sent = {name: pb.PollAnswer(**fields) for name, fields in fields_of.items()}

    async def batch(asked: pb.BatchGetJobsRequest) -> pb.BatchGetJobsResponse:
        assert asked.as_answers
        away = [job_id for job_id in asked.job_ids if job_id == "away"]
        return pb.BatchGetJobsResponse(answers=[sent[name] for name in asked.job_ids], unavailable_job_ids=away)

    async with (
        stand_in(BatchGetJobs=batch, BatchGetVirtualKeys=version) as address,
        as_served(service, upstream=address) as edge,
    ):
        answers = await asyncio.gather(*(edge.poll(name, OWNER) for name in sent))
        assert [answer.status for answer in answers] == [503, 202, 404, 503]
        assert answers[1].body == b"{}"


async def test_replicas_of_two_versions_may_take_turns(service: Service) -> None:
    """Each response is taken for what it is: one with jobs, and the next one with the bytes of polls."""
    await create(service, "job-1")
    turns = itertools.cycle((True, False))

    async def batch(asked: pb.BatchGetJobsRequest) -> pb.BatchGetJobsResponse:
        asked.as_answers = next(turns)
        return await service.jobs.BatchGetJobs(asked)

    async with (
        stand_in(BatchGetJobs=batch, BatchGetVirtualKeys=version) as address,
        as_served(service, upstream=address) as edge,
    ):
        bodies = {(await edge.poll("job-1", OWNER)).body for _ in range(4)}
        assert bodies == {(await service.poll("job-1", OWNER)).body}


async def test_what_has_expired_by_the_clock_of_the_edge_is_gone(service: Service) -> None:
    """A service whose clock is late, and that still shows a job after its expires_at, is not believed."""

    async def batch(asked: pb.BatchGetJobsRequest) -> pb.BatchGetJobsResponse:
        ended = {"state": pb.JOB_STATE_COMPLETED, "result": b"1", "status_code": 200}
        spans = {"past": -1, "future": 3600}
        times = {name: {"seconds": int(time.time()) + seconds} for name, seconds in spans.items()}
        jobs = [told(job_id, **ended, completed_at=times[job_id], expires_at=times[job_id]) for job_id in asked.job_ids]
        return pb.BatchGetJobsResponse(jobs=jobs)

    async with (
        stand_in(BatchGetJobs=batch, BatchGetVirtualKeys=version) as address,
        as_served(service, upstream=address) as edge,
    ):
        assert [(await edge.poll(name, OWNER)).status for name in ("past", "future")] == [404, 200]


async def test_a_service_that_knows_no_batches_is_a_503(service: Service) -> None:
    """One of an earlier version, or another program altogether, is as good as none: no poll is a 500 or a 404."""
    async with stand_in() as address, as_served(service, upstream=address) as edge:
        answers = [await edge.poll("job-1", header) for header in (OWNER, ADMIN, "x-bf-vk: sk-bf-1")]
        assert [answer.status for answer in answers] == [503] * 3
        assert (await request(edge.admin_port, "/readyz")).status == 503


async def test_a_large_result_that_has_become_another_job_is_a_404(service: Service) -> None:
    """Between the look at a large job and its result the id may pass to somebody else, whose result stays theirs."""

    async def batch(asked: pb.BatchGetJobsRequest) -> pb.BatchGetJobsResponse:
        return pb.BatchGetJobsResponse(jobs=[told(job_id, **ended) for job_id in asked.job_ids])

    async def get(asked: pb.GetJobRequest) -> pb.GetJobResponse:
        owner = "vk-2" if asked.job_id == "passed-on" else "vk-1"
        return pb.GetJobResponse(job=told(asked.job_id, **ended, virtual_key_id=owner, result=b'"secret"'))

    later = {"seconds": int(time.time()) + 3600}
    ended = {"state": pb.JOB_STATE_COMPLETED, "completed_at": later, "expires_at": later}
    async with (
        stand_in(BatchGetJobs=batch, GetJob=get, BatchGetVirtualKeys=version) as address,
        as_served(service, upstream=address) as edge,
    ):
        assert (await edge.poll("own", OWNER)).body.endswith(b'"result":"secret"}')
        head = await edge.poll("own", OWNER, method="HEAD")
        assert (head.status, "content-length" in head.headers) == (200, False)  # this service does not tell the size
        answer = await edge.poll("passed-on", OWNER)
        assert answer.status == 404
        assert b"secret" not in answer.body


# --- many at a time ---


async def test_strangers_with_made_up_keys_cost_the_service_little(service: Service) -> None:
    """Two hundred unknown keys at a time are a handful of questions inside, and each of them is refused."""
    async with as_served(service) as edge:
        before = await calls(service, "BatchGetVirtualKeys")
        polls = (edge.poll("job-1", f"x-bf-vk: sk-bf-{number}") for number in range(200))
        assert Counter(answer.status for answer in await asyncio.gather(*polls)) == {401: 200}
        assert await calls(service, "BatchGetVirtualKeys") - before <= 50


async def test_many_virtual_keys_at_a_time_are_told_apart(service: Service) -> None:
    """Keys and tokens of many virtual keys, asked about together, each read their own jobs; a disabled one none."""
    names = [f"vk-{number}" for number in range(50)]
    for name in names:
        await put_virtual_key(service, name, key_sha256=[hash_key(f"sk-bf-{name}")], disabled=name == "vk-7")
        await create(service, name, virtual_key_id=name)
    async with as_served(service) as edge:
        for headers in (
            {name: f"x-bf-vk: sk-bf-{name}" for name in names},
            {name: bearer(virtual_key_token(name)) for name in names},
        ):
            own = await asyncio.gather(*(edge.poll(name, headers[name]) for name in names))
            others = await asyncio.gather(*(edge.poll("vk-0", headers[name]) for name in names[1:]))
            assert [answer.status for answer in own] == [401 if name == "vk-7" else 202 for name in names]
            assert [answer.status for answer in others] == [401 if name == "vk-7" else 404 for name in names[1:]]


async def test_a_large_result_is_not_waited_for_when_the_service_falls_silent() -> None:
    """It may take long only while the service answers other calls."""
    store, asked = MeddledStore(), asyncio.Event()

    async def read_jobs(job_ids: list[str], *, with_results: bool) -> Any:
        if with_results:
            asked.set()
            await asyncio.Event().wait()
        return await store.real.read_jobs(job_ids, with_results=with_results)

    limits = EdgeLimits(upstream=UpstreamLimits(large_result_seconds=600))
    async with (
        service_here(store) as service,
        Relay(service.grpc_port) as relay,
        as_served(replace(service, grpc_port=relay.port), limits=limits) as edge,
    ):
        await create(service, "large")
        await complete(service, "large", b'"' + b"x" * SMALL_RESULT_BYTES + b'"')
        store.replace("read_jobs", read_jobs)
        poll = asyncio.create_task(poll_patiently(edge, "large", OWNER))
        await asked.wait()
        relay.cut()
        assert (await poll).status == 503
        relay.heal()


async def test_few_large_results_are_fetched_at_a_time() -> None:
    """Twenty polls of a large result are all answered, and the service is never asked for more than a few at a time."""
    store = MeddledStore()
    under_way: list[int] = []
    async with service_here(store) as service, as_served(service) as edge:
        await create(service, "large")
        await complete(service, "large", b'"' + b"x" * SMALL_RESULT_BYTES + b'"')
        most = 0

        async def read_jobs(job_ids: list[str], *, with_results: bool) -> Any:
            nonlocal most
            if with_results:
                under_way.append(1)
                most = max(most, len(under_way))
                for _ in range(100):  # stands for the time that a large result takes
                    await asyncio.sleep(0)
                under_way.pop()
            return await store.real.read_jobs(job_ids, with_results=with_results)

        store.replace("read_jobs", read_jobs)
        answers = await asyncio.gather(*(edge.poll("large", OWNER) for _ in range(20)))
        assert Counter(answer.status for answer in answers) == {200: 20}
        assert 1 <= most <= UpstreamLimits().large_at_a_time


async def test_a_slow_part_of_the_store_is_waited_for_once() -> None:
    """For an older edge jobs and small results are read at the same time, so that a second of waiting is not two."""
    store = MeddledStore()
    async with service_here(store) as service:
        await job_in(service, JobState.COMPLETED, "done")
        reads = {"read_answers", "read_jobs"}
        begun: set[str] = set()
        both = asyncio.Event()

        def meeting(name: str) -> Callable[..., Any]:
            async def read(job_ids: list[str], **options: Any) -> Any:
                begun.add(name)
                if begun == reads:
                    both.set()
                await both.wait()
                return await getattr(store.real, name)(job_ids, **options)

            return read

        for name in reads:
            store.replace(name, meeting(name))
        found = await service.jobs.BatchGetJobs(pb.BatchGetJobsRequest(job_ids=["done"], omit_large_results=True))
        assert [job.job_id for job in found.jobs] == ["done"]


async def test_an_edge_reads_the_bytes_that_are_stored() -> None:
    """A poll through it costs the service one read of an answer, and none of a job."""
    store = MeddledStore()
    async with service_here(store) as service, as_served(service) as edge:
        await job_in(service, JobState.COMPLETED, "done")
        store.calls.clear()
        answer = await edge.poll("done", OWNER)
        assert answer.body == (await service.poll("done", OWNER)).body
        assert len(store.calls_of("read_answers")) >= 1
        assert store.calls_of("read_jobs") == []


# --- who the service is ---


SERVERS: Final[dict[str, dict[str, Any] | None]] = {
    "of another authority": {"of_stranger": True},
    "of another name": {"name": "elsewhere.test"},
    "without TLS": None,
}


@pytest.mark.parametrize("server", SERVERS)
async def test_an_edge_does_not_believe_another_service(tmp_path: Path, server: str) -> None:
    """Over TLS it answers for none but the service whose certificate is of its authority and for its address."""
    authorities = Authorities()
    chosen = SERVERS[server]
    settings = {} if chosen is None else authorities.settings(tmp_path, **chosen)
    files = authorities.upstream_settings(tmp_path, "edge")
    async with service_here(**settings) as service, as_served(service, **files) as edge:
        answers = [await timed(edge.poll("job-1", header)) for header in (OWNER, ADMIN)]
        assert_all_unavailable(answers)
        assert (await request(edge.admin_port, "/readyz")).status == 503


async def test_an_edge_without_tls_gets_nothing_from_a_service_with_it(tmp_path: Path) -> None:
    """Nor does it end in anything but a 503."""
    async with service_here(**Authorities().settings(tmp_path)) as service, as_served(service) as edge:
        assert_all_unavailable([await timed(edge.poll("job-1", ADMIN))])


# --- what it tells of itself ---


async def test_an_edge_counts_its_polls_and_its_reads(service: Service) -> None:
    """Its metrics are its own: polls by request type and code, and how long reads of the service inside took."""
    async with as_served(service) as edge:
        await create(service, "job-1")
        for name in ("job-1", "unknown"):
            await edge.poll(name, OWNER)
        lines = (await request(edge.admin_port, "/metrics")).body.decode().splitlines()
        counted = {
            code: [line for line in lines if "transcription" in line and f'"{code}"' in line] for code in (202, 404)
        }
        assert all(counted.values()), lines
        assert any("read_answers" in line for line in lines), lines
