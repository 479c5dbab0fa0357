"""How many requests of one credential are answered in one turn of the event loop, and how the others wait."""

import asyncio
from collections.abc import Callable

import pytest
from jobstatus.rest.turn_quota import STRANGERS, TurnQuota


class Turns:
    """Calls what was asked for when it is told that a turn begins."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def call_soon(self, function: Callable[[], None]) -> None:
        self.due.append(function)

    def begin(self) -> None:
        due, self.due = self.due, []
        for function in due:
            function()


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def quota(turns: Turns) -> TurnQuota:
    """Two of each credential, and two of strangers."""
    return TurnQuota(limit=2, call_soon=turns.call_soon)


async def waiting(quota: TurnQuota, who: str, count: int) -> list[asyncio.Task[None]]:
    """So many that wait, in order."""
    tasks = [asyncio.create_task(quota.wait(who)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def admitted(tasks: list[asyncio.Task[None]]) -> list[bool]:
    """Which of them may go on."""
    for _ in range(3):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


def test_each_credential_has_a_quota_and_strangers_share_one(quota: TurnQuota) -> None:
    """What one takes is not missing to another."""
    assert [quota.take("vk-1") for _ in range(3)] == [True, True, False]
    assert [quota.take(STRANGERS) for _ in range(3)] == [True, True, False]
    assert quota.take("vk-2")


def test_the_next_turn_has_as_many_again(quota: TurnQuota, turns: Turns) -> None:
    """A turn is asked for once, and only after requests."""
    assert turns.due == []
    assert [quota.take("vk-1") for _ in range(3)] == [True, True, False]
    assert len(turns.due) == 1
    turns.begin()
    assert turns.due == []
    assert quota.take("vk-1")


async def test_what_waits_goes_on_in_order_and_before_what_comes_later(quota: TurnQuota, turns: Turns) -> None:
    """A few in each turn; others are not held up by it."""
    assert [quota.take(STRANGERS) for _ in range(2)] == [True, True]
    tasks = await waiting(quota, STRANGERS, 3)
    assert await admitted(tasks) == [False, False, False]
    turns.begin()
    assert not quota.take(STRANGERS)
    assert quota.take("vk-1")
    assert await admitted(tasks) == [True, True, False]
    turns.begin()
    assert await admitted(tasks) == [True, True, True]
    assert [quota.take(STRANGERS) for _ in range(2)] == [True, False]


async def test_clients_that_have_gone_take_nobodys_place(quota: TurnQuota, turns: Turns) -> None:
    """The next one goes on in their stead."""
    for _ in range(2):
        quota.take(STRANGERS)
    tasks = await waiting(quota, STRANGERS, 4)
    tasks[0].cancel()
    tasks[1].cancel()
    await asyncio.gather(*tasks[:2], return_exceptions=True)
    turns.begin()
    assert await admitted(tasks[2:]) == [True, True]
    turns.begin()
    turns.begin()
    assert turns.due == []


async def test_the_loops_turns_are_the_turns() -> None:
    """With the event loop's own `call_soon`, all go on sooner or later."""
    quota = TurnQuota(limit=1, call_soon=asyncio.get_running_loop().call_soon)
    async with asyncio.timeout(60):
        await asyncio.gather(*(quota.wait(who) for who in (STRANGERS, "vk-1") for _ in range(50)))
