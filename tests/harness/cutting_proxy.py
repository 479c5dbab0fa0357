"""A gRPC peer that cuts streams as proxies do: frames of HTTP/2 by hand, because no gRPC server ends a call so."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from google.protobuf.message import Message

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING = 0x0, 0x1, 0x3, 0x4, 0x6
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_OK_GRPC: Final = b"\x88\x0f\x10\x10application/grpc"
"""HPACK: `:status: 200`, and `content-type` as a literal that is not indexed."""


class Cut(Enum):
    """How a stream ends: frame type, flags and payload of its last frame."""

    NO_TRAILERS = (_DATA, _END_STREAM, b"")
    """HAProxy."""
    INTERNAL_ERROR = (_RST_STREAM, 0, (2).to_bytes(4, "big"))
    """nginx."""
    NO_ERROR = (_RST_STREAM, 0, (0).to_bytes(4, "big"))
    CANCEL = (_RST_STREAM, 0, (8).to_bytes(4, "big"))


@dataclass(slots=True)
class CuttingProxy:
    """`answers` returns the messages that a request gets. A stream without any is cut at once, others by `cut_open`.

    With `at_once` streams are answered before a request has come, for calls whose client may have nothing to say.
    """

    answers: Callable[[bytes], Sequence[Message]]
    cut: Cut = Cut.NO_TRAILERS
    at_once: bool = False
    requests: list[bytes] = field(default_factory=list)
    target: str = ""
    _open: list[tuple[asyncio.StreamWriter, int]] = field(default_factory=list)
    connections: dict[asyncio.StreamWriter, "asyncio.Task[None] | None"] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections[writer] = asyncio.current_task()
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readexactly(len(_PREFACE))
            writer.write(_frame(_SETTINGS, 0, 0))
            await self._read_frames(reader, writer)
        writer.close()

    async def _read_frames(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies: dict[int, bytes] = {}
        while True:
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            if kind in (_SETTINGS, _PING) and not flags & _ACK:
                writer.write(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
            if kind == _HEADERS and self.at_once:
                self._answer(writer, stream, b"")
            elif kind == _DATA and not self.at_once:
                bodies[stream] = bodies.get(stream, b"") + payload
                if flags & _END_STREAM:
                    self._answer(writer, stream, bodies.pop(stream)[5:])

    def _answer(self, writer: asyncio.StreamWriter, stream: int, request: bytes) -> None:
        self.requests.append(request)
        writer.write(_frame(_HEADERS, _END_HEADERS, stream, _OK_GRPC))
        for answer in self.answers(request):
            message = answer.SerializeToString()
            writer.write(_frame(_DATA, 0, stream, b"\0" + len(message).to_bytes(4, "big") + message))
            self._open.append((writer, stream))
        if (writer, stream) not in self._open:
            self._cut(writer, stream)

    def cut_open(self) -> None:
        """Cut the streams that have been silent since their messages."""
        while self._open:
            self._cut(*self._open.pop())

    def _cut(self, writer: asyncio.StreamWriter, stream: int) -> None:
        kind, flags, payload = self.cut.value
        writer.write(_frame(kind, flags, stream, payload))
        if self.at_once and kind == _DATA:  # HAProxy resets the client's half of the stream
            kind, flags, payload = Cut.CANCEL.value
            writer.write(_frame(kind, flags, stream, payload))


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


@asynccontextmanager
async def cutting_proxy(
    answers: Callable[[bytes], Sequence[Message]], cut: Cut, *, at_once: bool = False
) -> AsyncIterator[CuttingProxy]:
    proxy = CuttingProxy(answers, cut, at_once)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.target = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        for writer in proxy.connections:
            writer.transport.abort()
        await asyncio.gather(*filter(None, proxy.connections.values()))
