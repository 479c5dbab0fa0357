"""The edges' tables cover all that the core can say: whoever adds a leaf there is reminded here."""

from collections.abc import Iterator

import pytest
from harness.jobs import KINDS
from jobstatus.core import errors
from jobstatus.core.errors import JobStatusError
from jobstatus.core.job import JobState, RequestType
from jobstatus.rest.responses import PROBLEMS
from jobstatus.rest.routes import PATHS
from jobstatus.rpc.errors import CODES, operation_error, status_of
from jobstatus.rpc.messages import JOB_STATES, REQUEST_TYPES, job_state_of, request_type_of
from jobstatus.v1 import job_status_pb2 as pb


def leaves(root: type[JobStatusError]) -> Iterator[type[JobStatusError]]:
    """The core's classes below that have none of the core's below them; the client refines one of them."""
    below = [error for error in root.__subclasses__() if error.__module__ == errors.__name__]
    if not below:
        yield root
    for error in below:
        yield from leaves(error)


LEAVES = sorted(leaves(JobStatusError), key=lambda leaf: leaf.__name__)


def test_walk_finds_the_leaves() -> None:
    """The walk that the tests below rest on finds every class of core.errors but the root."""
    everything = {
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, JobStatusError)
    }
    assert set(LEAVES) == everything - {JobStatusError}


def test_every_error_has_a_code_and_a_problem() -> None:
    """Both tables have a row for every leaf of the core's errors, and none besides."""
    assert CODES.keys() == set(LEAVES)
    assert PROBLEMS.keys() == set(LEAVES)


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_error_can_be_told(leaf: type[JobStatusError]) -> None:
    """Each leaf becomes a status whose code, message and reason are the same alone and in a batch."""
    error = leaf()
    status, operation = status_of(error), operation_error(error)
    assert (status.code, status.message) == (operation.code, operation.message) == (CODES[leaf].value[0], error.message)
    assert operation.reason == leaf.reason
    assert operation.message


def test_reasons_are_unique_words() -> None:
    """A reason stands for one leaf, in the form that AIP-193 asks for."""
    reasons = [leaf.reason for leaf in LEAVES]
    assert len(set(reasons)) == len(reasons)
    assert all(reason == reason.upper() and reason.replace("_", "").isalpha() for reason in reasons)


def test_every_request_type_has_its_path() -> None:
    """The paths are those of the contract, one for each request type, none the beginning of another."""
    assert {request_type: f"/v1/async/{kind}/" for request_type, kind in KINDS.items()} == PATHS
    assert PATHS.keys() == set(RequestType)
    assert not any(one != other and one.startswith(other) for one in PATHS.values() for other in PATHS.values())


def test_enums_of_both_contracts_agree() -> None:
    """Each value of the core has one in the protos and the other way round, but for the zero, which is refused."""
    assert REQUEST_TYPES.keys() == set(RequestType)
    assert JOB_STATES.keys() == set(JobState)
    assert sorted(REQUEST_TYPES.values()) == sorted(pb.RequestType.values())[1:]
    assert sorted(JOB_STATES.values()) == sorted(pb.JobState.values())[1:]
    assert [request_type_of(number) for number in REQUEST_TYPES.values()] == list(REQUEST_TYPES)
    assert [job_state_of(number) for number in JOB_STATES.values()] == list(JOB_STATES)
