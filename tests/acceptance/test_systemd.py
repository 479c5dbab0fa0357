"""What systemd hears of a real process with `Type=notify` and a watchdog, alone and with serving processes below it."""

import signal
import socket
from pathlib import Path

import pytest
from harness.service import Process
from harness.waiting import until


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_systemd_hears_how_the_service_is(tmp_path: Path, workers: str) -> None:
    """That it serves and lives, that it reloads and has reloaded, that it stops."""
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)

        def hears(*expected: str) -> bool:
            try:
                while True:
                    heard.append(manager.recv(4096).decode().splitlines()[0])
            except BlockingIOError:
                return set(expected) <= set(heard)

        process = Process(tmp_path, WORKERS=workers)
        process.environment |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
        async with process:
            await until(lambda: hears("READY=1", "WATCHDOG=1"))
            assert heard[0] == "READY=1"
            heard.clear()
            process.send(signal.SIGHUP)
            await until(lambda: hears("RELOADING=1", "READY=1"))
            process.send(signal.SIGTERM)
            await until(lambda: hears("STOPPING=1"))
            assert await process.ended() == 0
            heard.clear()
            assert not hears("WATCHDOG=1"), "a process that stops is not watched any more"
