"""The life of one serving process: event loop, signals, and the end."""

import asyncio
import gc
import logging
import os
import shutil
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import uvloop

from jobstatus.processes.launch import Launch

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger(__name__)


def serve(launch: Launch) -> int:
    """Serve until a signal; the exit code. Raises KeyConfigError, StoreConfigError or OSError when it cannot."""
    return _run(_serve_until_signal(launch))


def serve_edge(launch: Launch) -> int:
    """The same for an edge of its own."""
    return _run(_serve_edge_until_signal(launch))


def _run(work: Coroutine[Any, Any, None]) -> int:
    gc.disable()  # until the end of the start, because nearly all that a start makes is here to stay
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)
    return 0


async def _serve_until_signal(launch: Launch) -> None:
    from jobstatus.app.service import serving  # noqa: PLC0415  # loads gRPC, which a supervisor must not

    stop = asyncio.Event()
    catch_signals(stop, is_child=launch.child is not None)
    async with serving(
        launch.settings,
        launch.issuers,
        with_reflection=launch.dev or launch.settings.grpc_reflection,
        admin_socket=None if launch.child is None else launch.child.admin_socket,
    ) as listening:
        if launch.child is None:
            launch.announce({"http": listening.http, "grpc": listening.grpc, "admin": listening.admin})
        else:
            _follow_supervisor(stop, launch.child.admin_socket.parent)
        await _stopped(stop)
    _end()


async def _serve_edge_until_signal(launch: Launch) -> None:
    from jobstatus.app.edge import serving_edge  # noqa: PLC0415  # as above

    stop = asyncio.Event()
    catch_signals(stop)
    async with serving_edge(launch.settings, launch.issuers) as listening:
        launch.announce({"http": listening.http, "admin": listening.admin})
        await _stopped(stop)
    _end()


async def _stopped(stop: asyncio.Event) -> None:
    gc.collect()
    gc.freeze()  # what the start has made is here to stay: no collection looks at it again
    gc.enable()
    await stop.wait()
    _log.info("The process stops gracefully.", extra={"event": "stopping"})


def _end() -> None:
    """All has been done: a signal that still comes must not make the exit code tell of a failure."""
    _log.info("The process has stopped.", extra={"event": "stopped"})
    for number in STOPPING:
        asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


def catch_signals(stop: asyncio.Event, *, is_child: bool = False) -> None:
    """Have SIGTERM and SIGINT set the event; a second one ends the process at once.

    But for a worker, which may be told twice to stop: a service manager tells every process (systemd does), and so does
    the supervisor, which kills a worker that is to end at once.
    """

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set() and not is_child:
            os._exit(128 + number)
        stop.set()

    for number in STOPPING:
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)


def _follow_supervisor(stop: asyncio.Event, folder: Path) -> None:
    """Tell the supervisor that this worker is up, and stop when the supervisor is gone: then standard input ends.

    Its folder, where it would ask, is then left to nobody and removed.
    """
    print("up", flush=True)  # noqa: T201  # a pipe to the supervisor
    loop = asyncio.get_running_loop()

    def on_input() -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            loop.remove_reader(sys.stdin.fileno())
            shutil.rmtree(folder, ignore_errors=True)  # as do the other workers
            stop.set()

    loop.add_reader(sys.stdin.fileno(), on_input)
