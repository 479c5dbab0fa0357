"""How the C library keeps memory that was freed, for a process that reads large results time and again.

By default glibc gives the end of its heap back to the system as soon as 128 KiB of it are free. A result of a megabyte
is then mapped, page by page, and cleared anew for each poll, which costs as much as reading and sending it.
"""

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
KEPT_BYTES: Final = 16 * 1024 * 1024
"""At most so much of the heap's end is kept."""
MAPPED_BYTES: Final = 4 * 1024 * 1024
"""A larger piece of memory is mapped by itself, and given back when it is freed."""


def keep_freed_memory() -> None:
    """Keep KEPT_BYTES. Does nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
