"""Virtual keys: the tenants that own jobs, and the sk-bf- keys that authenticate them.

Only the SHA-256 of a key is known; neither this module nor a store ever sees the key itself.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from jobstatus.core.commands import check_id
from jobstatus.core.errors import InvalidField

KEY_PREFIX: Final = "sk-bf-"
MAX_KEYS: Final = 100


def hash_key(key: str) -> bytes:
    """Return the SHA-256 (32 bytes) of the whole key, prefix included."""
    return hashlib.sha256(key.encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualKey:
    """A virtual key as stored. `expires_at_ms` None: never. Times as in `job`."""

    virtual_key_id: str
    key_sha256: tuple[bytes, ...]
    disabled: bool = False
    expires_at_ms: int | None = None
    created_at_ms: int
    updated_at_ms: int

    def __post_init__(self) -> None:
        check_id("virtual_key_id", self.virtual_key_id)
        if len(self.key_sha256) > MAX_KEYS:
            raise InvalidField.of("key_sha256", f"must have at most {MAX_KEYS} hashes")
        if len(set(self.key_sha256)) < len(self.key_sha256):
            raise InvalidField.of("key_sha256", "must not name a hash twice")
        if any(len(digest) != hashlib.sha256().digest_size for digest in self.key_sha256):
            raise InvalidField.of("key_sha256", "must be SHA-256 hashes of 32 bytes each")

    def is_usable(self, now_ms: int) -> bool:
        """Whether credentials of this virtual key, its JWTs included, are accepted now."""
        return not self.disabled and not self.has_expired(now_ms)

    def has_expired(self, now_ms: int) -> bool:
        """Whether its expiry has passed."""
        return self.expires_at_ms is not None and self.expires_at_ms <= now_ms
