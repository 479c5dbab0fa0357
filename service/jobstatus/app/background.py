"""Periodic background work of a process, which goes on whatever fails in it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Final, NoReturn

from jobstatus.core.errors import JobStatusError
from jobstatus.telemetry.metrics import Metrics

AFTER_FAILURE_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


async def start_tasks(stack: AsyncExitStack, *endless: Coroutine[Any, Any, NoReturn]) -> None:
    """Run the coroutines in the background until the stack unwinds."""
    group = await stack.enter_async_context(asyncio.TaskGroup())
    tasks = [group.create_task(work) for work in endless]
    stack.callback(lambda: [task.cancel() for task in tasks])


async def run_periodically(
    seconds: float, chore: str, work: Callable[[], Awaitable[None]], metrics: Metrics
) -> NoReturn:
    """Run `work` every `seconds`, forever.

    Retry failures after at least AFTER_FAILURE_SECONDS. Log only the first of consecutive failures, and the recovery.
    """
    failed_since: float | None = None
    while True:
        if await run_once(chore, work, metrics, should_log=failed_since is None):
            if failed_since is not None:
                _log.info(
                    "A background task works again.",
                    extra={
                        "event": "chore_recovered",
                        "chore": chore,
                        "seconds": round(time.monotonic() - failed_since, 1),
                    },
                )
            failed_since = None
        elif failed_since is None:
            failed_since = time.monotonic()
        await asyncio.sleep(seconds if failed_since is None else max(seconds, AFTER_FAILURE_SECONDS))


async def run_once(
    chore: str, work: Callable[[], Awaitable[None]], metrics: Metrics, *, should_log: bool = True
) -> bool:
    """Run `work` once and return whether it succeeded. Count a failure; log it if `should_log`."""
    metrics.chore_begun(chore)
    try:
        await work()
    except JobStatusError as error:
        metrics.chore_failed(chore)
        if should_log:
            _log.warning(
                "A background task failed and is retried.",
                extra={"event": "chore_failed", "chore": chore, "reason": error.reason, "problem": error.message},
            )
        return False
    except Exception:  # noqa: BLE001  # one chore must not end the service
        metrics.chore_failed(chore)
        if should_log:
            _log.exception(
                "A background task failed because of a bug of this program.",
                extra={"event": "chore_crashed", "chore": chore},
            )
        return False
    return True
