"""The commands that change jobs. Their bounds are checked on construction, so a command that exists is valid.

Each raises InvalidField with the name that the field has in the gRPC contract. They are values, which nobody changes.
They are not frozen only because making a frozen one takes two microseconds more, a tenth of what a write of a batch
costs in the core.
"""

from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Final

from jobstatus.core.errors import InvalidField
from jobstatus.core.job import JobError, RequestType, is_valid_id

SECOND_MS: Final = 1000
DAY_MS: Final = 24 * 60 * 60 * SECOND_MS

DEFAULT_RESULT_TTL_MS: Final = 3600 * SECOND_MS
MAX_RESULT_TTL_MS: Final = 30 * DAY_MS
MAX_LEASE_MS: Final = DAY_MS
MAX_ATTEMPTS: Final = 1000
MAX_NAME_CHARS: Final = 256
MAX_MESSAGE_CHARS: Final = 1024
MAX_ERROR_BYTES: Final = 64 * 1024
MAX_BATCH: Final = 1000
OK: Final = 200
"""The status code of a completed job that names none."""


def check_id(field: str, value: str) -> None:
    """Raise InvalidField unless `value` may be an id."""
    if not is_valid_id(value):
        raise InvalidField.of(field, "must match [A-Za-z0-9_-]{1,128}")


def check_range(field: str, value: float, low: int, high: int, unit: str = "") -> None:
    """Raise InvalidField unless low <= value <= high (which NaN is not)."""
    if not low <= value <= high:
        raise InvalidField.of(field, f"must be from {low} to {high}{unit}")


def check_attempt(value: int) -> None:
    """Raise InvalidField for a negative number; 0 stands for no attempt."""
    if value < 0:
        raise InvalidField.of("attempt", "must not be negative")


def check_span(field: str, value_ms: int, high_ms: int) -> None:
    """Raise InvalidField unless the span is at least a second and at most `high_ms`."""
    if not SECOND_MS <= value_ms <= high_ms:
        raise InvalidField.of(field, f"must be from 1 to {high_ms // SECOND_MS} seconds")


def check_text(field: str, value: str | None, high: int) -> None:
    """Raise InvalidField when the text is too long, or contains NUL, which some stores cannot keep."""
    if value is not None and (len(value) > high or "\0" in value):
        raise InvalidField.of(field, f"must have at most {high} characters and no NUL")


def check_status_code(field: str, value: int) -> None:
    """Raise InvalidField unless the number is an HTTP status code."""
    check_range(field, value, 100, 599)


def check_error(error: JobError) -> None:
    """Raise InvalidField unless the error is within its bounds."""
    if error.status_code is not None:
        check_status_code("error.status_code", error.status_code)
    inner, extra = error.error, error.extra_fields
    texts = {
        "error.event_id": error.event_id,
        "error.type": error.type,
        "error.error.type": inner.type,
        "error.error.code": inner.code,
        "error.error.message": inner.message,
        "error.error.param": inner.param,
        "error.error.event_id": inner.event_id,
        "error.error.error": inner.error,
        "error.extra_fields.provider": extra.provider,
        "error.extra_fields.model_requested": extra.model_requested,
        "error.extra_fields.request_type": extra.request_type,
        "error.extra_fields.original_model_requested": extra.original_model_requested,
        "error.extra_fields.resolved_model_used": extra.resolved_model_used,
    }
    for field, value in texts.items():
        check_text(field, value, MAX_ERROR_BYTES)
    # The client replaces lone surrogates later, by as many bytes; nobody else has any.
    if sum(len(value.encode(errors="surrogatepass")) for value in texts.values() if value) > MAX_ERROR_BYTES:
        raise InvalidField.of("error", f"must have at most {MAX_ERROR_BYTES} bytes of text")


@dataclass(slots=True, kw_only=True)
class CreateJob:
    """`traceparent` is one that `traceparent.valid_traceparent` returned. A retry may have another."""

    job_id: str
    request_type: RequestType
    virtual_key_id: str | None = None
    result_ttl_ms: int = DEFAULT_RESULT_TTL_MS
    provider: str | None = None
    model_requested: str | None = None
    max_attempts: int = 1
    traceparent: str | None = dataclass_field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_id("job_id", self.job_id)
        if self.virtual_key_id is not None:
            check_id("virtual_key_id", self.virtual_key_id)
        check_span("result_ttl", self.result_ttl_ms, MAX_RESULT_TTL_MS)
        if self.provider is not None:
            check_text("provider", self.provider, MAX_NAME_CHARS)
        if self.model_requested is not None:
            check_text("model_requested", self.model_requested, MAX_NAME_CHARS)
        if self.max_attempts != 1:
            check_range("max_attempts", self.max_attempts, 1, MAX_ATTEMPTS)


@dataclass(slots=True, kw_only=True)
class StartJob:
    job_id: str
    worker_id: str
    lease_ms: int | None = None

    def __post_init__(self) -> None:
        check_id("job_id", self.job_id)
        check_id("worker_id", self.worker_id)
        if self.lease_ms is not None:
            check_span("lease", self.lease_ms, MAX_LEASE_MS)


@dataclass(slots=True, kw_only=True)
class HeartbeatJob:
    job_id: str
    attempt: int = 0
    progress: float | None = None
    message: str | None = None

    def __post_init__(self) -> None:
        check_id("job_id", self.job_id)
        check_attempt(self.attempt)
        if self.progress is not None:
            check_range("progress", self.progress, 0, 1)
        check_text("message", self.message, MAX_MESSAGE_CHARS)


@dataclass(slots=True, kw_only=True)
class CompleteJob:
    """`result` is JSON that `json_text.check_result` has accepted."""

    job_id: str
    result: bytes
    attempt: int = 0
    status_code: int = OK

    def __post_init__(self) -> None:
        check_id("job_id", self.job_id)
        if self.attempt:
            check_attempt(self.attempt)
        if self.status_code != OK:
            check_status_code("status_code", self.status_code)


@dataclass(slots=True, kw_only=True)
class FailJob:
    job_id: str
    error: JobError
    attempt: int = 0
    status_code: int = 500

    def __post_init__(self) -> None:
        check_id("job_id", self.job_id)
        check_attempt(self.attempt)
        check_status_code("status_code", self.status_code)
        check_error(self.error)


@dataclass(slots=True, kw_only=True)
class CancelJob:
    job_id: str
    reason: str | None = None

    def __post_init__(self) -> None:
        check_id("job_id", self.job_id)
        check_text("reason", self.reason, MAX_MESSAGE_CHARS)


@dataclass(slots=True, kw_only=True)
class DeleteJob:
    job_id: str

    def __post_init__(self) -> None:
        check_id("job_id", self.job_id)


@dataclass(slots=True, kw_only=True)
class EnforceDeadlines:
    """The sweeper's command: apply a lease or timeout that has ended. A missing job is JobNotFound."""

    job_id: str


Command = CreateJob | StartJob | HeartbeatJob | CompleteJob | FailJob | CancelJob | DeleteJob | EnforceDeadlines
