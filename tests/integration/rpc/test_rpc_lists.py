"""BatchGetJobs and ListJobs: filters, pages, and page tokens of others."""

import base64
import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf.message import Message
from harness.faults import Clock
from harness.jobs import complete, create, creation, job_error, job_in
from harness.refusals import invalid
from harness.rpc import at, call, get, in_batch, url_of, without_result
from harness.service import Service, service_here
from harness.tokens import admin_token, bearer
from harness.wire import channel_to, refusal_of
from jobstatus.app.limits import ServiceLimits
from jobstatus.core.job import JobState
from jobstatus.core.store import SMALL_RESULT_BYTES
from jobstatus.rpc.options import RpcLimits
from jobstatus.rpc.pages import PageLimits
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1 import virtual_keys_pb2 as vk_pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub


async def test_batch_get(service: Service) -> None:
    """Jobs come in the order asked for, as often as asked for, unknown ones left out, with results unless omitted."""
    ids = ["failed", "unknown", "completed", "pending", "completed"]
    jobs = (await service.jobs.BatchGetJobs(pb.BatchGetJobsRequest(job_ids=ids))).jobs
    assert [job.job_id for job in jobs] == ["failed", "completed", "pending", "completed"]
    assert list(jobs) == [await get(service, job_id) for job_id in ids if job_id != "unknown"]
    jobs = (await service.jobs.BatchGetJobs(pb.BatchGetJobsRequest(job_ids=ids, omit_result=True))).jobs
    assert not any(job.HasField("result") for job in jobs)
    nobody = pb.BatchGetJobsRequest(job_ids=["unknown"] * 1000)
    assert (await service.jobs.BatchGetJobs(nobody)).jobs == []


async def test_batch_get_of_answers() -> None:
    """One for each id, in order: owner, type and times beside the very bytes of a poll; nothing of what is not there.

    A large result is left out, and its size told.
    """
    clock = Clock()
    async with service_here(clock=clock) as service:
        await create(service, "pending", virtual_key_id="vk-2", request_type=pb.REQUEST_TYPE_OCR)
        for name, result in (("small", b"[1]"), ("large", b'"' + b"x" * SMALL_RESULT_BYTES + b'"')):
            await create(service, name)
            await complete(service, name, result)
        await job_in(service, JobState.COMPLETED, "expired", result_ttl={"seconds": 1})
        clock.move(seconds=1)
        ids = ["small", "unknown", "pending", "expired", "large", "small"]
        asked = pb.BatchGetJobsRequest(job_ids=ids, as_answers=True)
        response = await service.jobs.BatchGetJobs(asked)
        assert list(response.jobs) == []
        small, unknown, pending, expired, large, again = response.answers
        assert unknown == expired == pb.PollAnswer()
        assert small == again
        polls = [(await service.poll(name, bearer(admin_token()))).body for name in ("small", "large")]
        assert [small.body + small.result + b"}", large.body] == [polls[0], polls[1][: len(large.body)]]
        assert (large.HasField("result"), large.result_size) == (False, SMALL_RESULT_BYTES + 2)
        assert (pending.request_type, pending.virtual_key_id) == (pb.REQUEST_TYPE_OCR, "vk-2")
        job = await get(service, "small")
        times = [job.created_at.ToMilliseconds(), job.expires_at.ToMilliseconds(), job.completed_at.ToMilliseconds()]
        assert [small.created_at_ms, small.expires_at_ms, small.ended_at_ms] == times
        assert (small.version, small.HasField("progress")) == (job.version, False)


@asynccontextmanager
async def listed(url: str) -> AsyncIterator[tuple[Service, list[pb.Job], Clock]]:
    """The service with 64 jobs of all sorts, four at each moment, and the jobs as the listing ought to show them."""
    clock = Clock()
    types = (pb.REQUEST_TYPE_TRANSCRIPTION, pb.REQUEST_TYPE_OCR)
    sorts = itertools.product(JobState, types, ("vk-1", "vk-2"), range(4))
    async with service_here(url, sweep_interval_seconds=60, clock=clock) as service:
        jobs = []
        for number, (state, request_type, virtual_key_id, _) in enumerate(sorts):
            if number % 4 == 0:
                clock.move(seconds=1)
            fields = {"request_type": request_type, "virtual_key_id": virtual_key_id}
            jobs.append(without_result(await job_in(service, state, f"j{number * 37 % 64:02}", **fields)))
        await job_in(service, JobState.COMPLETED, "expired", result_ttl={"seconds": 1})
        clock.move(seconds=1)
        yield service, sorted(jobs, key=lambda job: (job.created_at.ToMilliseconds(), job.job_id), reverse=True), clock


Sieve = tuple[dict[str, Any], Callable[[pb.Job], bool]]
"""A filter of a listing, and which jobs it lets through."""
EVERY_JOB: Final[Sieve] = ({}, lambda _: True)
FILTERS: Final[list[Sieve]] = [
    ({"states": [pb.JOB_STATE_PENDING]}, lambda job: job.state == pb.JOB_STATE_PENDING),
    ({"states": [3, 4, 3]}, lambda job: job.state in (3, 4)),
    ({"request_type": pb.REQUEST_TYPE_OCR}, lambda job: job.request_type == pb.REQUEST_TYPE_OCR),
    ({"virtual_key_id": "vk-2"}, lambda job: job.virtual_key_id == "vk-2"),
    ({"virtual_key_id": "vk-3"}, lambda _: False),
]


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_list_filters(tmp_path: Path, store: str) -> None:
    """Every filter, alone and with every other, lists exactly the jobs for which all hold, newest first."""
    async with listed(url_of(store, tmp_path)) as (service, jobs, _):
        late, early = jobs[10].created_at, jobs[50].created_at
        times: list[Sieve] = [
            ({"created_after": early}, lambda job: job.created_at.ToNanoseconds() >= early.ToNanoseconds()),
            ({"created_before": late}, lambda job: job.created_at.ToNanoseconds() < late.ToNanoseconds()),
        ]
        filters = FILTERS + times
        combined = [EVERY_JOB, *filters, *(both(*pair) for pair in itertools.combinations(filters, 2))]
        for fields, is_wanted in combined:
            answer = await service.jobs.ListJobs(pb.ListJobsRequest(page_size=1000, **fields))
            assert list(answer.jobs) == [job for job in jobs if is_wanted(job)], fields
            assert answer.next_page_token == ""


def both(one: Sieve, other: Sieve) -> Sieve:
    """Both filters; of a field that both give the second counts."""
    if one[0].keys() == other[0].keys():
        return other
    return {**one[0], **other[0]}, lambda job: one[1](job) and other[1](job)


@pytest.mark.parametrize("page_size", [1, 3, 4, 63, 64])
@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_pages_walk_every_job_once(tmp_path: Path, store: str, page_size: int) -> None:
    """Page by page, while new jobs come in, each job of the start is seen exactly once, newest first."""
    async with listed(url_of(store, tmp_path)) as (service, jobs, clock):
        seen: list[pb.Job] = []
        request = pb.ListJobsRequest(page_size=page_size)
        for number in range(len(jobs)):
            page = await service.jobs.ListJobs(request)
            assert len(page.jobs) == page_size or not page.next_page_token
            seen += page.jobs
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
            clock.move(ms=1)
            await create(service, f"later-{number}")
        assert seen == jobs


async def test_page_sizes(empty: Service) -> None:
    """Zero stands for fifty, and more than a thousand for a thousand."""
    for first in (0, 1000):
        await in_batch(empty, *(creation(f"j{number}") for number in range(first, first + 1000 - first // 2)))
    for asked, expected in ((0, 50), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)):
        page = await empty.jobs.ListJobs(pb.ListJobsRequest(page_size=asked))
        assert (len(page.jobs), bool(page.next_page_token)) == (expected, True)


async def test_a_code_that_no_error_can_have_is_refused(service: Service) -> None:
    """PostgreSQL could not even be asked for a NUL, so the store would seem to be away."""
    for code in ("", "a\0b", "x" * 1025):
        assert await outcome_of(service, pb.ListJobsRequest(error_code=code)) == invalid("error_code")


def forged(*parts: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


async def test_page_tokens_of_others_are_refused(service: Service) -> None:
    """A page token that was forged, damaged or made for other filters is INVALID_FIELD, whatever is in it (G32)."""
    expected = invalid("page_token")
    token = (await service.jobs.ListJobs(pb.ListJobsRequest(page_size=1))).next_page_token
    created_at_ms, job_id, digest = json.loads(base64.urlsafe_b64decode(token))
    tokens = ["x", "====", "é", "\0", token[:-4], token + "AAAA", token[1:], token * 2, "A" * 100_000, "null", "e30="]
    tokens += [forged(), forged(1, 2, 3), forged(created_at_ms, job_id), forged(created_at_ms, job_id, digest, 1)]
    tokens += [forged(created_at_ms, job_id, "0" * 16), forged(str(created_at_ms), job_id, digest)]
    tokens += [forged(True, job_id, digest), forged(1.5, job_id, digest), forged(10**40, job_id, digest)]
    tokens += [forged(created_at_ms, None, digest), forged(created_at_ms, [job_id], digest)]
    tokens += [forged(created_at_ms, bad, digest) for bad in ("\ud800", "\0", "' OR 1=1--", "")]
    outcomes = {token: await outcome_of(service, pb.ListJobsRequest(page_token=token)) for token in tokens}
    assert {token: outcome for token, outcome in outcomes.items() if outcome != expected} == {}
    for other in ({"states": [1]}, {"virtual_key_id": "vk-1"}, {"request_type": 1}, {"created_after": at(0)}):
        assert await outcome_of(service, pb.ListJobsRequest(page_token=token, **other)) == expected


async def outcome_of(service: Service, request: Message) -> Any:
    """The answer or the refusal."""
    try:
        return await call(service, request)
    except grpc.aio.AioRpcError as error:
        return refusal_of(error)


async def all_jobs(jobs: JobStatusStub) -> tuple[list[pb.Job], int]:
    """Every job, page by page, and the size of the largest page."""
    found, largest, request = list[pb.Job](), 0, pb.ListJobsRequest(page_size=1000)
    while True:
        page = await jobs.ListJobs(request)
        found += page.jobs
        largest = max(largest, page.ByteSize())
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return found, largest


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_pages_of_large_jobs_fit_into_ordinary_clients(tmp_path: Path, store: str) -> None:
    """Pages stay below the 4 MiB of a client with gRPC's defaults, and an error of more than 16 KiB is left out."""
    just, above = job_error("x" * (16 * 1024 - 200)), job_error("x" * 16 * 1024)
    async with service_here(url_of(store, tmp_path)) as service, channel_to(service.grpc_port) as channel:
        for first in range(0, 300, 100):
            names = [f"j{number:03}" for number in range(first, first + 100)]
            await in_batch(service, *map(creation, names))
            await in_batch(service, *(pb.FailJobRequest(job_id=name, error=just) for name in names))
        await create(service, "above")
        await service.jobs.FailJob(pb.FailJobRequest(job_id="above", error=above))
        found, largest = await all_jobs(JobStatusStub(channel))
        assert sorted(job.job_id for job in found) == ["above", *(f"j{number:03}" for number in range(300))]
        assert 3 * 1024 * 1024 < largest < 4 * 1024 * 1024
        assert {job.job_id for job in found if not job.HasField("error")} == {"above"}
        assert all(job.state == pb.JOB_STATE_FAILED for job in found)
        assert (await get(service, "above")).error.error == above.error


async def test_pages_of_virtual_keys_are_bounded_in_bytes() -> None:
    """A page of virtual keys with many hashes ends early, too, and each one is listed once."""
    limits = ServiceLimits(rpc=RpcLimits(pages=PageLimits(max_bytes=10_000, slice_items=2), hold_seconds=0))
    async with service_here(limits=limits) as service:
        for number in range(7):
            hashes = [hashlib.sha256(f"{number}-{each}".encode()).digest() for each in range(100)]
            request = vk_pb.PutVirtualKeyRequest(virtual_key_id=f"vk-{number}", key_sha256=hashes)
            await service.virtual_keys.PutVirtualKey(request)
        pages, token = list[list[str]](), ""
        while not pages or token:
            page = await service.virtual_keys.ListVirtualKeys(vk_pb.ListVirtualKeysRequest(page_token=token))
            pages.append([virtual_key.virtual_key_id for virtual_key in page.virtual_keys])
            token = page.next_page_token
        assert pages == [["vk-0", "vk-1"], ["vk-2", "vk-3"], ["vk-4", "vk-5"], ["vk-6"]]
