"""The messages that clients send: how many bytes of them are in memory.

gRPC takes a message of a single call into memory before it calls a handler, as many at a time as clients send. Where
messages may be large, handlers therefore read them themselves, as those of streams do. The bytes of one count from then
until its call has ended. How long a message is cannot be seen before it has arrived. One that takes long is taken for
one of the greatest length, so that the messages that are arriving have a bound, too.
"""

import asyncio
from asyncio import Future
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, TypeAlias

import grpc

from jobstatus.core.errors import InvalidField, Overloaded

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

Refuse: TypeAlias = "Callable[[Overloaded], Future[NoReturn]]"
"""Aborts a call with an error, and returns what ends with it."""

SLOW_SECONDS: Final = 0.25
"""What has not arrived after so long is long, or its sender is slow. A busy event loop delays a small one by less."""


class Place:
    """The room that one message takes."""

    __slots__ = ("refusal", "size")

    def __init__(self) -> None:
        self.size = 0
        self.refusal: Future[NoReturn] | None = None
        """What aborts its call."""


class Intake:
    """Counts the bytes of messages. `largest` is the greatest length of one."""

    def __init__(self, max_bytes: int, largest: int) -> None:
        self._max_bytes = max(max_bytes, largest)
        self._largest = largest
        self._bytes = 0

    def held_bytes(self) -> int:
        """Return how many bytes are counted."""
        return self._bytes

    @contextmanager
    def place(self) -> Iterator[Place]:
        """Give the bytes of one message back when the block ends."""
        place = Place()
        try:
            yield place
        finally:
            self._bytes -= place.size

    def count(self, place: Place, size: int) -> None:
        """Let the message have this size. Raise Overloaded when there is no room for it."""
        if self._bytes - place.size + size > self._max_bytes:
            raise Overloaded
        self._bytes += size - place.size
        place.size = size

    async def receive(self, context: Context, place: Place, refuse: Refuse) -> bytes:
        """Return the message of a call. Raise Overloaded when there is no room for it.

        `refuse` is called when there is no room for one that is still arriving, whose read ends with that. It is not
        cancelled, because gRPC would lose what it has of the message.
        """
        timer = asyncio.get_running_loop().call_later(SLOW_SECONDS, self._expect_largest, place, refuse)
        try:
            data = await context.read()
        except grpc.aio.AbortError:
            data = grpc.aio.EOF
        finally:
            timer.cancel()
        if place.refusal is not None:
            await place.refusal
        if data is grpc.aio.EOF:
            raise InvalidField.of("request", "is missing")
        message: bytes = data
        self.count(place, len(message))
        return message

    def _expect_largest(self, place: Place, refuse: Refuse) -> None:
        try:
            self.count(place, self._largest)
        except Overloaded as error:
            place.refusal = refuse(error)
