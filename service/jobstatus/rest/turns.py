"""In which order requests are answered when there are more than one turn of the event loop has time for.

The loop hands over all requests that have arrived in one turn, and answers nobody else meanwhile. So a flood of a
thousand would make each other client wait for a thousand. Here a turn has a few milliseconds for requests. What arrives
later than that is not even parsed: its bytes wait in the lane of its credential, and each of the next turns begins
with a few of them, one of each lane in rotation. So a client waits for its own requests and for one of every other
client, however many of them a flood has sent.

All requests without a credential that is known to be good are strangers, with a lane for each address. They have half
of the time while others wait, because each address may send new ones, and to refuse a token may cost what twenty polls
cost.

What a request costs once it has begun, such as in a task that awaits the store, is known only later. So the number that
begins in a turn follows what the turns take: half as many after one that took too long, one more after any other.

While nothing waits, a request costs a look at the clock.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter, thread_time
from typing import Final, TypeAlias

ADMINS: Final = " admins"
"""The lane of all admins. No virtual key has this id."""

Begin: TypeAlias = Callable[[], bool]
"""Begins a request that has waited. Returns False where its client has gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnLimits:
    """The bounds of a turn of the loop."""

    seconds: float = 0.002
    """Requests that have arrived are begun for so long; a turn that takes twice as much processor time is too long."""
    most: int = 64
    """Requests of each kind, known and strangers, that have waited and are begun in one turn."""


class Lanes:
    """Requests that wait, in a lane for each client."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[str, deque[Begin]] = OrderedDict()
        """None of them is empty; the next one is the first."""

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def put(self, name: str, begin: Begin) -> None:
        """Add a request to a lane."""
        lane = self._lanes.get(name)
        if lane is None:
            self._lanes[name] = deque((begin,))
        else:
            lane.append(begin)

    def pop(self) -> Begin:
        """Return the first request of the next lane, which is then the last one."""
        name, lane = next(iter(self._lanes.items()))
        begin = lane.popleft()
        if lane:
            self._lanes.move_to_end(name)
        else:
            del self._lanes[name]
        return begin


class Turns:
    """Says which requests are begun in this turn of one event loop, and begins the others in later ones."""

    def __init__(
        self,
        limits: TurnLimits,
        *,
        call_soon: Callable[[Callable[[], None]], object],
        clock: Callable[[], float] = perf_counter,
        work_clock: Callable[[], float] = thread_time,
    ) -> None:
        """`call_soon` calls a function in the next turn, as that of an event loop.

        `work_clock` returns the processor time of the loop's thread, so that a machine that does something else in
        between makes no turn too long.
        """
        self._limits = limits
        self._call_soon = call_soon
        self._clock = clock
        self._work_clock = work_clock
        self._known, self._strangers = Lanes(), Lanes()
        self._is_backlogged = False
        """Whether any request waits: then others wait behind those of their lane."""
        self._is_due = False
        """Whether `_begin_turn` is to be called in the next turn."""
        self._full_at = 0.0
        """When this turn has no more time for requests that arrive."""
        self._most = limits.most
        """Of each kind that are begun in a turn."""
        self._work_before = 0.0

    def has_time(self) -> bool:
        """Return whether a request that has arrived is to be begun at once; else it has to wait."""
        if self._is_backlogged:
            return False
        now = self._clock()
        if self._is_due:
            return now < self._full_at
        self._full_at = now + self._limits.seconds
        self._await_turn()
        return True

    def wait(self, who: str | None, address: str, begin: Begin) -> None:
        """Have `begin` called in a later turn. `who` sends the request; None for a stranger at this address."""
        if who is None:
            self._strangers.put(address, begin)
        else:
            self._known.put(who, begin)
        if not self._is_backlogged:
            self._is_backlogged, self._work_before = True, self._work_clock()
            if not self._is_due:
                self._await_turn()

    def begin_all(self) -> None:
        """Begin all requests that wait, because no turn may come."""
        for lanes in self._known, self._strangers:
            while lanes:
                lanes.pop()()
        self._is_backlogged = False

    def _await_turn(self) -> None:
        self._is_due = True
        self._call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        self._is_due = False
        if not self._is_backlogged:
            return
        self._await_turn()
        self._adapt()
        now = self._clock()
        half = self._limits.seconds / 2
        self._begin_some(self._known, now + (half if self._strangers else 2 * half))
        self._begin_some(self._strangers, max(now + 2 * half, self._clock() + half))
        self._is_backlogged = bool(self._known or self._strangers)
        self._full_at = self._clock() + half

    def _adapt(self) -> None:
        work = self._work_clock()
        if work - self._work_before > 2 * self._limits.seconds:
            self._most = max(1, self._most // 2)
        else:
            self._most = min(self._limits.most, self._most + 1)
        self._work_before = work

    def _begin_some(self, lanes: Lanes, until: float) -> None:
        """Begin requests until then, one at least."""
        left = self._most
        while lanes and left:
            if lanes.pop()():
                left -= 1
                if self._clock() >= until:
                    return
