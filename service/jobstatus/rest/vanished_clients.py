"""Have the kernel find clients that vanished without closing their connection.

Data that such a client does not acknowledge is sent again for about 15 minutes by default, and a connection on which
nothing is sent, as during a wait, stays for ever. Accepted sockets inherit these options of the listening one, so they
cost nothing for each connection.

Linux counts a client as vanished, too, that acknowledges everything but whose own buffers are full and that makes no
room in them for so long. Systems without TCP_USER_TIMEOUT find only clients on which nothing is sent.
"""

import socket
from typing import Final, Protocol

_IDLE_PART: Final = 3 / 7
_INTERVAL_PART: Final = 2 / 7
_PROBES: Final = 2
"""The first probe after 3/7 of the time, two further intervals of 2/7: together the whole time."""


class ListeningSocket(Protocol):
    """A socket of an event loop's server."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...

    def fileno(self) -> int: ...


def close_vanished(listening: ListeningSocket, seconds: float) -> None:
    """Have connections accepted from now on closed when the client has not acknowledged anything for `seconds`."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_USER_TIMEOUT", int(seconds * 1000)),
        ("TCP_KEEPIDLE", max(1, int(seconds * _IDLE_PART))),
        ("TCP_KEEPINTVL", max(1, int(seconds * _INTERVAL_PART))),
        ("TCP_KEEPCNT", _PROBES),
    ):
        option = getattr(socket, name, None)  # not every system has all of them
        if option is not None:
            listening.setsockopt(socket.IPPROTO_TCP, option, value)
