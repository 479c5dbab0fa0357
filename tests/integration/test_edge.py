"""An edge of its own answers as the service inside does, and has nothing but a connection to it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from harness.certificates import Authorities
from harness.faults import MeddledStore
from harness.http import Answer, request
from harness.jobs import KINDS, cancellation, complete, completion, create, creation, job_in, number_of, put_virtual_key
from harness.service import AS_SERVED, Service, edge_here, service_here
from harness.tokens import admin_token, bearer, virtual_key_token
from harness.waiting import until
from harness.wire import refusal_of
from jobstatus.core.errors import StoreUnavailable
from jobstatus.core.job import JobState, RequestType
from jobstatus.core.store import SMALL_RESULT_BYTES
from jobstatus.core.virtual_keys import hash_key
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1 import virtual_keys_pb2 as vk_pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub
from jobstatus.v1.virtual_keys_pb2_grpc import VirtualKeysStub

OWNER: Final = bearer(virtual_key_token("vk-1"))
STRANGER: Final = bearer(virtual_key_token("vk-2"))
ADMIN: Final = bearer(admin_token())
REQUEST_ID: Final = "X-Request-Id: the-same"


@pytest.fixture
async def edge(service: Service) -> AsyncIterator[Service]:
    async with edge_here(service) as front:
        yield front


def told(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """All of an answer that does not depend on the moment."""
    return answer.status, {name: value for name, value in answer.headers.items() if name != "date"}, answer.body


async def assert_same(service: Service, edge: Service, path: str, *headers: str, method: str = "GET") -> Answer:
    """Both answer alike; what they answer."""
    inside, outside = [
        await request(front.http_port, path, REQUEST_ID, *headers, method=method) for front in (service, edge)
    ]
    assert told(outside) == told(inside)
    return outside


async def test_every_job_is_answered_with_the_same_bytes(service: Service, edge: Service) -> None:
    """For each request type and state, to its owner and to an admin, by GET and by HEAD."""
    for request_type in RequestType:
        for state in JobState:
            job_id = f"{request_type.value}-{state.value}"
            await job_in(service, state, job_id, request_type=number_of(request_type))
            path = f"/v1/async/{KINDS[request_type]}/{job_id}"
            for header in (OWNER, ADMIN):
                for method in ("GET", "HEAD"):
                    answer = await assert_same(service, edge, path, header, method=method)
                    assert answer.status in (200, 202)


async def test_odd_jobs_are_answered_with_the_same_bytes(service: Service, edge: Service) -> None:
    """Results of any size and kind, and the fullest error."""
    big = b'"' + b"x" * SMALL_RESULT_BYTES + b'"'
    for number, result in enumerate((b"null", b' {"a" : 1.0e5}\n', b'"\\u00fc \xf0\x9f\x8e\xa7"', big, big + b" ")):
        await create(service, f"result-{number}")
        await complete(service, f"result-{number}", result, status_code=201)
        answer = await assert_same(service, edge, f"/v1/async/audio/transcriptions/result-{number}", OWNER)
        assert answer.body.endswith(result + b"}")
    inner = pb.ErrorField(type="t", code="c", message="m 🎧", param="p", event_id="e", error="o")
    extra = pb.ErrorExtraFields(
        provider="p", model_requested="m", request_type="r", original_model_requested="o", resolved_model_used="u"
    )
    error = pb.JobError(event_id="e", type="t", is_bifrost_error=True, status_code=599, error=inner, extra_fields=extra)
    await create(service, "failed", provider="openai")
    await service.jobs.FailJob(pb.FailJobRequest(job_id="failed", error=error))
    assert (await assert_same(service, edge, "/v1/async/audio/transcriptions/failed", OWNER)).status == 200


async def test_every_refusal_is_the_same(service: Service, edge: Service) -> None:
    """No credential, a bad one, somebody else's job, another type's, unknown and malformed ids, methods, paths."""
    await job_in(service, JobState.COMPLETED, "done")
    await create(service, "nobodys", virtual_key_id=None)
    path = "/v1/async/audio/transcriptions/"
    asked: list[tuple[int, str, tuple[str, ...], str]] = [
        (401, f"{path}done", (), "GET"),
        (401, f"{path}done", (bearer("x"),), "GET"),
        (401, f"{path}done", ("x-bf-vk: sk-bf-unknown",), "GET"),
        (404, f"{path}done", (STRANGER,), "GET"),
        (404, f"{path}nobodys", (OWNER,), "GET"),
        (404, f"{path}unknown", (OWNER,), "GET"),
        (404, f"{path}not.an.id", (OWNER,), "GET"),
        (404, path, (OWNER,), "GET"),
        (404, "/v1/async/ocr/done", (OWNER,), "GET"),
        (404, "/elsewhere", (OWNER,), "GET"),
        (405, f"{path}done", (OWNER,), "DELETE"),
    ]
    for status, where, headers, method in asked:
        assert (await assert_same(service, edge, where, *headers, method=method)).status == status


async def test_virtual_keys_work_and_stop_working(service: Service, edge: Service) -> None:
    """A key registered inside is accepted; disabled, it and its virtual key's JWTs are refused in 5 s."""
    await put_virtual_key(service, key_sha256=[hash_key("sk-bf-1")])
    await job_in(service, JobState.COMPLETED, "done")
    headers = ("x-bf-vk: sk-bf-1", OWNER)

    async def statuses() -> list[int]:
        return [(await edge.poll("done", header)).status for header in headers]

    assert await statuses() == [200, 200]
    await put_virtual_key(service, key_sha256=[hash_key("sk-bf-1")], disabled=True)

    async def are_refused() -> bool:
        return await statuses() == [401, 401]

    await until(are_refused)


async def calls(service: Service, method: str) -> float:
    """How often the service was called with this method."""
    lines = (await request(service.admin_port, "/metrics")).body.decode().splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith(f'jobstatus_rpcs_total{{code="OK",method="{method}"')
    )


async def test_polls_that_come_together_are_few_calls(service: Service, edge: Service) -> None:
    """Two hundred polls at a time cost the service inside a handful of calls, and each gets its own job."""
    names = [f"job-{number}" for number in range(200)]
    for name in names:
        await create(service, name)
    assert (await edge.poll(names[0], OWNER)).status == 202
    before = await calls(service, "BatchGetJobs")
    answers = await asyncio.gather(*(edge.poll(name, OWNER) for name in names))
    assert [answer.json["id"] for answer in answers] == names
    assert await calls(service, "BatchGetJobs") - before <= len(names) / 4


async def test_nobody_but_the_owner_has_a_large_result_sent(service: Service, edge: Service) -> None:
    """The result of a stranger's job stays inside: it is asked for once the owner was compared, and not before."""
    await create(service, "large")
    await complete(service, "large", b'"' + b"x" * SMALL_RESULT_BYTES + b'"')
    assert (await edge.poll("large", STRANGER)).status == 404
    assert await calls(service, "GetJob") == 0
    assert (await edge.poll("large", OWNER)).status == 200
    assert await calls(service, "GetJob") == 1


async def test_a_service_that_is_away_is_a_503_and_heals(tmp_path: Path) -> None:
    """While nothing answers inside, polls are 503 in time and the edge is not ready; then all is as before."""
    store = f"sqlite:///{tmp_path / 'jobs.db'}"
    async with service_here(store) as service:
        await job_in(service, JobState.COMPLETED, "done")
        address = f"127.0.0.1:{service.grpc_port}"
        front = edge_here(service, limits=AS_SERVED)
        edge = await front.__aenter__()
        assert (await edge.poll("done", OWNER)).status == 200
    try:
        async with asyncio.timeout(30):
            answers = await asyncio.gather(*(edge.poll("done", header) for header in (OWNER, ADMIN) for _ in range(5)))
        assert {answer.status for answer in answers} == {503}
        assert {answer.headers["retry-after"] for answer in answers} == {"2"}

        async def is_ready() -> bool:
            return (await request(edge.admin_port, "/readyz")).status == 200

        async def is_not_ready() -> bool:
            return (await request(edge.admin_port, "/readyz")).status == 503

        await until(is_not_ready)
        async with service_here(store, grpc=address):

            async def is_back() -> bool:
                return (await edge.poll("done", OWNER)).status == 200

            await until(is_back)
            await until(is_ready)
    finally:
        await front.__aexit__(None, None, None)


async def test_a_store_that_is_away_inside_is_a_503() -> None:
    """What the service inside cannot read is unavailable outside, and not unknown."""
    store = MeddledStore()
    async with service_here(store) as service, edge_here(service) as edge:
        await job_in(service, JobState.COMPLETED, "done")
        store.fail_all(StoreUnavailable())
        assert (await edge.poll("done", ADMIN)).status == 503
        store.fail_all(None)
        assert (await edge.poll("done", ADMIN)).status == 200


async def test_an_edge_starts_before_its_service(service: Service) -> None:
    """Nothing has to be started in an order: an edge whose service is not there yet is up, and not ready."""
    async with edge_here(service, limits=AS_SERVED, upstream="127.0.0.1:1") as edge:
        assert (await request(edge.admin_port, "/healthz")).status == 200
        assert (await request(edge.admin_port, "/readyz")).status == 503
        assert (await edge.poll("job-1", OWNER)).status == 503


async def test_a_part_of_the_store_that_is_away_is_a_503_for_its_jobs_alone() -> None:
    """Other jobs of the same batch are answered as ever; whoever did not ask for that is told that the call failed."""
    store = MeddledStore()
    async with service_here(store) as service, edge_here(service) as edge:
        for name in ("away", "here"):
            await job_in(service, JobState.COMPLETED, name)

        def in_part(name: str) -> Any:
            async def read(job_ids: list[str], **options: Any) -> list[Any]:
                found = await getattr(store.real, name)(job_ids, **options)
                pairs = zip(job_ids, found, strict=True)
                return [StoreUnavailable() if job_id == "away" else item for job_id, item in pairs]

            return read

        for name in ("read_jobs", "read_answers"):
            store.replace(name, in_part(name))
        answers = await asyncio.gather(*(edge.poll(name, ADMIN) for name in ("away", "here", "unknown")))
        assert [answer.status for answer in answers] == [503, 200, 404]
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await service.jobs.BatchGetJobs(pb.BatchGetJobsRequest(job_ids=["away", "here"]))
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_edge_may_read_and_nothing_else(tmp_path: Path) -> None:
    """Over mutual TLS an edge's certificate answers polls; with it nobody can write, list or manage keys."""
    authorities = Authorities()
    settings = authorities.settings(tmp_path) | {"grpc_allowed_clients": {"worker"}, "grpc_edge_clients": {"edge"}}
    async with (
        service_here(**settings) as service,
        edge_here(service, **authorities.upstream_settings(tmp_path, "edge")) as edge,
    ):
        address = f"127.0.0.1:{service.grpc_port}"
        async with grpc.aio.secure_channel(address, authorities.client("worker")) as channel:
            await JobStatusStub(channel).CreateJob(creation("job-1"))
        assert (await edge.poll("job-1", OWNER)).status == 202
        assert (await edge.poll("unknown", OWNER)).status == 404
        async with grpc.aio.secure_channel(address, authorities.client("edge")) as channel:
            jobs, keys = JobStatusStub(channel), VirtualKeysStub(channel)
            assert (await jobs.GetJob(pb.GetJobRequest(job_id="job-1"))).job.job_id == "job-1"
            for call in (
                jobs.CreateJob(creation("job-2")),
                jobs.CompleteJob(completion("job-1")),
                jobs.CancelJob(cancellation("job-1")),
                jobs.DeleteJob(pb.DeleteJobRequest(job_id="job-1")),
                jobs.BatchWrite(pb.BatchWriteRequest()),
                jobs.ListJobs(pb.ListJobsRequest()),
                keys.PutVirtualKey(vk_pb.PutVirtualKeyRequest(virtual_key_id="vk-1")),
                keys.ListVirtualKeys(vk_pb.ListVirtualKeysRequest()),
                keys.DeleteVirtualKey(vk_pb.DeleteVirtualKeyRequest(virtual_key_id="vk-1")),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as refusal:
                    await call
                assert refusal_of(refusal.value).reason == "CLIENT_NOT_ALLOWED"


@pytest.mark.parametrize("names", [("edge",), ("another",)])
async def test_an_edge_that_the_service_does_not_know_gets_nothing(tmp_path: Path, names: tuple[str, ...]) -> None:
    """With a stranger's certificate, or a name that is not allowed, every poll is a 503."""
    authorities = Authorities()
    settings = authorities.settings(tmp_path) | {"grpc_allowed_clients": {"worker"}, "grpc_edge_clients": {"edge"}}
    files = authorities.upstream_settings(tmp_path, *names, of_stranger=names == ("edge",))
    async with service_here(**settings) as service, edge_here(service, limits=AS_SERVED, **files) as edge:
        assert (await edge.poll("job-1", OWNER)).status == 503
        assert (await request(edge.admin_port, "/readyz")).status == 503


async def test_batches_of_virtual_keys_are_bounded_and_tell_the_version(service: Service) -> None:
    """By id and by hash, each once, unknown ones left out; the number differs after a change."""
    digests = [hash_key(f"sk-bf-{number}") for number in range(2)]
    ask = service.virtual_keys.BatchGetVirtualKeys
    empty = await ask(vk_pb.BatchGetVirtualKeysRequest())
    assert list(empty.virtual_keys) == []
    await put_virtual_key(service, "vk-1", key_sha256=digests)
    both = vk_pb.BatchGetVirtualKeysRequest(virtual_key_ids=["vk-1", "vk-2"], key_sha256=[*digests, hash_key("no")])
    found = await ask(both)
    assert [item.virtual_key_id for item in found.virtual_keys] == ["vk-1"]
    assert found.version != empty.version
    for request_ in (
        vk_pb.BatchGetVirtualKeysRequest(virtual_key_ids=["not.an.id"]),
        vk_pb.BatchGetVirtualKeysRequest(virtual_key_ids=["vk"] * 1001),
        vk_pb.BatchGetVirtualKeysRequest(key_sha256=[b"x"] * 1001),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await ask(request_)
        assert refusal_of(refusal.value).reason == "INVALID_FIELD"
