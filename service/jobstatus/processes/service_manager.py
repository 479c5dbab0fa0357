"""What systemd is told: that the process serves, lives, reloads and stops (`sd_notify`, `Type=notify`).

Each message is one datagram to the socket that NOTIFY_SOCKET names; without the variable there is no service manager,
and nothing is sent. A supervisor speaks for its children, which send nothing themselves.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

MESSAGES_BEFORE_DEADLINE: Final = 3
"""So many times within the time after which systemd takes a process for dead, a living one says that it lives."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceManager:
    """Whoever started the process and wants to know how it is. The default is nobody."""

    address: str = ""
    """Where its socket is: a path, or a name after a zero byte in Linux's abstract namespace."""
    watchdog_seconds: float = 0
    """The silence after which it takes the process for dead; 0 where it does not watch."""

    @classmethod
    def of(cls, environment: Mapping[str, str], process_id: int) -> Self:
        """Return the service manager that this environment names, nobody if it names none."""
        path = environment.get("NOTIFY_SOCKET", "")
        if not path.startswith(("/", "@")):
            return cls()
        is_watched = environment.get("WATCHDOG_PID", str(process_id)) == str(process_id)
        microseconds = environment.get("WATCHDOG_USEC", "") if is_watched else ""
        return cls(
            address=path.replace("@", "\0", 1) if path.startswith("@") else path,
            watchdog_seconds=int(microseconds) / 1e6 if microseconds.isdecimal() else 0,
        )

    def ready(self) -> None:
        """Tell that the process serves, after its start or a reload."""
        self._tell("READY=1", "STATUS=Serving.")

    def reloading(self) -> None:
        """Tell that a reload begins; `ready` tells that it is over. It counts from when the time was read."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=Reading the settings again.")

    def stopping(self) -> None:
        """Tell that a stop begins."""
        self._tell("STOPPING=1", "STATUS=Stopping gracefully.")

    async def watch(self, is_alive: Callable[[], Awaitable[bool]]) -> None:
        """Tell regularly that the process lives, for as long as it does. Return at once where nobody wants to know.

        The event loop sends it, so a loop that stands still falls silent by itself.
        """
        while self.address and self.watchdog_seconds:
            if await is_alive():
                self._tell("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_seconds / MESSAGES_BEFORE_DEADLINE)

    def _tell(self, *lines: str) -> None:
        if not self.address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sending:
                sending.sendto("\n".join(lines).encode(), self.address)
        except OSError as error:
            _log.warning(
                "The service manager could not be told how the process is.",
                extra={"event": "service_manager_unreachable", "cause": str(error), "told": lines[0]},
            )


NOBODY: Final = ServiceManager()


def service_manager(*, is_child: bool = False) -> ServiceManager:
    """Return the service manager of this process. A child's is its supervisor, which is told otherwise."""
    return NOBODY if is_child else ServiceManager.of(os.environ, os.getpid())


async def alive() -> bool:
    """Return True: that the event loop runs this is all that there is to say."""
    return True
