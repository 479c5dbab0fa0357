"""What stands between a valid credential and its poll, where the settings ask for it: a rate limit and an audit log.

A limit belongs to a virtual key, whatever tokens and keys its clients use, because tokens are cheap to get; all admins
have one together. It counts requests, not jobs: one that waits or follows counts once, however long it lasts, and a
404 counts like a 200, so that the limit says nothing about jobs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from jobstatus.auth.lru_cache import LruCache
from jobstatus.core.access import Principal
from jobstatus.core.job import is_valid_id
from jobstatus.core.watching.long_poll import Reauthenticate
from jobstatus.rest.headers import MAX_RETRY_AFTER_SECONDS

MAX_KEYS: Final = 20_000
"""How many virtual keys are counted; beyond, those that have polled least recently have their whole burst again."""

_ROUNDING_SECONDS: Final = 0.001
"""So much too early is in time, because sums of fractions are not exact."""


class RateLimited(Exception):
    """A virtual key, or the admins together (None), has sent too many requests."""

    def __init__(self, virtual_key_id: str | None, retry_after_seconds: int) -> None:
        super().__init__("too many requests")
        self.virtual_key_id = virtual_key_id
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """So many requests a second on average, of which `burst` may come at a time."""

    per_second: float
    burst: int


class RateLimiter:
    """One token bucket for each virtual key: it holds `burst` tokens and gets `per_second` of them each second.

    Each request that is refused is told another time to come back, as far as there are tokens by then, so that those
    who come back are let in. If all were told the same time, most would be refused again.
    """

    def __init__(self, limit: RateLimit, monotonic: Callable[[], float], max_keys: int = MAX_KEYS) -> None:
        self._monotonic = monotonic
        self._refill_seconds = 1 / limit.per_second
        self._slack_seconds = (limit.burst - 1) / limit.per_second
        self._full_at: LruCache[str | None, float] = LruCache(max_keys)
        """When each bucket is full again, by `monotonic`."""
        self._told: LruCache[str | None, float] = LruCache(max_keys)
        """When the last request that was refused is to come back."""

    def check(self, virtual_key_id: str | None) -> None:
        """Raise RateLimited if the bucket is empty; takes nothing."""
        full_at = self._full_at.get(virtual_key_id)
        if full_at is None:
            return
        now, free_at = self._monotonic(), full_at - self._slack_seconds
        if free_at > now + _ROUNDING_SECONDS:
            after_others = (self._told.get(virtual_key_id) or 0.0) + self._refill_seconds
            come_at = min(max(free_at, after_others), now + MAX_RETRY_AFTER_SECONDS)
            self._told.put(virtual_key_id, come_at)
            raise RateLimited(virtual_key_id, math.ceil(come_at - now - _ROUNDING_SECONDS))

    def count(self, virtual_key_id: str | None) -> None:
        """Take one token."""
        full_at = max(self._full_at.get(virtual_key_id) or 0.0, self._monotonic())
        self._full_at.put(virtual_key_id, full_at + self._refill_seconds)


AuditRead: TypeAlias = Callable[[Principal, str, str, str], None]
"""Records that an admin has polled a job; takes the admin, the request type, the job's id and the request's id."""


def record_read(
    record: Callable[..., None], principal: Principal, request_type: str, job_id: str, request_id: str
) -> None:
    """Record the poll of an admin by `AuditLog.record`."""
    issuer, subject = principal.identity or ("", "")
    named = job_id if is_valid_id(job_id) else "(not an id)"
    record("AdminPoll", issuer=issuer, subject=subject, request_id=request_id, request_type=request_type, job_id=named)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Applies what is set of the two."""

    limiter: RateLimiter | None
    audit: AuditRead | None

    def check(self, principal: Principal) -> None:
        """Raise RateLimited if this principal must wait."""
        if self.limiter is not None:
            self.limiter.check(principal.virtual_key_id)

    def count(self, principal: Principal, request_type: str, job_id: str, request_id: str) -> None:
        """Count a request that was let in, and record that of an admin."""
        if self.limiter is not None:
            self.limiter.count(principal.virtual_key_id)
        if self.audit is not None and principal.is_admin:
            self.audit(principal, request_type, job_id, request_id)

    def once(self, authenticate: Reauthenticate, request_type: str, job_id: str, request_id: str) -> Reauthenticate:
        """Return `authenticate` for one request, which is checked and counted when it is authenticated first."""
        is_in = False

        async def admit() -> Principal:
            nonlocal is_in
            principal = await authenticate()
            if not is_in:
                self.check(principal)
                self.count(principal, request_type, job_id, request_id)
                is_in = True
            return principal

        return admit
