"""Plain polls that are answered without a handler: the same answers, in the same order, for the same people.

Here connections stay open and credentials are known already, since otherwise a handler is asked; each call of it is
counted, so that a test knows which of the two has answered.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NoReturn

import pytest
from aiohttp import web
from google.protobuf.duration_pb2 import Duration
from harness.hostile_tokens import LEEWAY
from harness.http import Answer
from harness.jobs import KINDS, complete, create, job_in, number_of, put_virtual_key
from harness.raw import connection, next_answer, received_until_closed
from harness.service import Service, service_here
from harness.stores import STORES
from harness.tokens import admin_token, bearer, virtual_key_token
from harness.waiting import until
from jobstatus.auth.authenticator import Authenticator
from jobstatus.core.errors import StoreUnavailable
from jobstatus.core.job import JobState, RequestType
from jobstatus.core.poll import Poller
from jobstatus.core.store import SMALL_RESULT_BYTES
from jobstatus.core.virtual_keys import hash_key
from jobstatus.rest.handler import PollHandler
from jobstatus.stores.memory import MemoryJobStore
from jobstatus.stores.sqlite.store import SQLiteJobStore

OWNER: Final = bearer(virtual_key_token("vk-1"))
STRANGER: Final = bearer(virtual_key_token("vk-2"))
ADMIN: Final = bearer(admin_token())
KEY: Final = "x-bf-vk: sk-bf-key-of-vk-1"
VARYING: Final = ("date", "connection")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths for which the handler has been asked."""
    paths: list[str] = []
    answer = PollHandler.answer

    async def counted(self: PollHandler, request: web.BaseRequest) -> web.StreamResponse:
        paths.append(request.raw_path)
        return await answer(self, request)

    monkeypatch.setattr(PollHandler, "answer", counted)
    return paths


@pytest.fixture(params=["memory", "sqlite"])
async def service(
    request: pytest.FixtureRequest, tmp_path: Path, asked: list[str], authenticators: list[Authenticator]
) -> AsyncIterator[Service]:
    asked.clear()  # it has to be there before the service is
    store = "memory://" if request.param == "memory" else STORES["sqlite"](tmp_path)
    async with service_here(store) as running:
        await put_virtual_key(running, "vk-1", key_sha256=[hash_key("sk-bf-key-of-vk-1")])
        await authenticators[-1].refresh()  # or all would be looked up anew once it is due
        yield running


def get(job_id: str, *headers: str, kind: str = "audio/transcriptions", method: str = "GET") -> bytes:
    lines = [f"{method} /v1/async/{kind}/{job_id} HTTP/1.1", "Host: test", "X-Request-Id: same", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Client:
    """A connection that stays open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, data: bytes) -> Answer:
        self.writer.write(data)
        return await next_answer(self.reader)


@asynccontextmanager
async def client_of(service: Service, *known: str) -> AsyncIterator[Client]:
    """A client whose credentials, given as header lines, the service knows already."""
    async with connection(service.http_port) as (reader, writer):
        client = Client(reader, writer)
        for header in known:
            assert (await client.ask(get("unknown", header))).status == 404
        yield client


async def until_answered(client: Client, data: bytes, status: int) -> None:
    """Ask again and again, until the answer is this one."""

    async def is_so() -> bool:
        return (await client.ask(data)).status == status

    await until(is_so)


def told(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    return answer.status, {name: text for name, text in answer.headers.items() if name not in VARYING}, answer.body


async def test_the_answer_is_the_handlers(service: Service, asked: list[str]) -> None:
    """For each request type, state and kind of credential: the same status, headers and bytes."""
    async with client_of(service, OWNER, ADMIN, KEY) as client:
        for request_type in RequestType:
            for state in JobState:
                job_id = f"{request_type.value}-{state.value}"
                await job_in(service, state, job_id, request_type=number_of(request_type))
                asked.clear()
                data = [get(job_id, header, kind=KINDS[request_type]) for header in (OWNER, ADMIN, KEY)]
                at_once = [await client.ask(each) for each in data]
                assert asked == []
                with_handler = [await client.ask(each[:-2] + b"Prefer: handling=lenient\r\n\r\n") for each in data]
                assert len(asked) == len(data)
                assert [told(answer) for answer in at_once] == [told(answer) for answer in with_handler]
                assert {answer.status for answer in at_once} <= {200, 202}


@pytest.mark.parametrize(
    "headers",
    [
        ("Accept: */*",),
        ("Accept: application/json", "Accept-Encoding: gzip, br", "User-Agent: a poller", "Cookie: a=b"),
        ('If-None-Match: "other"',),
        ("Connection: keep-alive",),
        ("Content-Length: 0",),
    ],
    ids=lambda headers: headers[0],
)
async def test_what_clients_send_besides_needs_no_handler(
    service: Service, asked: list[str], headers: tuple[str, ...]
) -> None:
    await job_in(service, JobState.COMPLETED, "done")
    async with client_of(service, OWNER) as client:
        asked.clear()
        assert (await client.ask(get("done", OWNER, *headers))).status == 200
        assert asked == []


REFUSED: Final = {
    "unknown": (404, get("unknown", OWNER)),
    "somebody else's": (404, get("done", STRANGER)),
    "of another type": (404, get("done", OWNER, kind="ocr")),
    "no id": (404, get("no.id", OWNER)),
    "no job at this path": (404, get("done", OWNER, kind="ocr/x")),
    "no credential": (401, get("done")),
    "two credentials": (401, get("done", OWNER, KEY)),
    "a bad token": (401, get("done", OWNER + "x")),
    "no key": (401, get("done", "x-bf-vk: sk-bf-")),
    "an unknown key": (401, get("done", "x-bf-vk: sk-bf-other")),
    "another method": (405, get("done", OWNER, method="DELETE")),
}
LEFT: Final = {
    "HEAD": (200, get("done", OWNER, method="HEAD")),
    "a wait": (200, get("done", OWNER, "Prefer: wait=1")),
    "a large result": (200, get("large", OWNER)),
    "a very large result": (200, get("huge", OWNER)),
    "a body": (200, get("done", OWNER, "Content-Length: 2") + b"{}"),
    "an upgrade": (200, get("done", OWNER, "Connection: Upgrade", "Upgrade: websocket")),
    "the last request": (200, get("done", OWNER, "Connection: close")),
    "HTTP/1.0": (200, get("done", OWNER, "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")),
}


@pytest.mark.parametrize(("status", "data"), (REFUSED | LEFT).values(), ids=(REFUSED | LEFT).keys())
async def test_all_else_is_the_handlers(service: Service, asked: list[str], status: int, data: bytes) -> None:
    """What is refused, needs a second read, or is no plain GET on a connection that stays open."""
    await job_in(service, JobState.COMPLETED, "done")
    for name, size in (("large", SMALL_RESULT_BYTES + 1), ("huge", 2**20)):
        await create(service, name)
        await complete(service, name, b'"' + b"x" * (size - 2) + b'"')
    async with client_of(service, OWNER, STRANGER, KEY) as client:
        asked.clear()
        client.writer.write(data)
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert int(head.split(b" ")[1]) == status
        assert len(asked) == 1


async def test_what_is_known_already_is_not_sent(service: Service) -> None:
    """A 304 to who has the document, on a connection that goes on."""
    await job_in(service, JobState.COMPLETED, "done")
    async with client_of(service, OWNER) as client:
        tag = (await client.ask(get("done", OWNER))).headers["etag"]
        client.writer.write(get("done", OWNER, f"If-None-Match: {tag}"))
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 304 ")
        assert (await client.ask(get("done", OWNER))).status == 200


async def test_nothing_overtakes_on_a_connection(service: Service, asked: list[str]) -> None:
    """A poll that could be answered at once comes after the one that waits; later ones are answered at once again."""
    for name in ("one", "two"):
        await create(service, name)
    async with client_of(service, OWNER) as client:
        client.writer.write(get("one", OWNER, "Prefer: wait=1"))
        await until(lambda: asked[-1].endswith("/one"))
        for _ in range(3):
            client.writer.write(get("two", OWNER))
            await client.writer.drain()
            await asyncio.sleep(0.02)  # so that each arrives alone
        answers = [await next_answer(client.reader) for _ in range(4)]
        assert [answer.json["id"] for answer in answers] == ["one", "two", "two", "two"]
        assert "preference-applied" in answers[0].headers
        asked.clear()
        assert (await client.ask(get("two", OWNER))).json["id"] == "two"
        assert asked == []


async def test_pipelines_are_answered_in_order(service: Service) -> None:
    """However the requests of a pipeline are cut: several at a time, half ones, some for a handler."""
    ids = [f"j{number}" for number in range(10)]
    for job_id in ids:
        await create(service, job_id)
    wanted = [*ids, "unknown"] * 10
    data = b"".join(get(job_id, OWNER) for job_id in wanted)
    async with client_of(service, OWNER) as client:
        for size in (1, 7, 100, 333, 1000, len(data)):
            for start in range(0, len(data), size):
                client.writer.write(data[start : start + size])
                if start // size % 10 == 0:
                    await asyncio.sleep(0)
            answers = [await next_answer(client.reader) for _ in wanted]
            assert [answer.json.get("id", "unknown") for answer in answers] == wanted


async def test_who_does_not_read_is_left_to_the_handler(service: Service, asked: list[str]) -> None:
    """It waits until what was answered is read, and so do the requests that follow; then all answers are there."""
    count = 1000  # of answers that take more bytes than any system holds
    await create(service, "done")
    await complete(service, "done", b'"' + b"x" * (SMALL_RESULT_BYTES - 2) + b'"')
    async with client_of(service, OWNER) as client:
        asked.clear()
        for _ in range(count):
            client.writer.write(get("done", OWNER))
            await asyncio.sleep(0.001)  # so that each arrives alone
        assert len(asked) == 1
        answers = [await next_answer(client.reader) for _ in range(count)]
    assert {(answer.status, len(answer.body) > SMALL_RESULT_BYTES) for answer in answers} == {(200, True)}


async def test_the_connection_stays_open_while_it_is_used(monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    """Each answer at once keeps it for another while, as any other would; then it is closed."""
    monkeypatch.setattr("jobstatus.rest.server.KEEPALIVE_SECONDS", 2)
    async with service_here() as service, client_of(service, OWNER) as client:
        await create(service, "job")
        asked.clear()
        ends_at = time.monotonic() + 4
        while time.monotonic() < ends_at:
            assert (await client.ask(get("job", OWNER))).status == 202
            await asyncio.sleep(0.1)
        assert asked == []
        assert await received_until_closed(client.reader, seconds=20) == b""


async def test_each_state_is_seen_at_once(service: Service, asked: list[str]) -> None:
    """What a worker was told OK for is in the next answer; a job that expires or goes away is a 404."""
    async with client_of(service, OWNER) as client:
        await create(service, "job", result_ttl=Duration(seconds=1))
        asked.clear()
        assert (await client.ask(get("job", OWNER))).json["status"] == "pending"
        await complete(service, "job", b"1")
        assert (await client.ask(get("job", OWNER))).json["status"] == "completed"
        assert asked == []
        await until_answered(client, get("job", OWNER), 404)


async def test_withdrawn_credentials_are_refused_at_once(service: Service) -> None:
    """A virtual key that is disabled ends its keys and its tokens with the answer to the one who disabled it."""
    await create(service, "job")
    async with client_of(service, OWNER, KEY) as client:
        assert [(await client.ask(get("job", header))).status for header in (OWNER, KEY)] == [202, 202]
        await put_virtual_key(service, "vk-1", disabled=True)
        assert [(await client.ask(get("job", header))).status for header in (OWNER, KEY)] == [401, 401]


async def test_a_token_ends_when_it_says(service: Service) -> None:
    await create(service, "job")
    token = bearer(virtual_key_token("vk-1", exp=int(time.time()) + 3 - LEEWAY))
    async with client_of(service, token) as client:
        assert (await client.ask(get("job", token))).status == 202
        await until_answered(client, get("job", token), 401)


@pytest.mark.parametrize(("failure", "status"), [(StoreUnavailable(), 503), (ZeroDivisionError("secret"), 500)])
async def test_a_failure_is_told_by_the_handler(
    service: Service, monkeypatch: pytest.MonkeyPatch, asked: list[str], failure: Exception, status: int
) -> None:
    """Of the store's, or a fault of ours, of which nothing is told; and the connection goes on."""

    def failing(*_: object) -> NoReturn:
        raise failure

    await create(service, "job")
    async with client_of(service, OWNER) as client:
        with monkeypatch.context() as patched:
            for store in (MemoryJobStore, SQLiteJobStore):
                patched.setattr(store, "read_answers", failing)
            patched.setattr(Poller, "_checked", failing)
            asked.clear()
            answer = await client.ask(get("job", OWNER))
        assert (answer.status, len(asked)) == (status, 1)
        assert b"secret" not in answer.body
        assert (await client.ask(get("job", OWNER))).status == 202
