"""A service as a child process whose wall clock is set from outside, while its monotonic clock runs as it does.

    python -m harness.clocked

The process adds to the time of the machine what stands in a file that both sides have mapped. It runs `serving`, as
`jobstatus serve` does in one process, with the settings of its environment.
"""

import asyncio
import logging
import mmap
import os
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_FILE: Final = "clock"
_SECONDS: Final = struct.Struct("=d")
_TESTS: Final = str(Path(__file__).resolve().parents[1])


class ClockFile:
    """The seconds by which a process's wall clock is ahead of the machine's."""

    def __init__(self, folder: Path) -> None:
        """Map the file in this folder; it is made if there is none."""
        path = folder / _FILE
        if not path.exists():
            path.write_bytes(_SECONDS.pack(0))
        with path.open("r+b") as file:
            self._map: Final = mmap.mmap(file.fileno(), _SECONDS.size)

    @property
    def ahead(self) -> float:
        return float(_SECONDS.unpack(self._map[:])[0])

    @ahead.setter
    def ahead(self, seconds: float) -> None:
        self._map[:] = _SECONDS.pack(seconds)

    def time(self) -> float:
        """Return seconds since the epoch."""
        return time.time() + self.ahead

    def ms(self) -> int:
        """Return milliseconds since the epoch."""
        return int(self.time() * 1000)


def command() -> tuple[str, ...]:
    """Return the words that start such a process."""
    return (sys.executable, "-P", "-m", "harness.clocked")


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that lets it find this module."""
    return {**own, "PYTHONPATH": _TESTS}


# --- in the child process ---


def main() -> int:
    """Serve until SIGTERM."""
    from jobstatus.settings import load_settings  # noqa: PLC0415  # not needed by those who start such processes
    from jobstatus.telemetry.logs import configure  # noqa: PLC0415

    settings = load_settings()
    configure(level=settings.log_level, log_format="json")
    import uvloop  # noqa: PLC0415  # after the log is set up, as in the command

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, ClockFile(Path.cwd())))
    return 0


async def _serve(settings: Any, clock: ClockFile) -> None:
    from jobstatus.app.clocks import Clocks  # noqa: PLC0415
    from jobstatus.app.service import serving  # noqa: PLC0415
    from jobstatus.processes.process import catch_signals  # noqa: PLC0415

    stop = asyncio.Event()
    catch_signals(stop)
    clocks = Clocks(seconds=clock.time, ms=clock.ms)
    async with serving(settings, settings.accepted_issuers(), with_reflection=False, clocks=clocks) as listening:
        where = {name: str(getattr(listening, name)) for name in ("http", "grpc", "admin")}
        logging.getLogger(__name__).info("The service serves.", extra={"event": "serving", **where})
        await stop.wait()


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.exit(main())
