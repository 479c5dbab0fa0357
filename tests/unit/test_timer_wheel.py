"""When those are called that have a time, by one timer of the loop."""

import asyncio
import math
from typing import cast

from harness.waiting import until
from jobstatus.core.watching.fan_out import FanOut
from jobstatus.core.watching.timer_wheel import TICK_SECONDS, TimerWheel


class MovedLoop(asyncio.SelectorEventLoop):
    """A loop whose time stands still unless it is moved."""

    at = 1000.0

    def time(self) -> float:
        return self.at

    async def move(self, seconds: float) -> None:
        """Let so much time pass, and all run that is due then."""
        self.at += seconds
        for _ in range(20):
            await asyncio.sleep(0)


class Caller:
    """One that has a time, and notes when it is called."""

    def __init__(self, calls: list[str], name: str) -> None:
        self.calls = calls
        self.name = name

    def on_time(self) -> None:
        self.calls.append(self.name)


async def called_in_time(loop: MovedLoop) -> None:
    calls: list[str] = []
    wheel = TimerWheel(FanOut())
    late, soon, gone = (Caller(calls, name) for name in ("late", "soon", "gone"))
    wheel.add(late, loop.at + 10)
    wheel.add(soon, loop.at + 1)
    tick = wheel.add(gone, loop.at + 1)
    wheel.remove(gone, tick)
    await loop.move(0.99)
    assert calls == []
    await loop.move(0.01 + TICK_SECONDS)
    assert calls == ["soon"]
    wheel.add(soon, loop.at + 2)
    wheel.remove(gone, tick)  # once more, when its tick is over
    await loop.move(2 + TICK_SECONDS)
    assert calls == ["soon", "soon"]
    await loop.move(7)
    assert calls == ["soon", "soon", "late"]


def test_each_is_called_at_its_time_once() -> None:
    """Never early and at most a tick late, in order, and not at all once it was removed."""
    with asyncio.Runner(loop_factory=MovedLoop) as runner:
        runner.run(called_in_time(cast("MovedLoop", runner.get_loop())))


async def test_a_tick_of_the_real_loop_is_not_early() -> None:
    """The loop's own timers may end early by less than a tick; a wheel's does not."""
    loop, calls, times = asyncio.get_running_loop(), list[str](), list[float]()
    wheel, at = TimerWheel(FanOut()), loop.time() + 0.05

    class Noting(Caller):
        def on_time(self) -> None:
            super().on_time()
            times.append(loop.time())

    tick = wheel.add(Noting(calls, "one"), at)
    await until(lambda: bool(calls))
    assert tick == math.ceil(at / TICK_SECONDS)
    assert times[0] >= at
