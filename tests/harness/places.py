"""Where tests put their files: in memory where it has room, because no test's subject is how long a disk takes."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/dev/shm")
ROOM_BYTES: Final = 2 * 1024**3
"""The suite needs a third of this at most; a container often has much less."""


def temporary_root() -> Path:
    """Return the folder in which temporary folders are made."""
    return MEMORY if _holds_files(MEMORY) else Path(tempfile.gettempdir())


def _holds_files(folder: Path) -> bool:
    """Tell whether files can be written there, and programs among them started."""
    if not os.access(folder, os.W_OK | os.X_OK) or os.statvfs(folder).f_flag & os.ST_NOEXEC:
        return False
    return shutil.disk_usage(folder).free >= ROOM_BYTES
