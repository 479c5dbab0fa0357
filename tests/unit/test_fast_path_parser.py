"""Answers that need no handler, below HTTP: when they are written, and when there are none."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from aiohttp import web
from aiohttp.http import RawRequestMessage
from harness.waiting import until
from jobstatus.rest.fast_path import MAX_REPEATED_BYTES, FastPathProtocol, Known, Prepare, TryAnswer, WriteBatch
from jobstatus.rest.limits import RestLimits
from jobstatus.rest.protocol import MAX_HEAD_BYTES, only_valid
from jobstatus.rest.recent_polls import RecentPolls
from jobstatus.rest.turns import TurnLimits, Turns
from jobstatus.telemetry.throttle import LogThrottle

OTHER_REQUEST: Final = b"PUT / HTTP/1.1\r\nHost: test\r\n\r\n"
LAST_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


class Transport(asyncio.Transport):
    """Notes what is written to it, as (name, bytes); one named `gone` is closing."""

    def __init__(self, written: list[tuple[str, bytes]], name: str) -> None:
        super().__init__()
        self._written = written
        self._name = name
        self.unread_bytes = 0
        self.is_aborted = False
        self.reads = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return self._name == "gone"

    def write(self, data: Any) -> None:
        self._written.append((self._name, bytes(data)))

    def close(self) -> None:
        self._name = "gone"

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


async def test_answers_of_one_turn_are_written_together_and_to_nobody_who_has_gone() -> None:
    """In the order in which they were put, once the turn is over; each only once."""
    written: list[tuple[str, bytes]] = []
    outbox = WriteBatch()
    for answer in (b"1", b"2"):
        for name in ("a", "gone", "b"):
            outbox.put(Transport(written, name), answer)
        assert written == []
        await asyncio.sleep(0)
        assert written == [("a", answer), ("b", answer)]
        written.clear()


def at_once(_: RawRequestMessage) -> TryAnswer:
    return lambda *_: b"at once"


def connection_of(
    server: web.Server,
    limits: RestLimits,
    prepare: Prepare = at_once,
    recent: RecentPolls[Known] | None = None,
    turns: Turns | None = None,
) -> FastPathProtocol:
    """A connection that is still to be made, on which each plain request is answered at once."""
    return FastPathProtocol(
        server,
        request_seconds=limits.request_seconds,
        send_seconds=limits.send_seconds,
        throttles=defaultdict(LogThrottle),
        turns=turns or Turns(limits.turns, call_soon=asyncio.get_running_loop().call_soon),
        recognise=lambda authorization, keys: "".join((*authorization, *keys)) or None,
        prepare=prepare,
        write_batch=WriteBatch(),
        recent=RecentPolls(10) if recent is None else recent,
        loop=asyncio.get_running_loop(),
    )


REPEATED: Final = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
OTHER_OF_ITS_LENGTH: Final = b"GET / HTTP/1.1\r\nHost: tent\r\n\r\n"


@asynccontextmanager
async def polled(
    prepare: Prepare,
    recent: RecentPolls[Known] | None = None,
    limits: RestLimits = RestLimits(),  # noqa: B008
) -> AsyncIterator[Callable[..., Awaitable[list[bytes]]]]:
    """Function that sends these bytes, each in a turn of its own, and returns what was answered to all so far."""
    written: list[tuple[str, bytes]] = []
    server = web.Server(empty_answer)
    protocol = connection_of(server, limits, prepare, recent)
    protocol.connection_made(Transport(written, "client"))

    async def send(*parts: bytes) -> list[bytes]:
        for part in parts:
            protocol.data_received(part)
            for _ in range(5):
                await asyncio.sleep(0)
        return [answer for _, answer in written]

    yield send
    protocol.connection_lost(None)
    await server.shutdown(0.1)


async def test_a_repeated_request_is_parsed_once() -> None:
    """But it is answered anew each time: the job may have changed, or the credential may have expired."""
    prepared: list[RawRequestMessage] = []
    answers = iter([b"first", b"second", b"third", b"fourth"])

    def prepare(request: RawRequestMessage) -> TryAnswer:
        prepared.append(request)
        return lambda *_: next(answers)

    async with polled(prepare) as send:
        assert await send(*[REPEATED] * 4) == [b"first", b"second", b"third", b"fourth"]
    assert len(prepared) == 1


async def test_a_request_of_another_connection_is_not_parsed_again() -> None:
    """Nor one of this connection before others; and it ends the time in which the first request is due."""
    prepared: list[RawRequestMessage] = []
    recent: RecentPolls[Known] = RecentPolls(10)

    def prepare(request: RawRequestMessage) -> TryAnswer:
        prepared.append(request)
        return lambda *_: request.headers["Host"].encode()

    for _ in range(3):
        async with polled(prepare, recent, RestLimits(request_seconds=0)) as send:
            assert await send(REPEATED, OTHER_OF_ITS_LENGTH, REPEATED) == [b"test", b"tent", b"test"]
    assert len(prepared) == 2


async def test_no_request_is_due_after_one_that_was_recognised() -> None:
    """Also once aiohttp has parsed what it had kept of those that followed it: the connection is idle."""
    recent: RecentPolls[Known] = RecentPolls(10)
    for _ in range(2):
        async with polled(at_once, recent, RestLimits(request_seconds=0)) as send:
            await send(REPEATED, OTHER_REQUEST * 5)
            await turns_of_the_loop()
            assert len(await send(REPEATED)) == 7


async def test_a_request_is_not_taken_for_another_that_came_before_it() -> None:
    """What is remembered of a request is what was found in its own bytes, whatever was received in between."""
    recent: RecentPolls[Known] = RecentPolls(10)

    def prepare(request: RawRequestMessage) -> TryAnswer | None:
        host = request.headers["Host"].encode()
        return None if host == b"text" else lambda *_: host

    for left in REPEATED.replace(b"test", b"text"), OTHER_REQUEST, REPEATED[:-2] + b"X: y\r\n":
        async with polled(prepare, recent) as send:
            await send(left, OTHER_OF_ITS_LENGTH)
            await send(left)
        async with polled(prepare, recent) as send:
            assert await send(OTHER_OF_ITS_LENGTH, REPEATED) == [b"tent", b"test"]


async def test_what_follows_the_last_request_of_a_connection_is_not_remembered() -> None:
    """It may begin with a part of a body, so that it is another request than on a new connection."""
    recent: RecentPolls[Known] = RecentPolls(10)
    rest_and_next = b"body" + REPEATED
    async with polled(at_once, recent) as send:
        await send(REPEATED[:-2] + b"Content-Length: 8\r\n\r\n\r\n\r\n", rest_and_next)
    async with polled(at_once, recent) as send:
        (answer,) = await send(rest_and_next)
    assert answer != b"at once"


def with_lines(*lines: str) -> bytes:
    return "\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode()


async def test_a_repetition_has_a_request_id_of_its_own() -> None:
    """It is the one that the parser finds, in whatever place and spelling, and also where there are two."""
    prepared: list[RawRequestMessage] = []

    def prepare(request: RawRequestMessage) -> TryAnswer:
        prepared.append(request)
        return lambda _, given_id: repr((request.method, given_id)).encode()

    ids = ["x-request-id: 1", "X-Request-ID: 2", "X-Request-Id: 3", "X-REQUEST-ID: 4", "X-Request-Id: 5 6"]
    one = [with_lines("Host: test", line) for line in [*ids, *ids]]
    two = [with_lines(first, "Host: test", second) for first in ids for second in ids]
    cut = [one[0][:-2], b"X-Request-Id: 7\r\n\r\n", b"x-request-id: 8\r\n\r\n"]
    recent: RecentPolls[Known] = RecentPolls(100)
    for sent in one, two, two, cut:
        async with polled(prepare, RecentPolls(0)) as send:
            expected = await send(*sent)
        async with polled(prepare, recent) as send:
            assert [answer[:15] for answer in await send(*sent)] == [answer[:15] for answer in expected]
    prepared.clear()
    async with polled(prepare, recent) as send:
        assert await send(with_lines("Host: test", "X-Request-Id: other")) == [b"('GET', 'other')"]
    assert prepared == []


async def test_other_connections_do_not_remember_what_was_refused() -> None:
    """Else strangers could make them forget what others ask for."""
    prepared: list[RawRequestMessage] = []
    recent: RecentPolls[Known] = RecentPolls(10)

    def prepare(request: RawRequestMessage) -> TryAnswer:
        prepared.append(request)
        return lambda *_: b"HTTP/1.1 401 Unauthorized"

    for _ in range(2):
        async with polled(prepare, recent) as send:
            await send(REPEATED, REPEATED)
    assert len(prepared) == 2


async def test_what_cannot_be_answered_without_the_request_is_parsed_again() -> None:
    """As when a credential has to be verified again: no more than its digest is kept."""
    given: list[RawRequestMessage | None] = []

    def prepare(_: RawRequestMessage) -> TryAnswer:
        def try_answer(request: RawRequestMessage | None, _: str | None) -> bytes | None:
            given.append(request)
            return b"verified" if request else None

        return try_answer

    async with polled(prepare) as send:
        assert await send(REPEATED, REPEATED) == [b"verified"] * 2
    assert [request is None for request in given] == [False, True, False]


async def test_only_the_same_bytes_are_a_repeated_request() -> None:
    """Neither the end of a request that came in parts, nor another one, nor one that follows it at once."""
    head, tail = REPEATED[:16], REPEATED[16:]

    def prepare(request: RawRequestMessage) -> TryAnswer:
        host = request.headers["Host"].encode()
        return lambda *_: host

    async with polled(prepare) as send:
        assert await send(REPEATED, REPEATED, OTHER_OF_ITS_LENGTH) == [b"test", b"test", b"tent"]
    async with polled(prepare) as send:
        assert await send(REPEATED, head, tail, head) == [b"test", b"test"]
        assert await send(tail) == [b"test"] * 3
    async with polled(prepare) as send:
        await send(REPEATED, head, tail)
        (*_, answer) = await send(tail)
        assert answer.startswith(b"HTTP/1.1 400")
    async with polled(prepare) as send:
        *_, both = await send(REPEATED, REPEATED, OTHER_REQUEST + REPEATED)
        assert both != b"test"  # the handler answers
        assert (await send(REPEATED))[-1] == b"test"


async def test_what_the_handler_must_answer_is_not_kept_for_the_next() -> None:
    """A request that was answered at once may need the handler later, as when its credential has to be looked up."""
    answers = iter([b"first", b"second", None, None, b"fourth"])  # the third is parsed, and tried, once more
    async with polled(lambda _: lambda *_: next(answers)) as send:
        first, second, by_handler, fourth = await send(*[REPEATED] * 4)
    assert (first, second, fourth) == (b"first", b"second", b"fourth")
    assert by_handler.startswith(b"HTTP/1.1 200")


async def test_a_long_request_is_not_kept() -> None:
    """Each open connection may keep one, and a stranger may open many."""
    asked: list[RawRequestMessage] = []
    lines = b"".join(b"X-%d: %s\r\n" % (number, b"x" * (MAX_REPEATED_BYTES // 2)) for number in range(2))

    def prepare(request: RawRequestMessage) -> TryAnswer:
        asked.append(request)
        return lambda *_: b"at once"

    async with polled(prepare) as send:
        await send(REPEATED, *[REPEATED[:-2] + lines + b"\r\n"] * 2)
    assert len(asked) == 3


async def empty_answer(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response()


async def test_nothing_is_answered_at_once_while_what_was_written_is_not_read() -> None:
    """The handler's answers wait for that; these would only be heaped up."""
    paths: list[str] = []
    written: list[tuple[str, bytes]] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        paths.append(request.path)
        await asyncio.Event().wait()
        raise AssertionError

    server = web.Server(handle)
    protocol = connection_of(server, RestLimits())
    transport = Transport(written, "client")
    protocol.connection_made(transport)
    protocol.data_received(b"GET /1 HTTP/1.1\r\nHost: test\r\n\r\n")
    await asyncio.sleep(0)
    assert (written, paths) == ([("client", b"at once")], [])
    protocol.pause_writing()
    protocol.data_received(b"GET /2 HTTP/1.1\r\nHost: test\r\n\r\n")
    await until(lambda: paths == ["/2"])
    assert len(written) == 1
    await server.shutdown(0.1)


def begin_to_answer(protocol: FastPathProtocol) -> None:
    """Do what happens when the handler of a request is called."""
    protocol.is_answering = True


async def unread(*events: Callable[[FastPathProtocol], None]) -> bool:
    """Whether a client that leaves something unread is cut off after these events, when its time is up at once."""
    protocol = connection_of(web.Server(empty_answer), RestLimits(send_seconds=0))
    transport = Transport([], "client")
    transport.unread_bytes = 1
    protocol.connection_made(transport)
    for event in events:
        event(protocol)
    for _ in range(20):
        await asyncio.sleep(0)
    was_aborted = transport.is_aborted
    protocol.connection_lost(None)
    return was_aborted


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    """Whatever it does not read, once the buffer is full or the connection is to be closed; not before."""
    pause, resume = FastPathProtocol.pause_writing, FastPathProtocol.resume_writing
    assert not await unread()
    assert await unread(pause)
    assert not await unread(pause, resume)
    assert await unread(FastPathProtocol.force_close)
    assert await unread(lambda protocol: protocol.data_received(OTHER_REQUEST), begin_to_answer, pause)
    assert await unread(lambda protocol: protocol.data_received(LAST_REQUEST))
    assert await unread(pause, FastPathProtocol.force_close, resume)
    assert not await unread(pause, lambda protocol: protocol.connection_lost(None))


async def test_what_aiohttp_did_not_expect_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A client that has found a way to cause it cannot fill the log."""
    protocol = connection_of(web.Server(empty_answer), RestLimits())
    for _ in range(100):
        protocol.log_exception("unexpected", exc_info=ValueError())
    assert [record.getMessage() for record in caplog.records] == ["unexpected"]


class FullTurns:
    """Turns that have no time, and what is to be begun in a later one, with whose it is."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []
        self.turns = Turns(TurnLimits(seconds=0), call_soon=self.due.append)
        assert self.turns.has_time()  # for the first request of a turn

    def begin(self) -> None:
        """Begin the next turn, which has time for one request."""
        self.due.pop(0)()


async def test_what_arrives_in_a_full_turn_is_answered_in_a_later_one() -> None:
    """In order, also what follows it; no more is read of a connection that sends more meanwhile."""
    full, written = FullTurns(), list[tuple[str, bytes]]()
    protocol = connection_of(web.Server(empty_answer), RestLimits(), turns=full.turns)
    transport = Transport(written, "client")
    protocol.connection_made(transport)
    protocol.data_received(REPEATED[:16])
    assert transport.reads
    protocol.data_received(REPEATED[16:])
    assert not transport.reads
    await asyncio.sleep(0)
    assert written == []
    full.begin()
    assert transport.reads
    await asyncio.sleep(0)
    assert written == [("client", b"at once")]
    protocol.connection_lost(None)


async def test_a_connection_that_has_sent_much_is_not_read_while_that_waits_for_its_turn() -> None:
    """Each of many connections may have sent as much as the loop reads at a time, and would send it once more."""
    full = FullTurns()
    protocol = connection_of(web.Server(empty_answer), RestLimits(), turns=full.turns)
    transport = Transport([], "client")
    protocol.connection_made(transport)
    protocol.data_received(REPEATED * (MAX_HEAD_BYTES // len(REPEATED) + 1))
    assert not transport.reads
    protocol.connection_lost(None)


async def test_a_connection_is_not_closed_while_what_has_arrived_waits_for_its_turn() -> None:
    """Neither because its first request is due, nor because it was idle; what is not complete by then is due again."""
    full, written = FullTurns(), list[tuple[str, bytes]]()
    server = web.Server(empty_answer)
    clients = []
    for name, data in (("whole", REPEATED), ("part", REPEATED[:-2])):
        protocol = connection_of(server, RestLimits(), turns=full.turns)
        protocol.connection_made(Transport(written, name))
        clients.append(protocol)
        await asyncio.sleep(0)  # so that it waits for a request
        protocol._next_keepalive_close_time = 0.0
        protocol.data_received(data)
        protocol._process_keepalive()
        protocol._request_is_overdue()
    for _ in clients:
        full.begin()
        await asyncio.sleep(0)
    assert written == [("whole", b"at once")]
    assert [protocol.request_timer is None for protocol in clients] == [True, False]
    clients[1]._request_is_overdue()
    assert [protocol.transport is None for protocol in clients] == [False, True]
    for protocol in clients:
        protocol.connection_lost(None)


async def test_nothing_is_answered_in_the_turn_of_a_client_that_has_gone() -> None:
    """Its turn is the next one's."""
    full, written = FullTurns(), list[tuple[str, bytes]]()
    server = web.Server(empty_answer)
    for name in ("a", "b"):
        protocol = connection_of(server, RestLimits(), turns=full.turns)
        protocol.connection_made(Transport(written, name))
        protocol.data_received(REPEATED)
        if name == "a":
            protocol.connection_lost(None)
    full.begin()
    await asyncio.sleep(0)
    assert written == [("b", b"at once")]
    protocol.connection_lost(None)


async def test_each_credential_has_its_turn() -> None:
    """Before it is parsed; the second one of a flood comes after the only one of another client."""
    full, written = FullTurns(), list[tuple[str, bytes]]()
    server, protocols = web.Server(empty_answer), []
    for name, key in (("flood 1", b"sk-bf-1"), ("flood 2", b"sk-bf-1"), ("good", b"sk-bf-2")):
        protocols.append(connection_of(server, RestLimits(), turns=full.turns))
        protocols[-1].connection_made(Transport(written, name))
        protocols[-1].data_received(REPEATED[:-2] + b"x-api-key: " + key + b"\r\n\r\n")
    for _ in protocols:
        full.begin()
        await asyncio.sleep(0)
    assert [name for name, _ in written] == ["flood 1", "good", "flood 2"]
    for protocol in protocols:
        protocol.connection_lost(None)


async def test_pipelined_requests_for_the_handler_wait_for_a_turn_each() -> None:
    """Else many connections with many requests each would fill turns."""
    full, paths = FullTurns(), list[str]()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        paths.append(request.path)
        return web.Response()

    server = web.Server(only_valid(handle))
    protocol = connection_of(server, RestLimits(), turns=full.turns)
    protocol.connection_made(Transport([], "client"))
    protocol.data_received(b"".join(b"GET /%d HTTP/1.1\r\nHost: test\r\n\r\n" % number for number in range(3)))
    for number in range(3):
        assert len(paths) == number
        full.begin()
        await turns_of_the_loop()
    assert paths == ["/0", "/1", "/2"]
    await server.shutdown(0.1)


async def turns_of_the_loop() -> None:
    """Let all tasks go on as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0)
