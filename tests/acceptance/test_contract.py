"""The contract from outside: the installed command, jobs written over gRPC, answers judged by its own description."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from harness import strict
from harness.http import Answer, request
from harness.jobs import ENDED, KINDS, complete, create, fail, job_error, job_in, number_of
from harness.service import EdgeProcess, Process, Service
from harness.stores import STORES
from harness.tokens import admin_token, bearer, virtual_key_token
from harness.waiting import until
from hypothesis import settings
from jobstatus.core.job import JobState, RequestType
from jobstatus.v1 import job_status_pb2 as pb
from jsonschema import ValidationError

OWNER: Final = bearer(virtual_key_token("vk-1"))
STRANGER: Final = bearer(virtual_key_token("vk-2"))
SCHEMATHESIS: Final = str(Path(sys.executable).with_name("st"))
SCHEMATHESIS_SECONDS: Final = 240

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRONTS: Final = {store: (store, Process) for store in STORES} | {"edge": ("sqlite", EdgeProcess)}
"""Every store behind the service's own edge, and an edge of its own."""


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=FRONTS)
async def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """The installed command upon each store, with a job of vk-1's for each request type and state."""
    folder = tmp_path_factory.mktemp(request.param)
    store, front = FRONTS[request.param]
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(Process(folder, STORE=STORES[store](folder), MAX_WAIT_SECONDS="1"))
        running = await stack.enter_async_context(process.connected())
        if front is EdgeProcess:
            edge = await stack.enter_async_context(EdgeProcess(folder, running, MAX_WAIT_SECONDS="1"))
            running = running.behind(edge.port("HTTP"), edge.port("ADMIN"))
        for request_type in RequestType:
            for state in JobState:
                await job_in(running, state, id_of(request_type, state), request_type=number_of(request_type))
        yield running


def id_of(request_type: RequestType, state: JobState) -> str:
    return f"{request_type.value}-{state.value}"


async def judge_of(service: Service, schema: str) -> Callable[[Any], None]:
    """Judges by a schema of the description that the service hands out, and by the strict one of the same name."""
    document = (await request(service.http_port, "/openapi.json")).json
    published = strict.validator({"$ref": f"#/components/schemas/{schema}"}, document["components"]["schemas"])

    def judge(body: Any) -> None:
        published.validate(body)
        strict.judge(schema).validate(body)

    return judge


async def test_every_job_is_answered_as_described(service: Service) -> None:
    """For each type and state the owner and an admin get the contract's status and a body that the schema accepts."""
    judge = await judge_of(service, "AsyncJobResponse")
    for request_type in RequestType:
        for state in JobState:
            for header in (OWNER, bearer(admin_token())):
                answer = await service.poll(id_of(request_type, state), header, kind=KINDS[request_type])
                judge(answer.json)
                assert answer.json["status"] == state.value
                assert answer.status == (200 if state in ENDED else 202)
                assert ("retry-after" in answer.headers) == (state not in ENDED)


async def test_odd_jobs_are_answered_as_described(service: Service) -> None:
    """Results of every JSON type and the fullest and the barest error make bodies that the schema accepts."""
    judge = await judge_of(service, "AsyncJobResponse")
    for number, result in enumerate((b"null", b"0", b'"text"', b"true", b"[]", b'{"error":null,"status":"pending"}')):
        await create(service, f"result-{number}")
        await complete(service, f"result-{number}", result, status_code=100 + number)
        answer = await service.poll(f"result-{number}", OWNER)
        judge(answer.json)
        assert answer.json["result"] == json.loads(result)
    inner = pb.ErrorField(type="t", code="c", message="m", param="p", event_id="e", error="o")
    extra = pb.ErrorExtraFields(original_model_requested="o", resolved_model_used="u")
    full = pb.JobError(event_id="e", type="t", is_bifrost_error=True, status_code=599, error=inner, extra_fields=extra)
    for number, error in enumerate((full, job_error(""))):
        await create(service, f"error-{number}")
        await fail(service, f"error-{number}", error)
        judge((await service.poll(f"error-{number}", OWNER)).json)


async def test_strict_schema_refuses_what_the_contract_does_not_allow(service: Service) -> None:
    """The schema that the other tests judge by is no formality: bodies with one thing wrong are refused."""
    good = (await service.poll(id_of(RequestType.OCR, JobState.FAILED), OWNER, kind="ocr")).json
    changes: tuple[dict[str, Any], ...] = (
        {"progress": 0.5},
        {"status": "done"},
        {"error": None},
        {"expires_at": None},
        {"created_at": "2026-02-30T00:00:00.000Z"},
        {"created_at": "yesterday"},
        {"completed_at": "2026-01-01T00:00:00Z"},
        {"status_code": "500"},
        {"result": {}},
        {"error": {**good["error"], "secret": 1}},
    )
    for change in changes:
        with pytest.raises(ValidationError):
            strict.judge("AsyncJobResponse").validate({**good, **change})


async def test_every_refusal_is_as_described(service: Service) -> None:
    """What is not answered with a job is a BifrostError by the schema, of the status that belongs to the cause."""
    judge = await judge_of(service, "BifrostError")
    done = id_of(RequestType.TRANSCRIPTION, JobState.COMPLETED)
    answers: list[tuple[int, Answer]] = [
        (401, await service.poll(done)),
        (401, await service.poll(done, bearer("x"))),
        (404, await service.poll(done, STRANGER)),
        (404, await service.poll("unknown", OWNER)),
        (404, await service.poll("no.id", OWNER)),
        (404, await service.poll(done, OWNER, kind="ocr")),
        (404, await request(service.http_port, "/nowhere")),
        (405, await service.poll(done, OWNER, method="DELETE")),
        (400, await request(service.http_port, "/ space", OWNER)),
    ]
    for status, answer in answers:
        judge(answer.json)
        assert (answer.status, answer.json["status_code"], answer.json["is_bifrost_error"]) == (status, status, False)
        assert answer.json["event_id"] == answer.headers["x-request-id"]


async def test_jobs_expire_in_time(service: Service) -> None:
    """An ended job is not found soon after its expires_at, and never before."""
    await create(service, "short", result_ttl={"seconds": 1})
    expires_at = (await complete(service, "short")).expires_at.ToMilliseconds()

    async def is_gone() -> bool:
        return (await service.poll("short", OWNER)).status == 404

    await until(is_gone)
    assert time.time_ns() // 1_000_000 >= expires_at


@pytest.mark.hypothesis
@pytest.mark.parametrize("service", ["sqlite", "edge"], indirect=True)
async def test_schemathesis_finds_nothing(service: Service, tmp_path: Path) -> None:
    """Generated requests, good and bad, upon jobs in all states are answered as the description says, by all checks.

    On one store and at the edge: what is generated differs in path and headers, which no store sees. Request types
    differ in the first part of the path only, so the profile `dev` tries one of them.
    """
    is_thorough = settings.get_current_profile_name() == "ci"
    request_types = list(RequestType) if is_thorough else [RequestType.TRANSCRIPTION]
    url = f"http://127.0.0.1:{service.http_port}/openapi.json"
    config = tmp_path / "schemathesis.toml"
    config.write_text(schemathesis_settings(request_types))
    examples = settings().max_examples // 4
    options = ["--header", OWNER, "--seed", "1", "--max-examples", str(examples), "--checks", "all"]
    for request_type in request_types:
        options += ["--include-path", f"/v1/async/{KINDS[request_type]}/{{job_id}}"]
    child = await asyncio.create_subprocess_exec(
        *(SCHEMATHESIS, "--config-file", str(config), "run", url, *options),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(SCHEMATHESIS_SECONDS):
            output, _ = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert child.returncode == 0, output.decode()
    metrics = (await request(service.admin_port, "/metrics")).body.decode()
    for request_type in request_types:
        counted = [line for line in metrics.splitlines() if f'route="{request_type.value}"' in line]
        for code in (200, 202, 401, 404, 405):
            assert any(f'code="{code}"' in line for line in counted), (request_type, code)


def schemathesis_settings(request_types: list[RequestType]) -> str:
    """Which ids to ask for beside made-up ones; a warning, such as that only 404s were seen, fails the run."""
    lines = ["[warnings]", "fail-on = true"]
    for request_type in request_types:
        ids = json.dumps([id_of(request_type, state) for state in JobState])
        binding = f'{{ dictionary = "{request_type.value}", probability = 0.7 }}'
        lines += [f"[dictionaries.{request_type.value}]", f"values = {ids}", "[[operations]]"]
        lines += [
            f'include-path = "/v1/async/{KINDS[request_type]}/{{job_id}}"',
            f"parameters = {{ job_id = {binding} }}",
        ]
    return "\n".join(lines)
