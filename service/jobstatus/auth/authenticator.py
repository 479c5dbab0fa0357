"""The front door: the credential headers of a request in, a principal out.

Every poll comes through here, so a token that was verified a moment ago is recognised by its SHA-256 and costs no
second signature. Only successes are remembered: a stranger cannot make this memory grow. The tokens themselves are not
kept.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from jobstatus.auth.credential import read_credential
from jobstatus.auth.errors import InvalidCredential, Reason
from jobstatus.auth.fifo_cache import FifoCache
from jobstatus.auth.issuers import TokenVerifier
from jobstatus.auth.virtual_key_cache import VirtualKeyCache
from jobstatus.core.access import Principal
from jobstatus.core.store import VirtualKeyReader
from jobstatus.core.virtual_keys import KEY_PREFIX, VirtualKey, hash_key

CACHE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedToken:
    """A token that was verified at `since` and is believed until `until`, which is never after its `exp`."""

    principal: Principal
    since: float
    until: float


class Authenticator:
    """Recognises credentials. `refresh` wants to be called about once a second.

    `clock` gives seconds since the epoch, `monotonic` seconds that never step; `max_cached` bounds each memory.
    Without a verifier only virtual keys are accepted.
    """

    def __init__(
        self,
        *,
        verifier: TokenVerifier | None,
        store: VirtualKeyReader,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        max_cached: int = 20_000,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_change` is called when a credential that was accepted may be accepted no more."""
        self._on_change = on_change
        self._verifier = verifier
        self._generation = 0 if verifier is None else verifier.generation
        self._clock = clock
        self._virtual_keys = VirtualKeyCache(store, monotonic, max_cached)
        self._tokens: FifoCache[bytes, CachedToken] = FifoCache(max_cached)

    async def authenticate(self, authorization: Sequence[str], virtual_key: Sequence[str]) -> Principal:
        """Whom the credential stands for; takes the values of all Authorization and all x-bf-vk headers.

        Raises MissingCredential, InvalidCredential, or StoreUnavailable when the store is needed and does not answer.
        """
        cached = self.authenticate_cached(authorization, virtual_key)
        if cached is not None:
            return cached
        credential = read_credential(authorization, virtual_key)
        now = self._clock()
        digest = hash_key(credential)
        if credential.startswith(KEY_PREFIX):
            return _holder(await self._find_holder(credential, digest), now)
        principal = self._cached_token(digest, now) or self._verify(credential, digest, now)
        virtual_key_id = principal.virtual_key_id
        owner = None if virtual_key_id is None else await self._virtual_keys.read(virtual_key_id)
        return _bearer(principal, owner, now)

    def authenticate_cached(self, authorization: Sequence[str], virtual_key: Sequence[str]) -> Principal | None:
        """The same from memory alone, without waiting for anything; None when that does not tell."""
        credential = read_credential(authorization, virtual_key)
        now = self._clock()
        digest = hash_key(credential)
        if credential.startswith(KEY_PREFIX):
            found = self._virtual_keys.find_cached(digest)
            return None if found is None else _holder(found, now)
        principal = self._cached_token(digest, now)
        if principal is None or principal.virtual_key_id is None:
            return principal
        known = self._virtual_keys.read_cached(principal.virtual_key_id)
        return None if known is None else _bearer(principal, known[0], now)

    async def refresh(self) -> None:
        """Notice what changed: keys of issuers, then virtual keys. Raises what the store raises.

        Keys come first, so that a store that is away does not keep a withdrawn key in use. The verifier's generation is
        compared rather than the answer of `reload`, which is lost when this is cancelled halfway.
        """
        verifier = self._verifier
        if verifier is not None and verifier.reads_files:
            await asyncio.to_thread(verifier.reload)
            if verifier.generation != self._generation:
                self._generation = verifier.generation
                self._tokens.clear()
                self._on_change()
        if await self._virtual_keys.refresh():
            self._on_change()

    def forget_virtual_keys(self) -> None:
        """Forget what the store said of virtual keys; for whoever has just changed one in this process."""
        self._virtual_keys.forget()
        self._on_change()

    async def _find_holder(self, key: str, digest: bytes) -> VirtualKey:
        if key == KEY_PREFIX:
            raise InvalidCredential(Reason.NOT_A_VIRTUAL_KEY)
        virtual_key = await self._virtual_keys.find(digest)
        if virtual_key is None:
            raise InvalidCredential(Reason.UNKNOWN_VIRTUAL_KEY)
        return virtual_key

    def _cached_token(self, digest: bytes, now: float) -> Principal | None:
        token = self._tokens.get(digest)
        return token.principal if token is not None and token.since <= now < token.until else None

    def _verify(self, credential: str, digest: bytes, now: float) -> Principal:
        """Verify a token and remember it. A clock that steps back behind `since` has it verified again."""
        if self._verifier is None:
            raise InvalidCredential(Reason.NO_ISSUER)
        verified = self._verifier.verify(credential, now)
        until = min(verified.expires_at, now + CACHE_SECONDS)
        self._tokens.put(digest, CachedToken(principal=verified.principal, since=now, until=until))
        return verified.principal


def _holder(virtual_key: VirtualKey, now: float) -> Principal:
    """Whom one of the keys of this virtual key stands for."""
    _check_usable(virtual_key, now)
    expires_at_ms = virtual_key.expires_at_ms
    return Principal(virtual_key.virtual_key_id, math.inf if expires_at_ms is None else expires_at_ms / 1000)


def _bearer(principal: Principal, owner: VirtualKey | None, now: float) -> Principal:
    """Whom a token stands for, whose virtual key is registered as `owner`.

    One that was never registered does not hinder the tokens of its issuer.
    """
    if owner is None:
        return principal
    _check_usable(owner, now)
    if owner.expires_at_ms is None:
        return principal
    return replace(principal, valid_until=min(principal.valid_until, owner.expires_at_ms / 1000))


def _check_usable(virtual_key: VirtualKey, now: float) -> None:
    """Raise InvalidCredential if the virtual key is disabled or expired."""
    if not virtual_key.is_usable(int(now * 1000)):
        raise InvalidCredential(Reason.UNUSABLE_VIRTUAL_KEY)
