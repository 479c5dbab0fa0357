"""What the store said of virtual keys, believed for as long as nothing can have changed unnoticed.

Every process asks the store about once a second whether any virtual key changed. While that works, answers are
remembered; when it has not worked for STALE_AFTER_SECONDS, each question goes to the store, and if the store fails the
question fails. So a virtual key that is disabled anywhere stops working everywhere within 5 s, and never comes back
because the store is away. Judges nothing: whether a virtual key may be used is the caller's to ask.
"""

from collections.abc import Callable
from typing import Final

from jobstatus.auth.fifo_cache import FifoCache
from jobstatus.core.store import VirtualKeyReader
from jobstatus.core.virtual_keys import VirtualKey

STALE_AFTER_SECONDS: Final = 4.0
_Answer = tuple[VirtualKey | None]


class VirtualKeyCache:
    """Reads virtual keys through a memory. All methods raise what the store raises."""

    def __init__(self, store: VirtualKeyReader, monotonic: Callable[[], float], limit: int) -> None:
        self._store = store
        self._monotonic = monotonic
        self._by_digest: FifoCache[bytes, VirtualKey] = FifoCache(limit)
        self._by_id: FifoCache[str, _Answer] = FifoCache(limit)
        self._version: int | None = None
        self._fresh_until = float("-inf")
        self._epoch = 0

    async def read(self, virtual_key_id: str) -> VirtualKey | None:
        """The virtual key with this id; None when there is none, which is remembered too."""
        if known := self.read_cached(virtual_key_id):
            return known[0]
        epoch = self._epoch
        [virtual_key] = await self._store.read_virtual_keys([virtual_key_id])
        if epoch == self._epoch:
            self._by_id.put(virtual_key_id, (virtual_key,))
        return virtual_key

    async def find(self, digest: bytes) -> VirtualKey | None:
        """The virtual key for which this SHA-256 is registered. None is not remembered: strangers could fill us up."""
        if remembered := self.find_cached(digest):
            return remembered
        epoch = self._epoch
        [virtual_key] = await self._store.find_virtual_keys([digest])
        if virtual_key is not None and epoch == self._epoch:
            self._by_digest.put(digest, virtual_key)
        return virtual_key

    def read_cached(self, virtual_key_id: str) -> tuple[VirtualKey | None] | None:
        """What `read` would return without asking the store; None when it would ask."""
        return self._by_id.get(virtual_key_id) if self._is_fresh() else None

    def find_cached(self, digest: bytes) -> VirtualKey | None:
        """What `find` would return without asking the store; None when it would ask."""
        return self._by_digest.get(digest) if self._is_fresh() else None

    async def refresh(self) -> bool:
        """Forget everything if any virtual key changed, and say so; from then on the rest counts as fresh again.

        Freshness counts from before the question, as the store may have answered just before a change.
        """
        asked_at = self._monotonic()
        version = await self._store.virtual_keys_version()
        has_changed = version != self._version
        if has_changed:
            self.forget()
            self._version = version
        self._fresh_until = asked_at + STALE_AFTER_SECONDS
        return has_changed

    def forget(self) -> None:
        """Forget everything, and what reads now under way will bring: they may have begun before the change."""
        self._epoch += 1
        self._by_digest.clear()
        self._by_id.clear()

    def _is_fresh(self) -> bool:
        return self._monotonic() <= self._fresh_until
