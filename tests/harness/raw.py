"""HTTP as no client library would speak it: bytes in any order, several answers, connections that end in any way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from harness.http import LIMIT_SECONDS, Answer, parse

_SEPARATOR: Final = b"\r\n\r\n"


def answers_in(data: bytes) -> list[Answer]:
    """All the answers in what was received, in order; fails on anything that is none."""
    answers = []
    while data:
        head, _, rest = data.partition(_SEPARATOR)
        lines = head.lower().split(b"\r\n")
        size = sum(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
        answers.append(parse(head + _SEPARATOR + rest[:size]))
        data = rest[size:]
    return answers


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection of its own; leaving it closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def received_until_closed(reader: asyncio.StreamReader, seconds: float = LIMIT_SECONDS) -> bytes:
    """All that comes before the server closes, or resets, the connection; TimeoutError when it does neither."""
    received = b""
    async with asyncio.timeout(seconds):
        try:
            while part := await reader.read(65536):
                received += part
        except ConnectionError:
            pass
    return received


async def talk(port: int, data: bytes, seconds: float = LIMIT_SECONDS) -> bytes:
    """Send bytes on a new connection, and take what comes until the server ends it."""
    async with connection(port) as (reader, writer):
        writer.write(data)
        return await received_until_closed(reader, seconds)


async def next_answer(reader: asyncio.StreamReader) -> Answer:
    """One answer of a connection that stays open."""
    async with asyncio.timeout(LIMIT_SECONDS):
        head = await reader.readuntil(_SEPARATOR)
        (size,) = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return parse(head + await reader.readexactly(int(size.partition(b":")[2])))
