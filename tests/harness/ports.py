"""Ports for servers that keep theirs over a restart.

The kernel never gives these out by itself. A port that was found by binding to 0 and is free again while its server
restarts may go to any other program meanwhile.
"""

import atexit
import random
import socket
from collections.abc import Sequence
from typing import Final

_PORTS: Final = range(6_000, 22_000)
"""Below the range from which the kernel takes the ports of connections, which begins at 32,768, with 10,000 of room
for a port beside."""
_candidates: Final = iter(random.sample(_PORTS, len(_PORTS)))
_held: Final[list[socket.socket]] = []
"""A UDP socket on each port that this process has given out: while it is open no other test process gets the port."""


def reserve(*, hosts: Sequence[str] = ("127.0.0.1",), beside: int = 0) -> int:
    """Return a TCP port that is this process's until it ends, on all hosts; the one `beside` it as well."""
    return next(port for port in _candidates if all(_hold(hosts, number) for number in {port, port + beside}))


def _hold(hosts: Sequence[str], port: int) -> bool:
    lock = socket.socket(type=socket.SOCK_DGRAM)
    try:
        lock.bind(("127.0.0.1", port))
        for host in hosts:
            with socket.create_server((host, port)):
                pass
    except OSError:
        lock.close()
        return False
    _held.append(lock)
    return True


@atexit.register
def _release() -> None:
    for lock in _held:
        lock.close()
