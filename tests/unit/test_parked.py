"""How a parked connection ends: its answer is not lost, and nothing is kept or begun for a client that has gone."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from harness.waiting import until
from jobstatus.rest.fast_path import WriteBatch
from jobstatus.rest.parked import MAX_EARLY_BYTES, ParkedConnection, Parking

REQUEST = b"GET / HTTP/1.1\r\n\r\n"


class Client(asyncio.Transport):
    """The transport of a client; as long as there is something that it does not read, the connection cannot close."""

    def __init__(self) -> None:
        super().__init__()
        self.received = b""
        self.protocol: Any = None
        self.reads = True
        self._is_closing = False
        self._is_lost = False

    def write(self, data: Any) -> None:
        self.received += bytes(data)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True
        if self.reads:
            self.abort()

    def abort(self) -> None:
        self._is_closing = True
        if not self._is_lost:
            self._is_lost = True
            asyncio.get_running_loop().call_soon(self._lose)

    def _lose(self) -> None:
        self.protocol.connection_lost(None)

    def pause_reading(self) -> None: ...


class Guest:
    def cancel(self) -> None: ...


def parking(keepalive_seconds: float = 600) -> Parking:
    return Parking(_connect_nothing, WriteBatch().put, keepalive_seconds)


def _connect_nothing(release: Callable[[], None]) -> asyncio.Protocol:  # noqa: ARG001  # one of Connect
    raise AssertionError("no whole connection is due")


def parked(at: Parking, client: Client) -> ParkedConnection:
    return at.park(client, lambda: None, Guest())


async def test_a_stop_loses_no_answer_of_its_turn_of_the_loop() -> None:
    """The answer is written at the end of the turn, and the connection is closed after that."""
    client, place = Client(), parking()
    parked(place, client).answer(b"answer")
    await place.stop(10)
    assert (client.received, client.is_closing()) == (b"answer", True)


@pytest.mark.parametrize("is_aborted", [True, False])
async def test_the_end_of_an_answer_begins_nothing_for_a_client_that_has_gone(is_aborted: bool) -> None:
    """Not even for the requests that it has sent meanwhile."""
    client, place = Client(), parking()
    connection = parked(place, client)
    connection.data_received(REQUEST * (1 + MAX_EARLY_BYTES // len(REQUEST)))
    (client.abort if is_aborted else client.close)()
    connection.end()
    await until(lambda: not place.connections)


async def test_an_idle_client_that_does_not_read_is_cut_off() -> None:
    """Its connection would not close, because the last answer is still to be sent."""
    client, place = Client(), parking(keepalive_seconds=0)
    client.reads = False
    parked(place, client).answer(b"answer")
    await until(lambda: not place.connections)
