"""What tests put in the place of a part of the world: a clock that moves when it is told to, a store that fails."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from jobstatus.app.clocks import Clocks
from jobstatus.core.store import NOT_NOW, NotNow
from jobstatus.stores import open_store

from harness.stores import DelegatingStore


class Clock:
    """The clocks of a service that is given it: they stand still until they are moved."""

    def __init__(self, *, ahead_seconds: int = 0, follow_store: bool = False) -> None:
        """`ahead_seconds`: of the system's clock."""
        self._paused_seconds = 0.0
        self._ns = time.time_ns() + ahead_seconds * 1_000_000_000
        self.clocks = Clocks(
            seconds=self.time,
            ms=lambda: self.ms,
            monotonic_ns=self.time_ns,
            pulse=lambda: self._paused_seconds,
            follow_store=follow_store,
        )

    def move(self, *, seconds: float = 0, ms: int = 0) -> None:
        """Let so much time pass."""
        self._ns += int(seconds * 1_000_000_000) + ms * 1_000_000

    def pause(self, seconds: float) -> None:
        """Let the process stand still for so long, as by SIGSTOP."""
        self.move(seconds=seconds)
        self._paused_seconds += seconds

    @property
    def ms(self) -> int:
        """Milliseconds since the epoch."""
        return self._ns // 1_000_000

    def time_ns(self) -> int:
        return self._ns

    def time(self) -> float:
        return self._ns / 1_000_000_000


class MeddledStore(DelegatingStore):
    """The store of the URL, which notes what it is asked and fails where a test wants it to."""

    def __init__(self, url: str = "memory://") -> None:
        self.real: Any = open_store(url)
        self.reads_at_once = False
        self.calls: list[tuple[str, Any]] = []
        self.failures: defaultdict[str, Exception | None] = defaultdict(lambda: None)

    def try_read_answer(self, _: str) -> NotNow:
        return NOT_NOW

    def part_of(self, _: str) -> None:
        """There is one part."""

    def fail_all(self, failure: Exception | None) -> None:
        """Every operation fails like this from now on; None: none does."""
        self.failures = defaultdict(lambda: failure)

    def calls_of(self, *names: str) -> list[tuple[str, Any]]:
        """What these operations were asked, in order."""
        return [call for call in self.calls if call[0] in names]

    def replace(self, name: str, operation: Callable[..., Any]) -> None:
        """Do this from now on when the store is asked for the operation of this name."""
        vars(self)[name] = operation

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def operation(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, arguments[0] if arguments else None))
            if (failure := self.failures[name]) is not None:
                raise failure
            return await getattr(self.real, name)(*arguments, **options)

        return operation
