"""The real service: in this process (fast, for integration tests), or as the installed command."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import grpc
from jobstatus.app.clocks import Clocks
from jobstatus.app.edge import EdgeLimits, serving_edge
from jobstatus.app.limits import ServiceLimits
from jobstatus.app.service import serving
from jobstatus.core.circuit_breaker import BreakerLimits
from jobstatus.rest.limits import RestLimits
from jobstatus.rpc.options import RpcLimits
from jobstatus.settings import IssuerSettings, Settings
from jobstatus.upstream.reader import UpstreamLimits
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub
from jobstatus.v1.virtual_keys_pb2_grpc import VirtualKeysStub
from pydantic import SecretStr

from harness import forking, ports
from harness.faults import Clock
from harness.http import Answer, request
from harness.stores import patient_store
from harness.tokens import AUDIENCE, ISSUER, SECRET

COMMAND = str(Path(sys.executable).with_name("jobstatus"))
START_SECONDS = 180.0
Starting = Callable[..., Awaitable[asyncio.subprocess.Process | forking.Forked]]
INSTALLED: Starting = partial(asyncio.create_subprocess_exec, COMMAND)
"""Starts the installed command, which imports all that it needs anew."""
AT_ONCE = ServiceLimits(rpc=RpcLimits(hold_seconds=0))
"""The limits of a service in this process, which stops without a pause for callers to come."""
EDGE = EdgeLimits(
    upstream=UpstreamLimits(
        call_seconds=10,
        large_result_seconds=30,
        breaker=BreakerLimits(silence_seconds=10, health_check_seconds=10),
    )
)
"""The limits of an edge in this process: how soon its service counts as silent is for the tests of that."""
AS_SERVED = EdgeLimits()
"""The limits of an edge in production, for the tests of a service that is away."""
REAL_TIME = Clocks(pulse=lambda: 0)
"""The clocks of a service in this process, whose pauses on a busy machine are no subject of its tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A running service and stubs to it."""

    http_port: int
    grpc_port: int
    admin_port: int
    jobs: JobStatusStub
    virtual_keys: VirtualKeysStub
    keeps_connections: bool = False
    """Whether `poll` leaves it to the client to close the connection."""

    def behind(self, http_port: int, admin_port: int) -> "Service":
        """The same service, polled through another front."""
        return replace(self, http_port=http_port, admin_port=admin_port)

    async def poll(self, job_id: str, *headers: str, method: str = "GET", kind: str = "audio/transcriptions") -> Answer:
        """One raw request to the job's path."""
        path, is_last = f"/v1/async/{kind}/{job_id}", not self.keeps_connections
        return await request(self.http_port, path, *headers, method=method, is_last=is_last)


@asynccontextmanager
async def stubs(http_port: int, grpc_port: int, admin_port: int) -> AsyncIterator[Service]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        yield Service(
            http_port=http_port,
            grpc_port=grpc_port,
            admin_port=admin_port,
            jobs=JobStatusStub(channel),
            virtual_keys=VirtualKeysStub(channel),
        )


@asynccontextmanager
async def service_here(
    store: str | AbstractAsyncContextManager[Any] = "memory://",
    *,
    limits: ServiceLimits = AT_ONCE,
    rest: RestLimits | None = None,
    clock: Clock | None = None,
    with_reflection: bool = False,
    **settings: Any,
) -> AsyncIterator[Service]:
    """The service inside this process and loop, on free ports, with the tests' issuer unless others are given.

    `store` is a URL, whose server may be slow, or a store; `rest` replaces a part of the limits.
    The clocks are those of the system unless `clock` is given. Reflection is off because a third of a start is its.
    """
    issuer = IssuerSettings(issuer=ISSUER, audience=AUDIENCE, algorithm="HS256", secret=SecretStr(SECRET))
    values = {
        "http": "127.0.0.1:0",
        "grpc": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "store": store if isinstance(store, str) else "memory://",
        "issuers": (issuer,),
    }
    chosen = Settings(**(values | settings))
    service = serving(
        chosen,
        chosen.accepted_issuers(),
        with_reflection=with_reflection,
        limits=limits if rest is None else replace(limits, rest=rest),
        clocks=REAL_TIME if clock is None else clock.clocks,
        store=patient_store(store) if isinstance(store, str) else store,
    )
    async with (
        service as listening,
        stubs(listening.http.port, listening.grpc.port, listening.admin.port) as running,
    ):
        yield running


@asynccontextmanager
async def edge_here(
    service: Service,
    *,
    limits: EdgeLimits = EDGE,
    rest: RestLimits | None = None,
    clock: Clock | None = None,
    **settings: Any,
) -> AsyncIterator[Service]:
    """An edge of its own in front of the service, inside this process and loop, with the tests' issuer."""
    issuer = IssuerSettings(issuer=ISSUER, audience=AUDIENCE, algorithm="HS256", secret=SecretStr(SECRET))
    values = {
        "http": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "upstream": f"127.0.0.1:{service.grpc_port}",
        "issuers": (issuer,),
    }
    chosen = Settings(**(values | settings))
    clocks = REAL_TIME if clock is None else clock.clocks
    limits = limits if rest is None else replace(limits, rest=rest)
    async with serving_edge(chosen, chosen.accepted_issuers(), limits=limits, clocks=clocks) as listening:
        yield service.behind(listening.http.port, listening.admin.port)


class Process:
    """`jobstatus serve` as a child process on ports of its own; its log is kept in `log_path`."""

    command: tuple[str, ...] = ("serve",)
    addresses: tuple[str, ...] = ("http", "grpc", "admin")

    def __init__(self, folder: Path, **environment: str) -> None:
        """Variables are given without JOBSTATUS_; the store is a file in `folder` unless told otherwise."""
        given = {
            "HTTP": f"127.0.0.1:{ports.reserve()}",
            "GRPC": f"127.0.0.1:{ports.reserve()}",
            "ADMIN": f"127.0.0.1:{ports.reserve()}",
            "STORE": f"sqlite:///{folder / 'jobs.db'}",
            "STATE_DIR": str(folder),
            "JWT_ISSUER": ISSUER,
            "JWT_AUDIENCE": AUDIENCE,
            "JWT_ALGORITHM": "HS256",
            "JWT_SECRET": SECRET,
            **environment,
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JOBSTATUS_", "GRPC_"))}
        self.environment = inherited | {f"JOBSTATUS_{name}": value for name, value in given.items()}
        self.folder = folder
        self.start_command: Starting = forking.start if given.get("WORKERS", "1") == "1" else forking.start_supervisor
        """How it is started: by a fork of a process that has imported the command, unless a test sets INSTALLED."""
        self.log_path = folder / f"{self.command[0]}.log"
        self.child: asyncio.subprocess.Process | forking.Forked | None = None
        self._logged_before = 0

    async def start(self) -> Self:
        """Return when the service says on which ports it serves."""
        await self.spawn()
        return await self.serves()

    async def spawn(self) -> None:
        """Return when there is a process, which has yet to start serving."""
        with self.log_path.open("ab") as log:
            self._logged_before = log.tell()
            self.child = await self.start_command(
                *self.command, env=self.environment, cwd=self.folder, stdout=log, stderr=log
            )

    async def serves(self) -> Self:
        """The second half of `start`, for a process that was spawned."""
        assert self.child is not None
        async with asyncio.timeout(START_SECONDS):
            while (facts := self._serving_line(self._logged_before)) is None:
                assert self.child.returncode is None, self.log_path.read_text()
                await asyncio.sleep(0.02)  # a process that starts has nothing to wait on but its log
        for name in self.addresses:
            self.environment[f"JOBSTATUS_{name.upper()}"] = facts[name]
        return self

    def _serving_line(self, start: int) -> dict[str, Any] | None:
        for line in self.log_path.read_bytes()[start:].splitlines():
            if b'"event": "serving"' in line:
                facts: dict[str, Any] = json.loads(line)
                return facts
        return None

    @property
    def settings(self) -> dict[str, str]:
        """The part of its environment that is ours."""
        return {name: value for name, value in self.environment.items() if name.startswith("JOBSTATUS_")}

    def port(self, name: str) -> int:
        """The port of HTTP, GRPC or ADMIN."""
        return int(self.environment[f"JOBSTATUS_{name}"].rpartition(":")[2])

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Service]:
        async with stubs(self.port("HTTP"), self.port("GRPC"), self.port("ADMIN")) as service:
            yield service

    def send(self, number: signal.Signals) -> None:
        assert self.child is not None
        self.child.send_signal(number)

    async def ended(self, seconds: float = START_SECONDS) -> int:
        """The exit code, awaited."""
        assert self.child is not None
        async with asyncio.timeout(seconds):
            return await self.child.wait()

    async def __aenter__(self) -> Self:
        try:
            return await self.start()
        except BaseException:  # also a cancellation: the process would outlive the tests
            await self.__aexit__()
            raise

    async def __aexit__(self, *_: object) -> None:
        if self.child is not None and self.child.returncode is None:
            self.child.kill()
            await self.child.wait()


class EdgeProcess(Process):
    """`jobstatus edge` as a child process, in front of a service that runs."""

    command: tuple[str, ...] = ("edge",)
    addresses: tuple[str, ...] = ("http", "admin")

    def __init__(self, folder: Path, service: Service, **environment: str) -> None:
        super().__init__(folder, UPSTREAM=f"127.0.0.1:{service.grpc_port}", **environment)
        del self.environment["JOBSTATUS_STORE"]
