"""Reserve the ports that the serving processes share.

A process that shares its port (SO_REUSEPORT) does not notice that another service has the port, and would take half of
that service's connections. So the supervisor checks that the port is free and holds it.
"""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jobstatus.rest.server import is_any
from jobstatus.settings import Address


@contextmanager
def reserved(address: Address, what: str) -> Iterator[Address]:
    """Hold the address for this user's processes, without listening, and yield it with its port.

    Raise OSError when it is not available, also when a process that would share the port listens there.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            *address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with _socket(address, family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
        kept = _socket(address, family, kind, protocol)
    except OSError as error:
        raise _unavailable(address, what, error) from error
    with kept:
        try:
            _share(kept, where)
        except OSError as error:
            raise _unavailable(address, what, error) from error
        yield address._replace(port=int(kept.getsockname()[1]))


def _socket(address: Address, family: int, kind: int, protocol: int) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    if is_any(address.host):
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return made


def _share(kept: socket.socket, where: tuple[Any, ...]) -> None:
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        kept.bind(where)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # The probe has found no listener, so connections of a service that has just stopped, and did not share, are in
        # the way. SO_REUSEADDR is not set earlier, because the probe of another service would then pass.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(where)


def _unavailable(address: Address, what: str, error: OSError) -> OSError:
    return OSError(f"cannot listen on {address} for {what}: {error.strerror}")
