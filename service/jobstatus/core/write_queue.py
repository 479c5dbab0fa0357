"""The writes that wait for the next batch, within bounds.

A commit costs as much as deciding and storing a dozen jobs, however few it has. Where several callers write at a time,
the next batch therefore waits for a moment, until those just answered can be back: the event loop is busy with their
answers and next requests anyway, and a commit at once would have only the first of them.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from jobstatus.core.caller import WRITER
from jobstatus.core.commands import MAX_BATCH, Command, CompleteJob
from jobstatus.core.errors import JobStatusError, Overloaded, ShuttingDown
from jobstatus.core.job import Job

Outcome = Job | JobStatusError
"""The job as a command left it (a deleted one as it was), or why the command was refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterLimits:
    """The bounds of a Writer, for each part of the store."""

    max_batch_commands: int = MAX_BATCH
    max_batch_bytes: int = 32 * 1024 * 1024
    """Of results; a larger single call is a batch of its own."""
    max_waiting_commands: int = 20_000
    max_waiting_bytes: int = 256 * 1024 * 1024
    """Of results."""
    max_rounds: int = 20
    """How often a command is decided while other processes change its job."""
    several_callers: int = 4
    """From how many callers in a batch on the next batch waits for them to come back."""
    callers_wait_seconds: float = 0.005


@dataclass(slots=True, eq=False)
class Submission:
    """The commands of one call, their outcomes as they become known, and the future that its caller awaits.

    `writer` is who makes the versions that they lead to, see `Job.last_writer`.
    """

    commands: Sequence[Command]
    outcomes: list[Outcome | None]
    unanswered: int
    """How many of the commands have no outcome yet."""
    result_bytes: int
    future: asyncio.Future[None]
    writer: str | None = None

    def answer(self, index: int, outcome: Outcome) -> None:
        """Record the outcome of a command. The caller goes on when it was the last one."""
        self.outcomes[index] = outcome
        self.unanswered -= 1
        if not self.unanswered and not self.future.done():
            self.future.set_result(None)


class WriteQueue:
    """Submissions in the order in which they came."""

    def __init__(self, limits: WriterLimits = WriterLimits()) -> None:
        self._limits = limits
        self._waiting: deque[Submission] = deque()
        self._waiting_commands = 0
        self._waiting_bytes = 0
        self._expected_callers = 0
        self._callers_arrived = asyncio.Event()
        self._is_closed = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def waiting_commands(self) -> int:
        """How many commands wait."""
        return self._waiting_commands

    @property
    def waiting_bytes(self) -> int:
        """How many bytes of results wait."""
        return self._waiting_bytes

    def admit(self, commands: Sequence[Command]) -> Submission:
        """Append the commands of one call. Raises ShuttingDown once closed, Overloaded beyond the bounds."""
        limits = self._limits
        size = sum([len(command.result) for command in commands if isinstance(command, CompleteJob)])
        if self._is_closed:
            raise ShuttingDown
        if (
            self._waiting_commands + len(commands) > limits.max_waiting_commands
            or self._waiting_bytes + size > limits.max_waiting_bytes
        ):
            raise Overloaded
        self._waiting_commands += len(commands)
        self._waiting_bytes += size
        count = len(commands)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        submission = Submission(commands, [None] * count, count, size, future, WRITER.get())
        self._waiting.append(submission)
        if len(self._waiting) >= self._expected_callers:
            self._callers_arrived.set()
        return submission

    def close(self) -> None:
        """Refuse what comes from now on; what waits can still be taken."""
        self._is_closed = True
        self._callers_arrived.set()

    def take(self) -> list[Submission]:
        """Remove and return the next batch: at least one submission, more within the bounds. Drop cancelled ones."""
        limits = self._limits
        batch: list[Submission] = []
        commands = size = 0
        while self._waiting:
            following = self._waiting[0]
            if batch and (
                commands + len(following.commands) > limits.max_batch_commands
                or size + following.result_bytes > limits.max_batch_bytes
            ):
                break
            self._waiting.popleft()
            self._waiting_commands -= len(following.commands)
            self._waiting_bytes -= following.result_bytes
            if following.future.done():
                continue
            batch.append(following)
            commands += len(following.commands)
            size += following.result_bytes
        return batch

    async def wait_for_callers(self, answered: int) -> None:
        """After a batch of several callers, return when as many wait again, or after `callers_wait_seconds`."""
        if answered < self._limits.several_callers or self._is_closed:
            return
        self._expected_callers = answered + len(self._waiting)
        self._callers_arrived.clear()
        timer = asyncio.get_running_loop().call_later(self._limits.callers_wait_seconds, self._callers_arrived.set)
        await self._callers_arrived.wait()
        timer.cancel()
