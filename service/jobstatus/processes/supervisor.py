"""The supervisor of several serving processes on one machine, its children.

The children share the ports (SO_REUSEPORT: the kernel spreads connections over the processes that listen) and the
store. The supervisor replaces a child that ends or hangs, and serves the admin port for all of them.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Collection
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvloop

from jobstatus.app.sign_in import open_id_provider
from jobstatus.console.links import SignInLinks
from jobstatus.core.readiness import READY, Health, Status, worst
from jobstatus.processes.child import ChildProcess, ending
from jobstatus.processes.child_channel import ChildChannel
from jobstatus.processes.child_console import ChildConsole
from jobstatus.processes.child_metrics import ChildMetrics
from jobstatus.processes.hangup import HangUps
from jobstatus.processes.launch import Launch, end_start, packed, sign_in_links
from jobstatus.processes.reload import Reloader, check_files
from jobstatus.processes.service_manager import service_manager
from jobstatus.processes.shared_ports import reserved
from jobstatus.processes.silence import SilenceLimits, extend_leases_in_silence
from jobstatus.rest.admin import admin_handler
from jobstatus.rest.server import HttpServer
from jobstatus.settings import Address, IssuerSettings, Settings
from jobstatus.settings.sources import overridden
from jobstatus.telemetry.collectors import Format

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorLimits:
    """How long a supervisor waits for what."""

    ask_every_seconds: float = 2.0
    ask_seconds: float = 2.0
    """The time that a child has to answer a question."""
    misses: int = 4
    """The number of questions in a row without an answer after which a child hangs: it is killed and replaced.

    This is a count because a suspended machine then costs each child one question only."""
    silence: SilenceLimits = SilenceLimits()  # noqa: RUF009  # a frozen value
    reload_seconds: float = 10.0
    """The time that a child has to reload."""
    grace_seconds: float = 1.0
    """The time that requests to the admin port have at a stop."""
    stop_seconds: float = 10.0
    """The time that a child has to stop, after its stop delay. Then it is killed."""
    first_pause_seconds: float = 0.1
    longest_pause_seconds: float = 5.0
    """The pause before a replacement, which doubles each time until it is the longest."""
    sound_seconds: float = 10.0
    """The age from which a child that ends did not fail to start, so its replacement waits for the first pause only."""


def supervise(launch: Launch, limits: SupervisorLimits = SupervisorLimits()) -> int:  # a frozen value
    """Keep the children up until a signal and return the exit code: 0 when all of them stopped gracefully.

    Raise OSError when an address is not available or a process cannot be started.
    """
    with ExitStack() as stack:
        http = stack.enter_context(reserved(launch.settings.http, "HTTP"))
        grpc = stack.enter_context(reserved(launch.settings.grpc, "gRPC"))
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        return runner.run(_Supervisor(launch, limits, http=http, grpc=grpc).run())


class _Supervisor:
    def __init__(self, launch: Launch, limits: SupervisorLimits, *, http: Address, grpc: Address) -> None:
        self._launch = launch
        self._limits = limits
        self._http, self._grpc = http, grpc
        options = {**launch.source.options, "http": str(http), "grpc": str(grpc)}
        self._environment = overridden(os.environ, options)
        self._in_use = self._for_child(launch.settings), launch.issuers
        self._children: dict[int, ChildProcess] = {}
        self._stopping = asyncio.Event()
        self._has_started = False
        self._reloads = 0
        self._pem = None if launch.settings.grpc_tls is None else launch.settings.grpc_tls.read("gRPC")
        self._has_failed = False
        self._figures = ChildMetrics(ask_seconds=limits.ask_seconds)

    async def run(self) -> int:
        """Start, keep and stop the children. Return the exit code, which is the first child's if that cannot start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)
        hangups = HangUps(partial(self._on_signal, signal.SIGTERM))
        async with AsyncExitStack() as stack:
            links = sign_in_links(self._launch)
            console = self._console(links)
            admin = HttpServer(
                admin_handler(
                    self._health,
                    self._exposition,
                    lambda: self._has_started,
                    console=None if console is None else console.handle,
                ),
                max_connections=100,
                grace_seconds=self._limits.grace_seconds,
            )
            stack.push_async_callback(admin.stop)
            port = await admin.start(*self._launch.settings.admin)
            stack.push_async_callback(self._stop_all)
            first = await self._start(1)
            if not first.is_up:
                return await self._exit_code_of_failed_start(first)
            numbers = range(2, self._launch.settings.workers + 1)
            others = [] if self._stopping.is_set() else await asyncio.gather(*map(self._start, numbers))
            async with asyncio.TaskGroup() as group:
                keepers = [group.create_task(self._keep(child)) for child in (first, *others)]
                asking = group.create_task(self._ask_periodically())
                extending = group.create_task(extend_leases_in_silence(self._channels_up, self._limits.silence))
                if not self._stopping.is_set():
                    admin_address = self._launch.settings.admin._replace(port=port)
                    self._launch.announce({"http": self._http, "grpc": self._grpc, "admin": admin_address}, links)
                end_start()
                manager = service_manager()
                reloader = Reloader(self._launch, self._reload, manager)
                reloading = group.create_task(reloader.run())
                hangups.call(reloader.request)
                beside = [asking, extending, reloading]
                if console is not None:
                    beside.append(group.create_task(console.run()))
                if not self._stopping.is_set():
                    manager.ready()
                beside.append(group.create_task(manager.watch(self._has_living_child)))
                await self._stopping.wait()
                manager.stopping()
                _log.info("The serving processes are asked to stop.", extra={"event": "stopping"})
                for task in beside:
                    task.cancel()
                await self._await_end(keepers)
        _log.info("All serving processes have stopped.", extra={"event": "stopped"})
        return int(self._has_failed)

    async def _exit_code_of_failed_start(self, child: ChildProcess) -> int:
        """Return the exit code of a child that has logged why. Raise ChildProcessError when it was killed instead."""
        code = await child.process.wait()
        if self._stopping.is_set():
            return 0
        if code < 0:
            raise ChildProcessError(f"a serving process ended with {ending(code)} before it was up")
        return code

    # --- one child ---

    async def _start(self, number: int) -> ChildProcess:
        """Return a new child when it is up or has ended. Raise OSError when the system cannot start a process."""
        reloads = self._reloads
        child = self._children[number] = await ChildProcess.started(
            number, environment=self._environment, dev=self._launch.dev, first=packed(*self._in_use)
        )
        if self._stopping.is_set():
            child.send(signal.SIGTERM)
        child.is_up = await child.channel.wait_until_up()
        self._has_started |= child.is_up
        if reloads != self._reloads:  # it serves what was in use before
            await self._reload_late(child)
        self._count()
        return child

    async def _reload_late(self, child: ChildProcess) -> None:
        """Have a child reload that began before a reload, or end: its replacement serves what is in use."""
        answer = await child.ask("reload", seconds=self._limits.reload_seconds)
        self._replace_unless_reloaded(child, answer)

    def _replace_unless_reloaded(self, child: ChildProcess, answer: str | None) -> None:
        """End a child that does not serve what is in use, so that its replacement does. `answer`: to the reload."""
        if answer == "" or not child.is_up:
            return
        _log.error(
            "A serving process could not reload and is replaced.",
            extra={
                "event": "child_reload_failed",
                "child": child.number,
                "problem": "it does not answer" if answer is None else answer,
            },
        )
        child.send(signal.SIGTERM)

    async def _keep(self, child: ChildProcess) -> None:
        """Replace the child whenever it ends, until the service stops."""
        pause = self._limits.first_pause_seconds
        while True:
            code, was_up = await child.process.wait(), child.is_up
            child.is_up = False
            self._count()
            self._figures.end(child)
            if self._stopping.is_set():
                if was_up and code:
                    self._has_failed = True
                    _log.error(
                        "A serving process did not stop gracefully.",
                        extra={"event": "child_stop_failed", "child": child.number, "ended": ending(code)},
                    )
                return
            _log.error(
                "A serving process exited and is replaced.",
                extra={"event": "child_exited", "child": child.number, "ended": ending(code)},
            )
            if asyncio.get_running_loop().time() - child.started_at >= self._limits.sound_seconds:
                pause = self._limits.first_pause_seconds
            replacement = await self._replacement(child.number, pause)
            if replacement is None:
                return
            child, pause = replacement, min(2 * pause, self._limits.longest_pause_seconds)

    async def _replacement(self, number: int, pause: float) -> ChildProcess | None:
        """Return a new child after the pause, or None when the service stops."""
        while not await _happens(self._stopping, pause):
            try:
                child = await self._start(number)
            except OSError as error:
                _log.error(
                    "A serving process could not be started and is tried again.",
                    extra={"event": "child_start_failed", "child": number, "cause": str(error)},
                )
                pause = self._limits.longest_pause_seconds
                continue
            self._figures.restarts.inc()
            if child.is_up:
                _log.info("A replaced serving process is up.", extra={"event": "child_replaced", "child": number})
            return child
        return None

    def _those_up(self) -> list[ChildProcess]:
        return [child for child in self._children.values() if child.is_up]

    def _channels_up(self) -> list[ChildChannel]:
        return [child.channel for child in self._those_up()]

    def _count(self) -> None:
        self._figures.up.set(len(self._those_up()))

    async def _reload(self, settings: Settings, issuers: tuple[IssuerSettings, ...]) -> list[str]:
        """Check the files here, so that either all children take them into use or none; raise what is wrong."""
        pem = await asyncio.to_thread(check_files, settings, issuers)
        changed = [] if pem == self._pem else ["grpc_tls_cert"]
        before = self._in_use, self._pem
        self._in_use, self._pem = (self._for_child(settings), issuers), pem
        self._reloads += 1
        asked = self._those_up()
        seconds = self._limits.reload_seconds
        answers = await asyncio.gather(*(child.ask("reload", seconds=seconds) for child in asked))
        if asked and "" not in answers:  # the files have changed since they were checked, and no child has taken them
            self._in_use, self._pem = before
            told = [
                f"serving process {child.number}: {answer}"
                for child, answer in zip(asked, answers, strict=True)
                if answer
            ]
            raise OSError(told[0] if told else "no serving process answers")
        for child, answer in zip(asked, answers, strict=True):
            self._replace_unless_reloaded(child, answer)
        return changed

    def _for_child(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"http": self._http, "grpc": self._grpc})

    # --- the end ---

    def _on_signal(self, number: signal.Signals) -> None:
        """Forward the first signal, for a graceful stop. At the second, kill the children and end at once."""
        is_second = self._stopping.is_set()
        self._stopping.set()
        for child in self._children.values():
            child.send(signal.SIGKILL if is_second else signal.SIGTERM)
        if is_second:
            os._exit(128 + number)

    async def _await_end(self, tasks: Collection[asyncio.Task[Any]]) -> None:
        """Wait for tasks that end when the children stop; kill children that do not stop in time."""
        if not tasks:
            return
        seconds = self._launch.settings.stop_delay_seconds + self._limits.stop_seconds
        _, late = await asyncio.wait(tasks, timeout=seconds)
        if late:
            for child in self._children.values():
                child.send(signal.SIGKILL)
            await asyncio.wait(late)

    async def _stop_all(self) -> None:
        """Stop the children that are alive, so that none outlives this process after an error."""
        alive = [child for child in self._children.values() if child.is_alive]
        for child in alive:
            child.send(signal.SIGTERM)
        await self._await_end([asyncio.create_task(child.process.wait()) for child in alive])

    # --- the admin port ---

    async def _health(self) -> Health:
        """Return the worst health of the children that are up."""
        if self._stopping.is_set():
            return Health(Status.NOT_READY, "stopping")
        asked = self._those_up()
        if not asked:
            return Health(Status.NOT_READY, "no_worker")
        return worst(await asyncio.gather(*map(self._health_of, asked)))

    async def _health_of(self, child: ChildProcess) -> Health:
        told = await child.ask("health", seconds=self._limits.ask_seconds)
        if told is None:
            return Health(Status.NOT_READY, "worker_silent") if child.is_up else READY
        return Health.from_text(told)

    def _console(self, links: SignInLinks | None) -> ChildConsole | None:
        settings = self._launch.settings
        if settings.console != "on":
            return None
        return ChildConsole(self._those_up, links, open_id=open_id_provider(settings, monotonic=time.monotonic))

    async def _has_living_child(self) -> bool:
        """Return whether any child answers."""
        asked = [child.ask("alive", seconds=self._limits.ask_seconds) for child in self._those_up()]
        return any(answer is not None for answer in await asyncio.gather(*asked))

    async def _exposition(self, form: Format) -> bytes:
        return await self._figures.exposition(self._those_up(), form)

    async def _ask_periodically(self) -> None:
        """Ask for metrics often, so that few counts are lost when a child dies, and kill a child that hangs."""
        while True:
            for child in await self._figures.ask(self._those_up()):
                child.misses += 1
                if child.misses == self._limits.misses and child.is_up:
                    _log.error(
                        "A serving process does not answer its supervisor and is killed.",
                        extra={"event": "child_hung", "child": child.number},
                    )
                    child.send(signal.SIGKILL)
            await asyncio.sleep(self._limits.ask_every_seconds)


async def _happens(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event at most this long; return whether it happened."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
