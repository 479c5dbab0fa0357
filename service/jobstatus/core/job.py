"""The values of the domain: a job, its states, its error.

Times are milliseconds since the Unix epoch (UTC), durations are milliseconds. An absent value is None, never empty.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

ID_PATTERN: Final = "[A-Za-z0-9_-]{1,128}"
is_valid_id: Final = re.compile(ID_PATTERN).fullmatch
"""Truthy for a string that may be the id of a job, a virtual key or a worker."""


class JobState(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


TERMINAL_STATES: Final = frozenset({JobState.COMPLETED, JobState.FAILED})


class RequestType(StrEnum):
    """What kind of inference a job runs; each has a REST path of its own."""

    TRANSCRIPTION = "transcription"
    SPEECH = "speech"
    CHAT_COMPLETION = "chat_completion"
    TEXT_COMPLETION = "text_completion"
    RESPONSES = "responses"
    EMBEDDING = "embedding"
    IMAGE_GENERATION = "image_generation"
    IMAGE_EDIT = "image_edit"
    IMAGE_VARIATION = "image_variation"
    RERANK = "rerank"
    OCR = "ocr"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorField:
    """What went wrong; `error` of the contract's BifrostError."""

    message: str
    type: str | None = None
    code: str | None = None
    param: str | None = None
    event_id: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorExtraFields:
    """Where it went wrong; `extra_fields` of the contract's BifrostError."""

    provider: str | None = None
    model_requested: str | None = None
    request_type: str | None = None
    original_model_requested: str | None = None
    resolved_model_used: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """Why a job failed: the contract's BifrostError, field by field."""

    error: ErrorField
    event_id: str | None = None
    type: str | None = None
    is_bifrost_error: bool = False
    status_code: int | None = None
    extra_fields: ErrorExtraFields = ErrorExtraFields()


class Job(NamedTuple):
    """A job at one version. A new version is a new value; only `rules` makes them.

    A tuple, because several are made for each write, and changing a field costs a fifth of what a dataclass takes.
    `due_at_ms` is when a sweep has to see whether a lease or a timeout has ended: not later than it ends, and earlier
    where heartbeats have renewed the lease since; None for a terminal job. `lease_ms` is the duration of a lease, by
    which a heartbeat renews it; None while the attempt has no lease. `last_writer` has the names in the certificate of
    the client that made this version; None without one, and where the service made it. `traceparent` is that of the
    request that submitted the job, see `traceparent`.
    """

    job_id: str
    request_type: RequestType
    state: JobState
    version: int
    virtual_key_id: str | None
    provider: str | None
    model_requested: str | None
    created_at_ms: int
    result_ttl_ms: int
    max_attempts: int
    started_at_ms: int | None = None
    completed_at_ms: int | None = None
    expires_at_ms: int | None = None
    due_at_ms: int | None = None
    status_code: int | None = None
    attempt: int = 0
    worker_id: str | None = None
    lease_ms: int | None = None
    lease_expires_at_ms: int | None = None
    progress: float | None = None
    message: str | None = None
    error: JobError | None = None
    result: bytes | None = None
    last_writer: str | None = None
    traceparent: str | None = None

    def ended(
        self, state: JobState, at_ms: int, status_code: int, result: bytes | None, error: JobError | None
    ) -> "Job":
        """Return the job as it ended at this time, in this state. It has no lease any more."""
        values = [*self]
        values[_STATE], values[_STATUS_CODE] = state, status_code
        values[_COMPLETED_AT_MS], values[_EXPIRES_AT_MS] = at_ms, at_ms + self.result_ttl_ms
        values[_LEASE_MS] = values[_LEASE_EXPIRES_AT_MS] = None
        values[_ERROR], values[_RESULT] = error, result
        return Job._make(values)

    def next_version(self, version: int, due_at_ms: int | None, last_writer: str | None) -> "Job":
        """Return the job with these three fields.

        This and `ended` are spelt out, because each write needs them and `_replace` takes three times as long.
        """
        values = [*self]
        values[_VERSION], values[_DUE_AT_MS], values[_LAST_WRITER] = version, due_at_ms, last_writer
        return Job._make(values)

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL_STATES

    @property
    def is_leased(self) -> bool:
        """Whether the current attempt has a lease, running or expired."""
        return self.lease_ms is not None

    def is_expired(self, now_ms: int) -> bool:
        """Whether reads answer that there is no such job."""
        return self.expires_at_ms is not None and self.expires_at_ms <= now_ms


_VERSION: Final = Job._fields.index("version")
_DUE_AT_MS: Final = Job._fields.index("due_at_ms")
_STATE: Final = Job._fields.index("state")
_STATUS_CODE: Final = Job._fields.index("status_code")
_COMPLETED_AT_MS: Final = Job._fields.index("completed_at_ms")
_EXPIRES_AT_MS: Final = Job._fields.index("expires_at_ms")
_LEASE_MS: Final = Job._fields.index("lease_ms")
_LEASE_EXPIRES_AT_MS: Final = Job._fields.index("lease_expires_at_ms")
_ERROR: Final = Job._fields.index("error")
_RESULT: Final = Job._fields.index("result")
_LAST_WRITER: Final = Job._fields.index("last_writer")
