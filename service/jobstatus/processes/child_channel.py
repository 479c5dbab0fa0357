"""The questions that a supervisor asks its children, and their answers, over a pair of connected sockets.

The pair has no name in a file system, so a start needs no writable folder. The child's end is its standard input, which
ends when the supervisor is gone. The supervisor begins with what the child is to serve, after its size in four bytes.
The child writes one line when it is up. After that every line is JSON: `[number, question]` to the child, with a third
item where the question has an argument, and `[number, answer]` back. Answers may come in any order and late.
"""

import asyncio
import itertools
import json
import logging
import os
import socket
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, Literal, Self

Question = Literal["health", "metrics", "alive", "restart_leases", "reload", "console", "console_figures"]
Answers = Mapping[str, Callable[..., Awaitable[str]]]
"""How a child answers each question; some take an argument."""

_LINE_BYTES: Final = 16 * 1024**2
"""The longest line; the metrics of a process are about a hundredth of it."""

_SIZE_BYTES: Final = 4

_log = logging.getLogger(__name__)


class ChildChannel:
    """The supervisor's end. Build and use it inside the running loop."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[str | None]] = {}
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def opened(cls) -> tuple[Self, socket.socket]:
        """Return a new channel and the child's end of it, which the caller must close. Raise OSError without files."""
        ours, theirs = socket.socketpair()
        return cls(*await asyncio.open_unix_connection(sock=ours, limit=_LINE_BYTES)), theirs

    def send_first(self, data: bytes) -> None:
        """Send what the child reads before anything else."""
        self._writer.write(len(data).to_bytes(_SIZE_BYTES) + data)

    async def wait_until_up(self) -> bool:
        """Return whether the child is up: True when it says so, False when it ended instead."""
        if not await _next_line(self._reader):
            self.close()
            return False
        self._reading = asyncio.create_task(self._read())
        return True

    @property
    def is_open(self) -> bool:
        """Whether the child was up and has not closed its end."""
        return self._reading is not None and not self._reading.done()

    async def ask(self, question: Question, *arguments: str, seconds: float) -> str | None:
        """Return the child's answer, or None when there is none within `seconds`. Questions may overlap."""
        if not self.is_open:
            return None
        number = next(self._numbers)
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            async with asyncio.timeout(seconds):
                self._writer.write(_line(number, question, *arguments))
                return await answer
        except TimeoutError:
            _log.debug(
                "A serving process did not answer its supervisor.",
                extra={"event": "child_silent", "question": question},
            )
            return None
        finally:
            del self._asked[number]

    def close(self) -> None:
        """Close this end; a child that still runs stops because of it."""
        self._writer.close()

    async def _read(self) -> None:
        """Hand each answer to the caller that waits for it; drop those that come too late."""
        while line := await _next_line(self._reader):
            number, answer = json.loads(line)
            asked = self._asked.get(number)
            if asked is not None and not asked.done():
                asked.set_result(answer)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_result(None)
        self.close()


def read_first() -> bytes:
    """Return what the supervisor sends before anything else. Raise EOFError when it is gone."""
    return _read_exactly(int.from_bytes(_read_exactly(_SIZE_BYTES)))


def _read_exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(sys.stdin.fileno(), size - len(data))
        if not piece:
            raise EOFError("the supervisor is gone")
        data += piece
    return data


@asynccontextmanager
async def answering(answers: Answers, on_end: Callable[[], None]) -> AsyncIterator[None]:
    """Tell the supervisor that this child is up, and answer its questions while the context lasts.

    Call `on_end` when the supervisor is gone.
    """
    ours = socket.fromfd(sys.stdin.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    writer.write(b"up\n")

    async def answer(number: int, question: str, *arguments: str) -> None:
        try:
            found = await answers[question](*arguments)
        except Exception:  # noqa: BLE001  # polls are still answered, so a bug here must not end the process
            _log.exception(
                "A question of the supervisor could not be answered because of a bug of this program.",
                extra={"event": "question_failed", "question": question},
            )
            return
        writer.write(_line(number, found))

    async def follow(group: asyncio.TaskGroup) -> None:
        while line := await _next_line(reader):
            group.create_task(answer(*json.loads(line)))
        on_end()

    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow(group))
        try:
            yield
        finally:
            following.cancel()
            writer.close()


async def _next_line(reader: StreamReader) -> bytes:
    """Return the next line, or nothing when the other process is gone."""
    try:
        return await reader.readline()
    except ConnectionError:
        return b""


def _line(number: int, *texts: str) -> bytes:
    return json.dumps([number, *texts]).encode() + b"\n"
