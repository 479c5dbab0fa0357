"""Event streams as bytes on a socket, read by the letter: what a lenient reader would forgive fails here."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

from harness.service import Service

ACCEPT: Final = "Accept: text/event-stream"
LIMIT_SECONDS: Final = 60.0
"""For each part of a stream that has to come: well before a comment, or any other time of the service's, is due."""
_RETRY: Final = ("retry", "2000")


class CutOff(Exception):
    """The stream ended in the middle: the connection broke before the last chunk."""


class Unavailable(Exception):
    """The answer is a 503, which a busy machine may cause."""


@dataclass(frozen=True, slots=True)
class Block:
    """What stands between two empty lines: its fields in order; that of a comment has no name."""

    fields: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of its lines, without the empty one; fails for what this service does not say, such as a block without data.

        `retry` is a part of the first event, which the caller checks.
        """
        lines = [line.partition(":") for line in text.split("\n")]
        assert all(separator and value.startswith(" ") for _, separator, value in lines), text
        block = cls(tuple((name, value[1:]) for name, _, value in lines))
        assert block.kind, text
        return block

    @property
    def kind(self) -> str:
        """`status` of an event, or `comment`."""
        names = [name for name, _ in self.fields if name != "retry"]
        if names == [""]:
            return "comment"
        assert names[:3] == ["event", "id", "data"], names
        assert set(names[3:]) <= {"data"}, names
        return dict(self.fields)["event"]

    @property
    def id(self) -> str:
        """What the client sends to resume the stream."""
        return dict(self.fields)["id"]

    @property
    def version(self) -> int:
        """The job's, in the id."""
        return int(self.id.partition("-")[2])

    @property
    def data(self) -> str:
        """The document, as a browser would put it together."""
        return "\n".join(value for name, value in self.fields if name == "data")

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class EventStream:
    """An answer that comes bit by bit."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.headers: dict[str, str] = {}
        self._received = bytearray()
        self._has_event = False
        self._has_ended = False

    async def begin(self) -> Self:
        """Take the head, which has to be that of a stream in chunks."""
        head = await self._in_time(self.reader.readuntil(b"\r\n\r\n"))
        status_line, *lines = head.decode("ascii")[:-4].split("\r\n")
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if status_line == "HTTP/1.1 503 Service Unavailable":
            raise Unavailable
        assert status_line == "HTTP/1.1 200 OK", head
        assert self.headers["content-type"] == "text/event-stream", head
        assert self.headers["transfer-encoding"] == "chunked", head
        assert "content-length" not in self.headers, head
        return self

    async def next(self, seconds: float = LIMIT_SECONDS) -> Block | None:
        """The next block, None at the proper end; raises CutOff at any other, TimeoutError when nothing comes."""
        searched = 0
        async with asyncio.timeout(seconds):
            while (start := self._received.find(end := self._end(), searched)) < 0:
                searched = max(0, len(self._received) - 1)
                if not await self._take_chunk():
                    assert not self._received
                    return None
        text = self._received[:start].decode()
        del self._received[: start + len(end)]
        block = Block.parse(text)
        if block.kind != "comment":
            assert (block.fields[0] == _RETRY) != self._has_event, text
            self._has_event = True
        return block

    def _end(self) -> bytes:
        """What ends the next block: an empty line; of a comment, which is a line of its own, the end of that."""
        return b"\n" if self._received.startswith(b":") else b"\n\n"

    async def event(self, seconds: float = LIMIT_SECONDS) -> Block:
        """The next block, which has to be an event."""
        block = await self.next(seconds)
        assert block is not None
        assert block.kind == "status", block
        return block

    async def rest(self, seconds: float = LIMIT_SECONDS) -> list[Block]:
        """All blocks to the end; comments are left out, as they depend on the moment."""
        blocks = []
        async with asyncio.timeout(seconds):
            while block := await self.next(seconds):
                if block.kind != "comment":
                    blocks.append(block)
        return blocks

    async def _in_time(self, part: Any, seconds: float = LIMIT_SECONDS) -> bytes:
        async with asyncio.timeout(seconds):
            received: bytes = await part
        return received

    async def _take_chunk(self) -> bool:
        """Whether there was one; the last one is empty (RFC 9112, section 7.1)."""
        assert not self._has_ended
        try:
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            data = await self.reader.readexactly(size + 2)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise CutOff from error
        assert data.endswith(b"\r\n"), data
        self._received += data[:-2]
        self._has_ended = size == 0
        return size > 0


@asynccontextmanager
async def connected(
    service: Service, job_id: str, *headers: str, kind: str = "audio/transcriptions", accept: Sequence[str] = (ACCEPT,)
) -> AsyncIterator[EventStream]:
    """A stream whose answer is still to be read; leaving it closes the connection."""
    # Its buffer holds the longest line there is, the head's.
    reader, writer = await asyncio.open_connection("127.0.0.1", service.http_port, limit=16 * 1024)
    try:
        lines = [f"GET /v1/async/{kind}/{job_id} HTTP/1.1", "Host: test", *accept, *headers]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        yield EventStream(reader, writer)
    finally:
        writer.close()


@asynccontextmanager
async def events(
    service: Service, job_id: str, *headers: str, kind: str = "audio/transcriptions", accept: Sequence[str] = (ACCEPT,)
) -> AsyncIterator[EventStream]:
    """A stream that has begun."""
    async with connected(service, job_id, *headers, kind=kind, accept=accept) as stream:
        yield await stream.begin()
