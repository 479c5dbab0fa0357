"""The leader of all processes that share a database: the one that holds a lock on a file beside it.

A lock needs no write, and the kernel releases it when its process ends, however it ends.
"""

import fcntl
import os
from pathlib import Path


class SweepLock:
    """The lock, held or not. Raises OSError when its file cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}-sweep")
        self._holder: str | None = None
        self._descriptor: int | None = None

    def take(self, holder: str) -> bool:
        """Take the lock for the holder if it is free. Return whether the holder has it."""
        if self._holder is None and self._lock():
            self._holder = holder
        return self._holder == holder

    def release(self) -> None:
        """Release the lock."""
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
