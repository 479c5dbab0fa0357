"""One connection to one server: commands out, as many replies in. It knows neither clusters nor slots.

Commands are packed and replies parsed by hiredis, in C, many at a time, so a poll's share of a read is a few
microseconds. No reply is ever left over for the next user of the connection: an exchange whose caller is cancelled is
finished without it, and one that fails, because of silence, a protocol error or a byte too many, closes the connection.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import hiredis

from jobstatus.stores.redis.cluster.errors import Refused
from jobstatus.stores.redis.cluster.url import ClusterConfig, NodeAddress

NOTHING_YET: Final = object()


Word = str | bytes | int


def pack(*words: Word) -> bytes:
    """Encode one command."""
    return cast("bytes", hiredis.pack_command(words))  # type: ignore[arg-type]  # its tuple is of any length


class Connection(asyncio.Protocol):
    """Made by `connect`. One exchange at a time."""

    def __init__(self) -> None:
        self.is_open = False
        self._reader = hiredis.Reader(notEnoughData=NOTHING_YET)
        self._replies: list[Any] = []
        self._wanted = 0
        self._waiting: asyncio.Future[list[Any]] | None = None
        self._on_end: Callable[[Connection], None] | None = None
        self._progress = 0

    def exchange(
        self,
        packed: bytes,
        wanted: int,
        silence_seconds: float,
        on_end: Callable[["Connection"], None] | None = None,
    ) -> asyncio.Future[list[Any]]:
        """Send `wanted` commands. Return a future of their replies; error replies are hiredis.ReplyErrors in place.

        The future raises OSError, TimeoutError after `silence_seconds` without a byte either way, or
        hiredis.ProtocolError. Cancelling it does not end the exchange. `on_end` is called when the exchange has ended,
        however it did; the next one may begin then if the connection is open.
        """
        if not self.is_open:
            raise ConnectionResetError
        loop = asyncio.get_running_loop()
        self._replies, self._wanted, self._on_end = [], wanted, on_end
        self._waiting = loop.create_future()
        self._transport.write(packed)
        self._silence_timer = loop.call_later(silence_seconds, self._check_silence, silence_seconds, self._mark())
        return self._waiting

    def abort(self) -> None:
        """Close at once; an exchange under way fails with ConnectionResetError."""
        if self.is_open:
            self.is_open = False
            self._transport.abort()

    def _mark(self) -> tuple[int, int]:
        """Differs when bytes have been received or sent since."""
        return self._progress, self._transport.get_write_buffer_size()

    def _check_silence(self, silence_seconds: float, before: tuple[int, int]) -> None:
        now = self._mark()
        if now == before:
            self._fail(TimeoutError())
        else:
            loop = asyncio.get_running_loop()
            self._silence_timer = loop.call_later(silence_seconds, self._check_silence, silence_seconds, now)

    def _fail(self, error: Exception) -> None:
        self.abort()
        self._end(error)

    def _end(self, error: Exception | None = None) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        self._silence_timer.cancel()
        if waiting.done():  # its caller was cancelled
            pass
        elif error is None:
            waiting.set_result(self._replies)
        else:
            waiting.set_exception(error)
        if self._on_end is not None:
            self._on_end(self)

    # --- called by the event loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        self._progress += len(data)
        reader, replies = self._reader, self._replies
        try:
            reader.feed(data)
            while (reply := reader.gets(False)) is not NOTHING_YET:
                replies.append(reply)
        except hiredis.HiredisError as error:
            self._fail(error)
            return
        if self._waiting is None or len(replies) > self._wanted:
            self._fail(hiredis.ProtocolError("a reply without a command"))
        elif len(replies) == self._wanted:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._fail(exc or ConnectionResetError())


Made = TypeVar("Made", bound=Connection)


async def connect(address: NodeAddress, config: ClusterConfig, seconds: float) -> Connection:
    """Return a connection that is logged in. Raises OSError, TimeoutError, hiredis.ProtocolError, or Refused."""
    return await connect_as(Connection, address, config, seconds)


async def connect_as(kind: type[Made], address: NodeAddress, config: ClusterConfig, seconds: float) -> Made:
    """As `connect`, a connection of this kind."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(seconds):
        _, connection = await loop.create_connection(
            kind, *address, ssl=config.tls, server_hostname=address.host if config.tls else None
        )
    greeting = [pack("CLIENT", "SETNAME", config.client_name)]
    if config.login:
        greeting.insert(0, pack("AUTH", *config.login))
    if config.database:
        greeting.append(pack("SELECT", config.database))
    try:
        replies = await connection.exchange(b"".join(greeting), len(greeting), seconds)
    except BaseException:
        connection.abort()
        raise
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith("NOPERM"):
            connection.abort()
            raise Refused from reply
    return connection
