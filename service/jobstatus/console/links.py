"""Links that sign in, for development: each holds a ticket that is exchanged for a token once.

The ticket stands in the link's fragment, which a browser sends to nobody.
"""

import hashlib
import secrets
from collections.abc import Callable
from typing import Final

from jobstatus.auth.lru_cache import LruCache

TICKET_SECONDS: Final = 3600.0
MAX_TICKETS: Final = 100


class SignInLinks:
    """The tickets that are not used yet."""

    def __init__(self, mint: Callable[[], str], *, monotonic: Callable[[], float]) -> None:
        """`mint` returns a new token of an admin."""
        self._mint = mint
        self._monotonic = monotonic
        self._tickets: LruCache[bytes, float] = LruCache(MAX_TICKETS)

    def ticket(self) -> str:
        """Return a new ticket, valid for TICKET_SECONDS."""
        ticket = secrets.token_urlsafe(32)
        self._tickets.put(_digest(ticket), self._monotonic() + TICKET_SECONDS)
        return ticket

    def redeem(self, ticket: str) -> str | None:
        """Return a token for a ticket, which is used up thereby; None for one that is not valid."""
        until = self._tickets.pop(_digest(ticket), None)
        return self._mint() if until is not None and self._monotonic() < until else None


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).digest()
