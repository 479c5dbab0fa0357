"""A connection that hears what is published on one channel, on whichever server of the cluster."""

import asyncio
from collections.abc import Callable
from typing import Any

import hiredis

from jobstatus.stores.redis.cluster.connection import NOTHING_YET, Connection, connect_as, pack
from jobstatus.stores.redis.cluster.errors import Refused
from jobstatus.stores.redis.cluster.url import ClusterConfig, NodeAddress


class Subscription(Connection):
    """Made by `connect_as`. Exchanges are possible before `hear`."""

    def __init__(self) -> None:
        super().__init__()
        self._heard: Callable[[bytes], None] | None = None
        self._ended: asyncio.Future[None] | None = None

    async def hear(self, channel: str, heard: Callable[[bytes], None]) -> None:
        """Call `heard` with each message until the connection ends. Raises what ends it, or Refused."""
        self._heard = heard
        self._ended = asyncio.get_running_loop().create_future()
        self._transport.write(pack("SUBSCRIBE", channel))
        await self._ended

    def data_received(self, data: bytes) -> None:
        if self._heard is None:
            super().data_received(data)
            return
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not NOTHING_YET:
                self._received(reply)
        except hiredis.HiredisError as error:
            self._finish(error)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._finish(exc or ConnectionResetError())

    def _received(self, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            refused = Refused()
            refused.__cause__ = reply
            self._finish(refused)
        elif reply[0] == b"message" and self._heard is not None:
            self._heard(reply[2])

    def _finish(self, error: Exception) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)


async def hear(
    address: NodeAddress, config: ClusterConfig, seconds: float, channel: str, heard: Callable[[bytes], None]
) -> None:
    """Call `heard` with each message on the channel until the connection ends. Raises as `connect`, or what ends it."""
    subscription = await connect_as(Subscription, address, config, seconds)
    try:
        await subscription.hear(channel, heard)
    finally:
        subscription.abort()
