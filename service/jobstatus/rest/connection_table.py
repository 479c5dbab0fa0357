"""The connections of one port: how many there may be at a time, in all and from one address.

One address is one IPv4 address, or the /64 network of an IPv6 address, because whoever has one address of such a
network usually has all of them. A connection over a limit is closed at once, without an answer: to answer, the service
would have to keep it and read its request, which costs what the limit is to save. Clients treat a broken connection
like a 503, and a proxy asks another replica.
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final, Literal, TypeAlias

from jobstatus.telemetry.throttle import LogThrottle

Limit: TypeAlias = Literal["max_connections", "max_connections_each"]
"""The settings of the two limits."""

_NETWORK_BYTES: Final = 8
_IPV4_IN_IPV6: Final = bytes(10) + b"\xff\xff"
_log = logging.getLogger(__name__)


def network_of(peer: object) -> str | None:
    """Return what a peer's address is counted as: `192.0.2.1` or `2001:db8::/64`; None for a peer without an address.

    `peer` is a socket's `getpeername`. A client that has gone already has no address.
    """
    if not isinstance(peer, tuple):  # such as the path of a Unix socket
        return None
    host = str(peer[0])
    if ":" not in host:
        return host
    packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    if packed.startswith(_IPV4_IN_IPV6):  # a client of IPv4 on a port of both families
        return socket.inet_ntop(socket.AF_INET, packed[len(_IPV4_IN_IPV6) :])
    return socket.inet_ntop(socket.AF_INET6, packed[:_NETWORK_BYTES] + bytes(_NETWORK_BYTES)) + "/64"


class ConnectionTable:
    """The open connections of one port, counted by address."""

    def __init__(
        self,
        *,
        limit: int,
        limit_each: int = 0,
        on_refused: Callable[[Limit], None] = lambda limit: None,  # noqa: ARG005
    ) -> None:
        """At most `limit` connections at a time, and `limit_each` of one address; 0 is no limit for each address.

        `on_refused` is called for each connection that is turned away.
        """
        self.count = 0
        self._limit = limit
        self._limit_each = limit_each
        self._on_refused = on_refused
        self._of_each: Counter[str] = Counter()
        self._throttles: Final[dict[Limit, LogThrottle]] = {
            "max_connections": LogThrottle(),
            "max_connections_each": LogThrottle(),
        }

    def admit(self, network: str | None) -> Limit | None:
        """Count a new connection. Return None, or the limit that it is over; then it is not counted."""
        if self.count >= self._limit:
            return "max_connections"
        if network is not None:
            if self._limit_each and self._of_each[network] >= self._limit_each:
                return "max_connections_each"
            self._of_each[network] += 1
        self.count += 1
        return None

    def release(self, network: str | None) -> None:
        """Forget a connection that was admitted and has ended."""
        self.count -= 1
        if network is not None:
            self._of_each[network] -= 1
            if not self._of_each[network]:
                del self._of_each[network]

    def report(self, limit: Limit, network: str | None, port: int | None) -> None:
        """Count a connection that is turned away. Log the first of many, with the address that has the most."""
        self._on_refused(limit)
        if not (connections := self._throttles[limit].should_log()):
            return
        if limit == "max_connections":
            network = max(self._of_each, key=self._of_each.__getitem__, default=None)
        _log.warning(
            "Connections were closed because there are too many.",
            extra={
                "event": "connections_refused",
                "limit": limit,
                "port": port,
                "address": network,
                "of_address": 0 if network is None else self._of_each[network],
                "connections": connections,
            },
        )


Connect: TypeAlias = Callable[[Callable[[], None]], asyncio.Protocol]
"""Returns the protocol of a new connection, which calls the given function once the connection is lost."""


class Door(asyncio.Protocol):
    """The protocol of every new connection until it is admitted. It keeps nothing, so one serves all connections."""

    def __init__(self, table: ConnectionTable, connect: Connect) -> None:
        self._table = table
        self._connect = connect

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand the connection over to a protocol of its own, or close it."""
        network = network_of(transport.get_extra_info("peername"))
        refused_by = self._table.admit(network)
        if refused_by is not None:
            self._table.report(refused_by, network, _port_of(transport))
            transport.close()
            return
        protocol = self._connect(partial(self._table.release, network))
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


def _port_of(transport: asyncio.BaseTransport) -> int | None:
    own_address: object = transport.get_extra_info("sockname")
    return int(own_address[1]) if isinstance(own_address, tuple) else None
