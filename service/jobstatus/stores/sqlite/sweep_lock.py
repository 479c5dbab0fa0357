"""Who of all processes upon one database sweeps it: whoever holds a lock on a file beside it.

A lock costs no write, and the kernel gives it back when its process ends, however that ends.
"""

import fcntl
import os
from pathlib import Path


class SweepLock:
    """The lock, taken or not. Raises OSError when its file cannot be had."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}-sweep")
        self._holder: str | None = None
        self._descriptor: int | None = None

    def take(self, holder: str) -> bool:
        """Whether the holder has it, from now on or already."""
        if self._holder is None and self._lock():
            self._holder = holder
        return self._holder == holder

    def give_back(self) -> None:
        """Let somebody else have it."""
        self._holder = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True
