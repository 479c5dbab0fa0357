"""The circuit breaker: silence is waited for once, and slow or failing work is no silence."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from harness.logged import events_logged
from harness.waiting import until
from jobstatus.core.circuit_breaker import BreakerLimits, CircuitBreaker
from jobstatus.core.errors import StoreUnavailable

LIMITS = BreakerLimits(silence_seconds=0, health_check_seconds=0.01, pause_seconds=0)


class OtherSide:
    """Answers health checks while it is well, and fails them or is silent else."""

    def __init__(self) -> None:
        self.is_well = asyncio.Event()
        self.failure: Exception | None = None
        self.checks = self.at_a_time = self.most_at_a_time = self.times_down = 0
        self.breaker = CircuitBreaker(self.health_check, LIMITS, self.down)

    async def health_check(self) -> None:
        self.checks += 1
        self.at_a_time += 1
        self.most_at_a_time = max(self.most_at_a_time, self.at_a_time)
        try:
            if self.failure is not None:
                raise self.failure
            async with asyncio.timeout(0.02):
                await self.is_well.wait()
        finally:
            self.at_a_time -= 1

    async def down(self) -> None:
        self.times_down += 1

    async def work_until(self, checks: int) -> None:
        """Work that takes until the health was checked so often."""
        with self.breaker.watching():
            await until(lambda: self.checks >= checks)


@pytest.fixture
async def other() -> AsyncIterator[OtherSide]:
    side = OtherSide()
    yield side
    await side.breaker.close()


async def silence(other: OtherSide) -> None:
    """Return when the other side is marked down, though some work with it is under way."""

    async def work_in_vain() -> None:
        with other.breaker.watching():
            await until(lambda: other.breaker.is_down)
            raise StoreUnavailable

    with pytest.raises(StoreUnavailable):
        await work_in_vain()


async def test_work_with_a_silent_side_is_refused_at_once_until_it_answers(
    other: OtherSide, caplog: pytest.LogCaptureFixture
) -> None:
    """One health check at a time finds out when it is back, however much work is refused meanwhile."""
    caplog.set_level("INFO")
    await silence(other)
    for _ in range(1000):
        with pytest.raises(StoreUnavailable) as caught, other.breaker.watching():
            pytest.fail("nothing is sent to a side that is down")
        assert isinstance(caught.value.__cause__, TimeoutError)
    so_far = other.checks
    await until(lambda: other.checks > so_far + 3)
    other.is_well.set()
    await until(lambda: not other.breaker.is_down)
    with other.breaker.watching():
        pass
    assert other.most_at_a_time == 1
    assert other.times_down == 1
    assert events_logged(caplog) == ["store_silent", "store_answers"]


async def test_slow_work_is_no_silence_while_the_other_side_answers(other: OtherSide) -> None:
    """Its health is checked, and other work goes on."""
    other.is_well.set()
    await other.work_until(1)
    assert not other.breaker.is_down
    assert other.times_down == 0


async def test_a_health_check_that_fails_at_once_is_no_silence(other: OtherSide) -> None:
    """Work with a side that refuses connections fails at once by itself; but it does not prove that silence is over."""
    other.failure = ConnectionRefusedError()
    await other.work_until(1)
    assert not other.breaker.is_down
    other.failure = None
    await silence(other)
    other.failure = RuntimeError("even a bug of the check must not end the checks")
    so_far = other.checks
    await until(lambda: other.checks > so_far + 3)
    assert other.breaker.is_down


async def test_quick_work_is_not_checked(other: OtherSide) -> None:
    """Nor work that fails quickly."""
    for _ in range(100):
        with other.breaker.watching():
            pass
        with pytest.raises(StoreUnavailable), other.breaker.watching():
            raise StoreUnavailable
    await asyncio.sleep(0)
    assert other.checks == 0


async def test_an_answer_to_work_under_way_ends_the_silence(other: OtherSide) -> None:
    """The next health check need not be waited for."""
    with other.breaker.watching():
        await until(lambda: other.breaker.is_down)
    assert not other.breaker.is_down


async def test_a_closed_breaker_checks_no_more(other: OtherSide) -> None:
    """A check under way ends as well."""
    await silence(other)
    await other.breaker.close()
    so_far = other.checks
    assert other.at_a_time == 0
    with pytest.raises(StoreUnavailable), other.breaker.watching():
        pass
    await asyncio.sleep(0)
    assert other.checks == so_far
