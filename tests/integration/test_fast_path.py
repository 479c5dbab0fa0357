"""Plain polls that are answered without a handler: the same answers, in the same order, for the same people.

Here connections stay open and credentials are known already, since otherwise a handler is asked; each call of it is
counted, so that a test knows which of the two has answered.
"""

import asyncio
import gc
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import aiohttp
import pytest
import pytest_asyncio
from aiohttp.streams import EmptyStreamReader
from google.protobuf.duration_pb2 import Duration
from harness.fronts import waiting
from harness.hostile_tokens import LEEWAY
from harness.http import Answer as HttpAnswer
from harness.http import request
from harness.jobs import KINDS, complete, create, job_in, number_of, put_virtual_key
from harness.raw import connection, next_answer, received_until_closed
from harness.service import Service, service_here
from harness.stores import STORES
from harness.tokens import admin_token, bearer, token, virtual_key_token
from harness.waiting import until
from jobstatus.core.errors import StoreUnavailable
from jobstatus.core.job import JobState, RequestType
from jobstatus.core.store import SMALL_RESULT_BYTES, Answer, Store, StoreError
from jobstatus.core.virtual_keys import VirtualKey, hash_key
from jobstatus.rest.fast_path import FastPathProtocol, Requests
from jobstatus.rest.limits import RestLimits
from jobstatus.rest.protocol import RestProtocol
from jobstatus.stores import open_store
from jobstatus.stores.memory import MemoryJobStore

OWNER: Final = bearer(virtual_key_token("vk-1"))
STRANGER: Final = bearer(virtual_key_token("vk-2"))
ADMIN: Final = bearer(admin_token())
KEY: Final = "x-bf-vk: sk-bf-key-of-vk-1"
VARYING: Final = ("date", "connection")
FORGED: Final = "another secret of more than thirty-two bytes"


class CountedProtocol(FastPathProtocol):
    """A connection that notes the paths for which its handler is called."""

    paths: Final[list[str]] = []

    def hand_over(self, requests: Requests) -> None:
        self.paths.extend(request.path for request, _ in requests)
        super().hand_over(requests)


@pytest.fixture
def asked() -> list[str]:
    """The paths for which a handler is called."""
    CountedProtocol.paths.clear()
    return CountedProtocol.paths


def limits(**values: float) -> RestLimits:
    """The default limits but for these, with counted calls of the handler."""
    return RestLimits(connection_type=CountedProtocol, **values)  # type: ignore[arg-type]


@asynccontextmanager
async def store_with_key(url: str) -> AsyncIterator[Store]:
    """A store in which vk-1 is registered before the service starts, so that no change of it is noticed later."""
    async with open_store(url) as store:
        digest = hash_key("sk-bf-key-of-vk-1")
        key = VirtualKey(virtual_key_id="vk-1", key_sha256=(digest,), created_at_ms=1, updated_at_ms=1)
        await store.put_virtual_key(key)
        yield store


@pytest.fixture(params=["memory", "sqlite"])
async def service(request: pytest.FixtureRequest, tmp_path: Path, asked: list[str]) -> AsyncIterator[Service]:
    async with service_here(store_with_key(STORES[request.param](tmp_path)), rest=limits()) as running:
        asked.clear()
        yield running


def get(job_id: str, *headers: str, kind: str = "audio/transcriptions", method: str = "GET") -> bytes:
    lines = [f"{method} /v1/async/{kind}/{job_id} HTTP/1.1", "Host: test", "X-Request-Id: same", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Client:
    """A connection that stays open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, data: bytes) -> HttpAnswer:
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


def told(answer: HttpAnswer) -> tuple[int, dict[str, str], bytes]:
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


ANSWERED: Final = {
    "ended": (200, get("done", OWNER)),
    "under way": (202, get("going", OWNER)),
    "known": (304, get("done", OWNER, "If-None-Match: *")),
    "known, weakly, in a list": (304, get("done", OWNER, 'If-None-Match: "other"', "If-None-Match: *")),
    "not known": (200, get("done", OWNER, 'If-None-Match: "other"')),
    "unknown": (404, get("unknown", OWNER)),
    "somebody else's": (404, get("done", STRANGER)),
    "of another type": (404, get("done", OWNER, kind="ocr")),
    "no id": (404, get("no.id", OWNER)),
    "no id, below a path of jobs": (404, get("done", OWNER, kind="ocr/x")),
    "no credential": (401, get("done")),
    "another scheme": (401, get("done", "Authorization: Basic x")),
    "two credentials": (401, get("done", OWNER, KEY)),
    "two tokens": (401, get("done", OWNER, bearer(virtual_key_token("vk-2")))),
    "one token twice": (200, get("done", OWNER, OWNER)),
    "a placeholder beside a key": (200, get("done", "x-api-key: dummy", KEY)),
    "a malformed token": (401, get("done", OWNER + "x")),
    "a forged token": (401, get("done", bearer(token(FORGED, virtual_key_id="vk-1")))),
    "an expired token": (401, get("done", bearer(virtual_key_token("vk-1", exp=1)))),
    "no key": (401, get("done", "x-bf-vk: sk-bf-")),
    "HEAD": (200, get("done", OWNER, method="HEAD")),
    "HEAD of a job under way": (202, get("going", OWNER, method="HEAD")),
    "HEAD of an unknown one": (404, get("unknown", OWNER, method="HEAD")),
    "HEAD of what is known": (304, get("done", OWNER, "If-None-Match: *", method="HEAD")),
    "HEAD of a large result": (200, get("large", OWNER, method="HEAD")),
    "HEAD of a very large result": (200, get("huge", OWNER, method="HEAD")),
    "a large result that is known": (304, get("large", OWNER, "If-None-Match: *")),
    "a large result that is not the expected one": (412, get("huge", OWNER, 'If-Match: "other"')),
}
LEFT: Final = {
    "no jobs at this path": (404, get("done", OWNER, kind="other")),
    "an unknown key": (401, get("done", "x-bf-vk: sk-bf-other")),
    "another method": (405, get("done", OWNER, method="DELETE")),
    "a wait, as the last request": (200, get("done", OWNER, "Prefer: wait=1", "Connection: close")),
    "a large result, as the last request": (200, get("large", OWNER, "Connection: close")),
    "a very large result, as the last request": (200, get("huge", OWNER, "Connection: close")),
    "a body": (200, get("done", OWNER, "Content-Length: 2") + b"{}"),
    "an upgrade": (200, get("done", OWNER, "Connection: Upgrade", "Upgrade: websocket")),
    "the last request": (200, get("done", OWNER, "Connection: close")),
    "HTTP/1.0": (200, get("done", OWNER, "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["memory", "sqlite"])
async def furnished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """The service with a job that ended, one under way, and two with large results, one for all tests that only ask."""
    store = store_with_key(STORES[request.param](tmp_path_factory.mktemp("furnished")))
    async with service_here(store, rest=limits()) as service:
        await job_in(service, JobState.COMPLETED, "done")
        await create(service, "going")
        for name, size in (("large", SMALL_RESULT_BYTES + 1), ("huge", 2**20)):
            await create(service, name)
            await complete(service, name, b'"' + b"x" * (size - 2) + b'"')
        yield service


async def raw(client: Client, data: bytes) -> bytes:
    """The bytes of the answer, but for its Date."""
    client.writer.write(data)
    head = await client.reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length: (\d+)\r\n", head)
    has_body = length is not None and not data.startswith(b"HEAD")
    body = await client.reader.readexactly(int(length[1])) if length and has_body else b""
    return re.sub(rb"\r\nDate: [^\r]+", b"", head) + body


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("status", "data"), ANSWERED.values(), ids=ANSWERED.keys())
async def test_each_outcome_has_the_bytes_of_the_handlers(
    furnished: Service, asked: list[str], status: int, data: bytes
) -> None:
    """The same headers in the same order and the same body; the handler is called for neither more nor less."""
    async with client_of(furnished, OWNER, STRANGER, KEY) as client:
        asked.clear()
        at_once = await raw(client, data)
        assert asked == []
        with_handler = await raw(client, data[:-2] + b"Prefer: handling=lenient\r\n\r\n")
        assert len(asked) == 1
        assert at_once.startswith(b"HTTP/1.1 %d " % status)
        assert at_once == with_handler
        assert (await client.ask(get("done", OWNER))).status == 200


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("status", "data"), LEFT.values(), ids=LEFT.keys())
async def test_all_else_is_the_handlers(furnished: Service, asked: list[str], status: int, data: bytes) -> None:
    """A request for which something has to be awaited, or that is no plain GET on a connection that stays open."""
    async with client_of(furnished, OWNER, STRANGER, KEY) as client:
        asked.clear()
        assert (await raw(client, data)).split(b" ")[1] == b"%d" % status
        assert len(asked) == 1


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("through_handler", [False, True])
@pytest.mark.parametrize(("status", "data"), ANSWERED.values(), ids=ANSWERED.keys())
async def test_each_outcome_is_counted_once(
    furnished: Service, status: int, data: bytes, *, through_handler: bool
) -> None:
    """One request, one read of the store where the credential is good, one refusal where it is not."""
    if through_handler:
        data = data[:-2] + b"Prefer: handling=lenient\r\n\r\n"
    async with client_of(furnished, OWNER, STRANGER, KEY) as client:
        before = await counted(furnished, status)
        for _ in range(3):
            await raw(client, data)
        reads, refusals = (0, 3) if status == 401 else (3, 0)
        assert await counted(furnished, status) == [
            old + new for old, new in zip(before, (3, reads, refusals), strict=True)
        ]


async def counted(service: Service, status: int) -> list[float]:
    """How many requests were answered with this status, reads of answers, and refusals of credentials."""
    metrics = (await request(service.admin_port, "/metrics")).body.decode()
    samples = (
        rf'^jobstatus_http_request_seconds_count\{{code="{status}",route=[^}}]+\}} (\S+)$',
        r'^jobstatus_store_seconds_count\{operation="read_answers"\} (\S+)$',
        r"^jobstatus_credentials_refused_total\{[^}]+\} (\S+)$",
    )
    return [sum(map(float, re.findall(sample, metrics, re.MULTILINE))) for sample in samples]


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
        await waiting(service, 1)
        for _ in range(3):
            client.writer.write(get("two", OWNER))
            await asyncio.sleep(0)  # so that each arrives alone
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
            await asyncio.sleep(0)  # so that each arrives alone
        assert 0 < len(asked) < count
        answers = [await next_answer(client.reader) for _ in range(count)]
    assert {(answer.status, len(answer.body) > SMALL_RESULT_BYTES) for answer in answers} == {(200, True)}


class MovedLoop(asyncio.SelectorEventLoop):
    """A loop whose timers believe that more time has passed."""

    moved_seconds = 0.0

    def time(self) -> float:
        return super().time() + self.moved_seconds


def test_the_connection_stays_open_while_it_is_used(asked: list[str]) -> None:
    """Each answer at once keeps it for another while, as any other would; then it is closed."""

    async def use(loop: MovedLoop) -> None:
        async with service_here(rest=limits(), keepalive_seconds=60) as service, client_of(service, OWNER) as client:
            await create(service, "job")
            asked.clear()
            for _ in range(3):
                assert (await client.ask(get("job", OWNER))).status == 202
                loop.moved_seconds += 40
            assert asked == []
            loop.moved_seconds += 40
            assert await received_until_closed(client.reader, seconds=1000) == b""

    with asyncio.Runner(loop_factory=MovedLoop) as runner:
        runner.run(use(cast("MovedLoop", runner.get_loop())))


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


async def test_no_credential_is_remembered(service: Service) -> None:
    """Of a poll that a later one may repeat on any connection: neither a good nor a bad one."""
    forged = bearer(token(FORGED, virtual_key_id="vk-1"))
    async with client_of(service, OWNER, KEY) as client:
        for header in (OWNER, KEY, forged, "Authorization: Basic abc"):
            for _ in range(2):
                await client.ask(get("unknown", header))
        [connected] = [each for each in gc.get_objects() if isinstance(each, CountedProtocol) and each.transport]
        recent = connected._recent  # nothing else shows what is kept
        polls = list(recent._polls.values())
        kept = repr(polls)
    assert len(polls) == 2
    assert "unknown" in kept
    for header in (OWNER, KEY, forged):
        assert header.split()[-1] not in kept


async def test_withdrawn_credentials_are_refused_on_each_connection(service: Service) -> None:
    """Also where a poll is recognised that another connection has made before."""
    await job_in(service, JobState.COMPLETED, "done")
    async with client_of(service, OWNER, KEY) as client, client_of(service) as other:
        for header in (OWNER, KEY):
            assert (await client.ask(get("done", header))).status == 200
            assert (await other.ask(get("done", header))).status == 200
        await put_virtual_key(service, "vk-1", disabled=True)
        for header in (OWNER, KEY):
            await until_answered(client, get("done", header), 401)
            assert (await other.ask(get("done", header))).status == 401


async def test_a_token_ends_when_it_says(service: Service) -> None:
    await create(service, "job")
    token = bearer(virtual_key_token("vk-1", exp=int(time.time()) + 3 - LEEWAY))
    async with client_of(service, token) as client:
        assert (await client.ask(get("job", token))).status == 202
        await until_answered(client, get("job", token), 401)


class FailingStore(MemoryJobStore):
    """Fails each read in this way, while there is one."""

    failure: Exception | None = None

    def try_read_answer(self, job_id: str) -> Answer | StoreError | None:
        if self.failure is not None:
            raise self.failure
        return super().try_read_answer(job_id)


@pytest.mark.parametrize(("failure", "status"), [(StoreUnavailable(), 503), (ZeroDivisionError("secret"), 500)])
async def test_a_failure_is_answered_once(
    asked: list[str], caplog: pytest.LogCaptureFixture, failure: Exception, status: int
) -> None:
    """The client learns nothing of the cause, the log has one line, and the connection goes on."""
    store = FailingStore()
    async with service_here(store, rest=limits()) as service, client_of(service, OWNER) as client:
        await create(service, "job")
        asked.clear()
        caplog.clear()
        store.failure = failure
        answer = await client.ask(get("job", OWNER))
        store.failure = None
        assert (answer.status, asked) == (status, [])
        assert b"secret" not in answer.body
        events = [getattr(record, "event", None) for record in caplog.records]
        assert events == ["polls_unanswered" if status == 503 else "poll_failed"]
        assert (await client.ask(get("job", OWNER))).status == 202


# --- aiohttp's private parts ---


class WithoutConsumption(RestProtocol):
    """An aiohttp whose parser does not know that messages are consumed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._parser = cast("Any", SimpleNamespace(feed_data=cast("Any", self._parser).feed_data))


class WithoutEffectOfConsumption(RestProtocol):
    """An aiohttp whose parser is not told by `message_consumed`, and pauses."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        feed_data = cast("Any", self._parser).feed_data
        self._parser = cast("Any", SimpleNamespace(feed_data=feed_data, message_consumed=lambda: None))


class WithOtherPayloads(RestProtocol):
    """An aiohttp that marks requests without a body in another way."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        parser: Any = self._parser

        def feed_data(data: bytes) -> Any:
            requests, is_upgrade, rest = parser.feed_data(data)
            return [(request, EmptyStreamReader()) for request, _ in requests], is_upgrade, rest

        self._parser = cast("Any", SimpleNamespace(feed_data=feed_data, message_consumed=parser.message_consumed))


class WithoutKeepAlive(RestProtocol):
    """An aiohttp that closes idle connections by another rule."""

    def _process_keepalive(self) -> None:
        self.force_close()


CHANGES: Final = (WithoutConsumption, WithoutEffectOfConsumption, WithOtherPayloads, WithoutKeepAlive)


@pytest.mark.parametrize("change", CHANGES)
async def test_with_a_changed_aiohttp_the_handler_answers(
    caplog: pytest.LogCaptureFixture, change: type[RestProtocol]
) -> None:
    """One warning names the version, and polls are answered all the same."""
    changed = cast("type[RestProtocol]", type("Changed", (CountedProtocol, change), {}))
    async with (
        service_here(rest=RestLimits(connection_type=changed)) as service,
        client_of(service, OWNER) as client,
    ):
        warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert [getattr(record, "event", None) for record in warnings] == ["fast_path_disabled"]
        assert aiohttp.__version__ in warnings[0].getMessage()
        await create(service, "job")
        CountedProtocol.paths.clear()
        assert (await client.ask(get("job", OWNER))).status == 202
        assert CountedProtocol.paths == []


async def test_the_fast_path_works_with_the_installed_aiohttp(caplog: pytest.LogCaptureFixture) -> None:
    """The check finds nothing, and nothing is logged."""
    async with service_here(rest=limits()):
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
