"""Connections that are parked while their poll waits: what a client may do meanwhile, and after the answer."""

import asyncio
import gc
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final, cast

import pytest
from harness.faults import Clock
from harness.fronts import FRONTS, front_here, listening_edge, waiting
from harness.http import request
from harness.jobs import complete, create, job_in, put_virtual_key
from harness.raw import connection, next_answer, received_until_closed
from harness.service import Service, service_here
from harness.tokens import bearer, virtual_key_token
from harness.waiting import until
from jobstatus.core.job import JobState
from jobstatus.core.virtual_keys import hash_key
from jobstatus.rest.fast_path import FastPathProtocol, Requests
from jobstatus.rest.limits import RestLimits
from jobstatus.rest.parked import MAX_EARLY_BYTES, ParkedConnection
from jobstatus.rest.waiting import WaitingRequest
from jobstatus.v1 import job_status_pb2 as pb

OWNER: Final = bearer(virtual_key_token("vk-1"))
LONG: Final = "Prefer: wait=30"
LARGE: Final = b'"%b"' % (b"x" * 2**20)


class CountedProtocol(FastPathProtocol):
    """A connection that notes the paths for which its handler is called."""

    paths: Final[list[str]] = []

    def hand_over(self, requests: Requests) -> None:
        self.paths.extend(request.path for request, _ in requests)
        super().hand_over(requests)


@pytest.fixture(params=FRONTS)
async def front(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    """Either front, whose connections count the calls of their handler."""
    rest = RestLimits(connection_type=CountedProtocol)
    if request.param == FRONTS[0]:
        async with service_here(rest=rest) as service:
            CountedProtocol.paths.clear()
            yield service
        return
    async with service_here() as service, listening_edge(service, rest=rest) as edge:
        CountedProtocol.paths.clear()
        yield edge


def get(job_id: str, *headers: str, method: str = "GET") -> bytes:
    lines = [f"{method} /v1/async/audio/transcriptions/{job_id} HTTP/1.1", "Host: test", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def connections(front: Service) -> int:
    """How many connections are open, but for the one that asks."""
    metrics = (await request(front.admin_port, "/metrics")).body.decode()
    (line,) = [line for line in metrics.splitlines() if line.startswith("jobstatus_http_connections ")]
    return int(float(line.split(" ")[1]))


async def test_no_handler_is_called_for_a_wait(front: Service) -> None:
    """Neither at its beginning nor for its answer, and the connection can be used for the next poll."""
    for job_id in ("one", "two"):
        await create(front, job_id)
    async with connection(front.http_port) as (reader, writer):
        for job_id in ("one", "two"):
            writer.write(get(job_id, OWNER, LONG))
            await waiting(front, 1)
            await complete(front, job_id)
            answer = await next_answer(reader)
            assert (answer.status, answer.json["id"]) == (200, job_id)
            assert answer.headers["preference-applied"] == "wait=30"
        assert CountedProtocol.paths == []
        writer.write(get("one", OWNER))
        assert (await next_answer(reader)).status == 200
        assert await connections(front) == 1
    await until(lambda: _is(connections(front), 0))


async def _is(number: Any, expected: int) -> bool:
    return bool(await number == expected)


async def test_what_follows_a_wait_is_answered_after_it(front: Service) -> None:
    """However many requests, whole or in part, and however they are cut; one of them waits too."""
    for job_id in ("one", "two"):
        await create(front, job_id)
    await job_in(front, JobState.COMPLETED, "done")
    async with connection(front.http_port) as (reader, writer):
        writer.write(get("one", OWNER, LONG))
        await waiting(front, 1)
        later = get("done", OWNER) + get("two", OWNER, LONG) + get("done", OWNER, method="DELETE")
        for start in range(0, len(later) - 10, 100):
            writer.write(later[start : min(start + 100, len(later) - 10)])
            await asyncio.sleep(0)
        await complete(front, "one")
        answers = [await next_answer(reader) for _ in range(2)]
        writer.write(later[-10:])
        await waiting(front, 1)
        await complete(front, "two")
        answers += [await next_answer(reader) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200, 200, 405]
    assert [answer.json.get("id") for answer in answers] == ["one", "done", "two", None]


async def test_who_sends_too_much_meanwhile_is_not_read_on(front: Service) -> None:
    """More than a few requests stay with the client; once the wait is over all are answered."""
    await create(front, "one")
    count = 4 * MAX_EARLY_BYTES // len(get("one", OWNER))
    async with connection(front.http_port) as (reader, writer):
        writer.write(get("one", OWNER, LONG))
        await waiting(front, 1)
        writer.write(get("one", OWNER) * count)
        await complete(front, "one")
        answers = [await next_answer(reader) for _ in range(count + 1)]
    assert {answer.status for answer in answers} == {200}


@pytest.mark.parametrize("end", ["abort", "half"])
async def test_a_client_that_goes_leaves_nothing_behind(front: Service, end: str) -> None:
    """Neither a place nor a connection, whether it resets the connection or only ends its own half."""
    await create(front, "one")
    async with connection(front.http_port) as (reader, writer):
        writer.write(get("one", OWNER, LONG))
        await waiting(front, 1)
        if end == "half":
            writer.write_eof()
            assert await received_until_closed(reader) == b""
        else:
            writer.transport.abort()
        await waiting(front, 0)
        await until(lambda: _is(connections(front), 0))
    await complete(front, "one")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_large_result_ends_a_wait(front: Service, method: str) -> None:
    """Byte for byte and on time, also for a client that reads late; a HEAD is told its size."""
    await create(front, "one")
    async with connection(front.http_port) as (reader, writer):
        writer.write(get("one", OWNER, LONG, method=method))
        await waiting(front, 1)
        await complete(front, "one", LARGE)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nPreference-Applied: wait=30\r\n" in head
        (length,) = [int(line[16:]) for line in head.splitlines() if line.startswith(b"Content-Length: ")]
        if method == "GET":
            body = await reader.readexactly(length)
            assert body.endswith(b'"result":' + LARGE + b"}")
        writer.write(get("one", OWNER, "If-None-Match: *"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 304 ")
    assert await connections(front) <= 1


@pytest.mark.parametrize("size", [2**15, 2**20])
async def test_a_large_result_needs_no_handler_where_polls_are_answered_at_once(size: int) -> None:
    """The same headers and bytes as by one, time and again on a connection."""
    result, heads = b'"%b"' % (b"x" * size), []
    async with (
        service_here(rest=RestLimits(connection_type=CountedProtocol)) as front,
        connection(front.http_port) as (reader, writer),
    ):
        await create(front, "one")
        await complete(front, "one", result)
        CountedProtocol.paths.clear()
        for headers in ((OWNER,), (OWNER,), (OWNER,), (OWNER, "Prefer: handling=lenient")):
            writer.write(get("one", *headers, "X-Request-Id: same"))
            heads.append(re.sub(rb"\r\nDate: [^\r]+", b"", await reader.readuntil(b"\r\n\r\n")).splitlines())
            (length,) = [int(line[16:]) for line in heads[-1] if line.startswith(b"Content-Length: ")]
            assert (await reader.readexactly(length)).endswith(b'"result":' + result + b"}")
        calls = list(CountedProtocol.paths)
        metrics = (await request(front.admin_port, "/metrics")).body.decode()
        assert 'jobstatus_http_request_seconds_count{code="200",route="transcription"} 4.0' in metrics
    assert len(calls) == 2  # for the first one, whose credential is looked up, and the one with a preference
    assert all(sorted(head) == sorted(heads[-1]) for head in heads)


async def test_a_client_that_does_not_read_a_large_result_is_cut_off() -> None:
    """After a wait as after any other poll; its memory is free then."""
    async with service_here(rest=RestLimits(send_seconds=0.2)) as service:
        await create(service, "one")
        async with connection(service.http_port) as (reader, writer):
            writer.write(get("one", OWNER, LONG))
            await waiting(service, 1)
            cast("asyncio.Transport", writer.transport).pause_reading()
            await complete(service, "one", b'"%b"' % (b"x" * 8 * 2**20))
            await until(lambda: _is(connections(service), 0))
            del reader


@pytest.mark.parametrize("kind", FRONTS)
async def test_a_result_that_is_gone_is_a_404(kind: str) -> None:
    """A job that was removed between its end and the reading of its large result."""
    async with front_here(kind) as front:
        await job_in(front, JobState.COMPLETED, "one")
        await front.jobs.DeleteJob(pb.DeleteJobRequest(job_id="one"))
        async with connection(front.http_port) as (reader, writer):
            for _ in range(2):
                writer.write(get("one", OWNER, LONG))
                assert (await next_answer(reader)).status == 404


async def test_conditions_hold_after_a_wait(front: Service) -> None:
    """If-Match of another document is a 412 at once; If-None-Match of any is a 304 at the end."""
    await create(front, "one")
    async with connection(front.http_port) as (reader, writer):
        writer.write(get("one", OWNER, LONG, "If-None-Match: *"))
        await waiting(front, 1)
        await complete(front, "one")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 304 ")
        writer.write(get("one", OWNER, LONG, 'If-Match: "other"'))
        assert (await next_answer(reader)).status == 412


async def test_a_page_of_another_origin_may_wait() -> None:
    """Its answers have the lines that plain ones have."""
    async with service_here(cors_origins=["https://app.example.com"]) as service:
        await create(service, "one")
        async with connection(service.http_port) as (reader, writer):
            heads = []
            for prefer in ("Prefer: wait=1", "Accept: */*"):
                writer.write(get("one", OWNER, prefer, "Origin: https://app.example.com", method="HEAD"))
                heads.append((await reader.readuntil(b"\r\n\r\n")).splitlines())
        names = (b"Access-Control-", b"Vary")
        waited, plain = ({line for line in head if line.startswith(names)} for head in heads)
        assert waited == plain
        assert {b"Access-Control-Allow-Origin: https://app.example.com", b"Vary: Origin"} < waited


@pytest.mark.parametrize("kind", FRONTS)
@pytest.mark.parametrize("places", [0, 10])
async def test_a_wait_counts_once_for_the_rate_limit(kind: str, places: int) -> None:
    """Also one that begins with a key which the store has to be asked for, and one for which there is no place."""
    limits: dict[str, Any] = {"rate_limit": 1, "rate_limit_burst": 2, "max_waiting_polls": places, "clock": Clock()}
    async with front_here(kind, **limits) as front:
        await put_virtual_key(front, key_sha256=[hash_key("sk-bf-1")])
        await create(front, "one")
        async with connection(front.http_port) as (reader, writer):
            statuses = []
            for header in ("x-bf-vk: sk-bf-1", OWNER, OWNER):
                writer.write(get("one", header, "Prefer: wait=1"))
                statuses.append((await next_answer(reader)).status)
    assert statuses == [202, 202, 429]


@pytest.mark.parametrize("kind", FRONTS)
async def test_a_stop_closes_parked_connections(kind: str) -> None:
    """Those that wait once they are answered, idle ones at once."""
    async with AsyncExitStack() as clients:
        async with front_here(kind) as front:
            await create(front, "one")
            idle, busy = [await clients.enter_async_context(connection(front.http_port)) for _ in range(2)]
            idle[1].write(get("one", OWNER, "Prefer: wait=1"))
            assert (await next_answer(idle[0])).status == 202
            busy[1].write(get("one", OWNER, LONG))
            await waiting(front, 1)
        assert await received_until_closed(idle[0]) == b""
        assert (await next_answer(busy[0])).status == 202
        assert await received_until_closed(busy[0]) == b""


class MovedLoop(asyncio.SelectorEventLoop):
    """A loop whose timers believe that more time has passed."""

    moved_seconds = 0.0

    def time(self) -> float:
        return super().time() + self.moved_seconds


def test_an_idle_connection_is_closed_after_its_wait() -> None:
    """As any other one is, after the keep-alive time."""

    async def use(loop: MovedLoop) -> None:
        async with service_here(keepalive_seconds=60) as service, connection(service.http_port) as (reader, writer):
            await create(service, "one")
            writer.write(get("one", OWNER, "Prefer: wait=1"))
            assert (await next_answer(reader)).status == 202
            loop.moved_seconds += 40
            writer.write(get("one", OWNER, "Prefer: wait=1"))
            assert (await next_answer(reader)).status == 202
            loop.moved_seconds += 62
            assert await received_until_closed(reader, seconds=1000) == b""

    with asyncio.Runner(loop_factory=MovedLoop) as runner:
        runner.run(use(cast("MovedLoop", runner.get_loop())))


async def test_what_a_whole_connection_had_is_freed_while_it_is_parked(front: Service) -> None:
    """No task of aiohttp and no connection of its kind is left for those that wait."""
    await create(front, "one")
    async with connection(front.http_port) as (_, writer):
        writer.write(get("one", OWNER, LONG))
        await waiting(front, 1)
        await until(lambda: not [task for task in asyncio.all_tasks() if "RequestHandler.start" in repr(task)])
        gc.collect()
        assert not [each for each in gc.get_objects() if type(each) is CountedProtocol and each.transport is not None]
        await complete(front, "one")


@pytest.mark.parametrize("outcome", [200, 202, 404])
async def test_what_a_wait_had_is_freed_without_a_garbage_collection(front: Service, outcome: int) -> None:
    """None of its objects refers to itself through others; they would keep the connection until the collection."""
    job_id = "none" if outcome == 404 else "one"
    await create(front, "one")
    gc.collect()
    gc.disable()
    try:
        async with connection(front.http_port) as (reader, writer):
            writer.write(get(job_id, OWNER, LONG if outcome == 200 else "Prefer: wait=1"))
            if outcome == 200:
                await waiting(front, 1)
                await complete(front, "one")
            assert (await next_answer(reader)).status == outcome
        await until(lambda: not kept())
    finally:
        gc.enable()


def kept() -> list[Any]:
    """What is left of waits, and of connections that were parked."""
    return [each for each in gc.get_objects() if type(each) in (WaitingRequest, ParkedConnection)]
