"""Several serving processes on one machine, and the one that looks after them.

The workers share the ports (SO_REUSEPORT: the kernel spreads connections over those that listen) and the store. One
that ends is replaced, and so is one that hangs. This process serves nobody but the admin port, for all of them.
"""

import asyncio
import itertools
import json
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Collection
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, Final

import uvloop

from jobstatus.processes.child import ChildProcess, ending
from jobstatus.processes.child_metrics import ChildMetrics
from jobstatus.processes.launch import Launch
from jobstatus.processes.shared_ports import reserved
from jobstatus.rest.admin import admin_handler
from jobstatus.rest.server import HttpServer
from jobstatus.settings import Address

ASK_EVERY_SECONDS: Final = 2.0
MISSES: Final = 4
"""A worker that does not answer its supervisor so often in a row answers nobody: it is killed and replaced.

Counted, not timed: of a machine that was suspended no worker has missed more than one.
"""
GRACE_SECONDS: Final = 1.0
STOP_SECONDS: Final = 10.0
"""A worker needs less to stop, after its delay; one that has not stopped by then is killed."""
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0
SOUND_SECONDS: Final = 10.0
"""A worker that has lived so long was no failed start: the next one is started at once."""

_log = logging.getLogger(__name__)


def supervise(launch: Launch) -> int:
    """Keep the workers up until a signal; the exit code, 0 when all of them stopped as they should.

    Raises OSError when an address cannot be had or a process not be started.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jobstatus-")))
        http = stack.enter_context(reserved(launch.settings.http, "HTTP"))
        grpc = stack.enter_context(reserved(launch.settings.grpc, "gRPC"))
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        return runner.run(_Supervisor(launch, folder, http=http, grpc=grpc).run())


class _Supervisor:
    def __init__(self, launch: Launch, folder: Path, *, http: Address, grpc: Address) -> None:
        self._launch = launch
        self._folder = folder
        self._http, self._grpc = http, grpc
        self._children: dict[int, ChildProcess] = {}
        self._starts = itertools.count(1)
        self._stopping = asyncio.Event()
        self._has_failed = False
        self._figures = ChildMetrics()

    async def run(self) -> int:
        """Start, keep and stop the workers; the exit code, that of the first worker when it cannot start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)
        async with AsyncExitStack() as stack:
            admin = HttpServer(
                admin_handler(self._problem, self._exposition), max_connections=100, grace_seconds=GRACE_SECONDS
            )
            stack.push_async_callback(admin.stop)
            port = await admin.start(*self._launch.settings.admin)
            stack.push_async_callback(self._stop_all)
            first = await self._start(1)
            if not first.is_up:
                return await self._code_of_a_failed_start(first)
            numbers = range(2, self._launch.settings.workers + 1)
            others = [] if self._stopping.is_set() else await asyncio.gather(*map(self._start, numbers))
            async with asyncio.TaskGroup() as group:
                keepers = [group.create_task(self._keep(child)) for child in (first, *others)]
                asking = group.create_task(self._ask_again_and_again())
                if not self._stopping.is_set():
                    admin_address = self._launch.settings.admin._replace(port=port)
                    self._launch.announce({"http": self._http, "grpc": self._grpc, "admin": admin_address})
                await self._stopping.wait()
                _log.info("The serving processes are asked to stop.", extra={"event": "stopping"})
                asking.cancel()
                await self._see_the_end_of(keepers)
        _log.info("All serving processes have stopped.", extra={"event": "stopped"})
        return int(self._has_failed)

    async def _code_of_a_failed_start(self, child: ChildProcess) -> int:
        """The worker has said why, unless it was killed, which raises ChildProcessError."""
        code = await child.process.wait()
        if self._stopping.is_set():
            return 0
        if code < 0:
            raise ChildProcessError(f"a worker ended with {ending(code)} before it was up")
        return code

    # --- one worker ---

    async def _start(self, number: int) -> ChildProcess:
        """A new child, when it is up or has ended. Raises OSError when there can be no new process."""
        child = self._children[number] = await ChildProcess.started(
            number,
            self._folder / f"{next(self._starts)}.sock",
            http=self._http,
            grpc=self._grpc,
            dev=self._launch.dev,
        )
        if self._stopping.is_set():
            child.send(signal.SIGTERM)
        child.is_up = await child.says_that_it_is_up()
        self._count()
        return child

    async def _keep(self, child: ChildProcess) -> None:
        """Replace the worker whenever it ends, until all are to stop."""
        pause = FIRST_PAUSE_SECONDS
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
            if asyncio.get_running_loop().time() - child.started_at >= SOUND_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            following = await self._replacement(child.number, pause)
            if following is None:
                return
            child, pause = following, min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _replacement(self, number: int, pause: float) -> ChildProcess | None:
        """A new worker after the pause; None when all are to stop."""
        while not await _happens(self._stopping, pause):
            try:
                child = await self._start(number)
            except OSError as error:
                _log.error(
                    "A serving process could not be started and is tried again.",
                    extra={"event": "child_start_failed", "child": number, "cause": str(error)},
                )
                pause = LONGEST_PAUSE_SECONDS
                continue
            self._figures.restarts.inc()
            if child.is_up:
                _log.info("A replaced serving process is up.", extra={"event": "child_replaced", "child": number})
            return child
        return None

    def _those_up(self) -> list[ChildProcess]:
        return [child for child in self._children.values() if child.is_up]

    def _count(self) -> None:
        self._figures.up.set(len(self._those_up()))

    # --- the end ---

    def _on_signal(self, number: signal.Signals) -> None:
        """The first asks all for a graceful stop; a second ends them and this process at once."""
        is_second = self._stopping.is_set()
        self._stopping.set()
        for child in self._children.values():
            child.send(signal.SIGKILL if is_second else signal.SIGTERM)
        if is_second:
            shutil.rmtree(self._folder, ignore_errors=True)
            os._exit(128 + number)

    async def _see_the_end_of(self, tasks: Collection[asyncio.Task[Any]]) -> None:
        """Wait for what ends with the workers, which have been told to stop; kill those that do not in time."""
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=self._launch.settings.stop_delay_seconds + STOP_SECONDS)
        if late:
            for child in self._children.values():
                child.send(signal.SIGKILL)
            await asyncio.wait(late)

    async def _stop_all(self) -> None:
        """Let no worker outlive this process, whatever went wrong here."""
        alive = [child for child in self._children.values() if child.is_alive]
        for child in alive:
            child.send(signal.SIGTERM)
        await self._see_the_end_of([asyncio.create_task(child.process.wait()) for child in alive])

    # --- what the admin port tells ---

    async def _problem(self) -> str:
        """Why the service is not ready: no child is up, or one that is up has a problem."""
        if self._stopping.is_set():
            return "stopping"
        asked = self._those_up()
        problems = await asyncio.gather(*map(_problem_of, asked))
        return next(filter(None, problems), "" if asked else "no_worker")

    async def _exposition(self) -> bytes:
        return await self._figures.exposition(self._those_up())

    async def _ask_again_and_again(self) -> None:
        """So that little of what a worker had counted is forgotten when it dies, and one that hangs is found."""
        while True:
            for child in await self._figures.ask(self._those_up()):
                child.misses += 1
                if child.misses == MISSES and child.is_up:
                    _log.error(
                        "A serving process does not answer its supervisor and is killed.",
                        extra={"event": "child_hung", "child": child.number},
                    )
                    child.send(signal.SIGKILL)
            await asyncio.sleep(ASK_EVERY_SECONDS)


async def _problem_of(child: ChildProcess) -> str:
    answer = await child.ask("/readyz")
    if answer is None:
        return "worker_silent" if child.is_up else ""
    status, text = answer
    return "" if status == 200 else str(json.loads(text)["status"])


async def _happens(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event happens within this time, awaited."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
