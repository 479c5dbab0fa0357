"""The REST contract, row by row: what a poll of each job answers, with which headers, in which bytes."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from harness.faults import Clock, MeddledStore
from harness.http import Answer, request
from harness.jobs import ENDED, KINDS, complete, create, fail, job_error, job_in, number_of, put_virtual_key, start
from harness.service import Service, service_here
from harness.tokens import admin_token, bearer, virtual_key_token
from jobstatus.core.errors import JobStatusError, Overloaded, ShuttingDown, StoreFull, StoreUnavailable
from jobstatus.core.job import JobState, RequestType
from jobstatus.core.store import SMALL_RESULT_BYTES
from jobstatus.rest.fast_path import FastPathProtocol
from jobstatus.rest.limits import RestLimits
from jobstatus.rest.protocol import RestProtocol
from jobstatus.v1 import job_status_pb2 as pb

OWNER = bearer(virtual_key_token("vk-1"))
STRANGER = bearer(virtual_key_token("vk-2"))
ADMIN = bearer(admin_token())
PATH = "/v1/async/audio/transcriptions/"
UNDER_WAY = (JobState.PENDING, JobState.PROCESSING)
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
SECRET_TEXT = "postgresql://user:hunter2@db/jobs"
HEADERS_OF_ALL = {
    "content-type": "application/json",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "server": "jobstatus",
    "connection": "close",
}


@pytest.fixture(params=["memory", "sqlite", "no fast path"])
async def either(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    """The service on each of the stores that need no server, and without the fast path."""
    url = f"sqlite:///{tmp_path / 'jobs.db'}" if request.param == "sqlite" else "memory://"
    connection_type = RestProtocol if request.param == "no fast path" else FastPathProtocol
    async with service_here(url, rest=RestLimits(connection_type=connection_type)) as running:
        yield running


ON_SHARED = pytest.mark.asyncio(loop_scope="module")
"""Of the tests that only ask the service for what `shared` has."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Service]:
    """The whole service on the memory store with `j1` and a job in each state, of its name; nobody changes them."""
    async with service_here() as running:
        await create(running, "j1")
        for state in JobState:
            await job_in(running, state, state.value)
        yield running


def problem(status: int, kind: str, code: str, message: str, event_id: str) -> dict[str, Any]:
    """The BifrostError that the edge answers on its own account."""
    return {
        "event_id": event_id,
        "is_bifrost_error": False,
        "status_code": status,
        "error": {"type": kind, "code": code, "message": message},
        "extra_fields": {},
    }


def assert_not_found(answer: Answer) -> None:
    """The answer is the 404 of a job, key for key."""
    expected = problem(404, "not_found", "job_not_found", "Job not found or expired", answer.headers["x-request-id"])
    assert (answer.status, list(answer.json.items())) == (404, list(expected.items()))


# --- jobs ---


@pytest.mark.parametrize("state", UNDER_WAY)
@pytest.mark.parametrize("request_type", RequestType)
async def test_job_under_way_is_202(service: Service, request_type: RequestType, state: JobState) -> None:
    """A pending or processing job of every type is a 202 with id, status and created_at, and says when to come back."""
    await job_in(service, state, "j1", request_type=number_of(request_type))
    answer = await service.poll("j1", OWNER, kind=KINDS[request_type])
    assert answer.status == 202
    assert list(answer.json) == ["id", "status", "created_at"]
    assert (answer.json["id"], answer.json["status"]) == ("j1", state.value)
    assert re.fullmatch("[1-9][0-9]?", answer.headers["retry-after"])
    assert int(answer.headers["retry-after"]) <= 30


@pytest.mark.parametrize("request_type", RequestType)
async def test_completed_job_is_200(service: Service, request_type: RequestType) -> None:
    """A completed job of every type is a 200 whose keys stand in the contract's order, the result last."""
    await job_in(service, JobState.COMPLETED, "j1", request_type=number_of(request_type))
    answer = await service.poll("j1", OWNER, kind=KINDS[request_type])
    assert answer.status == 200
    assert list(answer.json) == ["id", "status", "expires_at", "created_at", "completed_at", "status_code", "result"]
    assert (answer.json["id"], answer.json["status"], answer.json["status_code"]) == ("j1", "completed", 200)
    assert answer.json["result"] == {"text": "hello"}
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize("request_type", RequestType)
async def test_failed_job_is_200(service: Service, request_type: RequestType) -> None:
    """A failed job of every type is a 200 whose body tells the job's own code, and of which type it was."""
    await job_in(service, JobState.FAILED, "j1", request_type=number_of(request_type))
    answer = await service.poll("j1", OWNER, kind=KINDS[request_type])
    assert answer.status == 200
    assert list(answer.json) == ["id", "status", "expires_at", "created_at", "completed_at", "status_code", "error"]
    assert (answer.json["status"], answer.json["status_code"]) == ("failed", 500)
    assert answer.json["error"] == {
        "is_bifrost_error": False,
        "error": {"message": "The recording is empty."},
        "extra_fields": {"request_type": request_type.value},
    }


@pytest.mark.parametrize("request_type", RequestType)
async def test_other_types_paths_are_404(service: Service, request_type: RequestType) -> None:
    """At each path but its own type's a job is not found, even by an admin."""
    await create(service, "j1", request_type=number_of(request_type))
    for other, kind in KINDS.items():
        if other is not request_type:
            assert_not_found(await service.poll("j1", ADMIN, kind=kind))


async def test_pending_job_can_end_at_once(service: Service) -> None:
    """A job that was never started is shown as ended when its worker reports only that."""
    await create(service, "done")
    await complete(service, "done", status_code=201)
    await create(service, "broken")
    await fail(service, "broken", status_code=422)
    done, broken = await service.poll("done", OWNER), await service.poll("broken", OWNER)
    assert (done.status, done.json["status"], done.json["status_code"]) == (200, "completed", 201)
    assert (broken.status, broken.json["status"], broken.json["status_code"]) == (200, "failed", 422)


@pytest.mark.parametrize("state", ENDED)
@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_expired_job_is_404_to_the_millisecond(tmp_path: Path, store: str, state: JobState) -> None:
    """An ended job is served up to its expires_at and not found from then on, by its owner and by an admin."""
    clock = Clock()
    url = "memory://" if store == "memory" else f"sqlite:///{tmp_path / 'jobs.db'}"
    async with service_here(url, sweep_interval_seconds=60, clock=clock) as service:
        job = await job_in(service, state, "j1", result_ttl={"seconds": 5})
        clock.move(ms=job.expires_at.ToMilliseconds() - clock.ms - 1)
        assert (await service.poll("j1", OWNER)).status == 200
        clock.move(ms=1)
        assert_not_found(await service.poll("j1", OWNER))
        assert_not_found(await service.poll("j1", ADMIN))


async def test_unknown_deleted_and_foreign_jobs_are_404(either: Service) -> None:
    """A job that never was, one that was deleted and one of another virtual key are the same 404."""
    await job_in(either, JobState.COMPLETED, "theirs")
    await create(either, "gone")
    await either.jobs.DeleteJob(pb.DeleteJobRequest(job_id="gone"))
    assert_not_found(await either.poll("never", OWNER))
    assert_not_found(await either.poll("gone", OWNER))
    assert_not_found(await either.poll("theirs", STRANGER))


@pytest.mark.parametrize("job_id", ["", "a%20b", "j1/", "j1%20", "j1%00", "%6A1%0A", "a" * 129, "j.1"])
async def test_malformed_id_is_404(service: Service, job_id: str) -> None:
    """An id that no job can have is answered like one that no job has."""
    await create(service, "j1")
    assert_not_found(await service.poll(job_id, OWNER))


async def test_escaped_id_is_the_same_id(service: Service) -> None:
    """Percent-encoding of characters that need none changes nothing (RFC 3986, section 2.3)."""
    await create(service, "j1")
    assert (await service.poll("%6A%31", OWNER)).json["id"] == "j1"


@ON_SHARED
@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/async/audio/transcriptions", "/V1/async/audio/transcriptions/j1", "//"]
)
async def test_unknown_path_is_404_of_the_same_shape(shared: Service, path: str) -> None:
    """A path that is none of ours is a BifrostError with 404, whoever asks."""
    for headers in ((), (OWNER,)):
        answer = await request(shared.http_port, path, *headers)
        event_id = answer.headers["x-request-id"]
        expected = problem(404, "not_found", "path_not_found", "There is nothing at this path", event_id)
        assert (answer.status, answer.json) == (404, expected)


@ON_SHARED
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("path", [*(f"/v1/async/{kind}/j1" for kind in KINDS.values()), "/openapi.json"])
async def test_other_methods_are_405(shared: Service, path: str, method: str) -> None:
    """Every method but GET and HEAD is a 405 with Allow on every path, before any credential is looked at."""
    for headers in ((), (OWNER,), (bearer("bad"),)):
        answer = await request(shared.http_port, path, *headers, method=method)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
        assert answer.json["error"]["code"] == answer.json["error"]["type"] == "method_not_allowed"
        assert not {name for name in answer.headers if name.startswith("access-control")}


@ON_SHARED
@pytest.mark.parametrize(
    ("job_id", "header", "status"),
    [
        ("pending", OWNER, 202),
        ("processing", OWNER, 202),
        ("completed", OWNER, 200),
        ("failed", OWNER, 200),
        ("completed", STRANGER, 404),
        ("unknown", OWNER, 404),
        ("completed", bearer("bad"), 401),
        ("completed", "Accept: */*", 401),
    ],
)
async def test_head_is_get_without_the_body(shared: Service, job_id: str, header: str, status: int) -> None:
    """HEAD has the status and every header that GET has, Content-Length included, and no body."""
    both = [await shared.poll(job_id, header, "X-Request-Id: r-1", method=method) for method in ("GET", "HEAD")]
    get, head = ({**answer.headers, "date": ""} for answer in both)
    assert [answer.status for answer in both] == [status, status]
    assert head == get
    assert int(head["content-length"]) == len(both[0].body) > 0


# --- bodies ---


async def test_times_are_those_of_the_job(either: Service) -> None:
    """Times have milliseconds and Z, and are the job's own; it expires its result_ttl after its end."""
    job = await job_in(either, JobState.COMPLETED, "j1", result_ttl={"seconds": 90})
    body = (await either.poll("j1", OWNER)).json
    for name in ("created_at", "completed_at", "expires_at"):
        assert TIMESTAMP.fullmatch(body[name])
        at = getattr(job, name)
        assert body[name] == at.ToDatetime().isoformat(timespec="milliseconds") + "Z"
    assert job.expires_at.ToMilliseconds() - job.completed_at.ToMilliseconds() == 90_000


async def test_error_is_completed_from_the_job(either: Service) -> None:
    """What a worker leaves out of extra_fields is taken from the job; nothing else is added, and no key is null."""
    await create(either, "j1", provider="openai", model_requested="whisper-1")
    await fail(either, "j1", job_error(extra_fields=pb.ErrorExtraFields(provider="azure")))
    answer = await either.poll("j1", OWNER)
    assert answer.json["error"] == {
        "is_bifrost_error": False,
        "error": {"message": "The recording is empty."},
        "extra_fields": {"provider": "azure", "model_requested": "whisper-1", "request_type": "transcription"},
    }
    assert b"null" not in answer.body


async def test_error_is_the_workers_field_by_field(either: Service) -> None:
    """A full error comes out as it went in, with its keys in the contract's order, text of any script included."""
    inner = {
        "type": "t",
        "code": "c",
        "message": 'Größe "0" \u2028 \U0001f600 </script>',
        "param": "file",
        "event_id": "e-2",
        "error": "502: Bad Gateway",
    }
    extra = {
        "provider": "p",
        "model_requested": "m",
        "request_type": "r",
        "original_model_requested": "o",
        "resolved_model_used": "u",
    }
    outer: dict[str, Any] = {"event_id": "e-1", "type": "T", "is_bifrost_error": True, "status_code": 418}
    await create(either, "j1", provider="openai", model_requested="whisper-1")
    await fail(
        either, "j1", pb.JobError(**outer, error=pb.ErrorField(**inner), extra_fields=pb.ErrorExtraFields(**extra))
    )
    error = (await either.poll("j1", OWNER)).json["error"]
    assert error == {**outer, "error": inner, "extra_fields": extra}
    assert list(error) == ["event_id", "type", "is_bifrost_error", "status_code", "error", "extra_fields"]
    assert list(error["error"]) == list(inner)
    assert list(error["extra_fields"]) == list(extra)


RESULTS = {
    "null": b"null",
    "proto": b'{"__proto__":{"admin":true},"constructor":1}',
    "html": b'"</script><script>alert(1)</script>&lt;!--"',
    "64 bits": b"[18446744073709551615,-9223372036854775808,12345678901234567890123456789]",
    "numbers": b"[1.0,1e2,1E+2,-0,-0.0,0.10,1e-400]",
    "separators": '"\u2028\u2029\x7f\ufeff"'.encode(),
    "escapes": rb'"\u0000\ud83d\ude00\\ud800\/\u002f"',
    "spaces": b' \t\r\n{ "a" : [ 1 ,\t2 ] , "b" :\r\n{} }\n ',
    "braces": b'{"a":"}"}',
    "small": b'"' + b"s" * (SMALL_RESULT_BYTES - 3) + b'"',
    "limit": b'"' + b"l" * (SMALL_RESULT_BYTES - 2) + b'"',
    "large": b'"' + b"g" * (SMALL_RESULT_BYTES - 1) + b'"',
    "1 MB": b"[" + b"123456789," * 100_000 + b"0]",
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS.keys())
async def test_result_bytes_come_out_as_they_went_in(either: Service, result: bytes) -> None:
    """A result is served byte for byte at the end of the document, whatever is in it and however large it is."""
    await create(either, "j1")
    await complete(either, "j1", result)
    answer = await either.poll("j1", OWNER)
    head, key, rest = answer.body.partition(b'"result":')
    assert (answer.status, key) == (200, b'"result":')
    assert rest == result + b"}"
    assert head.endswith(b'"status_code":200,')


@pytest.mark.parametrize("state", JobState)
async def test_internal_fields_stay_inside(service: Service, state: JobState) -> None:
    """What only the inside knows of a job (owner, worker, lease, attempts, notes) reaches no client."""
    await create(service, "j1", provider="provider-x", max_attempts=777)
    if state is not JobState.PENDING:
        await start(service, "j1", "worker-x", lease={"seconds": 4321})
        beat = pb.HeartbeatJobRequest(job_id="j1", attempt=1, progress=0.125, message="message-x")
        await service.jobs.HeartbeatJob(beat)
    if state is JobState.COMPLETED:
        await complete(service, "j1", b"{}", attempt=1)
    if state is JobState.FAILED:
        extra_fields = pb.ErrorExtraFields(provider="shown")
        await fail(service, "j1", job_error(extra_fields=extra_fields), attempt=1)
    answer = await service.poll("j1", OWNER)
    allowed = {"id", "status", "expires_at", "created_at", "completed_at", "status_code", "result", "error"}
    assert set(answer.json) <= allowed
    numbers = ("date", "etag", "job-progress", "x-request-id")  # which may have any digits, as the times have
    headers = {name: value for name, value in answer.headers.items() if name not in numbers}
    members = {name: value for name, value in answer.json.items() if not name.endswith("_at")}
    everything = repr((headers, members))
    for inner in ("vk-1", "worker", "lease", "attempt", "777", "4321", "0.125", "message-x", "provider-x", "version"):
        assert inner not in everything


# --- headers ---


async def test_every_answer_has_the_same_headers() -> None:
    """Every answer has the contract's headers, exactly those beside its own, and no product's version."""
    store = MeddledStore()
    async with service_here(store) as service:
        await job_in(service, JobState.COMPLETED, "done")
        await job_in(service, JobState.PENDING, "pending")
        polls = {
            (200, ("etag", "cache-control", "vary")): await service.poll("done", OWNER),
            (202, ("retry-after", "vary")): await service.poll("pending", OWNER),
            (401, ("www-authenticate",)): await service.poll("done"),
            (404, ()): await service.poll("unknown", OWNER),
            (405, ("allow",)): await service.poll("done", OWNER, method="POST"),
        }
        store.failures["read_answers"] = StoreUnavailable()
        polls[503, ("retry-after",)] = await service.poll("done", OWNER)
        store.failures["read_answers"] = ValueError()
        polls[500, ()] = await service.poll("done", OWNER)
    for (status, own), answer in polls.items():
        varying = {"date", "content-length", "x-request-id", *own}
        assert answer.status == status
        fixed = {name: value for name, value in HEADERS_OF_ALL.items() if name not in varying}
        assert {name: value for name, value in answer.headers.items() if name not in varying} == fixed
        assert set(answer.headers) == varying | set(fixed)


@ON_SHARED
@pytest.mark.parametrize(
    "given", ["r-1", "A.b_c-9", "x" * 128, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]
)
async def test_sane_request_id_is_echoed(shared: Service, given: str) -> None:
    """A sane X-Request-Id comes back, and is the event_id of an error."""
    answer = await shared.poll("unknown", OWNER, f"X-Request-Id: {given}")
    assert answer.headers["x-request-id"] == answer.json["event_id"] == given


@ON_SHARED
@pytest.mark.parametrize("given", ["", "x" * 129, "a b", 'a"b', "a/b", "<a>", "a;b", "a\xff", "ä"])
async def test_insane_request_id_is_replaced(shared: Service, given: str) -> None:
    """Any other X-Request-Id is replaced by one of ours, which no two answers share, and is nowhere repeated."""
    answers = [await shared.poll("unknown", OWNER, f"X-Request-Id: {given}") for _ in range(2)]
    ours = {answer.headers["x-request-id"] for answer in answers}
    assert len(ours) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", request_id) for request_id in ours)
    assert {answer.json["event_id"] for answer in answers} == ours


# --- Retry-After ---


async def test_old_job_is_polled_less_often() -> None:
    """Retry-After follows the job's age: the setting's seconds at first, a tenth of the age later, 30 s at most."""
    clock = Clock()
    async with service_here(retry_after_seconds=3, clock=clock) as service:
        await create(service, "j1")
        waits = []
        for seconds in (0, 50, 50, 1000):
            clock.move(seconds=seconds)
            waits.append((await service.poll("j1", OWNER)).headers["retry-after"])
    assert waits == ["3", "5", "10", "30"]


# --- faults ---


def assert_unavailable(answer: Answer) -> None:
    """The answer is the 503 of the contract."""
    event_id = answer.headers["x-request-id"]
    message = "Temporarily unavailable, try again later"
    assert (answer.status, answer.json) == (503, problem(503, "unavailable", "store_unavailable", message, event_id))
    assert re.fullmatch("[1-9][0-9]?", answer.headers["retry-after"])


@pytest.mark.parametrize("failure", [StoreUnavailable(SECRET_TEXT), StoreFull(), Overloaded(), ShuttingDown()])
async def test_store_that_does_not_answer_is_503(failure: JobStatusError) -> None:
    """While the store fails every poll is a 503 that says when to come back; once it is well they are as before."""
    store = MeddledStore()
    async with service_here(store) as service:
        await create(service, "j1")
        store.fail_all(failure)
        for job_id in ("j1", "unknown", "malformed.id"):
            for header in (ADMIN, OWNER, STRANGER):
                assert_unavailable(await service.poll(job_id, header))
        assert (await service.poll("j1", bearer("bad"))).status == 401
        store.fail_all(None)
        assert (await service.poll("j1", OWNER)).status == 202


async def test_large_result_that_cannot_be_read_is_503() -> None:
    """A store that fails between the answer's two reads makes a 503, never a document without its result."""
    store = MeddledStore()
    async with service_here(store) as service:
        await create(service, "j1")
        await complete(service, "j1", RESULTS["large"])
        store.failures["read_jobs"] = StoreUnavailable()
        assert_unavailable(await service.poll("j1", OWNER))


async def test_sqlite_file_that_is_gone_is_503(tmp_path: Path) -> None:
    """Polls are 503 while SQLite's file cannot be opened, and as before once it is there again."""
    path = tmp_path / "jobs.db"
    store = MeddledStore(f"sqlite:///{path}")
    async with service_here(store) as service:
        await create(service, "j1")
        store.real._reader.close()
        store.real._reader = None
        path.rename(tmp_path / "away.db")
        assert_unavailable(await service.poll("j1", ADMIN))
        (tmp_path / "away.db").rename(path)
        assert (await service.poll("j1", ADMIN)).status == 202


async def test_credential_that_cannot_be_looked_up_is_503() -> None:
    """A virtual key that the store cannot be asked about is neither let in nor refused."""
    store = MeddledStore()
    async with service_here(store) as service:
        await put_virtual_key(service)
        store.failures["find_virtual_keys"] = store.failures["read_virtual_keys"] = StoreUnavailable()
        assert_unavailable(await service.poll("j1", bearer("sk-bf-key")))
        assert_unavailable(await service.poll("j1", OWNER))


async def test_fault_of_ours_is_500_and_tells_nothing() -> None:
    """An exception that nobody expected is a 500 of our shape without a word of it; the service goes on."""
    store = MeddledStore()
    async with service_here(store) as service:
        await create(service, "j1")
        store.failures["read_answers"] = RuntimeError(SECRET_TEXT)
        answer = await service.poll("j1", OWNER)
        expected = problem(500, "internal_error", "internal_error", "Internal error", answer.headers["x-request-id"])
        assert (answer.status, answer.json) == (500, expected)
        del store.failures["read_answers"]
        assert (await service.poll("j1", OWNER)).status == 202
