"""HTTP at its edges: odd requests are answered, malformed ones refused, slow and greedy clients are held off."""

import asyncio
import gzip
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

import pytest
import pytest_asyncio
from harness.http import parse, request
from harness.jobs import complete, create, job_in
from harness.logged import events_logged, everything_logged, pieces_logged
from harness.raw import answers_in, connection, next_answer, received_until_closed, talk
from harness.service import Service, service_here
from harness.tokens import admin_token, bearer
from harness.waiting import until
from jobstatus.core.job import JobState
from jobstatus.rest.fast_path import FastPathProtocol
from jobstatus.rest.limits import RestLimits
from jobstatus.rest.protocol import MAX_HEAD_BYTES, RestProtocol

ADMIN: Final = bearer(admin_token())
PATH: Final = "/v1/async/audio/transcriptions/"
MARK: Final = "a-mark-that-nobody-may-repeat"
SMUGGLED: Final = f"GET {PATH}done HTTP/1.1\r\nHost: test\r\n{ADMIN}\r\nConnection: close\r\n\r\n".encode()
MIB: Final = 1024 * 1024
SHORT_TOKEN: Final = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYWRtaW4ifQ.lQ-2Zr3ydz1Vw5hKu4Gm7wZbM0Vn3dHkV0n2yO8cJqE"
"""A token that is short enough for a request id."""
IMPATIENT: Final = RestLimits(request_seconds=0.3)


pytestmark = pytest.mark.asyncio(loop_scope="module")
_BOTH: Final[dict[str, Any]] = {"params": [FastPathProtocol, RestProtocol], "ids": ["fast path", "no fast path"]}


@asynccontextmanager
async def furnished(connection_type: type[RestProtocol]) -> AsyncIterator[Service]:
    """The service with a pending and a completed job."""
    async with service_here(rest=RestLimits(connection_type=connection_type)) as running:
        await job_in(running, JobState.PENDING, "pending")
        await job_in(running, JobState.COMPLETED, "done")
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module", **_BOTH)
async def service(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    """The service with and without the fast path, one of each for all tests: they only ask for the two jobs."""
    async with furnished(request.param) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", **_BOTH)
async def own(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    """The same for a test that makes jobs, or more than a few connections."""
    async with furnished(request.param) as running:
        yield running


def get(
    *headers: str, job_id: str = "done", version: str = "1.1", close: bool = True, host: str = "Host: test"
) -> bytes:
    """A good request of an admin's with these headers besides."""
    lines = [f"GET {PATH}{job_id} HTTP/{version}", host, ADMIN, *(["Connection: close"] if close else []), *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def marked(*headers: str | bytes, line: str | bytes = f"GET {PATH}done HTTP/1.1", body: bytes = b"") -> bytes:
    """A request of which nothing may come back; headers and line as they are."""
    lines = [line, "Host: test", f"Authorization: Bearer {MARK}", f"X-Mark: {MARK}", *headers, "", ""]
    return b"\r\n".join(text if isinstance(text, bytes) else text.encode("latin-1") for text in lines) + body


# --- odd, but fine ---

FINE: Final[dict[str, bytes]] = {
    "H4 absolute form": get().replace(PATH.encode(), b"http://evil.example" + PATH.encode(), 1),
    "H4 absolute form with https": get().replace(PATH.encode(), b"https://evil.example:1" + PATH.encode(), 1),
    "H5 HTTP/1.0": get(version="1.0", close=False),
    "H5 HTTP/1.0 without Host": get(version="1.0", close=False, host="X-None: 1"),
    "H7 evil Host": get(host="Host: evil.example"),
    "H7 Host of our admin": get(host="Host: 127.0.0.1:1"),
    "H7 Host of IPv6": get(host="Host: [2001:db8::1]:8080"),
    "H7 Host of IPv6 with IPv4": get(host="Host: [::ffff:127.0.0.1]"),
    "H7 Host without a port number": get(host="Host: test:"),
    "H7 Host with an escape": get(host="Host: t%65st_1"),
    "H7 empty Host": get(host="Host:"),
    "H8 Accept html": get("Accept: text/html"),
    "H8 Accept xml": get("Accept: application/xml"),
    "H8 Accept nothing": get("Accept: */*;q=0"),
    "H8 Accept of 8 kB": get("Accept: " + "text/html," * 800),
    "H9 Accept-Encoding": get("Accept-Encoding: gzip, br, zstd, identity;q=0"),
    "H9 transfer codings": get("TE: gzip, trailers"),  # codespell:ignore
    "H10 If-None-Match": get('If-None-Match: "1", W/"2"'),
    "H10 If-Modified-Since": get("If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT"),
    "H10 If-Match": get("If-Match: *"),
    "H11 Range": get("Range: bytes=0-1"),
    "H13 h2c": get("Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA").replace(b": close", b": Upgrade"),
    "H14 body": get("Content-Length: 5") + b"hello",
    "H14 chunked body": get("Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
    "H15 wait": get(job_id="done?wait=60&wait=-1&wait=NaN"),
    "O10 fragment": get(job_id="done#f"),
    "S4 a header of 8,000": get("X-Long: " + "x" * 8000),
    "S4 120 headers": get(*(f"X-{number}: 1" for number in range(120))),
    "methods in headers": get("X-HTTP-Method-Override: DELETE", "X-Forwarded-Host: evil.example"),
    "empty line in front": b"\r\n" + get(),
}


@pytest.mark.parametrize("data", FINE.values(), ids=FINE.keys())
async def test_odd_requests_are_answered_like_any_other(service: Service, data: bytes) -> None:
    """What is unusual or asks for what we do not have is ignored: the same answer in the same bytes, once."""
    plain = await request(service.http_port, PATH + "done", ADMIN)
    async with connection(service.http_port) as (reader, writer):
        writer.write(data)
        answer = await next_answer(reader)
        if b"Upgrade" not in data:
            assert await received_until_closed(reader) == b""
    varying = ("date", "x-request-id", "connection")
    assert (answer.status, answer.body) == (200, plain.body)
    assert {name: value for name, value in answer.headers.items() if name not in varying} == {
        name: value for name, value in plain.headers.items() if name not in varying
    }
    assert b"evil" not in repr(answer).encode()


async def test_http_1_0_stays_open_only_when_asked_to(service: Service) -> None:
    """An HTTP/1.0 connection is closed after the answer unless the client asked to keep it (H5)."""
    async with connection(service.http_port) as (reader, writer):
        for _ in range(2):
            writer.write(get("Connection: keep-alive", version="1.0", close=False))
            assert (await next_answer(reader)).headers["connection"] == "keep-alive"
        writer.write(get(version="1.0", close=False))
        assert (await next_answer(reader)).status == 200
        assert await received_until_closed(reader) == b""


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
async def test_body_of_an_upgrade_is_not_a_request(service: Service, protocol: str) -> None:
    """An upgrade with a body that looks like a request gets one answer: the body is only a body (H13)."""
    headers = (f"Upgrade: {protocol}", f"Content-Length: {len(SMUGGLED)}")
    data = get(*headers, job_id="pending").replace(b": close", b": Upgrade, close") + SMUGGLED
    assert [answer.status for answer in answers_in(await talk(service.http_port, data))] == [202]


@pytest.mark.parametrize("expectation", ["100-continue", "200-maybe", MARK])
async def test_expectations_do_not_hide_the_job(service: Service, expectation: str) -> None:
    """Expect may be honoured or refused with 417, but the job is never said to be missing."""
    received = await talk(service.http_port, get(f"Expect: {expectation}", job_id="pending"))
    (answer,) = answers_in(received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n"))
    assert answer.status in (202, 417)
    assert (answer.headers["content-type"], answer.headers["server"]) == ("application/json", "jobstatus")
    assert MARK not in answer.body.decode()


async def test_pipelined_requests_are_answered_in_order(own: Service) -> None:
    """Requests sent at once on one connection are each answered, in the order in which they came."""
    for number in range(20):
        await create(own, f"j{number}")
    ids = [f"j{number}" for number in range(20)] * 5
    data = b"".join(get(job_id=job_id, close=False) for job_id in ids) + get(job_id="unknown")
    answers = answers_in(await talk(own.http_port, data))
    assert [answer.json["id"] for answer in answers[:-1]] == ids
    assert answers[-1].status == 404


async def test_request_may_come_byte_by_byte(service: Service) -> None:
    """A request that arrives one byte at a time is answered like any other (S12)."""
    async with connection(service.http_port) as (reader, writer):
        for byte in get():
            writer.write(bytes((byte,)))
            await writer.drain()
        assert (await next_answer(reader)).status == 200


async def test_asterisk_and_connect_are_404(service: Service) -> None:
    """`OPTIONS *` and CONNECT name no path of ours: a 404 of our shape (H3)."""
    for line in ("OPTIONS * HTTP/1.1", "CONNECT evil.example:443 HTTP/1.1"):
        (answer,) = answers_in(await talk(service.http_port, marked("Connection: close", line=line)))
        assert (answer.status, answer.headers["server"]) == (404, "jobstatus")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json["error"]["code"] == "path_not_found"
        assert answer.json["event_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("version", ["HTTP/2.0", "HTTP/0.9", ""])
@pytest.mark.parametrize("headers", [(), ("Accept: text/event-stream",), ("Prefer: wait=30",)], ids=repr)
async def test_only_http_1_is_spoken(service: Service, version: str, headers: tuple[str, ...]) -> None:
    """A request of another version is refused before anything else of it counts, and the connection ends."""
    data = get(*headers, job_id="pending", close=False).replace(b"HTTP/1.1", version.encode())
    received = await talk(service.http_port, data)
    (answer,) = answers_in(received)
    assert answer.status in (400, 505)
    assert received.startswith(b"HTTP/1.1 %d " % answer.status)
    assert answer.headers["connection"] == "close"


async def test_a_refused_head_has_no_body(service: Service) -> None:
    """HEAD has none, even where the version is unknown or the host is none."""
    for data in (get().replace(b"HTTP/1.1", b"HTTP/2.0"), get(host="Host: a b")):
        received = await talk(service.http_port, data.replace(b"GET", b"HEAD", 1))
        assert received.endswith(b"\r\n\r\n")
        assert int(parse(received, head_only=True).headers["content-length"]) > 0


@pytest.mark.parametrize("path", ["/../", "/./", "//", "/%2e%2e/", "/speech/../transcriptions/", "/x/"])
async def test_paths_are_not_tidied_up(service: Service, path: str) -> None:
    """Dots, doubled slashes and the like are no detour to a job, and nobody is redirected (O10)."""
    answer = await request(service.http_port, f"/v1/async/audio{path}transcriptions/done", ADMIN)
    assert answer.status == 404
    assert "location" not in answer.headers


@pytest.mark.parametrize("secret", ["sk-bf-key-of-vk-1-which-is-long", SHORT_TOKEN])
async def test_a_credential_sent_as_request_id_is_not_repeated(
    service: Service, caplog: pytest.LogCaptureFixture, secret: str
) -> None:
    """Not in any answer of either port, and not in the log, at whatever level."""
    caplog.set_level(logging.DEBUG)
    sent = f"X-Request-Id: {secret}"
    answers = [await service.poll("done", header, sent) for header in (ADMIN, "Authorization: Bearer bad", "X-None: 1")]
    answers += [await request(service.http_port, path, sent) for path in ("/", "/openapi.json")]
    answers.append(await request(service.admin_port, "/", sent))
    assert [answer.status for answer in answers] == [200, 401, 401, 404, 200, 404]
    assert secret not in repr(answers)
    assert pieces_logged(caplog, secret) == []


# --- malformed ---

MALFORMED: Final[dict[str, bytes]] = {
    "H3 lower case": marked(line=f"get {PATH}done HTTP/1.1"),
    "H3 unknown method": marked(line=f"FOO {PATH}done HTTP/1.1"),
    "H3 long method": marked(line=f"{'A' * 300} {PATH}done HTTP/1.1"),
    "H7 no Host": marked().replace(b"Host: test\r\n", b""),
    "H7 two Hosts": marked("Host: other"),
    **{
        f"H7 Host {host}": marked().replace(b"Host: test", f"Host: {host}".encode())
        for host in (
            "a b",
            "a, b",
            "http://test",
            "test/",
            "user@test",
            "test:80:80",
            "test:http",
            "a<b",
            'a"b',
            "a%zzb",
            "test?",
            "test#",
            "::1",
            "[::1",
            "[::1]x",
            "[1]",
            "[:::1]",
            "[test]",
            "ü",
            "test\\",
        )
    },
    "H7 Host of HTTP/1.0": marked(line=f"GET {PATH}done HTTP/1.0").replace(b"Host: test", b"Host: a b"),
    "HTTP/1.2": marked(line=f"GET {PATH}done HTTP/1.2"),
    "HTTP/9.9": marked(line=f"GET {PATH}done HTTP/9.9"),
    "HTTPS/1.1": marked(line=f"GET {PATH}done HTTPS/1.1"),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + MARK.encode(),
    "O8 0xFF": marked(line=f"GET {PATH}done".encode() + b"\xff HTTP/1.1"),
    "O8 UTF-8": marked(line=f"GET {PATH}donü HTTP/1.1".encode()),
    "O8 NUL": marked(line=f"GET {PATH}done\0 HTTP/1.1"),
    "O8 space": marked(line=f"GET {PATH}do ne HTTP/1.1"),
    "O8 tab": marked(line=f"GET {PATH}do\tne HTTP/1.1"),
    "O9 8,200 characters": marked(line=f"GET {PATH}{'a' * 8200} HTTP/1.1"),
    "O9 64 kB": marked(line=f"GET {PATH}{'a' * 65536} HTTP/1.1"),
    "S1 coding and length": marked("Transfer-Encoding: chunked", "Content-Length: 6", body=b"0\r\n\r\n" + SMUGGLED),
    "S1 two lengths": marked("Content-Length: 5", "Content-Length: 6", body=b"hello" + SMUGGLED),
    "S1 length +5": marked("Content-Length: +5", body=b"hello" + SMUGGLED),
    "S1 length -1": marked("Content-Length: -1", body=SMUGGLED),
    "S1 length 5, 5": marked("Content-Length: 5, 5", body=b"hello" + SMUGGLED),
    "S1 length 0x5": marked("Content-Length: 0x5", body=b"hello" + SMUGGLED),
    "S1 length 10^23": marked(f"Content-Length: {10**23}", body=SMUGGLED),
    "S1 length empty": marked("Content-Length:", body=SMUGGLED),
    "S1 coding xchunked": marked("Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + SMUGGLED),
    "S1 coding not last": marked("Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n" + SMUGGLED),
    "S1 coding twice": marked("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "S1 coding after a vertical tab": marked("Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n" + SMUGGLED),
    "S1 coding after a space": marked("Transfer-Encoding : chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "S1 chunk size": marked("Transfer-Encoding: chunked", body=b"-1\r\n\r\n" + SMUGGLED),
    "S1 chunk extension with LF": marked("Transfer-Encoding: chunked", body=b"0;a\nb\r\n\r\n" + SMUGGLED),
    "S2 coding on HTTP/1.0": marked(
        "Transfer-Encoding: chunked", line=f"GET {PATH}done HTTP/1.0", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "S3 bare LF": marked().replace(b"\r\n", b"\n"),
    "S3 one bare LF": marked().replace(b"\r\nX-Mark", b"\nX-Mark"),
    "S3 bare CR": marked("X-Two: a\rb"),
    "S3 folded": marked("X-Two: a\r\n b"),
    "S3 folded first": marked().replace(b"Host", b" Host"),
    "S3 space before the colon": marked("X-Two : a"),
    "S3 empty name": marked(": a"),
    "S3 no colon": marked("X-Two"),
    "S3 NUL in a value": marked("X-Two: a\0b"),
    "S3 NUL in a name": marked("X\0Two: a"),
    "S3 0xFF in a name": marked(b"X\xffTwo: a"),
    "S4 a header of 8,300": marked("X-Long: " + "x" * 8300),
    "S4 a credential of 9,000": marked(f"Authorization: Bearer {MARK * 300}"),
    "S4 a header of 64 kB": marked("X-Long: " + "x" * 65536),
    "S4 a name of 64 kB": marked("X" * 65536 + ": x"),
    "S4 200 headers": marked(*(f"X-{number}: 1" for number in range(200))),
    "S12 TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + MARK.encode() + b"\r\n\r\n",
    "S12 a word": MARK.encode() + b"\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_requests_are_refused_once(
    service: Service, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    """What is not HTTP gets one answer of 4xx or none, and the connection ends; nothing of it is repeated or logged."""
    caplog.set_level(logging.DEBUG)
    received = await talk(service.http_port, data)
    answers = answers_in(received)
    assert len(answers) <= 1
    for answer in answers:
        assert 400 <= answer.status < 500
        assert (answer.headers["content-type"], answer.headers["server"]) == ("application/json", "jobstatus")
        assert list(answer.json) == ["event_id", "is_bifrost_error", "status_code", "error", "extra_fields"]
        assert (answer.json["status_code"], answer.json["event_id"]) == (answer.status, answer.headers["x-request-id"])
    assert MARK not in received.decode("latin-1") + everything_logged(caplog)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_noise_is_refused(own: Service, caplog: pytest.LogCaptureFixture) -> None:
    """Random bytes get at most one answer of 4xx, leave no traceback, and the service goes on (S12)."""
    chance = random.Random(2)
    noises = [chance.randbytes(chance.randrange(1, 400)) + b"\r\n\r\n\r\n" for _ in range(300)]
    for noise in noises:
        statuses = [answer.status for answer in answers_in(await talk(own.http_port, noise))]
        assert statuses in ([], [400])
    assert "Traceback" not in everything_logged(caplog)
    assert (await own.poll("done", ADMIN)).status == 200


async def test_many_bad_requests_leave_one_line(own: Service, caplog: pytest.LogCaptureFixture) -> None:
    """A stranger cannot fill the log, on one connection each or on one port by several paths to a refusal."""
    caplog.set_level(logging.INFO)
    for _ in range(50):
        await talk(own.http_port, MALFORMED["S12 TLS"])
        await talk(own.http_port, MALFORMED["S1 length -1"])
    assert events_logged(caplog) == ["http_request_refused"]


async def test_malformed_request_ends_a_pipeline(service: Service) -> None:
    """What is behind a malformed request is never answered, what is in front of it may be."""
    received = await talk(service.http_port, get(close=False) + marked("Content-Length: x") + SMUGGLED)
    assert [answer.status for answer in answers_in(received)] in ([400], [200, 400])


# --- bodies that nobody asked for ---

BODIES: Final[dict[str, tuple[str, bytes | Callable[[], bytes]]]] = {
    "5 bytes": ("", b"hello"),
    "1 MiB": ("", b"x" * MIB),
    "a request": ("", SMUGGLED),
    "gzip bomb": ("Content-Encoding: gzip\r\n", partial(gzip.compress, bytes(64 * MIB), 1)),  # takes 0.4 s
    "bad gzip": ("Content-Encoding: gzip\r\n", b"hello"),
    "bad deflate": ("Content-Encoding: deflate\r\n", b"hello"),
    "unknown coding": ("Content-Encoding: x\r\n", b"hello"),
    "form": ("Content-Type: multipart/form-data; boundary=x\r\n", b"--x\r\n\r\n"),
}


@pytest.mark.parametrize(("coding", "body"), BODIES.values(), ids=BODIES.keys())
async def test_bodies_are_not_looked_at(
    service: Service, caplog: pytest.LogCaptureFixture, coding: str, body: bytes | Callable[[], bytes]
) -> None:
    """A GET with a body is answered once, as if there were none; whatever is in it worries nobody (H14)."""
    body = body if isinstance(body, bytes) else body()
    data = get(f"{coding}Content-Length: {len(body)}", job_id="pending") + body
    statuses = [answer.status for answer in answers_in(await talk(service.http_port, data))]
    assert statuses in ([202], [])  # none when the reset that follows the unread rest overtakes the answer
    if len(body) < MIB // 2:
        assert statuses == [202]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert (await service.poll("pending", ADMIN)).status == 202


async def test_body_that_never_comes_delays_nobody(service: Service) -> None:
    """A GET whose announced body does not come is answered at once, and others are served meanwhile."""
    async with connection(service.http_port) as (reader, writer):
        writer.write(get("Content-Length: 1000000", close=False))
        assert (await next_answer(reader)).status == 200
        assert (await service.poll("done", ADMIN)).status == 200


@pytest.mark.parametrize("job_id", ["done", "pending", "unknown"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("Content-Length: 5", b"hello"),
        ("Content-Length: 05", b"hello"),
        ("Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: Chunked", b"0\r\n\r\n"),
        ("Transfer-Encoding:", b""),
        (f"Content-Length: {len(SMUGGLED)}", SMUGGLED),
    ],
    ids=["length", "odd length", "chunks", "no chunk", "no coding", "a request"],
)
async def test_a_body_ends_the_connection(service: Service, job_id: str, method: str, header: str, body: bytes) -> None:
    """Nothing that follows a request with a body is taken for a request, whoever disagrees about where it ends."""
    data = get(header, job_id=job_id, close=False).replace(b"GET", method.encode(), 1) + body
    received = await talk(service.http_port, data + SMUGGLED)
    assert received.count(b"HTTP/1.1") == 1
    assert b"\r\nConnection: close\r\n" in received


async def test_a_body_ends_the_connection_of_a_stream(service: Service) -> None:
    """An event stream too is the last answer to come."""
    data = get("Accept: text/event-stream", "Content-Length: 5", close=False) + b"hello"
    received = await talk(service.http_port, data + SMUGGLED)
    assert received.count(b"HTTP/1.1") == 1
    assert b"\r\nConnection: close\r\n" in received


# --- slow, greedy and vanishing clients ---


async def test_idle_connections_are_closed() -> None:
    """A connection that says nothing more is closed at the keep-alive limit (S5)."""
    async with service_here(keepalive_seconds=0.3) as service, connection(service.http_port) as (reader, writer):
        writer.write(get(close=False))
        assert (await next_answer(reader)).status == 404
        assert await received_until_closed(reader, seconds=3) == b""


@pytest.mark.parametrize("kind", [FastPathProtocol, RestProtocol])
async def test_an_idle_connection_outlives_the_time_of_a_request(kind: type[RestProtocol]) -> None:
    """What bounds a request that has begun does not bound the pause between two."""
    async with (
        service_here(rest=replace(IMPATIENT, connection_type=kind)) as service,
        connection(service.http_port) as (reader, writer),
        connection(service.http_port) as (silent, _),
    ):
        for _ in range(2):
            writer.write(get(close=False))
            assert (await next_answer(reader)).status == 404
            assert await received_until_closed(silent, seconds=3) == b""


BEGUN: Final = {
    "nothing": (b"", 0),
    "a half request": (get()[:40], 0),
    "a whole and a half": (get(close=False) + get()[:40], 1),
    "two wholes and a half": (get(close=False) * 2 + get()[:40], 2),
    "a request less a byte": (get()[:-1], 0),
    "an empty line": (b"\r\n", 0),
}


@pytest.mark.parametrize(("data", "count"), BEGUN.values(), ids=BEGUN.keys())
@pytest.mark.parametrize("kind", [FastPathProtocol, RestProtocol])
async def test_requests_that_do_not_go_on_are_closed(kind: type[RestProtocol], data: bytes, count: int) -> None:
    """However long idle connections live, one on which a request is due or has begun is closed soon (S5)."""
    async with service_here(rest=replace(IMPATIENT, connection_type=kind)) as service:
        received = await talk(service.http_port, data, seconds=3)
        assert len(answers_in(received)) == count


async def test_a_half_request_behind_a_wait_does_not_end_it() -> None:
    """The poll that waits is answered, and then the connection is closed."""
    async with service_here(rest=replace(IMPATIENT, request_seconds=1)) as service:
        await create(service, "pending")
        data = get("Prefer: wait=2", job_id="pending", close=False) + get()[:40]
        answers = answers_in(await talk(service.http_port, data))
        assert [(answer.status, "preference-applied" in answer.headers) for answer in answers] == [(202, True)]


@pytest.mark.parametrize("start", [b"", get(close=False)], ids=["first request", "second request"])
async def test_trickling_requests_are_closed(start: bytes) -> None:
    """A request that comes too slowly to be one is cut off: bytes alone do not keep a connection open (S5)."""
    async with service_here(rest=IMPATIENT) as service, connection(service.http_port) as (reader, writer):
        writer.write(start)
        if start:
            await next_answer(reader)
        assert await trickled(reader, writer) == b""


async def trickled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """What comes back until the server closes while it is sent a byte every 50 ms; TimeoutError after 5 s."""
    letters = iter(get("X-Endless: " + "x" * 1000))
    closed = asyncio.ensure_future(received_until_closed(reader, seconds=5))
    while not closed.done():
        writer.write(bytes((next(letters),)))
        await asyncio.wait((closed,), timeout=0.05)
    return await closed


async def test_connections_over_the_limit_are_closed() -> None:
    """Beyond max_connections a new connection is closed at once; when one has gone there is room again (S8)."""
    async with (
        service_here(max_connections=2) as service,
        connection(service.http_port) as (reader, writer),
        connection(service.http_port) as (_, idle),
    ):

        async def is_admitted() -> bool:
            return b"404 Not Found" in await talk(service.http_port, get())

        writer.write(get(close=False))
        assert (await next_answer(reader)).status == 404
        assert not await is_admitted()
        writer.write(get(close=False))
        assert (await next_answer(reader)).status == 404
        idle.close()
        await until(is_admitted)


async def test_idle_crowd_leaves_room(own: Service) -> None:
    """Three hundred idle connections do not keep a good client from being served (S8)."""
    crowd = [await asyncio.open_connection("127.0.0.1", own.http_port) for _ in range(300)]
    try:
        assert (await own.poll("done", ADMIN)).status == 200
    finally:
        for _, writer in crowd:
            writer.close()


async def test_slow_readers_delay_nobody(own: Service) -> None:
    """Clients that ask for large results and do not read them hold up nobody else (S7)."""
    await create(own, "large")
    await complete(own, "large", b'"' + b"x" * (4 * MIB) + b'"')
    greedy = [await asyncio.open_connection("127.0.0.1", own.http_port, limit=1024) for _ in range(10)]
    try:
        for _, writer in greedy:
            writer.write(get(job_id="large", close=False) * 2)
        for _ in range(20):
            assert (await own.poll("done", ADMIN)).status == 200
    finally:
        for _, writer in greedy:
            writer.transport.abort()


LONG_HEAD: Final = get(*(f"X-{number}: {'x' * 8000}" for number in range(20)), close=False)


@pytest.mark.parametrize("before", [b"", get(close=False)], ids=["first request", "second request"])
async def test_a_head_that_does_not_end_is_refused(
    own: Service, caplog: pytest.LogCaptureFixture, before: bytes
) -> None:
    """Each line and their number are within their limits, but all of them would be kept for as long as it takes."""
    caplog.set_level(logging.INFO)
    async with connection(own.http_port) as (reader, writer):
        writer.write(before)
        if before:
            assert (await next_answer(reader)).status == 200
        writer.write(LONG_HEAD[: MAX_HEAD_BYTES + 1])
        (answer,) = answers_in(await received_until_closed(reader, seconds=5))
    assert (answer.status, answer.json["error"]["code"]) == (400, "malformed_request")
    assert events_logged(caplog) == ["http_request_refused"]


async def test_heads_behind_a_wait_are_not_kept(service: Service) -> None:
    """What a client sends while its poll waits is bounded: it gets no answer but the end of the connection."""
    async with connection(service.http_port) as (reader, writer):
        writer.write(get("Prefer: wait=45", job_id="pending", close=False))
        await until(lambda: is_waiting(service))
        writer.write(LONG_HEAD[:-1])
        assert await received_until_closed(reader, seconds=5) == b""


async def is_waiting(service: Service) -> bool:
    metrics = (await request(service.admin_port, "/metrics")).body
    return b"\njobstatus_waiting_polls 1.0\n" in metrics


@pytest.mark.parametrize("kind", [FastPathProtocol, RestProtocol])
async def test_small_answers_that_nobody_reads_are_cut_off(kind: type[RestProtocol]) -> None:
    """Each fits into the buffers, all together do not; the kernel alone would wait for as long as it is set to."""
    patient = RestLimits(connection_type=kind, send_seconds=0.1, vanished_seconds=600)
    async with service_here(rest=patient) as service:
        await create(service, "small")
        await complete(service, "small", b'"' + b"x" * 60_000 + b'"')
        _, writer = await asyncio.open_connection("127.0.0.1", service.http_port, limit=1024)
        try:
            writer.write(get(job_id="small", close=False) * 400)
            await until(lambda: has_connections(service, 1))
            await until(lambda: has_connections(service, 0))
        finally:
            writer.transport.abort()


async def has_connections(service: Service, count: int) -> bool:
    metrics = (await request(service.admin_port, "/metrics")).body
    return b"\njobstatus_http_connections %d.0\n" % count in metrics


@pytest.mark.parametrize("sent", [get(job_id="large", close=False), get()[:40], b"", get("Content-Length: 9") + b"x"])
async def test_vanished_clients_leave_no_trace(own: Service, caplog: pytest.LogCaptureFixture, sent: bytes) -> None:
    """A client that resets its connection at any point leaves no traceback, and the next one is served (S11)."""
    await create(own, "large")
    await complete(own, "large", b'"' + b"x" * (4 * MIB) + b'"')
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", own.http_port)
        writer.write(sent)
        await writer.drain()
        writer.transport.abort()
    assert (await own.poll("done", ADMIN)).status == 200
    assert "Traceback" not in everything_logged(caplog)
