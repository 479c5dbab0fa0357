"""One server and the connections to it: as many exchanges at a time as there are callers, within a bound.

A circuit breaker: a node that does not answer is marked down, and exchanges with it fail at once until a health check
succeeds, so that one batch waits for its silence and not every one that follows.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import hiredis

from jobstatus.stores.redis.cluster.connection import Connection, Refused, connect, pack
from jobstatus.stores.redis.cluster.server_info import ServerInfo, parse_server_info
from jobstatus.stores.redis.cluster.url import NodeAddress, RedisConfig

MAX_CONNECTIONS: Final = 16
SILENCE_SECONDS: Final = 1.0
"""A server that says nothing for so long does not answer."""
HEALTH_CHECK_SECONDS: Final = 0.5

FAULTS: Final = (OSError, TimeoutError, hiredis.HiredisError, Refused)
"""How an exchange fails."""

_PING: Final = pack("PING")
_INFO: Final = pack("INFO")


class NodeDown(OSError):
    """The server has not answered lately."""


class Node:
    """One server, primary or replica."""

    def __init__(self, address: NodeAddress, config: RedisConfig, on_down: Callable[[], None]) -> None:
        """`on_down` is told when the server stops answering; it should see to it that `health_check` is called."""
        self.address = address
        self.info = ServerInfo()
        self.is_down = False
        self.stable_since = float("-inf")
        """Since when (monotonic) no connection was lost: whatever was read from the server since then, it still has."""
        self._config = config
        self._on_down = on_down
        self._idle: list[Connection] = []
        self._room = asyncio.Semaphore(MAX_CONNECTIONS)
        self._is_closed = False

    async def exchange(self, packed: bytes, wanted: int, *, until: float, waits_ms: int = 0) -> list[Any]:
        """The replies to so many commands, error replies in their places.

        Raises one of FAULTS: at once while the server is in trouble, else after a silence, to which the commands may
        add `waits_ms`, or when the loop's time is `until`.
        """
        try:
            async with asyncio.timeout_at(until), self._room:
                self._check()
                return await self._exchange(packed, wanted, SILENCE_SECONDS + waits_ms / 1000)
        except NodeDown:
            raise
        except FAULTS:
            self.mark_down()
            raise

    async def health_check(self, question: bytes) -> Any:
        """Ask one thing, in trouble or not; if the server answers and serves, it is in trouble no more.

        Raises one of FAULTS when it does not answer; a server that answers and does not serve yet stays in trouble.
        """
        async with asyncio.timeout(2 * HEALTH_CHECK_SECONDS):
            answer, ping, info = await self._exchange(question + _PING + _INFO, 3, HEALTH_CHECK_SECONDS)
        if not isinstance(info, hiredis.ReplyError):
            self.info = parse_server_info(info)
        if self.is_down and not isinstance(ping, hiredis.ReplyError):
            self.stable_since = time.monotonic()
            self.is_down = False
        return answer

    def mark_down(self) -> None:
        """From now on the server counts as one that does not answer."""
        self.stable_since = time.monotonic()
        self.is_down = True
        self._drop_idle()
        self._on_down()

    def close(self) -> None:
        """Let go of all connections; exchanges under way end with an error or their replies."""
        self._is_closed = True
        self._drop_idle()

    def _check(self) -> None:
        if self.is_down:
            raise NodeDown

    async def _exchange(self, packed: bytes, wanted: int, silence_seconds: float) -> list[Any]:
        connection = self._take() or await connect(self.address, self._config)
        replies = await connection.exchange(packed, wanted, silence_seconds)
        if self._is_closed:
            connection.abort()
        else:
            self._idle.append(connection)
        return replies

    def _take(self) -> Connection | None:
        """The connection that was used last, which is the likeliest to be well."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
            self.stable_since = time.monotonic()  # it was closed by the server, which may have been started anew
        return None

    def _drop_idle(self) -> None:
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
