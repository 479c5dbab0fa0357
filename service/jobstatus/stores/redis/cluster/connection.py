"""One connection to one server: commands out, as many replies in. It knows neither clusters nor jobs.

Commands are packed and replies parsed by hiredis, in C, many at a time: a poll's share of a read is then a few
microseconds, and nothing of a reply is ever left for the next who uses the connection. An exchange that does not end as
it should, because of a time limit, a cancelled caller or a byte too many, closes the connection.
"""

import asyncio
from typing import Any, Final, cast

import hiredis

from jobstatus.stores.redis.cluster.url import NodeAddress, RedisConfig

CONNECT_SECONDS: Final = 0.5

_NOTHING_YET: Final = object()


Word = str | bytes | int


def pack(*words: Word) -> bytes:
    """One command as the protocol wants it."""
    return cast("bytes", hiredis.pack_command(words))  # type: ignore[arg-type]  # its tuple is of any length


class Refused(Exception):
    """The server refused what a connection begins with."""


class Connection(asyncio.Protocol):
    """Use `connect`. One exchange at a time."""

    def __init__(self) -> None:
        self.is_open = False
        self._reader = hiredis.Reader(notEnoughData=_NOTHING_YET)
        self._replies: list[Any] = []
        self._wanted = 0
        self._waiting: asyncio.Future[list[Any]] | None = None
        self._progress = 0

    async def exchange(self, packed: bytes, wanted: int, silence_seconds: float) -> list[Any]:
        """The replies to so many commands; error replies are in their places, as hiredis.ReplyError.

        Raises OSError, TimeoutError after so long a time without a byte either way, and hiredis.ProtocolError.
        """
        if not self.is_open:
            raise ConnectionResetError
        loop = asyncio.get_running_loop()
        self._replies, self._wanted = [], wanted
        self._waiting = loop.create_future()
        self._transport.write(packed)
        self._watching = loop.call_later(silence_seconds, self._watch, silence_seconds, self._mark())
        try:
            return await self._waiting
        except BaseException:
            self.abort()
            raise
        finally:
            self._watching.cancel()
            self._waiting = None

    def abort(self) -> None:
        """Close at once; whoever waits is told by ConnectionResetError."""
        if self.is_open:
            self.is_open = False
            self._transport.abort()

    def _mark(self) -> tuple[int, int]:
        """Differs when bytes have been received or sent since."""
        return self._progress, self._transport.get_write_buffer_size()

    def _watch(self, silence_seconds: float, before: tuple[int, int]) -> None:
        now = self._mark()
        if now == before:
            self._fail(TimeoutError())
        else:
            loop = asyncio.get_running_loop()
            self._watching = loop.call_later(silence_seconds, self._watch, silence_seconds, now)

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
        self.abort()

    # --- what the event loop calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        self._progress += len(data)
        reader, replies = self._reader, self._replies
        try:
            reader.feed(data)
            while (reply := reader.gets(False)) is not _NOTHING_YET:
                replies.append(reply)
        except hiredis.HiredisError as error:
            self._fail(error)
            return
        if self._waiting is None or len(replies) > self._wanted:
            self._fail(hiredis.ProtocolError("a reply to nothing"))
        elif len(replies) == self._wanted and not self._waiting.done():
            self._waiting.set_result(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._fail(exc or ConnectionResetError())


async def connect(address: NodeAddress, config: RedisConfig) -> Connection:
    """A connection that is logged in. Raises OSError, TimeoutError, hiredis.ProtocolError, or Refused."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_SECONDS):
        _, connection = await loop.create_connection(
            Connection, *address, ssl=config.tls, server_hostname=address.host if config.tls else None
        )
    greeting = [pack("CLIENT", "SETNAME", "jobstatus")]
    if config.login:
        greeting.insert(0, pack("AUTH", *config.login))
    if config.database:
        greeting.append(pack("SELECT", config.database))
    replies = await connection.exchange(b"".join(greeting), len(greeting), CONNECT_SECONDS)
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith("NOPERM"):
            connection.abort()
            raise Refused from reply
    return connection
