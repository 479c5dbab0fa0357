"""Fetch an issuer's keys, and keep them up to date.

The keys are verified with from memory. They are fetched again when they are due, and when a token names a key that is
not among them, but at most once in `JwksLimits.least_seconds`: whatever tokens are sent, the provider gets no more
requests. All who need the keys wait for one fetch. When a fetch fails, the keys from before stay in use for a while.

Each issuer has its own RemoteKeys, so that the outage of one provider concerns the tokens of that one only. How bytes
are fetched is for the caller to say; this module knows no HTTP.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from jobstatus.auth.discovery import read_description, url_in
from jobstatus.auth.issuer_config import IssuerConfig
from jobstatus.auth.jwks import parse_jwks
from jobstatus.auth.key_urls import discovery_url
from jobstatus.auth.keys import KeyRefused, KeySet
from jobstatus.auth.lru_cache import LruCache

_log: Final = logging.getLogger(__name__)

_NO_KEYS: Final = KeySet({}, None)
_MAX_ABSENT: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class JwksLimits:
    """Times are in seconds."""

    least_seconds: float = 30.0
    """The least time between the beginnings of two fetches for one issuer, whatever its Cache-Control says."""
    most_seconds: float = 60 * 60.0
    """The longest time before the keys are fetched again, whatever the issuer's Cache-Control says."""
    usual_seconds: float = 5 * 60.0
    """The time before the keys are fetched again if the issuer's Cache-Control says nothing."""
    keep_seconds: float = 24 * 60 * 60.0
    """How long keys stay in use after they were fetched last, while they cannot be fetched again."""
    answer_seconds: float = 5.0
    """How long the whole answer to one request may take."""
    max_bytes: int = 256 * 1024
    """The largest answer."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a URL answered, and for how many seconds it is fresh; None if it does not say."""

    body: bytes
    fresh_seconds: float | None


class FetchFailed(Exception):
    """A document could not be fetched. The message is a sentence for the operator; it holds no secret."""


Fetch: TypeAlias = Callable[[str, JwksLimits], Awaitable[Document]]
"""Return the document at a URL, within the limits and without following redirects; raise FetchFailed."""


class KeyNotFetched(Exception):
    """A token is good but for its key, which is unknown; the next fetch may bring it."""

    def __init__(self, source: "RemoteKeys", key_id: str | None, issued_at: float | None) -> None:
        super().__init__("the key may not have been fetched yet")
        self.source = source
        self.key_id = key_id
        self.issued_at = issued_at


class RemoteKeys:
    """The keys of one issuer, fetched from its provider. Use it in one event loop; call `refresh` about once a second.

    `keys` is replaced as a whole; `version` grows each time.
    """

    def __init__(
        self,
        config: IssuerConfig,
        fetch: Fetch,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        limits: JwksLimits = JwksLimits(),  # frozen
    ) -> None:
        """`clock` returns seconds since the epoch, `monotonic` seconds that never step."""
        self.config = config
        self.keys = _NO_KEYS
        self.version = 0
        self._fetch = fetch
        self._clock = clock
        self._monotonic = monotonic
        self._limits = limits
        self._fetching: asyncio.Task[None] | None = None
        self._digest = b""
        self._begun_at = self._due_at = float("-inf")
        self._fetched_at = self._fetched_at_wall = float("-inf")
        """When the last fetch that succeeded began, by both clocks."""
        self._absent: LruCache[str | None, bool] = LruCache(_MAX_ABSENT)
        """Ids of keys that the last fetch looked for and did not find."""
        self._has_failed = False

    @property
    def has_keys(self) -> bool:
        """Whether keys were fetched that may still be used."""
        return self.keys is not _NO_KEYS

    @property
    def is_fetching(self) -> bool:
        """Whether a fetch is under way."""
        return self._fetching is not None

    @property
    def age_seconds(self) -> float | None:
        """How long ago the keys in use were fetched last; None without keys."""
        return self._monotonic() - self._fetched_at if self.has_keys else None

    async def refresh(self) -> None:
        """Fetch the keys if they are due; drop them if they are too old."""
        if self._monotonic() >= self._due_at:
            await self.fetch_again()

    async def fetch_again(self) -> bool:
        """Wait for the fetch under way, or for a new one; return whether there was one, which it may be too early for.

        Cancelling one caller does not affect the others.
        """
        if self._fetching is None and self._monotonic() - self._begun_at >= self._limits.least_seconds:
            self._fetching = asyncio.create_task(self._update())
            self._fetching.add_done_callback(self._end_fetch)
        if self._fetching is None:
            return False
        await asyncio.shield(self._fetching)
        return True

    def is_unknown(self, key_id: str | None, issued_at: float | None, asked_at: float) -> bool:
        """Return whether the key is certainly not the issuer's; False if it may have been published since the fetch.

        It is certain if the keys were fetched after the request came, which was `asked_at` by the monotonic clock, or
        after the token was issued. A token that does not say when it was issued counts as old.
        """
        if not self.has_keys:
            return False
        if self._fetched_at >= asked_at:
            self._absent.put(key_id, True)
        if issued_at is None or key_id in self._absent:
            return True
        return issued_at + self.config.leeway_seconds + 1 < self._fetched_at_wall  # `iat` may be in whole seconds

    async def close(self) -> None:
        """Cancel the fetch under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def _end_fetch(self, _: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _update(self) -> None:
        """Fetch the keys and replace them; log and keep the old ones when that fails."""
        limits, begun_at, begun_at_wall = self._limits, self._monotonic(), self._clock()
        self._begun_at, self._due_at = begun_at, begun_at + limits.least_seconds
        try:
            document = await self._fetch_keys()
            digest = hashlib.sha256(document.body).digest()
            if digest != self._digest or not self.has_keys:
                self._replace(await self._parse(document.body), digest)
        except (FetchFailed, KeyRefused) as error:
            self._fail(str(error))
            return
        fresh = limits.usual_seconds if document.fresh_seconds is None else document.fresh_seconds
        self._due_at = begun_at + min(max(fresh, limits.least_seconds), limits.most_seconds)
        self._fetched_at, self._fetched_at_wall = begun_at, begun_at_wall
        self._absent.clear()
        self._succeed()

    async def _fetch_keys(self) -> Document:
        url = self.config.jwks_url
        return await self._fetch(await self._discover() if url is None else url, self._limits)

    async def _discover(self) -> str:
        """Return the URL of the keys from the issuer's description of itself."""
        issuer = self.config.issuer
        document = await self._fetch(discovery_url(issuer), self._limits)
        try:
            return url_in(read_description(document.body, issuer), "jwks_uri")
        except ValueError as error:
            raise FetchFailed(str(error)) from None

    async def _parse(self, data: bytes) -> KeySet:
        """Parse the set in a thread, because a large one takes long."""
        return await asyncio.to_thread(parse_jwks, self.config.algorithm, data, issuer=self.config.issuer)

    def _replace(self, keys: KeySet, digest: bytes) -> None:
        self.keys, self._digest = keys, digest
        self.version += 1
        if self.has_keys:
            _log.info(
                "The keys of an issuer were fetched and are new.",
                extra={"event": "issuer_keys_changed", "issuer": self.config.issuer, "keys": len(keys.by_id)},
            )

    def _succeed(self) -> None:
        if self._has_failed:
            _log.info(
                "The keys of an issuer can be fetched again.",
                extra={"event": "issuer_keys_recovered", "issuer": self.config.issuer},
            )
        self._has_failed = False

    def _fail(self, problem: str) -> None:
        """Log the first of consecutive failures; drop keys that are too old."""
        if not self._has_failed:
            _log.warning(
                "The keys of an issuer cannot be fetched; those from before, if any, stay in use for a while.",
                extra={"event": "issuer_keys_unavailable", "issuer": self.config.issuer, "problem": problem},
            )
        self._has_failed = True
        if self.has_keys and self._monotonic() - self._fetched_at >= self._limits.keep_seconds:
            self._replace(_NO_KEYS, b"")
            _log.warning(
                "The keys of an issuer are too old and no longer used.",
                extra={"event": "issuer_keys_dropped", "issuer": self.config.issuer},
            )
