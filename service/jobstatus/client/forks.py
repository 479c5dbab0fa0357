"""gRPC does not survive a fork: in a child of a process that has used it, calls never return or abort the process."""

import os
from functools import cache


def check_process() -> None:
    """Raise RuntimeError in a forked child of a process that used gRPC. Call it before each use of gRPC's asyncio part.

    The first call notes the process. A child inherits that, so a process that only imported gRPC may be forked.
    """
    if not is_first_process():
        raise RuntimeError(
            "gRPC was used before this process was forked, and does not survive a fork: use clients after the fork"
            " only, or start processes by `spawn`"
        )


def is_first_process() -> bool:
    """Return whether this process is the one that first used gRPC's asyncio part."""
    return os.getpid() == _first_process()


@cache
def _first_process() -> int:
    return os.getpid()
