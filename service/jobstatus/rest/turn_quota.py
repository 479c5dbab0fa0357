"""How many requests of one credential are answered in one turn of the event loop.

All requests that have arrived are taken in one turn, and a turn with a thousand of one client takes a tenth of a second
in which no other client is answered. A poll that needs several turns, as on a store that has to be waited for, would
wait as often. So each credential has a quota for each turn, and what is over it waits for the next turns, in order. All
requests without a credential that is known to be good share one quota. Where turns are short, nobody waits for
long; a client that sends one request at a time never waits.

What waits is the handlers' tasks, of which a connection has one at a time, so their number is that of the connections.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

STRANGERS: Final = ""
"""Stands for all requests without a credential that is known to be good. No virtual key has this id, or the next."""
ADMINS: Final = " admins"


class TurnQuota:
    """Counts the requests of this turn, and keeps those that wait for their turn. Use it in one event loop."""

    def __init__(self, *, limit: int, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """A turn has so many requests of each credential, and of all strangers together.

        `call_soon` calls a function in the next turn, as that of an event loop.
        """
        self._limit = limit
        self._call_soon = call_soon
        self._taken: dict[str, int] = {}
        """How many of this turn have been counted, by credential."""
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._is_due = False

    def take(self, who: str) -> bool:
        """Return whether a request of this credential may be answered in this turn, and count it if so.

        None may while others of its credential wait.
        """
        taken = self._taken.get(who, 0)
        if taken >= self._limit or who in self._waiting:
            return False
        self._taken[who] = taken + 1
        if not self._is_due:
            self._await_turn()
        return True

    async def wait(self, who: str) -> None:
        """Return in a turn in which a request of this credential may be answered, and count it."""
        if not self.take(who):
            future = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(who, deque()).append(future)
            await future

    def _await_turn(self) -> None:
        self._is_due = True
        self._call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        self._is_due = False
        self._taken.clear()
        for who in list(self._waiting):
            self._admit(who)
        if self._taken or self._waiting:
            self._await_turn()

    def _admit(self, who: str) -> None:
        """Let as many go on as a turn has."""
        waiting, left = self._waiting[who], self._limit
        while waiting and left:
            future = waiting.popleft()
            if not future.done():  # else its client has gone
                future.set_result(None)
                left -= 1
                self._taken[who] = self._taken.get(who, 0) + 1
        if not waiting:
            del self._waiting[who]
