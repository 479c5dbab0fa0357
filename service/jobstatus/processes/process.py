"""The life of one serving process: event loop, signals, and the end."""

import asyncio
import logging
import os
import signal
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, Final

import uvloop

from jobstatus.processes.allocator import keep_freed_memory
from jobstatus.processes.child_channel import Answers, answering
from jobstatus.processes.hangup import HangUps
from jobstatus.processes.launch import Launch, end_start, sign_in_links
from jobstatus.processes.reload import Reloader
from jobstatus.processes.service_manager import ServiceManager, alive, service_manager

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger(__name__)


def serve(launch: Launch) -> int:
    """Serve until a signal and return the exit code. Raise KeyConfigError, StoreConfigError or OSError."""
    return _run(_serve_until_signal(launch))


def serve_edge(launch: Launch) -> int:
    """Serve an edge in the same way."""
    return _run(_serve_edge_until_signal(launch))


def _run(work: Coroutine[Any, Any, None]) -> int:
    keep_freed_memory()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)
    return 0


async def _serve_until_signal(launch: Launch) -> None:
    from jobstatus.app.service import serving  # noqa: PLC0415  # loads gRPC, which a supervisor must not

    stop = asyncio.Event()
    is_child = launch.child is not None
    catch_signals(stop, is_child=is_child)
    hangups = HangUps(stop.set, is_child=is_child)
    links = None if is_child else sign_in_links(launch)
    manager = service_manager(is_child=is_child)
    service = serving(
        launch.settings,
        launch.issuers,
        with_reflection=launch.dev or launch.settings.grpc_reflection,
        is_child=is_child,
        links=links,
    )
    async with AsyncExitStack() as outlasting, service as listening:
        reloader = Reloader(launch, listening.reload, manager)
        if is_child:
            answers: Answers = {
                "reload": reloader.reload,
                "health": listening.health,
                "metrics": listening.exposition,
                "alive": _alive,
                "restart_leases": listening.restart_leases,
                **listening.console,
            }
            # The supervisor is answered until the service has stopped, or it would take a long stop for a hang.
            await outlasting.enter_async_context(answering(answers, on_end=stop.set))
        else:
            launch.announce({"http": listening.http, "grpc": listening.grpc, "admin": listening.admin}, links)
        await _stopped(stop, hangups, reloader, manager)
    _end()


async def _serve_edge_until_signal(launch: Launch) -> None:
    from jobstatus.app.edge import serving_edge  # noqa: PLC0415  # as above

    stop = asyncio.Event()
    catch_signals(stop)
    hangups = HangUps(stop.set)
    manager = service_manager()
    async with serving_edge(launch.settings, launch.issuers) as listening:
        launch.announce({"http": listening.http, "admin": listening.admin})
        await _stopped(stop, hangups, Reloader(launch, listening.reload, manager), manager)
    _end()


async def _alive() -> str:
    return ""


async def _stopped(stop: asyncio.Event, hangups: HangUps, reloader: Reloader, manager: ServiceManager) -> None:
    """Serve until the event; reload meanwhile when that is requested, and tell the service manager."""
    end_start()
    manager.ready()
    watched = asyncio.create_task(manager.watch(alive), name="jobstatus-watchdog")
    reloading = asyncio.create_task(reloader.run(), name="jobstatus-reload")
    hangups.call(reloader.request)
    await stop.wait()
    for task in (reloading, watched):
        task.cancel()
    manager.stopping()
    _log.info("The process stops gracefully.", extra={"event": "stopping"})


def _end() -> None:
    """Ignore signals from now on, because all work is done and a late signal must not change the exit code."""
    _log.info("The process has stopped.", extra={"event": "stopped"})
    for number in (*STOPPING, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def catch_signals(stop: asyncio.Event, *, is_child: bool = False) -> None:
    """Have SIGTERM and SIGINT set the event; a second one ends the process at once.

    A child ignores the second one, because it often gets two: a service manager such as systemd signals every process,
    and so does the supervisor. To end a child at once, the supervisor kills it.

    These are no handlers of the event loop, because it sets the default ones when it gives its own up, and a signal
    that came just then would end the process with an error.
    """
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set() and not is_child:
            os._exit(128 + number)
        stop.set()

    for number in STOPPING:
        signal.signal(number, lambda number, _: loop.call_soon_threadsafe(on_signal, signal.Signals(number)))
