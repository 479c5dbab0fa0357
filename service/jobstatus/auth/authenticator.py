"""The front door: the credential headers of a request in, a principal out.

Every poll comes through here, so a token that was verified a moment ago is recognised by its SHA-256 and costs no
second signature. Only successes are remembered: a stranger cannot make this memory grow. The tokens themselves are not
kept.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from jobstatus.auth.credential import read_credential
from jobstatus.auth.errors import InvalidCredential, Reason
from jobstatus.auth.issuers import TokenVerifier
from jobstatus.auth.known_virtual_keys import KnownVirtualKeys
from jobstatus.auth.memory import Memory
from jobstatus.core.access import Principal
from jobstatus.core.store import VirtualKeyStore
from jobstatus.core.virtual_keys import KEY_PREFIX, VirtualKey, hash_key

REMEMBER_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RememberedToken:
    """A token that was verified at `since` and is believed until `until`, which is never after its `exp`."""

    principal: Principal
    since: float
    until: float


class Authenticator:
    """Recognises credentials. `refresh` wants to be called about once a second.

    `clock` gives seconds since the epoch, `monotonic` seconds that never step; `max_remembered` bounds each memory.
    Without a verifier only virtual keys are accepted.
    """

    def __init__(
        self,
        *,
        verifier: TokenVerifier | None,
        store: VirtualKeyStore,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        max_remembered: int = 20_000,
    ) -> None:
        self._verifier = verifier
        self._generation = 0 if verifier is None else verifier.generation
        self._clock = clock
        self._virtual_keys = KnownVirtualKeys(store, monotonic, max_remembered)
        self._tokens: Memory[bytes, RememberedToken] = Memory(max_remembered)

    async def authenticate(self, authorization: Sequence[str], virtual_key: Sequence[str]) -> Principal:
        """Whom the credential stands for; takes the values of all Authorization and all x-bf-vk headers.

        Raises MissingCredential, InvalidCredential, or StoreUnavailable when the store is needed and does not answer.
        """
        credential = read_credential(authorization, virtual_key)
        now = self._clock()
        if credential.startswith(KEY_PREFIX):
            return await self._recognise_key(credential, now)
        digest = hashlib.sha256(credential.encode()).digest()
        token = self._tokens.get(digest)
        if token is None or not token.since <= now < token.until:
            token = self._verify(credential, digest, now)
        virtual_key_id = token.principal.virtual_key_id
        if virtual_key_id is not None:
            # One that was never registered does not hinder the tokens of its issuer.
            _check_usable(await self._virtual_keys.read(virtual_key_id), now)
        return token.principal

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
        await self._virtual_keys.refresh()

    def forget_virtual_keys(self) -> None:
        """Forget what the store said of virtual keys; for whoever has just changed one in this process."""
        self._virtual_keys.forget()

    async def _recognise_key(self, key: str, now: float) -> Principal:
        if key == KEY_PREFIX:
            raise InvalidCredential(Reason.NOT_A_VIRTUAL_KEY)
        virtual_key = await self._virtual_keys.find(hash_key(key))
        if virtual_key is None:
            raise InvalidCredential(Reason.UNKNOWN_VIRTUAL_KEY)
        _check_usable(virtual_key, now)
        return Principal(virtual_key.virtual_key_id)

    def _verify(self, credential: str, digest: bytes, now: float) -> RememberedToken:
        """Verify a token and remember it. A clock that steps back behind `since` has it verified again."""
        if self._verifier is None:
            raise InvalidCredential(Reason.NO_ISSUER)
        verified = self._verifier.verify(credential, now)
        until = min(verified.expires_at, now + REMEMBER_SECONDS)
        token = RememberedToken(principal=verified.principal, since=now, until=until)
        self._tokens.remember(digest, token)
        return token


def _check_usable(virtual_key: VirtualKey | None, now: float) -> None:
    """Raise InvalidCredential if the virtual key is registered and disabled or expired."""
    if virtual_key is not None and not virtual_key.is_usable(int(now * 1000)):
        raise InvalidCredential(Reason.UNUSABLE_VIRTUAL_KEY)
