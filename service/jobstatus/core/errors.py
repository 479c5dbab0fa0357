"""The errors of the service: one class for each decision that a caller can take.

`reason` is the stable word that clients branch on; `metadata` holds each part of the message that varies. A message may
be shown to anyone: it contains no credential, result, SQL or path. REST and gRPC each translate them with a table.

All classes are constructed alike, `(message, **metadata)`, so that an error can be copied, or rebuilt from a gRPC
status, without knowing its class. A class whose message varies has a named constructor.
"""

from typing import ClassVar, Self


class JobStatusError(Exception):
    """The root of all errors that a caller is shown."""

    reason: ClassVar[str]

    def __init__(self, message: str | None = None, /, **metadata: str) -> None:
        super().__init__(message or self.__doc__)
        self.metadata = metadata

    @property
    def message(self) -> str:
        """One sentence for a person."""
        return str(self.args[0])


class InvalidField(JobStatusError):
    """A field has a value outside its bounds."""

    reason = "INVALID_FIELD"

    @classmethod
    def of(cls, field: str, problem: str) -> Self:
        """The error for one field; `problem` continues the sentence that the field's name begins."""
        return cls(f"{field}: {problem}", field=field)


class ResultNotJson(JobStatusError):
    """The result is not JSON that every client reads the same way."""

    reason = "RESULT_NOT_JSON"

    @classmethod
    def at(cls, byte: int, problem: str) -> Self:
        """The error for what stands at this byte of the result, counted from 0."""
        return cls(f"{cls.__doc__} Byte {byte}: {problem}.")


class ResultTooLarge(JobStatusError):
    """The result is larger than the service accepts."""

    reason = "RESULT_TOO_LARGE"


class JobNotFound(JobStatusError):
    """Job not found or expired."""

    reason = "JOB_NOT_FOUND"


class VirtualKeyNotFound(JobStatusError):
    """Virtual key not found."""

    reason = "VIRTUAL_KEY_NOT_FOUND"


class JobExists(JobStatusError):
    """A job with this id and other fields exists."""

    reason = "JOB_EXISTS"


class JobTerminal(JobStatusError):
    """The job has ended; its outcome stays as it is."""

    reason = "JOB_TERMINAL"

    @classmethod
    def in_state(cls, state: str, code: str | None = None) -> Self:
        """The error for a job that has ended in this state, with this code in its error."""
        metadata = {"state": state} if code is None else {"state": state, "code": code}
        return cls(f"The job is {state}; its outcome stays as it is.", **metadata)


class JobNotStarted(JobStatusError):
    """The job is pending: start it first."""

    reason = "JOB_NOT_STARTED"


class LeaseHeld(JobStatusError):
    """Another worker holds the job's lease."""

    reason = "LEASE_HELD"


class LeaseLost(JobStatusError):
    """A later attempt owns the job, or the job is leased and the write names no attempt."""

    reason = "LEASE_LOST"


class ClientNotIdentified(JobStatusError):
    """The client certificate names no client."""

    reason = "CLIENT_NOT_IDENTIFIED"


class ClientNotAllowed(JobStatusError):
    """This client may not call this service."""

    reason = "CLIENT_NOT_ALLOWED"


class StoreFull(JobStatusError):
    """The store has no room left."""

    reason = "STORE_FULL"


class Overloaded(JobStatusError):
    """Too much is waiting already; try again later."""

    reason = "OVERLOADED"


class StoreUnavailable(JobStatusError):
    """The store does not answer; try again later."""

    reason = "STORE_UNAVAILABLE"


class ShuttingDown(JobStatusError):
    """The service is shutting down; try again."""

    reason = "SHUTTING_DOWN"
