"""The messages that clients send: how many bytes of them are in memory.

gRPC takes a message of a single call into memory before it calls a handler, as many at a time as clients send. Where
messages may be large, handlers therefore read them themselves, as those of streams do. The bytes of one count from then
until its call has ended. How long a message is cannot be seen before it has arrived. One that takes long is taken for
one of the greatest length, so that the messages that are arriving have a bound, too.
"""

import asyncio
from asyncio import Future, TimerHandle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, TypeAlias

import grpc

from jobstatus.core.errors import InvalidField, Overloaded

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

Refuse: TypeAlias = "Callable[[Overloaded], Future[NoReturn]]"
"""Aborts a call with an error, and returns what ends with it."""

SLOW_TICKS: Final = 5
TICK_SECONDS: Final = 0.05
"""What has not arrived after so many timers, one after the other, is long, or its sender is slow.

These are several timers because an event loop that was busy delays small messages too, but has one timer end only.
"""
LARGE_MESSAGE_BYTES: Final = 64 * 1024
"""A message is large from here on."""
_SMALL_SHARE: Final = 16


class Place:
    """The room that one message takes."""

    __slots__ = ("refusal", "size", "timer")

    def __init__(self) -> None:
        self.size = 0
        self.timer: TimerHandle | None = None
        self.refusal: Future[NoReturn] | None = None
        """What aborts its call."""


class Intake:
    """Counts the bytes of messages. `largest` is the greatest length of one.

    A part of the room is for small messages only, so that the writes of many do not wait for the results of a few.
    """

    def __init__(self, max_bytes: int, largest: int, tick_seconds: float = TICK_SECONDS) -> None:
        for_small = max_bytes // _SMALL_SHARE
        self._max_bytes_of_large = max(max_bytes - for_small, largest)
        self._max_bytes = self._max_bytes_of_large + for_small
        self._largest = largest
        self._tick_seconds = tick_seconds
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
        most = self._max_bytes if size <= LARGE_MESSAGE_BYTES else self._max_bytes_of_large
        if self._bytes - place.size + size > most:
            raise Overloaded
        self._bytes += size - place.size
        place.size = size

    async def receive(self, context: Context, place: Place, refuse: Refuse) -> bytes:
        """Return the message of a call. Raise Overloaded when there is no room for it.

        `refuse` is called when there is no room for one that is still arriving, whose read ends with that. It is not
        cancelled, because gRPC would lose what it has of the message.
        """
        self._expect(place, refuse, SLOW_TICKS)
        try:
            data = await context.read()
        except grpc.aio.AbortError:
            data = grpc.aio.EOF
        finally:
            if place.timer is not None:
                place.timer.cancel()
        if place.refusal is not None:
            await place.refusal
        if data is grpc.aio.EOF:
            raise InvalidField.of("request", "is missing")
        message: bytes = data
        self.count(place, len(message))
        return message

    def _expect(self, place: Place, refuse: Refuse, ticks: int) -> None:
        """Count the message as the largest if it has not arrived after so many ticks."""
        if ticks:
            loop = asyncio.get_running_loop()
            place.timer = loop.call_later(self._tick_seconds, self._expect, place, refuse, ticks - 1)
            return
        try:
            self.count(place, self._largest)
        except Overloaded as error:
            place.refusal = refuse(error)
