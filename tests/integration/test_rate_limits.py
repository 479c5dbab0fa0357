"""A limit of polls for each virtual key: what it refuses, and whom it leaves alone."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from harness.faults import Clock, MeddledStore
from harness.fronts import FRONTS, front_here, waiting
from harness.http import Answer, request
from harness.jobs import complete, create, job_in
from harness.logged import events_logged
from harness.raw import connection, next_answer
from harness.service import Service, edge_here, service_here
from harness.tokens import admin_token, bearer, virtual_key_token
from jobstatus.core.job import JobState
from jobstatus.settings import Settings

OWNER: Final = bearer(virtual_key_token("vk-1"))
ANOTHER_TOKEN: Final = bearer(virtual_key_token("vk-1", jti="another"))
STRANGER: Final = bearer(virtual_key_token("vk-2"))
ADMIN: Final = bearer(admin_token())
LONG: Final = "Prefer: wait=8"
EVENTS: Final = "Accept: text/event-stream"


@pytest.fixture(params=FRONTS)
async def front(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    """Each virtual key may poll twice there, because the clock stands still."""
    limited: dict[str, Any] = {"rate_limit": 1, "rate_limit_burst": 2, "max_waiting_polls": 0, "clock": Clock()}
    async with front_here(request.param, **limited) as running:
        yield running


async def statuses(front: Service, *credentials: str, job_id: str = "done") -> list[int]:
    return [(await front.poll(job_id, credential)).status for credential in credentials]


async def refused(front: Service) -> int:
    """How many polls the metrics count as refused."""
    lines = (await request(front.admin_port, "/metrics")).body.decode().splitlines()
    (line,) = [line for line in lines if line.startswith("jobstatus_polls_rate_limited_total ")]
    return int(float(line.split(" ")[1]))


async def test_a_virtual_key_that_polls_too_often_gets_429(front: Service, caplog: pytest.LogCaptureFixture) -> None:
    """It is the contract's error and says when to come back; it is counted, and has one line. Others are as before."""
    caplog.set_level(logging.INFO)
    await job_in(front, JobState.COMPLETED, "done")
    assert await refused(front) == 0
    assert await statuses(front, OWNER, OWNER, OWNER, ANOTHER_TOKEN, STRANGER, STRANGER) == [
        *(200, 200, 429, 429),
        *(404, 404),
    ]
    answer = await front.poll("done", OWNER)
    assert answer.json == {
        "event_id": answer.headers["x-request-id"],
        "is_bifrost_error": False,
        "status_code": 429,
        "error": {
            "type": "rate_limit_error",
            "code": "rate_limit_exceeded",
            "message": "Too many requests, try again later",
        },
        "extra_fields": {},
    }
    assert (answer.headers["retry-after"], answer.headers["cache-control"]) == ("3", "no-store")
    assert await refused(front) == 3
    assert events_logged(caplog).count("polls_rate_limited") == 1


async def test_the_limit_says_nothing_about_jobs(front: Service) -> None:
    """A job that is not there, or is another's, counts like one's own, and is refused like it."""
    await job_in(front, JobState.COMPLETED, "done")
    assert await statuses(front, STRANGER, STRANGER, STRANGER) == [404, 404, 429]
    assert await statuses(front, STRANGER, job_id="unknown") == [429]
    assert await statuses(front, ADMIN, ADMIN, ADMIN, job_id="unknown") == [404, 404, 429]


async def test_requests_without_a_good_credential_are_not_counted(front: Service) -> None:
    assert await statuses(front, *["Authorization: Bearer no"] * 5) == [401] * 5


@pytest.mark.parametrize("front_kind", FRONTS)
async def test_a_wait_counts_once(front_kind: str) -> None:
    """However often the job is read for it; and a wait beyond the limit is refused before it begins."""
    async with front_here(front_kind, rate_limit=1, rate_limit_burst=4, clock=Clock()) as front:
        await create(front, "job")
        polls = [asyncio.create_task(front.poll("job", OWNER, LONG)) for _ in range(2)]
        polls += [asyncio.create_task(follow(front, "job")) for _ in range(2)]
        await waiting(front, 4)
        assert (await front.poll("job", OWNER, LONG)).status == 429
        assert (await front.poll("job", OWNER, EVENTS)).status == 429
        await complete(front, "job")
        assert [answer.status for answer in await asyncio.gather(*polls)] == [200] * 4


async def follow(front: Service, job_id: str) -> Answer:
    """An event stream to its end, of which only the status counts."""
    async with connection(front.http_port) as (reader, writer):
        path = f"/v1/async/audio/transcriptions/{job_id}"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{OWNER}\r\n{EVENTS}\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert b"event: status" in body
        return Answer(int(head.split(b" ")[1]), {}, body)


async def test_a_poll_that_finds_no_place_to_wait_counts_once() -> None:
    async with service_here(rate_limit=1, rate_limit_burst=2, clock=Clock(), max_waiting_polls=0) as service:
        await create(service, "job")
        answers = [await service.poll("job", OWNER, LONG) for _ in range(3)]
        assert [answer.status for answer in answers] == [202, 202, 429]


async def test_polls_answered_without_a_handler_count_once() -> None:
    """So do those that are tried there and then handed over, such as that of a large result."""
    clock = Clock()
    async with service_here(rate_limit=1, rate_limit_burst=4, clock=clock) as service:
        await job_in(service, JobState.COMPLETED, "done")
        await create(service, "large")
        await complete(service, "large", b'"' + b"x" * 100_000 + b'"')
        async with connection(service.http_port) as (reader, writer):

            async def poll(job_id: str) -> int:
                path = f"/v1/async/audio/transcriptions/{job_id}"
                writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\n{OWNER}\r\n\r\n".encode())
                return (await next_answer(reader)).status

            assert [await poll(job_id) for job_id in ("done", "done", "unknown", "large", "done", "large")] == [
                *(200, 200, 404, 200),
                *(429, 429),
            ]
            clock.move(seconds=1)
            assert [await poll("done"), await poll("done")] == [200, 429]


async def test_a_poll_beyond_the_limit_reads_nothing() -> None:
    store = MeddledStore()
    async with service_here(store, rate_limit=1, rate_limit_burst=2, clock=Clock()) as service:
        assert await statuses(service, OWNER, OWNER) == [404, 404]
        store.failures["read_answers"] = ZeroDivisionError("of the test")
        assert await statuses(service, OWNER) == [429]


async def test_there_is_no_limit_unless_it_is_set() -> None:
    async with service_here(clock=Clock()) as service, edge_here(service) as edge:
        for front in (service, edge):
            assert await statuses(front, *[OWNER] * 50) == [404] * 50


def test_the_burst_follows_the_rate_unless_it_is_set() -> None:
    """Twice the rate, at least 10."""
    given = ({"rate_limit": 1}, {"rate_limit": 5.1}, {"rate_limit": 100}, {"rate_limit": 100, "rate_limit_burst": 2})
    assert [Settings(**fields).burst for fields in given] == [10, 11, 200, 2]
