"""Notices of changes between the processes that share a store, so that news need not wait until the store is asked.

A notice names the jobs that its process has just changed. It is sent after the commit, never within it, and what is
committed meanwhile goes with the next one, so a writer waits for none and pays for few. Any notice may be lost: the
store is still asked which of the watched jobs have changed, only more seldom while notices arrive.

Whether they arrive is shown by this process's own signs of life, which come back to it like all others. So a pooler in
front of the store, a right that is missing or a connection that died unnoticed cost nothing but time. Where no other
process gives a sign of life, changes are not announced at all.
"""

import asyncio
import logging
import secrets
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

from jobstatus.core.errors import JobStatusError
from jobstatus.core.store import NoticeChannel
from jobstatus.core.watching.subscriptions import JobSubscriptions

_log = logging.getLogger(__name__)

MANY: Final = "*"
"""In place of ids: too many jobs have changed to name them, so the store has to be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeLimits:
    """How often notices are sent, and what is made of their absence."""

    ids_in_one: int = 50
    """Ids are at most 128 characters long, and PostgreSQL takes fewer than 8,000 bytes."""
    max_ids: int = 1000
    """More changed jobs than this at a time are not named."""
    pause_seconds: float = 0.005
    """Between two sends. The first after a pause is sent at once."""
    sign_seconds: float = 3.0
    """How often a process gives a sign of life."""
    silence_seconds: float = 10.0
    """Without a sign of its own life for so long a process listens anew; of another's, that one counts as gone."""
    retry_seconds: float = 5.0
    """The pause before it is tried to listen again."""
    checks_skipped: int = 8
    """While notices arrive, only every so many and first check asks the store for changes."""


class ChangeNotices:
    """Sends and receives the notices of one process, while `run` runs."""

    def __init__(
        self,
        channel: NoticeChannel,
        subscriptions: JobSubscriptions,
        limits: NoticeLimits = NoticeLimits(),
    ) -> None:
        self._channel = channel
        self._subscriptions = subscriptions
        self._limits = limits
        self._origin = secrets.token_hex(8)
        self._own_sign_at = float("-inf")
        self._others_sign_at = float("-inf")
        self._unsent: set[str] = set()
        self._sending: asyncio.Task[None] | None = None
        self._skipped = 0
        self._must_ask = True
        self._listening: asyncio.Timeout | None = None

    @property
    def arrive(self) -> bool:
        """Whether notices have arrived lately."""
        return self._is_recent(self._own_sign_at)

    def should_ask(self) -> bool:
        """Return whether it is time to ask the store which jobs have changed. Called for each check."""
        self._skipped += 1
        if self.arrive and not self._must_ask and self._skipped <= self._limits.checks_skipped:
            return False
        self._skipped, self._must_ask = 0, False
        return True

    def announce(self, job_ids: Collection[str]) -> None:
        """Tell the other processes soon that this one has changed these jobs. Never fails."""
        if self.arrive and not self._is_recent(self._others_sign_at):
            return
        if len(self._unsent) <= self._limits.max_ids:  # else none of them is named, however long sending takes
            self._unsent.update(job_ids)
        if self._unsent and self._sending is None:
            self._sending = asyncio.create_task(self._send(), name="jobstatus-send-notices")

    async def run(self) -> NoReturn:
        """Listen, and give signs of life, forever. Log only the first of consecutive failures."""
        signs = asyncio.create_task(self._give_signs(), name="jobstatus-signs")
        try:
            should_log = True
            while True:
                reason = await self._listen()
                if should_log or self.arrive:
                    _log.info(
                        "Changes made by other processes are not announced, so the store is asked for them.",
                        extra={"event": "no_change_notices", "reason": reason},
                    )
                should_log, self._own_sign_at = False, float("-inf")
                await asyncio.sleep(self._limits.retry_seconds)
        finally:
            tasks = [task for task in (signs, self._sending) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> str:
        """Hear notices until that fails, or too long after the last sign of this process. Return why."""
        try:
            async with asyncio.timeout(self._limits.silence_seconds) as self._listening:
                return await self._channel.hear(self._heard)
        except TimeoutError:
            return "they do not arrive"
        except JobStatusError as error:
            return type(error.__cause__ or error).__name__
        finally:
            self._listening = None

    def _heard(self, text: str) -> None:
        origin, _, job_ids = text.partition(" ")
        now = asyncio.get_running_loop().time()
        if origin == self._origin:
            if not self.arrive:
                self._must_ask = True  # for what happened before it could be heard
            self._own_sign_at = now
            if self._listening is not None and not self._listening.expired():
                self._listening.reschedule(now + self._limits.silence_seconds)
            return
        self._others_sign_at = now
        if job_ids == MANY:
            self._must_ask = True
        elif job_ids:
            self._subscriptions.wake(job_ids.split(","))

    async def _give_signs(self) -> NoReturn:
        while True:
            await self._publish("")
            await asyncio.sleep(self._limits.sign_seconds)

    async def _send(self) -> None:
        try:
            while self._unsent:
                unsent, self._unsent = self._unsent, set()
                for job_ids in self._parts(unsent):
                    await self._publish(job_ids)
                await asyncio.sleep(self._limits.pause_seconds)
        finally:
            self._sending = None

    def _parts(self, job_ids: set[str]) -> Iterator[str]:
        if len(job_ids) > self._limits.max_ids:
            yield MANY
        else:
            each = list(job_ids)
            for first in range(0, len(each), self._limits.ids_in_one):
                yield ",".join(each[first : first + self._limits.ids_in_one])

    async def _publish(self, job_ids: str) -> None:
        try:
            await self._channel.publish(f"{self._origin} {job_ids}")
        except JobStatusError:
            return  # the store is asked; whether notices arrive shows by the signs of life

    def _is_recent(self, sign_at: float) -> bool:
        return asyncio.get_running_loop().time() - sign_at < self._limits.silence_seconds
