"""Connections without a parser: on each of them one request waits for its answer, or none has come since.

What a connection of aiohttp has (a parser, a task, a timer) is given back while it is parked, because most of it would
be idle memory. A parked connection that receives the next request becomes a whole one again.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Protocol

from jobstatus.core.watching.fan_out import FanOut
from jobstatus.core.watching.timer_wheel import TimerWheel
from jobstatus.rest.connection_table import Connect
from jobstatus.rest.protocol import HEAD_END, MAX_HEAD_BYTES

MAX_EARLY_BYTES: Final = 16 * 1024
"""Of requests that are received before the request that waits is answered; then no more are read until it is."""


class Guest(Protocol):
    """A request that waits on a parked connection."""

    def cancel(self) -> None:
        """Wait no longer, because the client has gone."""
        ...


class Parkable(Protocol):
    """A whole connection whose only request is the one that waits."""

    def park(self, guest: Guest) -> "ParkedConnection":
        """Give the connection up, except for its transport."""
        ...


class Parking:
    """The parked connections of one port."""

    def __init__(
        self, connect: Connect, put: Callable[[asyncio.Transport, bytes], None], keepalive_seconds: float
    ) -> None:
        """`connect` makes a whole connection, `put` writes an answer at the end of the loop's turn.

        A connection that is idle is closed after `keepalive_seconds`.
        """
        self.connect: Final = connect
        self.put: Final = put
        self.wheel: Final = TimerWheel(FanOut())
        self.keepalive_seconds: Final = keepalive_seconds
        self.is_stopping = False
        self.connections: Final[set[ParkedConnection]] = set()
        self._has_left = asyncio.Event()

    def park(self, transport: asyncio.Transport, on_lost: Callable[[], None], guest: Guest) -> "ParkedConnection":
        """Take over a connection. `on_lost` is to be called once it is lost."""
        connection = ParkedConnection(self, transport, on_lost, guest)
        self.connections.add(connection)
        transport.set_protocol(connection)
        return connection

    def forget(self, connection: "ParkedConnection") -> None:
        """Drop a connection that is lost or whole again."""
        self.connections.discard(connection)
        self._has_left.set()

    async def stop(self, grace_seconds: float) -> None:
        """Close idle connections, and the others once they are answered, or after the grace."""
        self.is_stopping = True
        for connection in tuple(self.connections):
            connection.close_if_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                while self.connections:
                    self._has_left.clear()
                    await self._has_left.wait()
        for connection in tuple(self.connections):
            connection.close()


class ParkedConnection(asyncio.Protocol):
    """One parked connection."""

    __slots__ = ("_early", "_guest", "_is_paused", "_on_lost", "_parking", "_room", "_tick", "_transport")

    def __init__(
        self, parking: Parking, transport: asyncio.Transport, on_lost: Callable[[], None], guest: Guest
    ) -> None:
        self._parking = parking
        self._transport = transport
        self._on_lost = on_lost
        self._guest: Guest | None = guest
        self._early = b""
        self._tick = 0
        self._is_paused = False
        self._room: asyncio.Future[None] | None = None

    def answer(self, data: bytes) -> None:
        """Write a whole answer, and end the guest's stay."""
        self._parking.put(self._transport, data)
        self.end()

    def end(self) -> None:
        """End the guest's stay, because its answer is written."""
        self._guest = None
        if self._transport.is_closing():
            return  # nothing follows but its end
        if self._parking.is_stopping:
            self._close_after_writes()
        elif self._early:
            self._unpark()
        else:
            at = asyncio.get_running_loop().time() + self._parking.keepalive_seconds
            self._tick = self._parking.wheel.add(self, at)

    async def write(self, data: bytes | memoryview) -> None:
        """Write a part of an answer, and return when there is room for more. Raise ConnectionError when it is lost."""
        if self._transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._transport.write(data)
        if self._is_paused:
            self._room = asyncio.get_running_loop().create_future()
            try:
                await self._room
            finally:
                self._room = None

    def abort(self) -> None:
        """End the connection at once, as in the middle of an answer."""
        self._transport.abort()

    def close(self) -> None:
        """End the connection once all is sent."""
        self._transport.close()

    def close_if_idle(self) -> None:
        """End the connection unless a request waits on it."""
        if self._guest is None:
            self._close_after_writes()

    def on_time(self) -> None:
        """End the connection, which has been idle for long, also where the client has not read the last answer."""
        if self._tick:  # else it is parked no longer
            self.abort()

    def data_received(self, data: bytes) -> None:
        """Become a whole connection for the next request; keep it while one waits."""
        self._early += data
        if self._guest is None:
            if not self._parking.is_stopping:
                self._unpark()
        elif self._is_full():
            self._transport.pause_reading()
        elif len(self._early) > MAX_HEAD_BYTES:
            self.close()

    def pause_writing(self) -> None:
        """Note that the client reads slowly. A whole connection limits how slowly it may read a small answer."""
        self._is_paused = True
        if self._guest is None and not self._parking.is_stopping:
            self._unpark()

    def resume_writing(self) -> None:
        """Note that the client has read."""
        self._is_paused = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """End all that the connection had."""
        self._leave()
        if self._guest is not None:
            self._guest.cancel()
            self._guest = None
        if self._room is not None and not self._room.done():
            self._room.set_exception(exc or ConnectionResetError("the client has gone"))
        self._on_lost()

    def _close_after_writes(self) -> None:
        """Close the connection once the answers that were put in this turn of the loop are written."""
        asyncio.get_running_loop().call_soon(self.close)

    def _unpark(self) -> None:
        """Give the connection a parser, what was received already, and what it was told of its transport."""
        transport, early, is_full = self._transport, self._early, self._is_full()
        self._leave()
        connection = self._parking.connect(self._on_lost)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if self._is_paused:
            connection.pause_writing()
        if is_full:
            transport.resume_reading()
        if early:
            connection.data_received(early)

    def _is_full(self) -> bool:
        """Return whether so many requests were received that no more are read until the guest is answered."""
        return len(self._early) > MAX_EARLY_BYTES and HEAD_END in self._early

    def _leave(self) -> None:
        self._parking.wheel.remove(self, self._tick)
        self._tick = 0
        self._parking.forget(self)
