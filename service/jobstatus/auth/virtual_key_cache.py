"""Cache virtual keys for as long as no change can have gone unnoticed.

Every process asks the store about once a second whether any virtual key changed. When that has failed for
STALE_AFTER_SECONDS, the cache is not used: each lookup goes to the store, and fails if the store does. So a virtual key
that is disabled in any process stops working in all within 5 s, and an unavailable store does not re-enable it. The
cache does not check whether a virtual key may be used; its callers do.

Anyone can cause lookups with made-up keys. So lookups that come at the same time are joined, as polls are, and one read
of each kind is under way at a time: however many there are, they take one connection to the store and leave the others
to polls. Ids come from verified tokens, and so they do not wait behind made-up keys.
"""

from collections.abc import Callable, Sequence
from typing import Final

from jobstatus.auth.lru_cache import LruCache
from jobstatus.core.batch_reader import BatchReader, BatchReaderLimits
from jobstatus.core.store import VirtualKeyReader
from jobstatus.core.virtual_keys import VirtualKey

STALE_AFTER_SECONDS: Final = 4.0
LOOKUPS: Final = BatchReaderLimits(max_batch=50, max_under_way=1)
"""The bounds of the lookups by key, and of those by id.

A read has few of them, because all are answered in one turn of the event loop, and polls wait for the end of that.
"""
_Answer = tuple[VirtualKey | None]


class VirtualKeyCache:
    """Reads virtual keys through a cache. All methods raise what the store raises."""

    def __init__(
        self,
        store: VirtualKeyReader,
        monotonic: Callable[[], float],
        limit: int,
        lookups: BatchReaderLimits = LOOKUPS,
    ) -> None:
        """`limit` bounds the number of cached keys, and that of cached ids."""
        self._store = store
        self._monotonic = monotonic
        self._find_together = BatchReader(self._find_each, lookups)
        self._read_together = BatchReader(self._read_each, lookups)
        self._by_digest: LruCache[bytes, VirtualKey] = LruCache(limit)
        self._by_id: LruCache[str, _Answer] = LruCache(limit)
        self._version: int | None = None
        self._fresh_until = float("-inf")
        self._epoch = 0

    async def read(self, virtual_key_id: str) -> VirtualKey | None:
        """Return the virtual key with this id; None when there is none, which is cached too."""
        if known := self.read_cached(virtual_key_id):
            return known[0]
        epoch = self._epoch
        virtual_key = await self._read_together.read(virtual_key_id)
        if epoch == self._epoch:
            self._by_id.put(virtual_key_id, (virtual_key,))
        return virtual_key

    async def find(self, digest: bytes) -> VirtualKey | None:
        """Return the virtual key of this SHA-256. Misses are not cached, so that an attacker cannot fill the cache."""
        if remembered := self.find_cached(digest):
            return remembered
        epoch = self._epoch
        virtual_key = await self._find_together.read(digest)
        if virtual_key is not None and epoch == self._epoch:
            self._by_digest.put(digest, virtual_key)
        return virtual_key

    def read_cached(self, virtual_key_id: str) -> tuple[VirtualKey | None] | None:
        """Return what `read` returns without asking the store; None when it would ask."""
        return self._by_id.get(virtual_key_id) if self._monotonic() <= self._fresh_until else None

    def find_cached(self, digest: bytes) -> VirtualKey | None:
        """Return what `find` returns without asking the store; None when it would ask."""
        return self._by_digest.get(digest) if self._monotonic() <= self._fresh_until else None

    async def refresh(self) -> bool:
        """Empty the cache if any virtual key changed, and return whether one did; either way it is fresh again.

        Freshness counts from before the question, because the store may answer just before a change.
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
        """Empty the cache, and do not cache the results of reads under way: they may have begun before the change."""
        self._epoch += 1
        self._by_digest.clear()
        self._by_id.clear()

    async def _find_each(self, digests: Sequence[bytes]) -> list[VirtualKey | None]:
        wanted = list(dict.fromkeys(digests))
        found = dict(zip(wanted, await self._store.find_virtual_keys(wanted), strict=True))
        return [found[digest] for digest in digests]

    async def _read_each(self, virtual_key_ids: Sequence[str]) -> list[VirtualKey | None]:
        wanted = list(dict.fromkeys(virtual_key_ids))
        found = dict(zip(wanted, await self._store.read_virtual_keys(wanted), strict=True))
        return [found[virtual_key_id] for virtual_key_id in virtual_key_ids]
