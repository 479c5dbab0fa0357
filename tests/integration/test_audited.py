"""The audit log: who changed a virtual key, deleted or cancelled a job, or read as an admin."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from harness.certificates import Authorities
from harness.fronts import FRONTS, front_here
from harness.jobs import (
    cancellation,
    complete,
    completion,
    create,
    creation,
    failure,
    heartbeat,
    job_in,
    put_virtual_key,
    start,
    starting,
)
from harness.raw import connection, next_answer
from harness.service import Service, service_here
from harness.tokens import ISSUER, admin_token, bearer, virtual_key_token
from harness.wire import refused
from jobstatus.core.errors import JobNotFound
from jobstatus.core.job import JobState
from jobstatus.core.virtual_keys import hash_key
from jobstatus.rpc.audit import outcome_of
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1 import virtual_keys_pb2 as vk_pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub
from jobstatus.v1.virtual_keys_pb2_grpc import VirtualKeysStub

ADMIN: Final = bearer(admin_token(sub="ada"))
OWNER: Final = bearer(virtual_key_token("vk-1"))
OCR: Final = pb.REQUEST_TYPE_OCR
VARYING: Final = ("timestamp", "peer")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def lines_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def facts_in(path: Path) -> list[dict[str, Any]]:
    """The lines without what differs each time."""
    return [{name: value for name, value in line.items() if name not in VARYING} for line in lines_in(path)]


@asynccontextmanager
async def calling(
    service: Service, credentials: grpc.ChannelCredentials
) -> AsyncIterator[tuple[JobStatusStub, VirtualKeysStub]]:
    async with grpc.aio.secure_channel(f"127.0.0.1:{service.grpc_port}", credentials) as channel:
        yield JobStatusStub(channel), VirtualKeysStub(channel)


async def test_changes_are_recorded_with_the_clients_name(path: Path, tmp_path: Path) -> None:
    """Also those that were refused; the calls of workers are not, and no key and no hash of one is in the file."""
    authorities = Authorities()
    settings = authorities.settings(tmp_path)
    async with (
        service_here(**settings, grpc_allowed_clients="gateway.test", audit_log=path) as service,
        calling(service, authorities.client("gateway.test", "other.test")) as (jobs, keys),
        calling(service, authorities.client("edge.test")) as (_, edges_keys),
    ):
        digest = hash_key("sk-bf-key")
        await keys.PutVirtualKey(vk_pb.PutVirtualKeyRequest(virtual_key_id="vk-1", key_sha256=[digest], disabled=True))
        await keys.DeleteVirtualKey(vk_pb.DeleteVirtualKeyRequest(virtual_key_id="vk-1"))
        await refused(keys.DeleteVirtualKey(vk_pb.DeleteVirtualKeyRequest(virtual_key_id="no/id\n")))
        await refused(edges_keys.DeleteVirtualKey(vk_pb.DeleteVirtualKeyRequest(virtual_key_id="vk-1")))
        for job_id in ("job-1", "job-2"):
            await jobs.CreateJob(creation(job_id))
        await jobs.CancelJob(cancellation("job-1"))
        await jobs.DeleteJob(pb.DeleteJobRequest(job_id="job-1"))
        operations = [
            pb.Operation(create_job=creation("job-3")),
            pb.Operation(cancel_job=cancellation("job-2")),
            pb.Operation(cancel_job=cancellation("job-1")),
        ]
        await jobs.BatchWrite(pb.BatchWriteRequest(operation=operations))
    who: dict[str, Any] = {"client": ["gateway.test", "other.test"]}
    key: dict[str, Any] = {"virtual_key_id": "vk-1"}
    assert facts_in(path) == [
        {"action": "PutVirtualKey", **who, "outcome": "OK", **key, "disabled": True, "keys": 1},
        {"action": "DeleteVirtualKey", **who, "outcome": "OK", **key},
        {"action": "DeleteVirtualKey", **who, "outcome": "INVALID_FIELD", "virtual_key_id": "(not an id)"},
        {"action": "DeleteVirtualKey", "client": ["edge.test"], "outcome": "CLIENT_NOT_ALLOWED"},
        {"action": "CancelJob", **who, "outcome": "OK", "job_id": "job-1"},
        {"action": "DeleteJob", **who, "outcome": "OK", "job_id": "job-1"},
        {"action": "CancelJob", **who, "outcome": "OK", "job_id": "job-2", "method": "BatchWrite"},
        {"action": "CancelJob", **who, "outcome": "JOB_NOT_FOUND", "job_id": "job-1", "method": "BatchWrite"},
    ]
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") for line in lines_in(path))
    assert digest.hex() not in json.dumps(lines_in(path))


async def test_all_writes_are_recorded_where_that_is_wanted(path: Path) -> None:
    """So the last line about a job says who wrote it. Heartbeats are not; an id may be the service's choice."""
    async with service_here(audit_log=path, audit_writes=True) as service:
        chosen = (await service.jobs.CreateJob(pb.CreateJobRequest(request_type=OCR))).job.job_id
        for job_id in ("job-1", "job-2"):
            await create(service, job_id)
        await start(service, "job-1", "worker-1")
        await service.jobs.HeartbeatJob(heartbeat("job-1", attempt=1))
        await complete(service, "job-1", attempt=1)
        await refused(service.jobs.FailJob(failure("job-1")))
        operations = [
            pb.Operation(start_job=starting("job-2", "worker-2")),
            pb.Operation(heartbeat_job=heartbeat("job-2", attempt=1)),
            pb.Operation(fail_job=failure("job-2", attempt=1)),
            pb.Operation(complete_job=completion("job-2")),
            pb.Operation(create_job=pb.CreateJobRequest(request_type=OCR)),
            pb.Operation(),
        ]
        batch = await service.jobs.BatchWrite(pb.BatchWriteRequest(operation=operations))
    for line in (lines := facts_in(path)):
        assert line.pop("client") == []
    in_batch = {"method": "BatchWrite"}
    assert lines == [
        {"action": "CreateJob", "outcome": "OK", "job_id": chosen},
        {"action": "CreateJob", "outcome": "OK", "job_id": "job-1"},
        {"action": "CreateJob", "outcome": "OK", "job_id": "job-2"},
        {"action": "StartJob", "outcome": "OK", "job_id": "job-1", "worker_id": "worker-1"},
        {"action": "CompleteJob", "outcome": "OK", "job_id": "job-1", "attempt": 1},
        {"action": "FailJob", "outcome": "JOB_TERMINAL", "job_id": "job-1"},
        {"action": "StartJob", "outcome": "OK", "job_id": "job-2", "worker_id": "worker-2", **in_batch},
        {"action": "FailJob", "outcome": "OK", "job_id": "job-2", "attempt": 1, **in_batch},
        {"action": "CompleteJob", "outcome": "JOB_TERMINAL", "job_id": "job-2", **in_batch},
        {"action": "CreateJob", "outcome": "OK", "job_id": batch.result[4].job.job_id, **in_batch},
    ]


async def test_without_tls_the_client_has_no_name(path: Path) -> None:
    async with service_here(audit_log=path) as service:
        await put_virtual_key(service)
    assert [(line["action"], line["client"]) for line in lines_in(path)] == [("PutVirtualKey", [])]


@pytest.mark.parametrize("kind", FRONTS)
async def test_polls_of_admins_are_recorded(path: Path, kind: str) -> None:
    """Each once, with the admin's name, plain or not, found or not; those of virtual keys are not."""
    settings: dict[str, Any] = {"audit_log": path, "max_waiting_polls": 0}
    async with front_here(kind, **settings) as front:
        await job_in(front, JobState.COMPLETED, "done")
        polls = [
            await front.poll("done", ADMIN, "X-Request-Id: plain"),
            await front.poll("done", OWNER, "X-Request-Id: owner"),
            await front.poll("done", ADMIN, "X-Request-Id: wait", "Prefer: wait=5"),
            await front.poll("done", ADMIN, "X-Request-Id: follow", "Accept: text/event-stream"),
            await front.poll("unknown", ADMIN, "X-Request-Id: unknown"),
            await front.poll("no%0Aid", ADMIN, "X-Request-Id: hostile"),
            await front.poll("done", bearer("no.token.here"), "X-Request-Id: refused"),
        ]
    assert [poll.status for poll in polls] == [200, 200, 200, 200, 404, 404, 401]
    expected = {"plain": "done", "wait": "done", "follow": "done", "unknown": "unknown", "hostile": "(not an id)"}
    of_all = {"action": "AdminPoll", "issuer": ISSUER, "subject": "ada", "request_type": "transcription"}
    assert facts_in(path) == [
        {**of_all, "request_id": request_id, "job_id": job_id} for request_id, job_id in expected.items()
    ]


async def test_polls_answered_without_a_handler_are_recorded_once(path: Path) -> None:
    """So is one that is tried there and then handed over, such as that of a large result."""
    async with service_here(audit_log=path) as service:
        await job_in(service, JobState.COMPLETED, "done")
        await create(service, "large")
        await complete(service, "large", b'"' + b"x" * 100_000 + b'"')
        async with connection(service.http_port) as (reader, writer):
            for job_id in ("done", "large", "done"):
                url = f"/v1/async/audio/transcriptions/{job_id}"
                writer.write(f"GET {url} HTTP/1.1\r\nHost: test\r\n{ADMIN}\r\n\r\n".encode())
                assert (await next_answer(reader)).status == 200
    assert [line["job_id"] for line in lines_in(path)] == ["done", "large", "done"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(JobNotFound(), "JOB_NOT_FOUND"), (asyncio.CancelledError(), "CANCELLED"), (ZeroDivisionError(), "INTERNAL")],
)
def test_an_outcome_is_a_word_that_callers_know(error: BaseException, outcome: str) -> None:
    """Of a call whose client has gone nobody knows whether it was done."""
    assert outcome_of(error) == outcome


async def test_a_file_that_cannot_be_written_ends_the_start(path: Path) -> None:
    with pytest.raises(OSError, match="JOBSTATUS_AUDIT_LOG"):
        async with service_here(audit_log=path / "no folder"):
            pass
