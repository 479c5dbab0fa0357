"""What a service manager such as systemd is told, over a real socket."""

import asyncio
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.logged import events_logged
from harness.waiting import until
from jobstatus.processes.launch import Launch, Source
from jobstatus.processes.reload import Reloader
from jobstatus.processes.service_manager import ServiceManager
from jobstatus.settings import Settings

HERE = os.getpid()


@pytest.fixture(params=["path", "abstract"])
def receiving(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's socket."""
    names = {"path": str(tmp_path / "notify"), "abstract": f"\0jobstatus-{HERE}-{time.monotonic_ns()}"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(names[request.param])
        listening.setblocking(False)
        yield listening


def variables(receiving: socket.socket, **others: str) -> dict[str, str]:
    """Return the environment that systemd would start a process with."""
    name = receiving.getsockname()
    return {"NOTIFY_SOCKET": name if isinstance(name, str) else f"@{name[1:].decode()}", **others}


def told(receiving: socket.socket) -> list[str]:
    """Return the messages that have come, without those that say the same in words."""
    messages: list[str] = []
    while True:
        try:
            lines = receiving.recv(4096).decode().splitlines()
        except BlockingIOError:
            return messages
        messages.append(" ".join(line for line in lines if not line.startswith("STATUS=")))


def test_it_is_told_of_start_and_stop(receiving: socket.socket) -> None:
    """Each in a message of its own."""
    manager = ServiceManager.of(variables(receiving), HERE)
    manager.ready()
    manager.stopping()
    assert told(receiving) == ["READY=1", "STOPPING=1"]


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
async def test_nobody_is_told_without_a_socket(environment: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """Nor is a watch anything that lasts."""
    manager = ServiceManager.of({**environment, "WATCHDOG_USEC": "1000"}, HERE)
    manager.ready()
    await manager.watch(never)
    assert caplog.records == []


async def never() -> bool:
    """Stand for a process that does not live."""
    raise AssertionError("nobody asked")


@pytest.mark.parametrize(
    ("others", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(HERE)}, 30),
        ({"WATCHDOG_USEC": "30000000"}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(HERE + 1)}, 0),
        ({"WATCHDOG_USEC": "soon"}, 0),
        ({}, 0),
    ],
)
def test_the_watchdog_is_for_the_process_that_is_named(
    receiving: socket.socket, others: dict[str, str], seconds: float
) -> None:
    """A program that this one starts inherits the variables, but not the duty."""
    assert ServiceManager.of(variables(receiving, **others), HERE).watchdog_seconds == seconds


async def test_it_hears_of_a_life_while_there_is_one(receiving: socket.socket) -> None:
    """Again and again, and never while the process does not answer."""
    lives = False
    heard: list[str] = []

    async def is_alive() -> bool:
        return lives

    def hears(count: int) -> bool:
        heard.extend(told(receiving))
        return len(heard) >= count

    manager = ServiceManager.of(variables(receiving, WATCHDOG_USEC="3000"), HERE)
    watching = asyncio.create_task(manager.watch(is_alive))
    for _ in range(100):
        await asyncio.sleep(0)
    assert told(receiving) == []
    lives = True
    await until(lambda: hears(3))
    watching.cancel()
    assert set(heard) == {"WATCHDOG=1"}


async def test_it_is_told_of_a_reload(receiving: socket.socket) -> None:
    """Of its begin with the time, which systemd compares with that of its signal, and of its end; refused or not."""

    async def apply(*_: object) -> list[str]:
        return []

    source = Source(check=lambda *_: None)
    manager = ServiceManager.of(variables(receiving), HERE)
    reloader = Reloader(Launch(source=source, settings=Settings(), issuers=()), apply, manager)
    before = time.monotonic_ns() // 1000
    running = asyncio.create_task(reloader.run())
    reloader.request()
    heard: list[str] = []

    def is_over() -> bool:
        heard.extend(told(receiving))
        return "READY=1" in heard

    await until(is_over)
    running.cancel()
    begin, end = heard
    found = re.fullmatch(r"RELOADING=1 MONOTONIC_USEC=(\d+)", begin)
    assert found is not None
    assert before <= int(found[1]) <= time.monotonic_ns() // 1000
    assert end == "READY=1"


def test_one_that_is_gone_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The process goes on."""
    ServiceManager(address=str(tmp_path / "nobody")).ready()
    assert events_logged(caplog) == ["service_manager_unreachable"]
