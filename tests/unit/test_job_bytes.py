"""The responses to writes are the messages that protobuf makes of the same values."""

from typing import Any, get_args, get_type_hints

from hypothesis import given
from hypothesis import strategies as st
from jobstatus.core.errors import InvalidField, JobNotFound, JobStatusError
from jobstatus.core.job import ErrorExtraFields, ErrorField, Job, JobError, JobState, RequestType
from jobstatus.rpc.errors import operation_error
from jobstatus.rpc.job_bytes import batch_response, single_response
from jobstatus.rpc.messages import fill_job
from jobstatus.v1 import job_status_pb2 as pb

MAX_MS = 253_402_300_799_999
TEXTS = st.sampled_from([None, "", "a", "ü" * 70, "x" * 3000])
TIMES = st.sampled_from([0, 1, 999, 1_800_000_000_123, MAX_MS])
FIELDS = st.builds(
    ErrorField, message=st.sampled_from(["", "m", "ü" * 70]), type=TEXTS, code=TEXTS, param=TEXTS, error=TEXTS
)
ERRORS = st.builds(
    JobError,
    error=FIELDS,
    event_id=TEXTS,
    is_bifrost_error=st.booleans(),
    status_code=st.none() | st.integers(100, 599),
    extra_fields=st.builds(ErrorExtraFields, provider=TEXTS, request_type=TEXTS),
)
JOBS = st.builds(
    Job,
    job_id=st.sampled_from(["a", "job-1", "j" * 127, "j" * 128]),
    request_type=st.sampled_from(RequestType),
    state=st.sampled_from(JobState),
    version=st.integers(1, 2**40),
    virtual_key_id=TEXTS,
    provider=TEXTS,
    model_requested=TEXTS,
    created_at_ms=TIMES,
    result_ttl_ms=st.integers(1000, 30 * 86_400_000),
    max_attempts=st.integers(1, 1000),
    started_at_ms=st.none() | TIMES,
    completed_at_ms=st.none() | TIMES,
    expires_at_ms=st.none() | TIMES,
    due_at_ms=st.none() | TIMES,
    status_code=st.none() | st.integers(100, 599),
    attempt=st.integers(0, 1000),
    worker_id=TEXTS,
    lease_ms=st.none() | st.integers(1000, 86_400_000),
    lease_expires_at_ms=st.none() | TIMES,
    progress=st.none() | st.floats(0, 1),
    message=TEXTS,
    error=st.none() | ERRORS,
    result=st.none() | st.binary(max_size=30),
    last_writer=TEXTS,
    traceparent=TEXTS,
)
ERROR = JobError(error=ErrorField(message="m"))
NUMBERS = {name for name, of in get_type_hints(Job).items() if {int, float} & {of, *get_args(of)}}
REFUSALS = st.sampled_from([JobNotFound(), InvalidField.of("job_id", "is odd"), InvalidField.of("x", "y" * 200)])


def result(outcome: Job | JobStatusError) -> pb.OperationResult:
    message = pb.OperationResult()
    if isinstance(outcome, JobStatusError):
        message.error.CopyFrom(operation_error(outcome))
    else:
        fill_job(message.job, outcome, omit_result=True)
    return message


@given(JOBS)
def test_the_response_to_a_write_has_the_job_without_its_result(job: Job) -> None:
    assert pb.CompleteJobResponse.FromString(single_response(job)).job == result(job).job


@given(st.lists(JOBS | REFUSALS, max_size=5))
def test_the_response_to_a_batch_has_each_outcome_in_order(outcomes: list[Job | JobStatusError]) -> None:
    assert list(pb.BatchWriteResponse.FromString(batch_response(outcomes)).result) == list(map(result, outcomes))


def test_no_field_of_the_contract_is_forgotten() -> None:
    """One that is added to the message has to be in the bytes, too; one that is added to the job, in this test."""
    fields: dict[str, Any] = dict.fromkeys(Job._fields, "a") | {name: 7 for name in Job._fields if name in NUMBERS}
    job = Job(**fields | {"state": JobState.FAILED, "request_type": RequestType.OCR, "error": ERROR, "result": b"1"})
    sent = {field.name for field, _ in pb.CompleteJobResponse.FromString(single_response(job)).job.ListFields()}
    assert sent == {field.name for field in pb.Job.DESCRIPTOR.fields} - {"result", "result_size"}


def test_all_single_writes_answer_with_the_job_in_the_same_field() -> None:
    responses = ("CreateJob", "StartJob", "HeartbeatJob", "CompleteJob", "FailJob", "CancelJob")
    numbers = {getattr(pb, f"{name}Response").DESCRIPTOR.fields_by_name["job"].number for name in responses}
    assert numbers == {1}
