"""A serving process as its supervisor sees it: how it starts, what it answers, and how it ended.

A child is a new interpreter, not a fork, because gRPC does not survive a fork. For the same reason this module never
loads gRPC.
"""

import asyncio
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from jobstatus.processes.child_channel import ChildChannel, Question


@dataclass(slots=True, kw_only=True)
class ChildProcess:
    """A child. `misses` counts questions in a row without an answer; `started_at` is a time of the loop's clock."""

    number: int
    process: Process
    channel: ChildChannel
    started_at: float
    is_up: bool = False
    misses: int = 0

    @classmethod
    async def started(cls, number: int, *, environment: Mapping[str, str], dev: bool, first: bytes) -> Self:
        """Return a process that is starting. Raise OSError when the system has no memory, process or file for it.

        `first` is what it is to serve, as `launch.packed` has it.
        """
        channel, childs_end = await ChildChannel.opened()
        channel.send_first(first)
        with childs_end:
            try:
                process = await asyncio.create_subprocess_exec(
                    # -P: no module of the current directory
                    *(sys.executable, "-P", "-m", "jobstatus.processes.child_main", str(number)),
                    *(["--dev"] if dev else []),
                    env=environment,
                    stdin=childs_end.fileno(),
                    start_new_session=True,  # a terminal sends Ctrl-C to the supervisor alone, which forwards it
                )
            except OSError:
                channel.close()
                raise
        return cls(number=number, process=process, channel=channel, started_at=asyncio.get_running_loop().time())

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended, as far as is known."""
        return self.process.returncode is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal; do nothing when the process has ended."""
        if self.is_alive:
            self.process.send_signal(number)

    async def ask(self, question: Question, *arguments: str, seconds: float) -> str | None:
        """Return the child's answer, or None when it has none within `seconds`."""
        return await self.channel.ask(question, *arguments, seconds=seconds)


def ending(code: int) -> str:
    """Return how a process ended, for a person."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"signal {-code}"
