"""What a process does again and again in the background, whatever goes wrong with it."""

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
    """Run them in the background until the stack unwinds."""
    group = await stack.enter_async_context(asyncio.TaskGroup())
    tasks = [group.create_task(work) for work in endless]
    stack.callback(lambda: [task.cancel() for task in tasks])


async def run_periodically(
    seconds: float, chore: str, work: Callable[[], Awaitable[None]], metrics: Metrics
) -> NoReturn:
    """Do it for ever; a failure is tried again, after a second at least. The first of a row is logged, and the end."""
    failed_since: float | None = None
    while True:
        if await run_once(chore, work, metrics, is_news=failed_since is None):
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


async def run_once(chore: str, work: Callable[[], Awaitable[None]], metrics: Metrics, *, is_news: bool = True) -> bool:
    """Do it; whether it went well. A failure is counted, and logged where it is news."""
    try:
        await work()
    except JobStatusError as error:
        metrics.chore_failed(chore)
        if is_news:
            _log.warning(
                "A background task failed and is retried.",
                extra={"event": "chore_failed", "chore": chore, "reason": error.reason, "problem": error.message},
            )
        return False
    except Exception:  # noqa: BLE001  # one chore must not end the service
        metrics.chore_failed(chore)
        _log.exception(
            "A background task failed because of a bug of this program.",
            extra={"event": "chore_crashed", "chore": chore},
        )
        return False
    return True
