"""The description of the REST contract says what the contract and the code say."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from harness import strict
from jobstatus.core.answer import RESULT_TAIL, render
from jobstatus.core.job import ErrorExtraFields, ErrorField, Job, JobError, JobState, RequestType
from jobstatus.rest import responses
from jobstatus.rest.routes import PATHS
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = json.loads((ROOT / "service/jobstatus/rest/openapi.json").read_bytes())
POLLED = {path: item for path, item in DOCUMENT["paths"].items() if path.startswith("/v1/")}

CONTRACT_EXAMPLE = {
    "id": "string",
    "status": "pending",
    "expires_at": "2019-08-24T14:15:22Z",
    "created_at": "2019-08-24T14:15:22Z",
    "completed_at": "2019-08-24T14:15:22Z",
    "status_code": 0,
    "result": None,
    "error": {
        "event_id": "string",
        "type": "string",
        "is_bifrost_error": True,
        "status_code": 0,
        "error": {"type": "string", "code": "string", "message": "string", "param": "string", "event_id": "string"},
        "extra_fields": {"provider": "openai", "model_requested": "string", "request_type": "string"},
    },
}
"""The body that the contract's page shows for 200 and 202; `error` is what it shows for 404."""

PENDING = Job(
    job_id="job-1",
    request_type=RequestType.TRANSCRIPTION,
    state=JobState.PENDING,
    version=1,
    virtual_key_id="vk-1",
    provider="openai",
    model_requested="whisper-1",
    created_at_ms=1_700_000_000_000,
    result_ttl_ms=3_600_000,
    max_attempts=1,
)
PROCESSING = PENDING._replace(state=JobState.PROCESSING, started_at_ms=1_700_000_000_001, attempt=1, progress=0.5)
ENDED = PROCESSING._replace(completed_at_ms=1_700_000_001_000, expires_at_ms=1_700_003_601_000, status_code=200)
COMPLETED = ENDED._replace(state=JobState.COMPLETED, result=b'{"text":"hello"}')
SHORT_ERROR = JobError(error=ErrorField(message=""))
FULL_ERROR = JobError(
    event_id="e-1",
    type="invalid_request_error",
    is_bifrost_error=True,
    status_code=400,
    error=ErrorField(type="t", code="c", message="m", param="file", event_id="e-2", error="502: Bad Gateway"),
    extra_fields=ErrorExtraFields(
        provider="openai",
        model_requested="whisper-1",
        request_type="transcription",
        original_model_requested="fast",
        resolved_model_used="whisper-large-v3",
    ),
)
FAILED = ENDED._replace(state=JobState.FAILED, status_code=400, error=FULL_ERROR)


def document_of(job: Job) -> Any:
    """What a poll of this job answers."""
    return json.loads(render(job) if job.result is None else render(job) + job.result + RESULT_TAIL)


def validator(schema: object) -> Draft202012Validator:
    """Judges by a schema of the document, whose $refs point into its components."""
    return strict.validator(schema, DOCUMENT["components"]["schemas"])


def published(response: str) -> Draft202012Validator:
    return validator(DOCUMENT["components"]["responses"][response]["content"]["application/json"]["schema"])


def nodes(node: object) -> Iterator[dict[str, Any]]:
    """This node and every one below that is an object."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from nodes(child)


def schemas_in(document: dict[str, Any]) -> Iterator[Any]:
    """Every schema of the document and every schema within one."""
    places = [node["schema"] for node in nodes(document) if "schema" in node]
    places += document["components"]["schemas"].values()
    while places:
        schema = places.pop()
        yield schema
        if isinstance(schema, dict):
            places += schema.get("properties", {}).values()
            places += [schema[key] for key in ("items", "additionalProperties", "not") if key in schema]
            places += [part for key in ("allOf", "anyOf", "oneOf") for part in schema.get(key, ())]


def test_is_valid_openapi() -> None:
    """The document conforms to the OpenAPI 3.1 schema, and its schemas to JSON Schema 2020-12."""
    from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR  # noqa: PLC0415  # slow to import

    OPENAPI_31_VALIDATOR.validate(DOCUMENT)
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_generators_of_clients_can_read_the_document() -> None:
    """Nothing is in it that some generator refuses or reads in another way; `make clients` tries them."""
    for node in nodes(DOCUMENT):
        assert "$ref" not in node or set(node) == {"$ref"}, node
    schemas = list(schemas_in(DOCUMENT))
    assert len(schemas) > 40
    for schema in schemas:
        assert isinstance(schema, dict), schema
        assert not schema.keys() & {"oneOf", "anyOf", "allOf", "not", "const", "if", "patternProperties"}, schema
        assert not isinstance(schema.get("type"), list), schema
        assert not {"format", "pattern"} <= schema.keys(), schema
    alternatives = [node["security"] for node in nodes(DOCUMENT) if "security" in node]
    assert alternatives
    assert {len(alternative) for each in alternatives for alternative in each} == {1}


def test_a_token_is_sent_once() -> None:
    """Every operation has one scheme, because some clients send the token by each that is named; a key fits it too."""
    assert DOCUMENT["security"] == [{"bearer": []}]
    assert all("security" not in item[method] for item in POLLED.values() for method in item.keys() & {"get", "head"})
    assert {"bearer", "virtual_key"} <= set(DOCUMENT["components"]["securitySchemes"])


def test_what_a_client_may_ask_for_is_a_parameter() -> None:
    """The request headers that change an answer, on each path; the last event on GET alone, which has the stream."""
    parameters = DOCUMENT["components"]["parameters"]
    for item in POLLED.values():
        named = [parameters[reference["$ref"].rpartition("/")[2]] for reference in item["parameters"]]
        assert [each["name"] for each in named] == ["job_id", "Prefer", "If-None-Match"]
        assert [each["in"] for each in named] == ["path", "header", "header"]
        assert item["get"]["parameters"] == [{"$ref": "#/components/parameters/LastEventId"}]
        assert "parameters" not in item["head"]
    assert parameters["LastEventId"]["name"] == "Last-Event-ID"


def test_an_event_stream_is_one_form_of_the_answer() -> None:
    """Beside JSON, which comes first, because generators take the first type that they know."""
    responses_of = DOCUMENT["components"]["responses"]
    assert list(responses_of["Ended"]["content"]) == ["application/json", "text/event-stream"]
    for name, response in responses_of.items():
        assert ("content" in response) != (name.endswith("Head") or name in ("NotModified", "NothingNew")), name


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    """Each $ref names a component, and each component but the security schemes is named by a $ref."""
    kinds = {kind: part for kind, part in DOCUMENT["components"].items() if kind != "securitySchemes"}
    assert {node["$ref"] for node in nodes(DOCUMENT) if "$ref" in node} == {
        f"#/components/{kind}/{name}" for kind, part in kinds.items() for name in part
    }


def test_generated_file_is_current() -> None:
    """What the service hands out is what docs/openapi.yaml says."""
    spec = importlib.util.spec_from_file_location("openapi_generator", ROOT / "docs/openapi.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert generator.generate() == generator.COMMITTED.read_bytes()


def test_paths_are_those_of_the_request_types() -> None:
    """The paths are those of the table of request types, and that of the document itself."""
    assert {*POLLED, "/openapi.json"} == set(DOCUMENT["paths"])
    assert list(POLLED) == [f"{path}{{job_id}}" for path in PATHS.values()]


def test_all_paths_answer_alike() -> None:
    """GET and HEAD of every request type have the same answers and security, and an operationId of their own."""
    operations = [item[method] for item in DOCUMENT["paths"].values() for method in ("get", "head")]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for item in POLLED.values():
        assert set(item) == {"parameters", "get", "head"}
        assert set(item["get"]["responses"]) == {"200", "202", "204", "304", "400", "401", "404", "412", "429", "503"}
        assert set(item["get"]["responses"]) - set(item["head"]["responses"]) == {"204"}
        for code, reference in item["head"]["responses"].items():
            of_get = item["get"]["responses"][code]["$ref"]
            assert reference["$ref"] == (of_get if code == "304" else f"{of_get}Head")
    assert POLLED["/v1/async/audio/transcriptions/{job_id}"]["get"]["operationId"] == "getAsyncTranscriptionJob"


def test_declared_headers_are_those_sent() -> None:
    """An answer sends those of its declared headers that it must, no others, and their values fit."""
    declared, headers = DOCUMENT["components"]["responses"], DOCUMENT["components"]["headers"]
    undeclared = {
        "Content-Type",
        "Content-Length",
        "Server",
        "Connection",
    }  # OpenAPI ignores the first; the others carry no promise
    answers: dict[str, responses.PrebuiltResponse | web.StreamResponse] = {
        "Ended": responses.answer(200, b"{}", "r-1", f'{responses.VARY}ETag: "1-2"\r\n', is_kept=True),
        "EventStream": responses.event_stream("r-1"),
        "NotModified": responses.not_modified("r-1", '"1-2"'),
        "NothingNew": responses.nothing_new("r-1"),
        "Malformed": responses.refusal(responses.MALFORMED, "r-1"),
        "PreconditionFailed": responses.problem_answer(responses.PRECONDITION_FAILED, "r-1"),
        "Underway": responses.answer(
            202,
            b"{}",
            "r-1",
            f"{responses.VARY}Retry-After: 1\r\nJob-Progress: 0.42\r\nPreference-Applied: wait=5\r\n",
        ),
        "Unauthorized": responses.problem_answer(responses.INVALID_CREDENTIALS, "r-1"),
        "NotFound": responses.problem_answer(responses.JOB_NOT_FOUND, "r-1"),
        "TooMany": responses.problem_answer(responses.rate_limited(1), "r-1"),
        "TooOften": responses.problem_answer(responses.TOO_OFTEN, "r-1"),
        "Unavailable": responses.problem_answer(responses.STORE_UNAVAILABLE, "r-1"),
    }
    for name, response in answers.items():
        whole = response.to_response() if isinstance(response, responses.PrebuiltResponse) else response
        sent = {key: value for key, value in whole.headers.items() if key not in undeclared}
        of_this = declared["Ended" if name == "EventStream" else name]["headers"]
        described = {key: headers[reference["$ref"].rpartition("/")[2]] for key, reference in of_this.items()}
        assert {key for key, header in described.items() if header.get("required")} <= set(sent) <= set(described), name
        for key, value in sent.items():
            schema = described[key]["schema"]
            numbers: dict[str, Any] = {"integer": int, "number": float}
            validator(schema).validate(numbers.get(schema["type"], str)(value))


def test_contract_example_has_no_unknown_key() -> None:
    """Every key of the contract page's example is a property, in this order; the others are upstream's."""
    others = []

    def compare(example: dict[str, Any], schema: dict[str, Any]) -> None:
        while "properties" not in schema:
            schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        properties = list(schema["properties"])
        assert list(example) == properties[: len(example)]
        others.extend(properties[len(example) :])
        for key, value in example.items():
            if isinstance(value, dict):
                compare(value, schema["properties"][key])

    compare(CONTRACT_EXAMPLE, {"$ref": "#/components/schemas/AsyncJobResponse"})
    assert others == ["error", "original_model_requested", "resolved_model_used"]


@pytest.mark.parametrize("name", [name for name, it in DOCUMENT["components"]["responses"].items() if "content" in it])
def test_examples_fit_their_schema(name: str) -> None:
    """Every example in the document is what its schema asks for."""
    for example in DOCUMENT["components"]["responses"][name]["content"]["application/json"]["examples"].values():
        published(name).validate(example["value"])
        strict.judge(name if name in ("Ended", "Underway") else "EdgeError").validate(example["value"])


@pytest.mark.parametrize(
    ("response", "job"),
    [
        ("Underway", PENDING),
        ("Underway", PROCESSING),
        ("Ended", COMPLETED),
        ("Ended", COMPLETED._replace(result=b"null")),
        ("Ended", FAILED),
        ("Ended", FAILED._replace(error=SHORT_ERROR)),
    ],
)
def test_what_is_rendered_is_described(response: str, job: Job) -> None:
    """What a poll of a job answers fits the answer's schemas, and not the strict one of the other answer."""
    published(response).validate(document_of(job))
    strict.judge(response).validate(document_of(job))
    other = {"Underway": "Ended", "Ended": "Underway"}[response]
    assert not strict.judge(other).is_valid(document_of(job))


@pytest.mark.parametrize("name", ["AsyncJobResponse", "BifrostError", "ErrorField", "BifrostErrorExtraFields"])
def test_both_descriptions_have_the_same_members(name: str) -> None:
    """The published schema and the strict one name the same members in the same order, and require the same."""
    schemas = (DOCUMENT["components"]["schemas"][name], strict.SCHEMAS[name])
    assert len({tuple(schema["properties"]) for schema in schemas}) == 1
    assert len({tuple(schema.get("required", ())) for schema in schemas}) == 1


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        ("Unauthorized", responses.MISSING_CREDENTIALS),
        ("Unauthorized", responses.INVALID_CREDENTIALS),
        ("NotFound", responses.JOB_NOT_FOUND),
        ("TooMany", responses.RATE_LIMITED),
        ("Unavailable", responses.STORE_UNAVAILABLE),
        ("Malformed", responses.MALFORMED),
        ("PreconditionFailed", responses.PRECONDITION_FAILED),
    ],
)
def test_errors_of_the_edge_are_described(response: str, problem: responses.Problem) -> None:
    """An error that the edge makes itself fits the schemas of its answer."""
    published(response).validate(json.loads(problem.body("r-1")))
    strict.judge("EdgeError").validate(json.loads(problem.body("r-1")))


@pytest.mark.parametrize(
    ("job", "change"),
    [
        (PENDING, {"id": None}),
        (PENDING, {"id": "no/id"}),
        (PENDING, {"status": "cancelled"}),
        (PENDING, {"created_at": None}),
        (PENDING, {"created_at": "2026-01-31T09:00:00Z"}),
        (PENDING, {"created_at": "2026-01-31T09:00:00.125+00:00"}),
        (PENDING, {"created_at": "2026-13-31T09:00:00.125Z"}),
        (PENDING, {"result": {}}),
        (PENDING, {"error": None}),
        (PENDING, {"status_code": 200}),
        (PROCESSING, {"expires_at": "2026-01-31T09:00:00.125Z"}),
        (PROCESSING, {"progress": 0.5}),
        (COMPLETED, {"status": "failed"}),
        (COMPLETED, {"status": "processing"}),
        (COMPLETED, {"status_code": 0}),
        (COMPLETED, {"status_code": "200"}),
        (COMPLETED, {"error": document_of(FAILED)["error"]}),
        (FAILED, {"status": "completed"}),
        (FAILED, {"result": None}),
        (FAILED, {"error": None}),
        (FAILED, {"error": {"error": {"message": "m"}}}),
        (FAILED, {"error": {"is_bifrost_error": False, "error": {"code": "c"}, "extra_fields": {}}}),
        (FAILED, {"error": {"is_bifrost_error": False, "error": {"message": "m"}, "extra_fields": {"cause": "x"}}}),
        (FAILED, {"error": {"is_bifrost_error": False, "error": {"message": None}, "extra_fields": {}}}),
    ],
)
def test_other_bodies_are_refused(job: Job, change: dict[str, Any]) -> None:
    """A body with a wrong value, a null, an unknown key or a key of another state does not fit the strict schema."""
    assert not strict.judge("AsyncJobResponse").is_valid({**document_of(job), **change})


@pytest.mark.parametrize("job", [PENDING, COMPLETED, FAILED])
def test_no_key_may_be_missing(job: Job) -> None:
    """A job's body without any one of its keys does not fit the strict schema."""
    body = document_of(job)
    for key in body:
        rest = {name: value for name, value in body.items() if name != key}
        assert not strict.judge("AsyncJobResponse").is_valid(rest), key
