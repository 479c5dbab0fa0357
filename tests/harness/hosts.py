"""Another host: a network namespace at the end of a link that can be cut, so that packets are really dropped.

Needs root, and `unshare`, `nsenter`, `ip` and `tc`. The namespace ends with the process that holds it, and the link
with the namespace, however the tests end.
"""

import ctypes
import ipaddress
import os
import shutil
import socket
import subprocess
import time
from itertools import count
from pathlib import Path
from typing import Final, Self

_PROGRAMS: Final = ("unshare", "nsenter", "ip", "tc")
_TRY: Final = "ip link add try0 type veth peer name try1 && tc qdisc add dev try0 root blackhole"
_CLONE_NEWNET: Final = 0x40000000
_INSIDE: Final = "outside"
_LIMIT_SECONDS: Final = 10.0
_NETWORKS: Final = ipaddress.ip_network("198.18.0.0/15")
"""For measurements between hosts, and routed nowhere (RFC 2544)."""
_EACH: Final = 8
"""Hosts of one process, before the next one's follow."""
_numbers: Final = count()


def why_not() -> str:
    """Return why there can be no other hosts here; empty where there can."""
    if os.geteuid() != 0:
        return "not root"
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"no {', '.join(missing)}"
    tried = subprocess.run(["unshare", "--net", "sh", "-c", _TRY], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else tried.stderr.strip()


class Host:
    """A namespace, its address, and ours towards it. `through` are the words that run a command there."""

    def __init__(self) -> None:
        number = (os.getpid() * _EACH + next(_numbers)) % (_NETWORKS.num_addresses // 4)
        network = ipaddress.ip_network((int(_NETWORKS.network_address) + 4 * number, 30))
        ours, its = network.hosts()
        self.our_address: Final = str(ours)
        self.address: Final = str(its)
        self._link: Final = f"js{number}"
        self._holder: Final = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
        self._namespace: Final = Path(f"/proc/{self._holder.pid}/ns/net")
        self.through: Final = ("nsenter", f"--net={self._namespace}", "--")

    def __enter__(self) -> Self:
        ours, ends_at = Path("/proc/self/ns/net").readlink(), time.monotonic() + _LIMIT_SECONDS
        while self._namespace.readlink() == ours:
            assert time.monotonic() < ends_at, "there is no namespace"
            time.sleep(0.01)
        holder = str(self._holder.pid)
        self._run("ip", "link", "add", self._link, "type", "veth", "peer", "name", _INSIDE, "netns", holder)
        self._run("ip", "address", "add", f"{self.our_address}/30", "dev", self._link)
        self._run("ip", "link", "set", self._link, "up")
        self._run(*self.through, "ip", "link", "set", "lo", "up")
        self._run(*self.through, "ip", "address", "add", f"{self.address}/30", "dev", _INSIDE)
        self._run(*self.through, "ip", "link", "set", _INSIDE, "up")
        self._introduce()
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.communicate()
        subprocess.run(["ip", "link", "delete", self._link], capture_output=True, check=False)

    def cut(self) -> None:
        """Drop all packets, both ways, without a word."""
        self._run("tc", "qdisc", "add", "dev", self._link, "root", "blackhole")
        self._run(*self.through, "tc", "qdisc", "add", "dev", _INSIDE, "root", "blackhole")

    def heal(self) -> None:
        """Let packets pass again."""
        self._run("tc", "qdisc", "delete", "dev", self._link, "root")
        self._run(*self.through, "tc", "qdisc", "delete", "dev", _INSIDE, "root")

    def socket(self) -> socket.socket:
        """Return a new TCP socket in the namespace, whose loopback addresses are then the other host's."""
        with Path("/proc/self/ns/net").open() as ours, self._namespace.open() as its:
            _enter(its.fileno())
            try:
                return socket.socket()
            finally:
                _enter(ours.fileno())

    def _introduce(self) -> None:
        """Let both sides know for good where the other is, as they would of a router: ARP's silence is told of."""
        ours = Path(f"/sys/class/net/{self._link}/address").read_text().strip()
        shown = self._run(*self.through, "ip", "-brief", "link", "show", _INSIDE)
        its = shown.split()[2]
        self._run("ip", "neighbour", "replace", self.address, "lladdr", its, "dev", self._link, "nud", "permanent")
        words = ("ip", "neighbour", "replace", self.our_address, "lladdr", ours, "dev", _INSIDE, "nud", "permanent")
        self._run(*self.through, *words)

    def _run(self, *words: str) -> str:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout


def _enter(namespace: int) -> None:
    """Move this thread into the network namespace; sockets that exist stay where they are."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
