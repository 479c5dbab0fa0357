"""A job as an event stream, at both edges: each document once, an end, and nothing held for who is not there."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from harness.events import ACCEPT, Block, CutOff, EventStream, Unavailable, connected, events
from harness.faults import MeddledStore
from harness.fronts import FRONTS, front_here, listening_edge, waiting
from harness.http import request
from harness.jobs import ENDED, KINDS, complete, create, fail, job_in, number_of, put_virtual_key, start
from harness.raw import next_answer, received_until_closed
from harness.service import Service, service_here
from harness.stores import SHARED, STORES
from harness.tokens import AUDIENCE, ISSUER, SECRET, admin_token, bearer, virtual_key_token
from harness.waiting import until
from jobstatus.core.errors import StoreUnavailable
from jobstatus.core.job import JobState, RequestType
from jobstatus.core.virtual_keys import hash_key
from jobstatus.rest.limits import RestLimits
from jobstatus.settings import IssuerSettings
from jobstatus.v1 import job_status_pb2 as pb
from pydantic import SecretStr

OWNER: Final = bearer(virtual_key_token("vk-1"))
STRANGER: Final = bearer(virtual_key_token("vk-2"))
ADMIN: Final = bearer(admin_token())
PATH: Final = "/v1/async/audio/transcriptions/"
MIB: Final = 1024 * 1024


@pytest.fixture(params=FRONTS)
async def front(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    async with front_here(request.param) as running:
        yield running


async def heartbeat(front: Service, job_id: str, **fields: Any) -> int:
    """Let the worker say that it is alive; the job's version then."""
    return (await front.jobs.HeartbeatJob(pb.HeartbeatJobRequest(job_id=job_id, **fields))).job.version


@asynccontextmanager
async def quiet_stream(front: Service) -> AsyncIterator[EventStream]:
    """The stream of a new job j1."""
    await create(front, "j1")
    async with events(front, "j1", OWNER) as stream:
        yield stream


# --- what is sent ---


@pytest.mark.parametrize("end", [complete, fail])
async def test_each_document_is_sent_once_and_the_last_one_ends_the_stream(front: Service, end: Any) -> None:
    """Pending, processing, ended: each event has the bytes that a poll answers at that time, and the job's version."""
    job = await create(front, "j1")
    async with events(front, "j1", OWNER) as stream:
        event = await stream.event()
        assert (event.data.encode(), event.version) == ((await front.poll("j1", OWNER)).body, job.version)
        job = await start(front, "j1")
        event = await stream.event()
        assert (event.data.encode(), event.version) == ((await front.poll("j1", OWNER)).body, job.version)
        assert event.json["status"] == "processing"
        job = await end(front, "j1")
        (event,) = await stream.rest()
        answer = await front.poll("j1", OWNER)
        assert (answer.status, event.data.encode(), event.version) == (200, answer.body, job.version)
    await waiting(front, 0)


async def test_the_headers_tell_proxies_to_let_it_pass(front: Service) -> None:
    """Nothing is to be kept, buffered or guessed at; the request's id is repeated as ever."""
    await create(front, "j1")
    async with events(front, "j1", OWNER, "X-Request-Id: stream-1") as stream:
        told = {name: value for name, value in stream.headers.items() if name not in ("date", "transfer-encoding")}
    assert told == {
        "content-type": "text/event-stream",
        "cache-control": "no-store",
        "vary": "Accept, Prefer",
        "x-accel-buffering": "no",
        "x-content-type-options": "nosniff",
        "server": "jobstatus",
        "x-request-id": "stream-1",
    }


async def test_a_connection_serves_on_after_a_stream(front: Service) -> None:
    """The end of a stream is the end of an answer, not of the connection."""
    await job_in(front, JobState.COMPLETED, "j1")
    async with events(front, "j1", OWNER) as stream:
        assert [event.kind for event in await stream.rest()] == ["status"]
        stream.writer.write(f"GET {PATH}j1 HTTP/1.1\r\nHost: test\r\n{OWNER}\r\n\r\n".encode())
        answer = await next_answer(stream.reader)
    assert (answer.status, answer.json["status"]) == (200, "completed")


async def test_every_request_type_can_be_followed(front: Service) -> None:
    """Each on its own path, and on no other."""
    for request_type, kind in KINDS.items():
        name = request_type.value
        await job_in(front, JobState.COMPLETED, name, request_type=number_of(request_type))
        async with events(front, name, OWNER, kind=kind) as stream:
            assert [event.json["id"] for event in await stream.rest()] == [name]
        other = "ocr" if request_type is not RequestType.OCR else "rerank"
        assert (await front.poll(name, OWNER, ACCEPT, kind=other)).status == 404


async def test_a_version_without_a_new_document_is_not_sent(front: Service) -> None:
    """A heartbeat changes no document, so there is no block for it: many parsers make an event of one without data."""
    await job_in(front, JobState.PROCESSING, "j1")
    async with events(front, "j1", OWNER) as stream:
        await stream.event()
        await heartbeat(front, "j1", attempt=1, progress=0.5)
        poll = asyncio.create_task(front.poll("j1", OWNER, "Prefer: wait=8"))
        await waiting(front, 2)
        await heartbeat(front, "j1", attempt=1, progress=0.6)
        ended = await complete(front, "j1", attempt=1)
        block = await stream.next()
        assert block is not None
        assert (block.kind, block.version) == ("status", ended.version)
        assert (await poll).status == 200


@pytest.mark.parametrize("kind", FRONTS)
async def test_heartbeats_do_not_put_off_a_comment(kind: str) -> None:
    """Comments come when nothing has been sent for a while, however often a worker says that it is alive."""
    async with front_here(kind, rest=RestLimits(quiet_seconds=0.3)) as front:
        await job_in(front, JobState.PROCESSING, "j1")
        async with events(front, "j1", OWNER) as stream:
            await stream.event()
            beating = asyncio.create_task(beat(front))
            block = await stream.next()
            beating.cancel()
    assert block == Block((("", "nothing new"),))


async def beat(front: Service) -> None:
    """Let the worker say again and again that it is alive."""
    while True:
        await heartbeat(front, "j1", attempt=1)


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        (b'{\n  "text": "hello"\n}', ["{", '  "text": "hello"', "}"]),
        (b'{\r\n"a":\r1}', ["{", '"a":', "1}"]),
        (b"[\n\n1]", ["[", "", "1]"]),
        ('["ü\u2028\u0085🎧"]'.encode(), ['["ü\u2028\u0085🎧"]']),
    ],
)
async def test_lines_of_a_result_are_lines_of_data(front: Service, result: bytes, lines: list[str]) -> None:
    """However they end: the data that a browser puts together is the document, and what is no end of a line stays."""
    await create(front, "j1")
    await complete(front, "j1", result)
    async with events(front, "j1", OWNER) as stream:
        (event,) = await stream.rest()
    head, data = event.data.split('"result":')
    assert data == "\n".join(lines) + "}"
    assert json.loads(head + '"result":' + data)["result"] == json.loads(result)


async def test_a_large_result_comes_whole(front: Service) -> None:
    """An event may be as large as a result, with lines that end where its pieces do."""
    lines = b"\r\n".join(b'"%s",' % (b"x" * length) for length in (65_000, 500, 1, *range(60_000, 66_000, 333)))
    result = b"[" + lines + b"\r\n1]"
    await create(front, "j1")
    await complete(front, "j1", result)
    async with events(front, "j1", OWNER) as stream:
        (event,) = await stream.rest()
    assert event.data.encode() == (await front.poll("j1", OWNER)).body.replace(b"\r\n", b"\n")


async def test_several_follow_one_job(front: Service) -> None:
    """Each is told the same, whoever they are."""
    await create(front, "j1")
    async with events(front, "j1", OWNER) as one, events(front, "j1", ADMIN) as other:
        for stream in (one, other):
            await stream.event()
        poll = asyncio.create_task(front.poll("j1", OWNER, "Prefer: wait=8"))
        await waiting(front, 3)
        await complete(front, "j1")
        assert await one.rest() == await other.rest()
        assert (await poll).status == 200


@pytest.mark.parametrize("kind", FRONTS)
async def test_after_a_quiet_time_there_is_a_comment(kind: str) -> None:
    """Comments are repeated, so that no proxy closes the connection as idle."""
    async with front_here(kind, rest=RestLimits(quiet_seconds=0.1)) as front, quiet_stream(front) as stream:
        await stream.event()
        blocks = [await stream.next() for _ in range(3)]
        assert [block.kind for block in blocks if block] == ["comment"] * 3
        await complete(front, "j1")
        assert [block.json["status"] for block in await stream.rest()] == ["completed"]


@pytest.mark.parametrize("more", ["", "Connection: keep-alive\r\n", "Connection: close\r\n"])
async def test_http_1_0_gets_it_without_chunks(front: Service, more: str) -> None:
    """A client that does not know chunks gets the bare stream; the connection's end is its end, whatever was asked."""
    await job_in(front, JobState.COMPLETED, "j1")
    reader, writer = await asyncio.open_connection("127.0.0.1", front.http_port)
    writer.write(f"GET {PATH}j1 HTTP/1.0\r\n{OWNER}\r\n{ACCEPT}\r\n{more}\r\n".encode())
    head, _, body = (await received_until_closed(reader)).partition(b"\r\n\r\n")
    writer.close()
    assert b"chunked" not in head.lower()
    assert b"\r\nConnection: keep-alive" not in head
    assert body.endswith(b"\n\n")
    assert Block.parse(body[:-2].decode()).json["status"] == "completed"


# --- taking up a stream ---


async def last_id(front: Service, job_id: str = "j1", header: str = OWNER) -> str:
    """The id of the event that a new stream begins with."""
    async with events(front, job_id, header) as stream:
        return (await stream.event()).id


def other_version(event_id: str, version: int) -> str:
    return f"{event_id.partition('-')[0]}-{version}"


async def test_what_the_client_has_seen_is_not_sent_again(front: Service) -> None:
    """With the last id the stream goes on where it broke; with any other, or none, it begins with the present."""
    job = await job_in(front, JobState.PROCESSING, "j1")
    known = await last_id(front)
    others = (other_version(known, job.version - 1), other_version(known, 999), f'"{known}"', str(job.version), "x", "")
    for last, is_known in ((known, True), *((other, False) for other in others)):
        async with events(front, "j1", OWNER, f"Last-Event-ID: {last}") as stream:
            block = await stream.next()
            assert block is not None
            assert block.kind == ("comment" if is_known else "status"), last
    async with events(front, "j1", OWNER, f"Last-Event-ID: {known}") as stream:
        ended = await complete(front, "j1")
        assert [(event.kind, event.version) for event in await stream.rest()] == [("status", ended.version)]


async def test_a_heartbeat_after_a_known_version_tells_the_document(front: Service) -> None:
    """Whoever takes up a stream has no document that this stream has sent: a newer version is told with it."""
    await job_in(front, JobState.PROCESSING, "j1")
    known = await last_id(front)
    version = await heartbeat(front, "j1", attempt=1, progress=0.5)
    async with events(front, "j1", OWNER, f"Last-Event-ID: {known}") as stream:
        assert (await stream.event()).version == version


async def test_an_id_is_the_document_s_tag(front: Service) -> None:
    """The id of the last event is what the ETag holds, so that both stand for the same bytes."""
    await job_in(front, JobState.COMPLETED, "j1")
    assert (await front.poll("j1", OWNER)).headers["etag"] == f'"{await last_id(front)}"'


async def test_a_job_made_anew_is_not_taken_for_the_old_one(front: Service) -> None:
    """Its events are sent to a client that has seen the end of the old one, and the other way round."""
    ids = []
    for result in (b"1", b"2"):
        await create(front, "j1")
        await complete(front, "j1", result)
        ids.append(await last_id(front))
        if len(ids) == 2:
            async with events(front, "j1", OWNER, f"Last-Event-ID: {ids[0]}") as stream:
                assert [event.json["result"] for event in await stream.rest()] == [2]
        await front.jobs.DeleteJob(pb.DeleteJobRequest(job_id="j1"))
    assert ids[0] != ids[1]


async def test_a_last_id_tells_a_stranger_nothing(front: Service) -> None:
    """With the id of somebody else's job, right or wrong, the answer is the 404 of a job that there is not."""
    await job_in(front, JobState.COMPLETED, "j1")
    known = await last_id(front)
    for job_id in ("j1", "unknown"):
        bodies = [
            (answer.status, answer.body)
            for last in (known, other_version(known, 1), "x")
            for answer in [
                await front.poll(job_id, STRANGER, ACCEPT, f"Last-Event-ID: {last}", "X-Request-Id: same"),
                await front.poll("unknown", STRANGER, "X-Request-Id: same"),
            ]
        ]
        assert bodies == [bodies[0]] * len(bodies)
        assert bodies[0][0] == 404


@pytest.mark.parametrize("state", ENDED)
async def test_who_has_seen_the_end_is_told_to_stop(front: Service, state: JobState) -> None:
    """A 204, upon which a browser's EventSource asks no more; whoever has not is sent the end."""
    job = await job_in(front, state, "j1")
    known = await last_id(front)
    async with connected(front, "j1", OWNER, f"Last-Event-ID: {known}") as stream:
        async with asyncio.timeout(60):
            head = await stream.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 204 ")
        assert b"\r\nContent-Type:" not in head
        assert b"\r\nContent-Length:" not in head
        assert b"\r\nTransfer-Encoding:" not in head
        stream.writer.write(f"GET {PATH}j1 HTTP/1.1\r\nHost: test\r\n{OWNER}\r\n\r\n".encode())
        assert (await next_answer(stream.reader)).status == 200
    async with events(front, "j1", OWNER, f"Last-Event-ID: {other_version(known, job.version - 1)}") as stream:
        assert [event.json["status"] for event in await stream.rest()] == [state.value]
    await waiting(front, 0)


# --- who gets JSON ---


@pytest.mark.parametrize(("header", "status"), [(STRANGER, 404), (bearer("x"), 401), ("x-bf-vk: sk-bf-unknown", 401)])
async def test_who_may_not_read_is_told_so_as_ever(front: Service, header: str, status: int) -> None:
    """In the same bytes as without a wish for events; so is everybody of a job that there is not."""
    await create(front, "j1")
    plain, asked = [await front.poll("j1", header, "X-Request-Id: same", *more) for more in ((), (ACCEPT,))]
    assert (asked.status, asked.body, asked.headers["content-type"]) == (status, plain.body, "application/json")
    assert (await front.poll("j1", ACCEPT)).status == 401
    assert (await front.poll("unknown", OWNER, ACCEPT)).status == 404
    await waiting(front, 0)


@pytest.mark.parametrize("accept", ["*/*", "text/*", "application/json, text/event-stream", "text/event-stream;q=0"])
async def test_who_does_not_prefer_events_gets_json(front: Service, accept: str) -> None:
    """Events are for those alone who name them, and like them better than JSON."""
    await create(front, "j1")
    answer = await front.poll("j1", OWNER, f"Accept: {accept}")
    assert (answer.status, answer.headers["content-type"]) == (202, "application/json")


async def test_a_head_request_and_other_methods_are_answered_as_ever(front: Service) -> None:
    """HEAD tells of a plain poll, a POST is a 405."""
    await job_in(front, JobState.COMPLETED, "j1")
    head = await front.poll("j1", OWNER, ACCEPT, method="HEAD")
    assert (head.status, head.headers["content-type"]) == (200, "application/json")
    assert (await front.poll("j1", OWNER, ACCEPT, method="POST")).status == 405


@pytest.mark.parametrize(
    "accept",
    [
        ["Accept: application/json;q=0.5, text/event-stream"],
        ["Accept: application/json;q=0.5", "accept: Text/Event-Stream"],
        ["Accept: text/html", ACCEPT],
    ],
)
async def test_who_names_both_gets_what_it_prefers(front: Service, accept: list[str]) -> None:
    """JSON with a lower weight is the second choice, in whichever lines; a wish to wait is passed over then (H8)."""
    await create(front, "j1")
    async with events(front, "j1", OWNER, "Prefer: wait=1", accept=accept) as stream:
        assert "preference-applied" not in stream.headers
        assert (await stream.event()).json["status"] == "pending"


@pytest.mark.parametrize("kind", FRONTS)
@pytest.mark.parametrize("limits", [{"max_waiting_polls": 1}, {"max_waiting_polls_each": 1}, {"max_waiting_polls": 0}])
async def test_without_a_place_the_answer_is_a_plain_one(kind: str, limits: dict[str, Any]) -> None:
    """Over the limits, which polls that wait share: JSON at once, and never an error."""
    async with front_here(kind, **limits) as front:
        await create(front, "j1")
        first = asyncio.create_task(front.poll("j1", OWNER, "Prefer: wait=8"))
        await waiting(front, min(1, limits.get("max_waiting_polls", 1)))
        answer = await front.poll("j1", OWNER, ACCEPT)
        assert (answer.status, answer.headers["content-type"]) == (202, "application/json")
        assert int(answer.headers["retry-after"]) >= 1
        await complete(front, "j1")
        assert (await first).status in (200, 202)


@pytest.mark.parametrize("kind", FRONTS)
async def test_a_stream_holds_a_place_of_its_owner(kind: str) -> None:
    """Each credential has its own, and a stream that has ended holds none."""
    async with front_here(kind, max_waiting_polls_each=1) as front:
        await create(front, "j1")
        async with events(front, "j1", OWNER) as mine, events(front, "j1", ADMIN) as others:
            assert (await front.poll("j1", OWNER, ACCEPT)).headers["content-type"] == "application/json"
            await complete(front, "j1")
            for stream in (mine, others):
                assert (await stream.rest())[-1].json["status"] == "completed"
        await waiting(front, 0)
        assert (await front.poll("j1", OWNER)).status == 200


# --- an end before the job's ---


async def ends(stream: EventStream) -> list[Block]:
    """What is still sent before a proper end, at which the client may ask again and be told what has happened."""
    return await stream.rest(seconds=8)


async def test_a_credential_that_is_disabled_ends_the_stream(front: Service) -> None:
    """A virtual key and its JWTs read no more when it is disabled; others do."""
    await put_virtual_key(front, key_sha256=[hash_key("sk-bf-1")])
    await create(front, "j1")
    async with (
        events(front, "j1", "x-bf-vk: sk-bf-1") as key,
        events(front, "j1", OWNER) as token,
        events(front, "j1", ADMIN) as admin,
    ):
        for stream in (key, token, admin):
            await stream.event()
        await put_virtual_key(front, key_sha256=[hash_key("sk-bf-1")], disabled=True)
        assert await ends(key) == await ends(token) == []
        await complete(front, "j1")
        assert [event.json["status"] for event in await ends(admin)] == ["completed"]
    assert (await front.poll("j1", OWNER, ACCEPT)).status == 401


@pytest.mark.parametrize("kind", FRONTS)
async def test_a_credential_that_expires_ends_the_stream(kind: str) -> None:
    """A token, and a virtual key, are good for no longer than they say."""
    issuer = IssuerSettings(
        issuer=ISSUER, audience=AUDIENCE, algorithm="HS256", secret=SecretStr(SECRET), leeway_seconds=0
    )
    async with front_here(kind, issuers=(issuer,)) as front:
        await create(front, "j1")
        ends_at = int(time.time()) + 6
        await put_virtual_key(front, "vk-1", key_sha256=[hash_key("sk-bf-1")], expires_at=Timestamp(seconds=ends_at))
        async with (
            events(front, "j1", "x-bf-vk: sk-bf-1") as key,
            events(front, "j1", OWNER) as token,
            events(front, "j1", bearer(admin_token(exp=ends_at))) as admin,
        ):
            for stream in (key, token, admin):
                assert [block.kind for block in await ends(stream)] == ["status"]
        assert time.time() >= ends_at


async def test_a_job_that_is_deleted_ends_the_stream(front: Service) -> None:
    """Who asks again is told that there is none."""
    await create(front, "j1")
    async with events(front, "j1", OWNER) as stream:
        await stream.event()
        await front.jobs.DeleteJob(pb.DeleteJobRequest(job_id="j1"))
        assert await ends(stream) == []
    assert (await front.poll("j1", OWNER, ACCEPT)).status == 404
    await waiting(front, 0)


@pytest.mark.parametrize("kind", FRONTS)
async def test_a_store_that_fails_ends_the_stream(kind: str) -> None:
    """What cannot be known is not claimed: who asks again gets a 503, and later the end."""
    store = MeddledStore()
    async with front_here(kind, store) as front:
        await create(front, "j1")
        async with events(front, "j1", OWNER) as stream:
            seen = await stream.event()
            store.failures["read_answers"] = StoreUnavailable()
            await complete(front, "j1")
            assert await ends(stream) == []
        assert (await front.poll("j1", OWNER, ACCEPT)).status == 503
        store.fail_all(None)
        async with events(front, "j1", OWNER, f"Last-Event-ID: {seen.id}") as stream:
            assert [event.json["status"] for event in await ends(stream)] == ["completed"]


@pytest.mark.parametrize("kind", FRONTS)
async def test_a_stop_ends_all_streams(kind: str) -> None:
    """They end properly, each of them, and may be taken up at another process."""
    async with AsyncExitStack() as stack:
        async with front_here(kind) as front:
            await create(front, "j1")
            streams = [await stack.enter_async_context(events(front, "j1", OWNER)) for _ in range(20)]
            for stream in streams:
                await stream.event()
            await waiting(front, 20)
        for stream in streams:
            assert await ends(stream) == []


# --- clients that go, and clients that do not read ---


async def test_a_client_that_goes_away_frees_its_place(front: Service) -> None:
    """At once, whether it says so or breaks off."""
    await create(front, "j1")
    async with events(front, "j1", OWNER) as polite, events(front, "j1", OWNER) as rude:
        for stream in (polite, rude):
            await stream.event()
        await waiting(front, 2)
        rude.writer.transport.abort()
        await waiting(front, 1)
        polite.writer.close()
        await waiting(front, 0)


@pytest.mark.parametrize("kind", FRONTS)
async def test_a_large_event_has_to_be_read_in_time(kind: str) -> None:
    """A client that does not read it is disconnected, its memory is free again, and others are served meanwhile."""
    limits = RestLimits(send_seconds=3, max_large_bytes=20 * MIB)
    async with front_here(kind, rest=limits) as front, quiet_stream(front) as stream:
        await stream.event()
        stream.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await complete(front, "j1", b'"' + b"x" * (12 * MIB) + b'"')
        assert (await front.poll("unknown", OWNER)).status == 404
        await waiting(front, 0)
        stream.reader._transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises(CutOff):
            await stream.rest()
        async with events(front, "j1", OWNER) as again:
            assert [len(event.json["result"]) for event in await again.rest()] == [12 * MIB]


@pytest.mark.parametrize("kind", FRONTS)
async def test_more_large_events_than_there_is_memory_for_are_cut_off(kind: str) -> None:
    """The client is disconnected while too much is being sent, and gets the event once there is room."""
    async with front_here(kind, rest=RestLimits(max_large_bytes=20 * MIB)) as front:
        for job_id in ("j1", "j2"):
            await create(front, job_id)
        async with events(front, "j1", OWNER) as unread, events(front, "j2", OWNER) as stream:
            for each in (unread, stream):
                await each.event()
            unread.reader._transport.pause_reading()  # type: ignore[attr-defined]
            await complete(front, "j1", b'"' + b"x" * (12 * MIB) + b'"')
            await complete(front, "j2", b'"' + b"x" * (12 * MIB) + b'"')
            with pytest.raises(CutOff):
                await stream.rest()
            unread.reader._transport.resume_reading()  # type: ignore[attr-defined]
            assert [len(event.json["result"]) for event in await unread.rest()] == [12 * MIB]
        async with events(front, "j2", OWNER) as stream:
            assert [len(event.json["result"]) for event in await stream.rest()] == [12 * MIB]


# --- more than one process, and all stores ---


@pytest.mark.parametrize("through_edge", [False, True])
async def test_changes_made_through_another_process_are_sent(tmp_path: Path, *, through_edge: bool) -> None:
    """A client follows at one service, or at an edge in front of it, what is written through another."""
    store = STORES["sqlite"](tmp_path)
    async with service_here(store) as one, service_here(store) as two, listening_edge(two) as edge:
        await create(one, "j1")
        async with events(edge if through_edge else two, "j1", OWNER) as stream:
            assert (await stream.event()).json["status"] == "pending"
            await start(one, "j1")
            assert (await stream.event()).json["status"] == "processing"
            await complete(one, "j1")
            assert [event.json["status"] for event in await stream.rest()] == ["completed"]


@pytest.mark.parametrize("kind", FRONTS)
@pytest.mark.parametrize("store", SHARED)
async def test_many_follow_on_every_store_and_each_gets_its_own(store: str, kind: str, tmp_path: Path) -> None:
    """A hundred streams of a hundred jobs: each shows its own job's end, once, and never less than its last state."""
    async with front_here(kind, STORES[store](tmp_path)) as front:
        names = [f"job-{number}" for number in range(100)]
        await asyncio.gather(*(create(front, name) for name in names))
        following = asyncio.gather(*(followed(front, name) for name in names))
        await waiting(front, len(names))
        await asyncio.gather(*(complete(front, name, f'"{name}"'.encode()) for name in names))
        async with asyncio.timeout(20):
            found = await following
    for name, blocks in zip(names, found, strict=True):
        assert [block.json["id"] for block in blocks] == [name] * len(blocks)
        steps = [block.json["status"] for block in blocks]
        assert steps in (["pending", "completed"], ["completed"])  # one that ended before the first look had one step
        assert blocks[-1].json["result"] == name


async def followed(front: Service, job_id: str) -> list[Block]:
    """All that is sent of a job, asked again while the service is too busy."""
    while True:
        try:
            async with events(front, job_id, OWNER) as stream:
                return await stream.rest(seconds=20)
        except Unavailable:
            continue


async def test_streams_are_counted_by_a_name_of_their_own(front: Service) -> None:
    """They do not spoil the times of polls."""
    await job_in(front, JobState.COMPLETED, "j1")
    async with events(front, "j1", OWNER) as stream:
        await stream.rest()

    async def is_counted() -> bool:
        metrics = (await request(front.admin_port, "/metrics")).body.decode()
        return 'jobstatus_http_request_seconds_count{code="200",route="streaming"} 1.0' in metrics

    await until(is_counted)
