"""One connection: an exchange that does not end as it should leaves nothing behind for the next."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import hiredis
import pytest
from harness import valkey
from harness.waiting import LIMIT_SECONDS, until
from jobstatus.stores.redis.cluster.connection import Connection, connect, pack
from jobstatus.stores.redis.cluster.limits import ClusterLimits
from jobstatus.stores.redis.cluster.node import Node
from jobstatus.stores.redis.cluster.url import ClusterConfig, NodeAddress

ANY = ClusterConfig(addresses=(), login=(), database=0, tls=None)


@asynccontextmanager
async def connected() -> AsyncIterator[Connection]:
    """A connection to the server that tests share."""
    server = valkey.single()
    connection = await connect(NodeAddress("127.0.0.1", server.port), ANY, 1.0)
    yield connection
    connection.abort()
    await asyncio.sleep(0)  # for the loop to notice


def waiting(seconds: float) -> bytes:
    """A command that is answered, with nothing, after so long a time."""
    return pack("BLPOP", "nothing", str(seconds))


async def test_replies_come_in_the_order_of_their_commands() -> None:
    """Errors are in their places; bytes are as they went in."""
    commands = [pack("ECHO", b"\r\n\0\xff"), pack("NONSENSE"), pack("ECHO", 7)]
    async with connected() as connection:
        one, two, three = await connection.exchange(b"".join(commands), 3, 1.0)
        assert (one, three) == (b"\r\n\0\xff", b"7")
        assert isinstance(two, hiredis.ReplyError)


async def test_a_long_exchange_goes_on_while_there_is_progress() -> None:
    """What is limited is the silence, not the whole."""
    async with connected() as connection:
        began = time.monotonic()
        assert await connection.exchange(waiting(0.4) * 5, 5, 1.5) == [None] * 5
        assert time.monotonic() - began > 1.5


async def test_a_silence_ends_the_exchange_and_the_connection() -> None:
    """The next exchange fails at once."""
    async with connected() as connection:
        with pytest.raises(TimeoutError):
            await connection.exchange(waiting(5), 1, 0.1)
        with pytest.raises(ConnectionResetError):
            await connection.exchange(pack("PING"), 1, 1.0)


async def test_an_exchange_is_finished_without_a_caller_that_goes() -> None:
    """Its reply reaches no other caller: the connection is free for the next exchange only after it."""
    async with connected() as connection:
        ended = asyncio.Event()
        connection.exchange(waiting(0.1), 1, 1.0, lambda _: ended.set()).cancel()
        async with asyncio.timeout(LIMIT_SECONDS):
            await ended.wait()
        assert await connection.exchange(pack("ECHO", "next"), 1, 1.0) == [b"next"]


async def test_an_exchange_without_a_caller_still_takes_its_place() -> None:
    """However many callers go, there are no more connections than there may be; the next one waits for its turn."""
    server = valkey.single()
    address = NodeAddress("127.0.0.1", server.port)
    node = Node(address, ANY, ClusterLimits(max_connections=1, silence_seconds=LIMIT_SECONDS), lambda: None)
    ends_at = asyncio.get_running_loop().time() + LIMIT_SECONDS
    (name,) = await node.exchange(pack("CLIENT", "ID"), 1, until=ends_at)
    for _ in range(3):
        task = asyncio.create_task(node.exchange(pack("INCR", "counted") + waiting(0.02), 2, until=ends_at))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert await node.exchange(pack("CLIENT", "ID"), 1, until=ends_at) == [name]
    assert await node.exchange(pack("GETDEL", "counted"), 1, until=ends_at) == [b"3"]
    await node.close()


async def test_a_silence_ends_an_exchange_whose_caller_has_gone() -> None:
    """The connection is closed, and its owner is called."""
    async with connected() as connection:
        ended = asyncio.Event()
        connection.exchange(waiting(5), 1, 0.1, lambda _: ended.set()).cancel()
        async with asyncio.timeout(LIMIT_SECONDS):
            await ended.wait()
        assert not connection.is_open


@pytest.mark.parametrize("said", [b"+OK\r\n+MORE\r\n", b"?what\r\n"])
async def test_a_reply_too_many_and_nonsense_close_the_connection(said: bytes) -> None:
    """A server that says what it was not asked cannot be believed about anything."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"+OK\r\n")
        await reader.read(100)
        await reader.read(100)
        writer.write(said)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        address = NodeAddress("127.0.0.1", server.sockets[0].getsockname()[1])
        connection = await connect(address, ANY, 1.0)
        with pytest.raises(hiredis.ProtocolError):
            await connection.exchange(pack("PING"), 1, 1.0)
        assert not connection.is_open


async def test_a_server_that_speaks_unasked_is_left() -> None:
    """An idle connection on which something arrives is closed before anybody uses it."""
    is_connected = asyncio.Event()

    async def greet_twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"+OK\r\n")
        await is_connected.wait()
        writer.write(b"+HELLO\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(greet_twice, "127.0.0.1", 0) as server:
        address = NodeAddress("127.0.0.1", server.sockets[0].getsockname()[1])
        connection = await connect(address, ANY, 1.0)
        is_connected.set()
        await until(lambda: not connection.is_open)
