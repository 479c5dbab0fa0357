"""HTTP as bytes on a socket: client libraries would tidy up what the tests want to send."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

LIMIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer. Header names are in lower case; a repeated header keeps its last value."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def exchange(port: int, data: bytes) -> bytes:
    """Send bytes, then read until the server closes or is silent for a moment."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(LIMIT_SECONDS):
            while part := await reader.read(65536):
                received += part
    finally:
        writer.close()
    return received


def parse(data: bytes, *, head_only: bool = False) -> Answer:
    """The one answer in `data`; fails when there is none, or more than one."""
    head, separator, body = data.partition(b"\r\n\r\n")
    assert separator, data
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert len(body) == (0 if head_only else int(headers["content-length"])), data
    return Answer(int(status_line.split(" ")[1]), headers, body)


async def request(
    port: int, path: str | bytes, *headers: str | bytes, method: str = "GET", is_last: bool = True
) -> Answer:
    """One request on a connection of its own. Path and headers go out as they are (str as Latin-1).

    `is_last`: the service is to close the connection; else the client does, once it has the answer.
    """

    def raw(text: str | bytes) -> bytes:
        return text if isinstance(text, bytes) else text.encode("latin-1")

    closing = [b"Connection: close"] if is_last else []  # before the headers, the last of which may hold a body
    lines = [raw(method) + b" " + raw(path) + b" HTTP/1.1", b"Host: test", *closing, *map(raw, headers)]
    data = b"\r\n".join(lines) + b"\r\n\r\n"
    received = await (exchange(port, data) if is_last else _first_answer(port, data, has_body=method != "HEAD"))
    return parse(received, head_only=method == "HEAD")


async def _first_answer(port: int, data: bytes, *, has_body: bool) -> bytes:
    """Send bytes, then read one answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(LIMIT_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
            sizes = [int(line.partition(b":")[2]) for line in head.splitlines() if line.startswith(b"Content-Length:")]
            return head + await reader.readexactly(sum(sizes) if has_body else 0)
    finally:
        writer.close()
