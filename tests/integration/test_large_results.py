"""Large results: what is answered without reading them, who has room for one, and what is held while they are sent.

At both edges. The store notes which results it was asked for.
"""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from harness.events import CutOff, events
from harness.faults import MeddledStore
from harness.fronts import FRONTS, front_here, held_bytes
from harness.http import exchange, parse
from harness.jobs import complete, create
from harness.raw import connection, next_answer
from harness.service import Service, service_here
from harness.tokens import bearer, virtual_key_token
from harness.waiting import until
from jobstatus.core.errors import StoreUnavailable
from jobstatus.core.store import SMALL_RESULT_BYTES
from jobstatus.rest.limits import RestLimits
from jobstatus.v1 import job_status_pb2 as pb

OWNER: Final = bearer(virtual_key_token("vk-1"))
OTHER: Final = bearer(virtual_key_token("vk-2"))
MIB: Final = 2**20
LARGE: Final = b'"' + b"x" * (8 * MIB) + b'"'
"""More than the buffers of both systems take of an answer that is not read."""
SIZES: Final = (SMALL_RESULT_BYTES + 1, 2**16, len(LARGE))


class Results:
    """A store that notes which results are read from it; `begin` is awaited before each."""

    def __init__(self) -> None:
        self.store = MeddledStore()
        self.read: list[str] = []
        self.begin = asyncio.Event()
        self.begin.set()
        self.store.replace("read_jobs", self._read_jobs)

    async def _read_jobs(self, job_ids: list[str], *, with_results: bool) -> Any:
        if with_results:
            self.read += job_ids
            await self.begin.wait()
            if (failure := self.store.failures["read_jobs"]) is not None:
                raise failure
        return await self.store.real.read_jobs(job_ids, with_results=with_results)


@pytest.fixture
def results() -> Results:
    return Results()


@pytest.fixture(params=FRONTS)
async def front(request: pytest.FixtureRequest, results: Results) -> AsyncIterator[Service]:
    """With room for two large answers of one virtual key, and for four of all."""
    async with front_here(
        request.param, results.store, rest=RestLimits(max_large_bytes=35 * MIB, large_shares=3)
    ) as front:
        for job_id, owner in (("mine", "vk-1"), ("mine-too", "vk-1"), ("theirs", "vk-2")):
            await create(front, job_id, virtual_key_id=owner)
            await complete(front, job_id, LARGE)
        yield front


def get(job_id: str, *headers: str, method: str = "GET") -> bytes:
    lines = [f"{method} /v1/async/audio/transcriptions/{job_id} HTTP/1.1", "Host: test", *headers, "", ""]
    return "\r\n".join(lines).encode()


@asynccontextmanager
async def unread(front: Service, job_id: str, *headers: str) -> AsyncIterator[asyncio.StreamWriter]:
    """The connection of a client that has asked for this and reads nothing."""
    async with connection(front.http_port) as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(get(job_id, *headers))
        yield writer


async def until_held(front: Service, answers: int) -> None:
    """Return when the results of so many large answers are held."""

    async def is_so() -> bool:
        return await held_bytes(front) // len(LARGE) == answers

    await until(is_so)


async def test_what_needs_no_result_reads_none(front: Service, results: Results) -> None:
    """HEAD, 304 and 412; the head is that of the whole answer."""
    async with connection(front.http_port) as (reader, writer):
        writer.write(get("mine", OWNER))
        whole = await next_answer(reader)
    assert results.read == ["mine"]
    head = await front.poll("mine", OWNER, method="HEAD")
    asked = get("mine", OWNER, f"If-None-Match: {whole.headers['etag']}", "Connection: close")
    known = parse(await exchange(front.http_port, asked), head_only=True)
    other = await front.poll("mine", OWNER, 'If-Match: "other"')
    assert (head.status, known.status, other.status) == (200, 304, 412)
    varying = ("date", "x-request-id", "connection")
    assert {name: text for name, text in head.headers.items() if name not in varying} == {
        name: text for name, text in whole.headers.items() if name not in varying
    }
    assert int(head.headers["content-length"]) == len(whole.body)
    assert known.headers["etag"] == whole.headers["etag"]
    for header in ("Prefer: wait=9", "Accept: text/event-stream"):
        await front.poll("mine", OWNER, header, 'If-Match: "other"')
    await front.poll("mine", OWNER, "Prefer: wait=9", method="HEAD")
    await front.poll("mine", OTHER)
    assert results.read == ["mine"]


@pytest.mark.parametrize("size", SIZES)
async def test_the_answer_is_the_same_whatever_its_size(front: Service, size: int) -> None:
    """Just above what comes along with a poll, around what is sent at once, and in slices."""
    result = b'"' + b"y" * (size - 2) + b'"'
    await create(front, "j1")
    await complete(front, "j1", result)
    for headers in ((), ("Prefer: wait=9",)):
        answer = await front.poll("j1", OWNER, *headers)
        assert answer.body.endswith(b'"result":' + result + b"}")
        assert (await front.poll("j1", OWNER, method="HEAD")).headers["content-length"] == str(len(answer.body))
    async with events(front, "j1", OWNER) as stream:
        assert [event.data.encode() for event in await stream.rest()] == [answer.body]


async def test_one_keys_slow_readers_leave_room_for_another_key(front: Service, results: Results) -> None:
    """What is refused for lack of room is not read, by a poll or an event stream."""
    async with unread(front, "mine", OWNER), unread(front, "mine", OWNER):
        await until_held(front, 2)
        await until(lambda: len(results.read) == 2)
        for headers in ((), ("Prefer: wait=9",)):
            answer = await front.poll("mine-too", OWNER, *headers)
            assert (answer.status, answer.headers["retry-after"]) == (503, "2")
            assert answer.json["error"]["code"] == "store_unavailable"
        async with events(front, "mine", OWNER) as stream:
            with pytest.raises(CutOff):
                await stream.rest()
        assert len(results.read) == 2
        assert (await front.poll("theirs", OTHER)).body.endswith(LARGE + b"}")
        assert (await front.poll("mine-too", OWNER, method="HEAD")).status == 200
    await until_held(front, 0)
    assert (await front.poll("mine-too", OWNER)).status == 200


@pytest.mark.parametrize("headers", [(OWNER,), (OWNER, "Accept: text/event-stream")], ids=["poll", "events"])
async def test_who_goes_away_holds_nothing(front: Service, results: Results, headers: tuple[str, ...]) -> None:
    """While the result is read, or is sent: the memory is free again."""
    results.begin.clear()
    async with unread(front, "mine", *headers) as writer:
        await until(lambda: results.read == ["mine"])
        assert await held_bytes(front) > len(LARGE)
        writer.transport.abort()
        await until_held(front, 0)
    results.begin.set()
    async with unread(front, "mine", *headers) as writer:
        await until(lambda: len(results.read) > 1)
        assert await held_bytes(front) > len(LARGE)
        writer.transport.abort()
        await until_held(front, 0)
    assert (await front.poll("mine", OWNER)).status == 200
    assert await held_bytes(front) == 0


async def test_a_result_that_cannot_be_read_holds_nothing(front: Service, results: Results) -> None:
    """The store fails, or the job goes between the two reads: a 503 or a 404; an event stream ends without an event."""
    results.store.failures["read_jobs"] = StoreUnavailable()
    assert (await front.poll("mine", OWNER)).status == 503
    async with events(front, "mine", OWNER) as stream:
        assert await stream.rest() == []
    results.store.failures["read_jobs"] = None
    results.begin.clear()
    poll = asyncio.create_task(front.poll("mine", OWNER))
    await until(lambda: results.read.count("mine") >= 3)
    await front.jobs.DeleteJob(pb.DeleteJobRequest(job_id="mine"))
    results.begin.set()
    assert (await poll).status == 404
    assert await held_bytes(front) == 0


@pytest.mark.parametrize("kind", FRONTS)
async def test_who_stands_still_is_cut_off(kind: str, results: Results) -> None:
    """Its memory is free again."""
    async with front_here(kind, results.store, rest=RestLimits(send_seconds=1)) as front:
        await create(front, "j1")
        await complete(front, "j1", LARGE)
        async with unread(front, "j1", OWNER):
            await until_held(front, 1)
            await until_held(front, 0)


async def test_an_answer_is_in_memory_once() -> None:
    """The store's copy is sent in slices: neither the document nor what waits to be sent is another copy."""
    async with service_here() as service, connection(service.http_port) as (reader, writer):
        await create(service, "j1")
        await complete(service, "j1", LARGE)
        tracemalloc.start()
        try:
            writer.write(get("j1", OWNER, "Connection: close"))
            while await reader.read(2**16):
                pass
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 2 * MIB


async def test_few_results_are_read_at_a_time(results: Results) -> None:
    """Each is in memory several times until it has been read. The others wait, and all are answered."""
    async with service_here(results.store) as service:
        await create(service, "j1")
        await complete(service, "j1", LARGE[: 2**15] + b'"')
        results.begin.clear()
        polls = asyncio.gather(*(service.poll("j1", OWNER) for _ in range(10)))

        async def all_are_held() -> bool:
            return await held_bytes(service) > 10 * 2**15

        await until(all_are_held)
        assert len(results.read) == 4
        results.begin.set()
        assert {answer.status for answer in await polls} == {200}
        assert len(results.read) == 10
