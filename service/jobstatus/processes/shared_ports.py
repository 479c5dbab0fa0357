"""Ports that several processes of one service are to share: found free, and kept for them.

Whoever shares a port (SO_REUSEPORT) would not notice that another service has it, and would get half of what is its.
"""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jobstatus.settings import Address


@contextmanager
def reserved(address: Address, what: str) -> Iterator[Address]:
    """The address with its port, kept for this user's processes without listening there.

    Raises OSError when it cannot be had: also when somebody listens there who would share the port with anybody.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            *address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
        kept = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _unavailable(address, what, error) from error
    with kept:
        try:
            _share(kept, where)
        except OSError as error:
            raise _unavailable(address, what, error) from error
        yield address._replace(port=int(kept.getsockname()[1]))


def _share(kept: socket.socket, where: tuple[Any, ...]) -> None:
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        kept.bind(where)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # Nobody listens, as the probe has found: these are connections of a service that has just stopped, and did not
        # share. Only now: a kept port of which this is said would let the probe of another service pass.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(where)


def _unavailable(address: Address, what: str, error: OSError) -> OSError:
    return OSError(f"cannot listen on {address} for {what}: {error.strerror}")
