"""Clients of an event stream that do not read: what is kept for them, and for how long.

Looks are made up here, and the system's buffers small, so that what a client leaves unread is soon more than they take.
"""

import asyncio
import socket
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

from aiohttp import web
from harness.waiting import until
from jobstatus.core.errors import JobNotFound
from jobstatus.core.poll import LargeResult, Poll
from jobstatus.rest import responses
from jobstatus.rest.event_stream import EventSender
from jobstatus.rest.limits import RestLimits
from jobstatus.rest.responses import MAX_BYTES
from jobstatus.rest.server import HttpServer

MIB: Final = 1024 * 1024
LIMIT_SECONDS: Final = 60.0
LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
COMMENT: Final = b": nothing new\n\r\n"
END_OF_LARGE_EVENT: Final = b"x\r\n2\r\n\n\n\r\n"
DEFAULT_LIMITS: Final = RestLimits()
IMPATIENT: Final = RestLimits(send_seconds=0.3)
Looks = Callable[[], AsyncIterator[Poll]]


def look(version: int, size: int) -> Poll:
    """A poll of a job whose document is so large, and another one at each version."""
    return Poll(False, 0, version, None, b"%d " % version + b"x" * size)


async def no_result(_: LargeResult) -> bytes:
    """The documents of these tests are whole."""
    raise JobNotFound


@asynccontextmanager
async def unread(
    looks: Looks, unread_bytes: int = MAX_BYTES, limits: RestLimits = DEFAULT_LIMITS
) -> AsyncIterator[tuple[socket.socket, asyncio.Task[None]]]:
    """A client that has asked for an event stream and read nothing, and the service's handling of it.

    Writing stops when so many bytes are unread.
    """
    handled: list[asyncio.Task[None]] = []
    large = limits.large_responses()
    sender = EventSender(read_result=no_result, large=large, quiet_seconds=limits.quiet_seconds)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        request.transport.set_write_buffer_limits(unread_bytes)
        response = responses.event_stream("id")
        handled.append(asyncio.create_task(sender.stream(request, None).send(response, look(1, 10), looks())))
        await handled[0]
        return response

    loop = asyncio.get_running_loop()
    server = HttpServer(handle, max_connections=10, grace_seconds=1, limits=limits)
    port = await server.start("127.0.0.1", 0)
    try:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            await until(lambda: bool(handled))
            yield client, handled[0]
    finally:
        await server.stop()


async def lasting(seconds: float) -> None:
    """A time in which nothing happens."""
    now = asyncio.get_running_loop().time
    ends_at = now() + seconds
    await until(lambda: now() >= ends_at)


async def read(client: socket.socket, until_this: bytes) -> bytes:
    """The last of what comes, until it ends in this; of all that comes when it does not."""
    received = b""
    async with asyncio.timeout(LIMIT_SECONDS):
        try:
            while not received.endswith(until_this):
                part = await asyncio.get_running_loop().sock_recv(client, MAX_BYTES)
                if not part:
                    break
                received = (received + part)[-100:]
        except ConnectionError:
            pass
    return received


async def is_cut_off(client: socket.socket) -> bool:
    """Whether the stream broke off: the last chunk, which is empty, did not come."""
    return not (await read(client, LAST_CHUNK)).endswith(LAST_CHUNK)


async def test_nothing_more_is_looked_up_for_who_does_not_read() -> None:
    """Once the buffers are full the looks stop; when that has lasted for long enough the client is cut off."""
    looked = 0

    async def updates() -> AsyncIterator[Poll]:
        nonlocal looked
        for looked in count(2):
            yield look(looked, MAX_BYTES - 100)

    async with unread(updates, limits=IMPATIENT) as (client, handling):
        async with asyncio.timeout(LIMIT_SECONDS):
            await handling
        assert looked < 20
        assert await is_cut_off(client)


async def test_what_is_unread_after_a_quiet_time_cuts_the_client_off() -> None:
    """Instead of a comment; a client that has read all is sent the comment.

    What is unread is more than any system takes, and less than stops the writing.
    """
    quiet = asyncio.Event()

    async def updates() -> AsyncIterator[Poll]:
        yield look(2, MIB)
        await quiet.wait()
        await lasting(0.1)
        yield look(2, MIB)
        await asyncio.Event().wait()

    async with unread(updates, unread_bytes=2 * MIB, limits=RestLimits(quiet_seconds=0.1)) as (client, handling):
        quiet.set()
        async with asyncio.timeout(LIMIT_SECONDS):
            await handling
        assert await is_cut_off(client)
    quiet.clear()
    async with unread(updates, unread_bytes=2 * MIB, limits=RestLimits(quiet_seconds=0.1)) as (client, handling):
        assert (await read(client, END_OF_LARGE_EVENT)).endswith(END_OF_LARGE_EVENT)
        quiet.set()
        assert (await read(client, COMMENT)).endswith(COMMENT)
        assert not handling.done()
        handling.cancel()


async def test_what_is_unread_for_a_moment_cuts_nobody_off() -> None:
    """A look that comes soon after an event, when nothing new is to be told, finds it unread as a matter of course."""

    async def updates() -> AsyncIterator[Poll]:
        yield look(2, MAX_BYTES - 100)
        yield look(2, MAX_BYTES - 100)
        yield look(3, 10)
        await asyncio.Event().wait()

    async with unread(updates) as (client, handling):
        end = b"data: 3 xxxxxxxxxx\n\n\r\n"
        assert (await read(client, end)).endswith(end)
        assert not handling.done()
        handling.cancel()


async def test_an_early_end_does_not_wait_for_who_does_not_read() -> None:
    """A job that goes while much is unread: the end of the stream, too, has to be taken in time."""

    async def updates() -> AsyncIterator[Poll]:
        yield look(2, MAX_BYTES - 100)
        yield look(3, MAX_BYTES - 100)
        raise JobNotFound

    async with unread(updates, limits=IMPATIENT) as (client, handling):
        async with asyncio.timeout(LIMIT_SECONDS):
            await handling
        assert await is_cut_off(client)


async def test_a_client_that_reads_nothing_but_lives_keeps_its_stream() -> None:
    """Its system acknowledges the comments, so it is not taken for one that vanished, however long it does not read."""
    looked = 0
    limits = RestLimits(quiet_seconds=0.02, vanished_seconds=0.2)

    async def updates() -> AsyncIterator[Poll]:
        nonlocal looked
        while True:
            await lasting(limits.quiet_seconds)
            looked += 1
            yield look(1, 10)

    async with unread(updates, limits=limits) as (_, handling):
        await until(lambda: looked > 3 * limits.vanished_seconds / limits.quiet_seconds or handling.done())
        assert not handling.done()
        handling.cancel()


async def test_a_client_whose_buffers_stay_full_is_cut_off() -> None:
    """Linux counts it as vanished, although it acknowledges everything."""

    async def updates() -> AsyncIterator[Poll]:
        yield look(2, MAX_BYTES - 100)
        await asyncio.Event().wait()

    async with unread(updates, limits=RestLimits(vanished_seconds=0.2)) as (client, handling):
        async with asyncio.timeout(LIMIT_SECONDS):
            await asyncio.wait((handling,))
        assert await is_cut_off(client)


async def test_a_client_that_reads_now_and_then_keeps_its_stream() -> None:
    """Each time it makes room the time starts anew."""
    limits = RestLimits(vanished_seconds=1.0)

    async def updates() -> AsyncIterator[Poll]:
        yield look(2, MAX_BYTES - 100)
        await asyncio.Event().wait()

    async with unread(updates, limits=limits) as (client, handling):
        loop, received = asyncio.get_running_loop(), 0
        while received < MAX_BYTES:
            received += len(await loop.sock_recv(client, 4096))
            await lasting(limits.vanished_seconds / 10)
        assert not handling.done()
        handling.cancel()


async def test_a_large_event_is_in_memory_once() -> None:
    """While a client takes its time the document is not kept a second time, cut in lines or packed in chunks."""
    document = look(2, 16 * MIB)

    async def updates() -> AsyncIterator[Poll]:
        yield document

    async with unread(updates) as (client, handling):
        tracemalloc.start()
        try:
            received = await read(client, LAST_CHUNK)
            await handling
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert received.endswith(LAST_CHUNK)
    assert peak < 2 * MIB
