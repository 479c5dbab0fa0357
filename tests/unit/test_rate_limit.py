"""The token buckets of virtual keys, with a clock that is moved."""

from typing import Final

import pytest
from harness.faults import Clock
from jobstatus.rest.admission import RateLimit, RateLimited, RateLimiter

MANY: Final = 50


def limiter(clock: Clock, per_second: float, burst: int, max_keys: int = 100) -> RateLimiter:
    return RateLimiter(RateLimit(per_second=per_second, burst=burst), clock.clocks.monotonic, max_keys)


def polls(limiter: RateLimiter, virtual_key_id: str | None = "vk-1") -> int:
    """One poll: 0 if it is let in, otherwise after how many seconds to come back."""
    try:
        limiter.check(virtual_key_id)
    except RateLimited as error:
        return error.retry_after_seconds
    limiter.count(virtual_key_id)
    return 0


def test_a_burst_is_let_in_and_then_the_rate() -> None:
    """So many at a time, and after that one for each part of a second that passes, however often it is tried."""
    clock = Clock()
    of_all = limiter(clock, 4, 3)
    assert [polls(of_all) for _ in range(5)] == [0, 0, 0, 1, 1]
    for _ in range(MANY):
        clock.move(ms=250)
        assert polls(of_all) == 0
        assert polls(of_all) > 0


@pytest.mark.parametrize(("per_second", "pause"), [(1, 1), (1, 2), (2, 1), (1000, 1)])
def test_a_poller_that_keeps_to_retry_after_is_never_refused(per_second: float, pause: int) -> None:
    """No `Retry-After` of a 202 is below a second, and no rate that can be set below one poll a second."""
    clock = Clock()
    of_all = limiter(clock, per_second, 2)
    for _ in range(MANY):
        assert polls(of_all) == 0
        clock.move(seconds=pause)


@pytest.mark.parametrize("per_second", [1, 1.5, 3, 7, 100])
def test_who_comes_back_when_told_is_let_in(per_second: float) -> None:
    clock = Clock()
    of_all = limiter(clock, per_second, 2)
    for _ in range(MANY):
        while not (seconds := polls(of_all)):
            pass
        clock.move(seconds=seconds)
        assert polls(of_all) == 0


def test_those_who_come_back_when_told_are_refused_once() -> None:
    """A hundred clients of one virtual key come at a time: each is told when there will be room for it."""
    clock = Clock()
    of_all = limiter(clock, 10, 10)
    coming = dict.fromkeys(range(100), 0)
    refusals = dict.fromkeys(coming, 0)
    for second in range(10):
        for client in [client for client, at in coming.items() if at == second]:
            del coming[client]
            if pause := polls(of_all):
                coming[client] = second + pause
                refusals[client] += 1
        clock.move(seconds=1)
    assert (coming, set(refusals.values())) == ({}, {0, 1})


def test_who_does_not_come_back_when_told_is_told_half_a_minute_at_most() -> None:
    of_all = limiter(Clock(), 1, 2)
    assert [polls(of_all) for _ in range(100)] == [0, 0, *range(1, 30), *[30] * 69]


def test_a_virtual_key_has_a_limit_of_its_own_and_the_admins_have_one_together() -> None:
    of_all = limiter(Clock(), 1, 2)
    assert [polls(of_all, "vk-1") for _ in range(3)] == [0, 0, 1]
    assert [polls(of_all, "vk-2") for _ in range(3)] == [0, 0, 1]
    assert [polls(of_all, None) for _ in range(3)] == [0, 0, 1]


def test_the_memory_is_bounded() -> None:
    """The virtual key that has polled least recently is forgotten first; one in use is not."""
    of_all = limiter(Clock(), 1, 2, max_keys=10)
    assert [polls(of_all) for _ in range(2)] == [0, 0]
    for number in range(MANY):
        assert polls(of_all, f"vk-of-{number}") == 0
        assert polls(of_all) > 0
    assert polls(of_all, "vk-of-0") == polls(of_all, "vk-of-0") == 0
