"""Authenticate requests: from the credential headers to a principal.

Every poll is authenticated, so verified tokens are cached by their SHA-256 and cost no second signature check. The
tokens themselves are not stored. Refused tokens have a small cache of their own, for clients that repeat them; an
attacker can fill that one, but not the other. Refusals that depend on the time or on a fetch of keys are not cached.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias

from jobstatus.auth.credential import Fingerprint, read_credential, shown
from jobstatus.auth.errors import InvalidCredential, KeysUnavailable, Reason
from jobstatus.auth.issuers import TokenVerifier
from jobstatus.auth.lru_cache import LruCache
from jobstatus.auth.remote_keys import KeyNotFetched
from jobstatus.auth.virtual_key_cache import LOOKUPS, VirtualKeyCache
from jobstatus.core.access import Principal
from jobstatus.core.batch_reader import BatchReaderLimits
from jobstatus.core.store import VirtualKeyReader
from jobstatus.core.virtual_keys import KEY_PREFIX, VirtualKey, hash_key

CACHE_SECONDS: Final = 60.0
"""How long a verified token is cached, at most."""
MAX_REFUSED: Final = 1_000
"""How many refused tokens are cached."""
_DEPENDS_ON_TIME: Final = frozenset((Reason.EXPIRED, Reason.NOT_YET_VALID, Reason.LIFETIME_TOO_LONG))
_Ask: TypeAlias = Callable[[], Awaitable[Principal]]
_Refusal: TypeAlias = tuple[Reason, str, str]
"""The arguments of an InvalidCredential."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedToken:
    """A token that was verified at `since` and is valid until `until`, which is never after its `exp` (both in s)."""

    principal: Principal
    since: float
    until: float


class Authenticator:
    """Authenticates credentials. Call `refresh` about once a second.

    `clock` returns seconds since the epoch, `monotonic` seconds that never step; `max_cached` bounds each cache.
    Without a verifier only virtual keys are accepted, and without `accepts_keys` only tokens. A virtual key that is
    disabled has its tokens refused either way.
    """

    def __init__(
        self,
        *,
        verifier: TokenVerifier | None,
        accepts_keys: bool = True,
        store: VirtualKeyReader,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        max_cached: int = 20_000,
        lookups: BatchReaderLimits = LOOKUPS,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_change` is called when a credential that was accepted may no longer be.

        `lookups` bounds the reads of virtual keys; see VirtualKeyCache.
        """
        self._on_change = on_change
        self._verifier = verifier
        self._accepts_keys = accepts_keys
        self._generation = 0 if verifier is None else verifier.generation
        self._clock = clock
        self._monotonic = monotonic
        self._virtual_keys = VirtualKeyCache(store, monotonic, max_cached, lookups)
        self._tokens: LruCache[bytes, CachedToken] = LruCache(max_cached)
        self._refused: LruCache[bytes, _Refusal] = LruCache(MAX_REFUSED)

    async def authenticate(self, authorization: Sequence[str], keys: Sequence[str]) -> Principal:
        """Return the principal of a request; takes the values of all Authorization headers and all KEY_HEADERS.

        Raise MissingCredential, InvalidCredential, StoreUnavailable when the store is needed and does not answer, or
        KeysUnavailable when the token's key is needed and cannot be fetched now.
        """
        found = self._recognise(authorization, keys)
        return found if isinstance(found, Principal) else await found()

    def try_authenticate(self, authorization: Sequence[str], keys: Sequence[str]) -> Principal | None:
        """Return what `authenticate` returns, or None when the store or an issuer has to be asked. Raises
        MissingCredential and InvalidCredential."""
        found = self._recognise(authorization, keys)
        return found if isinstance(found, Principal) else None

    def recall(self, credential: Fingerprint) -> Principal | None:
        """Return what `try_authenticate` returns for a credential that is known to be good; None for any other.

        It verifies no signature. Raises InvalidCredential for one that is known to be bad.
        """
        now, digest = self._clock(), credential.digest
        if credential.is_key:
            found = self._virtual_keys.find_cached(digest) if self._accepts_keys else None
            return None if found is None else _holder(found, now)
        token = self._tokens.get(digest)
        if token is None or not token.since <= now < token.until:
            if refusal := self._refused.get(digest):
                raise InvalidCredential(*refusal)
            return None
        principal = token.principal
        if principal.virtual_key_id is None:
            return principal
        known = self._virtual_keys.read_cached(principal.virtual_key_id)
        return None if known is None else _bearer(principal, known[0], now)

    def files_changed_at(self) -> dict[str, float]:
        """As TokenVerifier.files_changed_at."""
        return {} if self._verifier is None else self._verifier.files_changed_at()

    def fetched_ages(self) -> dict[str, float]:
        """As TokenVerifier.fetched_ages."""
        return {} if self._verifier is None else self._verifier.fetched_ages()

    async def refresh(self) -> None:
        """Apply changes of issuers' keys, then of virtual keys. Raises what the store raises. Fetches no keys.

        Keys come first, so that an unavailable store does not keep a withdrawn key in use. The verifier's generation is
        compared instead of the result of `reload`, which is lost when this call is cancelled in between.
        """
        verifier = self._verifier
        if verifier is not None:
            if verifier.reads_files:
                await asyncio.to_thread(verifier.reload)
            if verifier is self._verifier and verifier.generation != self._generation:
                self.replace_verifier(verifier)
        if await self._virtual_keys.refresh():
            self._on_change()

    def replace_verifier(self, verifier: TokenVerifier | None) -> None:
        """Verify tokens with this one from now on, and forget what was found out about tokens before."""
        self._verifier = verifier
        self._generation = 0 if verifier is None else verifier.generation
        self._tokens.clear()
        self._refused.clear()
        self._on_change()

    def forget_virtual_keys(self) -> None:
        """Drop the cached virtual keys. Call it after changing one in this process."""
        self._virtual_keys.forget()
        self._on_change()

    def _recognise(self, authorization: Sequence[str], keys: Sequence[str]) -> Principal | _Ask:
        """Return the principal, or the call that asks the store or an issuer for what is missing."""
        credential = read_credential(authorization, keys)
        now = self._clock()
        if credential.startswith(KEY_PREFIX):
            if not self._accepts_keys:
                raise InvalidCredential(Reason.VIRTUAL_KEYS_OFF)
            if credential == KEY_PREFIX:
                raise InvalidCredential(Reason.NOT_A_VIRTUAL_KEY)
            digest = hash_key(credential)
            found = self._virtual_keys.find_cached(digest)
            return partial(self._find_holder, digest, now) if found is None else _holder(found, now)
        digest = hash_key(credential)
        token = self._tokens.get(digest)
        if token is not None and token.since <= now < token.until:
            principal = token.principal
        else:
            try:
                principal = self._verify(credential, digest, now)
            except KeyNotFetched as missing:
                return partial(self._verify_later, credential, digest, missing)
        if principal.virtual_key_id is None:
            return principal
        known = self._virtual_keys.read_cached(principal.virtual_key_id)
        return partial(self._find_bearer, principal, now) if known is None else _bearer(principal, known[0], now)

    async def _find_holder(self, digest: bytes, now: float) -> Principal:
        virtual_key = await self._virtual_keys.find(digest)
        if virtual_key is None:
            raise InvalidCredential(Reason.UNKNOWN_VIRTUAL_KEY)
        return _holder(virtual_key, now)

    async def _verify_later(self, credential: str, digest: bytes, missing: KeyNotFetched) -> Principal:
        """Return the principal of a token whose key the next fetch may bring."""
        asked_at = self._monotonic()
        if await missing.source.fetch_again():
            now = self._clock()
            try:
                return await self._find_bearer(self._verify(credential, digest, now), now)
            except KeyNotFetched as still_missing:
                missing = still_missing
        if missing.source.is_unknown(missing.key_id, missing.issued_at, asked_at):
            raise InvalidCredential(Reason.UNKNOWN_KEY_ID, missing.source.config.issuer, shown(missing.key_id or ""))
        raise KeysUnavailable

    async def _find_bearer(self, principal: Principal, now: float) -> Principal:
        owner = None if principal.virtual_key_id is None else await self._virtual_keys.read(principal.virtual_key_id)
        return _bearer(principal, owner, now)

    def _verify(self, credential: str, digest: bytes, now: float) -> Principal:
        """Verify a token and cache it. A clock that steps back behind `since` makes it be verified again."""
        self._tokens.pop(digest, None)  # so that no token that is over takes the place of one in use
        if self._verifier is None:
            raise InvalidCredential(Reason.NO_ISSUER)
        refusal = self._refused.get(digest)
        if refusal is not None:
            raise InvalidCredential(*refusal)
        try:
            verified = self._verifier.verify(credential, now)
        except InvalidCredential as error:
            if error.reason not in _DEPENDS_ON_TIME:
                self._refused.put(digest, (error.reason, error.issuer, error.key_id))
            raise
        until = min(verified.expires_at, now + CACHE_SECONDS)
        self._tokens.put(digest, CachedToken(principal=verified.principal, since=now, until=until))
        return verified.principal


def _holder(virtual_key: VirtualKey, now: float) -> Principal:
    """Return the principal of a key of this virtual key."""
    _check_usable(virtual_key, now)
    expires_at_ms = virtual_key.expires_at_ms
    return Principal(virtual_key.virtual_key_id, math.inf if expires_at_ms is None else expires_at_ms / 1000)


def _bearer(principal: Principal, owner: VirtualKey | None, now: float) -> Principal:
    """Return the principal of a token whose virtual key is registered as `owner`.

    A virtual key need not be registered for its issuer's tokens to be accepted.
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
