"""From the core's errors to gRPC: one table of codes, and the google.rpc.Status made with it."""

from typing import Final

import grpc
from google.protobuf import any_pb2
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from jobstatus.core import errors
from jobstatus.v1 import job_status_pb2 as pb

DOMAIN: Final = "jobstatus.v1"
INTERNAL: Final = "INTERNAL"
"""The reason of a fault of this program."""
REASON_KEY: Final = "jobstatus-reason"
"""Trailing metadata with the reason as plain text, for languages in which a google.rpc.Status is hard to read."""

CODES: Final[dict[type[errors.JobStatusError], grpc.StatusCode]] = {
    errors.InvalidField: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ResultNotJson: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ResultTooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.JobNotFound: grpc.StatusCode.NOT_FOUND,
    errors.VirtualKeyNotFound: grpc.StatusCode.NOT_FOUND,
    errors.JobExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.JobTerminal: grpc.StatusCode.FAILED_PRECONDITION,
    errors.JobNotStarted: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LeaseHeld: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LeaseLost: grpc.StatusCode.ABORTED,
    errors.ClientNotIdentified: grpc.StatusCode.UNAUTHENTICATED,
    errors.ClientNotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    errors.StoreFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.StoreUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.ShuttingDown: grpc.StatusCode.UNAVAILABLE,
}


def code_number(code: grpc.StatusCode) -> int:
    """Return the number of a google.rpc.Code."""
    return int(code.value[0])


def status_of(error: errors.JobStatusError) -> Status:
    """Return the error as a google.rpc.Status with its ErrorInfo."""
    return _status(CODES[type(error)], error.reason, error.message, error.metadata)


def internal_status() -> Status:
    """Return the status for a fault of this program. It tells a client no more than that."""
    return _status(grpc.StatusCode.INTERNAL, INTERNAL, "internal error", {})


def operation_error(error: errors.JobStatusError) -> pb.OperationError:
    """Return the error as one result of a batch, with the code and reason of the single call."""
    return pb.OperationError(
        code=code_number(CODES[type(error)]), reason=error.reason, message=error.message, metadata=error.metadata
    )


def _status(code: grpc.StatusCode, reason: str, message: str, metadata: dict[str, str]) -> Status:
    detail = any_pb2.Any()
    detail.Pack(ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))
    return Status(code=code_number(code), message=message, details=[detail])
