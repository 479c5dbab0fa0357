"""Just enough of a client of HTTP/2 (RFC 9113) and gRPC to make many small calls at little cost.

A client of grpc.aio spends as much on a call as a server of grpc.aio does, and would be what is measured.
"""

import asyncio
import struct
import time
from array import array
from collections import deque
from collections.abc import Iterator
from typing import Final, cast

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GO_AWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_NO_PUSH_AND_WIDE_STREAMS: Final = struct.pack(">HIHI", 2, 0, 4, 2**31 - 1)
_WINDOW: Final = 65_535
_WIDER: Final = struct.pack(">I", 2**31 - 1 - _WINDOW)
_HEAD: Final = struct.Struct(">HBBBI")
_MESSAGE: Final = struct.Struct(">BI")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame (section 4.1)."""
    length = len(payload)
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def header_blocks(path: str) -> tuple[bytes, bytes]:
    """The fields of a POST to the path (RFC 7541): as the first call spells them, and as later ones refer to them."""
    spelt = (
        (b"\x44", path.encode()),
        (b"\x41", b"localhost"),
        (b"\x40\x02te", b"trailers"),
        (b"\x5f", b"application/grpc"),
    )
    first = b"".join(name + bytes([len(value)]) + value for name, value in spelt)
    return b"\x83\x86" + first, b"\x83\x86\xc1\xc0\xbf\xbe"


class Caller(asyncio.Protocol):
    """One connection that keeps so many calls of one method under way until there are no more requests.

    A request must fit the window that every stream has at first, 64 KiB. `done` has the error when a call fails.
    """

    def __init__(self, path: str, requests: Iterator[bytes], in_flight: int, latencies: "array[float]") -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._first, self._later = header_blocks(path)
        self._requests = requests
        self._in_flight = in_flight
        self._latencies = latencies
        self._called_at: dict[int, float] = {}
        self._answered: set[int] = set()
        self._stream = -1
        self._window = _WINDOW
        self._received = b""
        self._held: deque[tuple[int, bytes]] = deque()
        self._out = [
            _PREFACE,
            frame(_SETTINGS, 0, 0, _NO_PUSH_AND_WIDE_STREAMS),
            frame(_WINDOW_UPDATE, 0, 0, _WIDER),
        ]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        for _ in range(self._in_flight):
            self._call()
        self._flush()

    def data_received(self, data: bytes) -> None:
        received, at = self._received + data, 0
        while len(received) >= at + 9:
            high, low, kind, flags, stream = _HEAD.unpack_from(received, at)
            end = at + 9 + (high << 8 | low)
            if len(received) < end:
                break
            self._on_frame(kind, flags, stream, received[at + 9 : end])
            at = end
        self._received = received[at:]
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or RuntimeError("the server closed the connection"))

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._answered.add(stream)
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._out.append(frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind in (_RESET, _GO_AWAY):
            self._fail(payload)
        if kind in (_DATA, _HEADERS) and flags & _END_STREAM:
            self._on_end(stream, payload)

    def _on_end(self, stream: int, payload: bytes) -> None:
        """A call that failed has no message, so that its status need not be decoded."""
        if stream not in self._answered:
            self._fail(payload)
            return
        self._answered.remove(stream)
        self._latencies.append(time.perf_counter() - self._called_at.pop(stream))
        self._call()

    def _call(self) -> None:
        request = next(self._requests, None)
        if request is not None:
            self._stream += 2
            self._called_at[self._stream] = time.perf_counter()
            block = self._first if self._stream == 1 else self._later
            message = _MESSAGE.pack(0, len(request)) + request
            frames = (
                frame(_HEADERS, _END_HEADERS, self._stream, block),
                frame(_DATA, _END_STREAM, self._stream, message),
            )
            self._held.append((len(message), b"".join(frames)))
        elif not self._called_at and not self.done.done():
            self.done.set_result(None)
            self._transport.close()

    def _flush(self) -> None:
        """Send what the window of the connection has room for (section 5.2)."""
        while self._held and self._held[0][0] <= self._window:
            size, frames = self._held.popleft()
            self._window -= size
            self._out.append(frames)
        if self._out and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def _fail(self, said: bytes) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(f"a call failed: {said!r}"))
        self._transport.abort()
