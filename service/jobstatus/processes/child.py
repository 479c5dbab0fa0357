"""One worker of several, as the process that looks after it sees it: started, asked, and how it ended.

A child is started anew, never forked: gRPC does not survive a fork, and for the same reason is never loaded here. It
says on its standard output that it is up, and stops when its standard input ends, which it does when this process is
gone, however it went.
"""

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import aiohttp

from jobstatus.settings import Address

ASK_SECONDS: Final = 2.0

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class ChildProcess:
    """A worker; `misses` is how often in a row it was asked and did not answer, `started_at` is of the loop's clock."""

    number: int
    process: Process
    admin_socket: Path
    started_at: float
    is_up: bool = False
    misses: int = 0

    @classmethod
    async def started(cls, number: int, admin_socket: Path, *, http: Address, grpc: Address, dev: bool) -> Self:
        """A process that is on its way. Raises OSError when there can be none: no memory, too many processes."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "jobstatus.processes.child_main"),  # -P: no module of the current directory
            *(str(number), str(admin_socket)),
            *(["--dev"] if dev else []),
            env=os.environ | {"JOBSTATUS_HTTP": str(http), "JOBSTATUS_GRPC": str(grpc)},
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,  # a terminal's Ctrl-C is for the one who looks after it, who passes it on
        )
        now = asyncio.get_running_loop().time()
        return cls(number=number, process=process, admin_socket=admin_socket, started_at=now)

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended, as far as is known."""
        return self.process.returncode is None

    async def says_that_it_is_up(self) -> bool:
        """True when it is, False when it has ended instead."""
        assert self.process.stdout is not None  # noqa: S101  # for the type checker: a pipe was asked for
        return bool(await self.process.stdout.readline())

    def send(self, number: signal.Signals) -> None:
        """Nothing happens when it has ended."""
        if self.is_alive:
            self.process.send_signal(number)

    async def ask(self, path: str) -> tuple[int, str] | None:
        """The status and the text that its admin application answers; None when it does not."""
        connector = aiohttp.UnixConnector(str(self.admin_socket))
        timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.get(f"http://worker{path}") as answer,
            ):
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            _log.debug(
                "A serving process did not answer its supervisor.",
                extra={"event": "child_silent", "path": path, "cause": type(error).__name__},
            )
            return None


def ending(code: int) -> str:
    """How a process ended, for a person."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"signal {-code}"
