"""Leases while a child is silent, such as one that was stopped or whose machine is overloaded.

Workers whose connection the kernel gave to that child are not heard meanwhile, although they live. So the other
children let every lease run once more in full, again and again until the child answers or is replaced.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from jobstatus.processes.child_channel import ChildChannel, Question

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SilenceLimits:
    """When a child counts as silent."""

    ask_every_seconds: float = 0.5
    answer_seconds: float = 2.0
    """With the pause between two questions, less than two thirds of a lease of 5 s: a heartbeat comes every third."""


async def extend_leases_in_silence(
    channels: Callable[[], Sequence[ChildChannel]],
    limits: SilenceLimits = SilenceLimits(),  # a frozen value
) -> NoReturn:
    """Ask the children whether they run; while one does not answer, have the others restart leases. Log once."""
    was_silent = False
    while True:
        asked = channels()
        answers = await _ask(asked, "alive", limits)
        heard = [channel for channel, answer in zip(asked, answers, strict=True) if answer is not None]
        is_silent = any(channel.is_open for channel in asked if channel not in heard)
        if is_silent:
            await _ask(heard, "restart_leases", limits)
            if not was_silent:
                _log.warning(
                    "A serving process is silent. Leases run once more in full.", extra={"event": "leases_extended"}
                )
        was_silent = is_silent
        await asyncio.sleep(limits.ask_every_seconds)


async def _ask(channels: Sequence[ChildChannel], question: Question, limits: SilenceLimits) -> list[str | None]:
    return await asyncio.gather(*(channel.ask(question, seconds=limits.answer_seconds) for channel in channels))
