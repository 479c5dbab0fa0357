"""How many are woken at a time, and who is let in between."""

import asyncio
from functools import partial

import pytest
from jobstatus.core.watching.fan_out import FanOut


async def turns(count: int) -> None:
    """Let the loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
def woken() -> list[str]:
    return []


async def test_the_loop_runs_other_callbacks_between_two_slices(woken: list[str]) -> None:
    """Each turn of the loop wakes no more than the limit, and runs what else is ready."""
    seen: list[int] = []

    def count() -> None:
        seen.append(len(woken))
        if len(woken) < 10:
            asyncio.get_running_loop().call_soon(count)

    FanOut(3).wake([partial(woken.append, str(number)) for number in range(10)])
    count()
    await turns(10)
    assert woken == [str(number) for number in range(10)]
    assert seen[:5] == [0, 3, 6, 9, 10]


async def test_nothing_is_called_before_the_caller_is_done(woken: list[str]) -> None:
    """A wake asked for by a change does not run within what makes the change."""
    FanOut().wake([partial(woken.append, "a")])
    assert woken == []
    await asyncio.sleep(0)
    assert woken == ["a"]


async def test_few_do_not_queue_behind_many(woken: list[str]) -> None:
    """Who asks later takes turns with who has asked before, each in its own order."""
    fan_out = FanOut(4)
    fan_out.wake([partial(woken.append, f"many-{number}") for number in range(9)])
    fan_out.wake([partial(woken.append, "few")])
    fan_out.wake([])
    await asyncio.sleep(0)
    assert woken == ["many-0", "few", "many-1", "many-2"]
    await turns(10)
    assert [name for name in woken if name != "few"] == [f"many-{number}" for number in range(9)]


async def test_what_is_woken_may_wake_others(woken: list[str]) -> None:
    """A wake may add to those that are still to come, also as the last one."""
    fan_out = FanOut(2)

    def first() -> None:
        woken.append("first")
        fan_out.wake([partial(woken.append, "second")])

    fan_out.wake([first])
    await turns(3)
    assert woken == ["first", "second"]


async def test_one_that_raises_keeps_no_other_from_being_woken(woken: list[str]) -> None:
    """The loop is told of the bug; those after it are woken, and so are those of later changes."""
    told: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    fan_out = FanOut(2)

    def fail() -> None:
        raise ValueError("a bug")

    fan_out.wake([partial(woken.append, "before"), fail, partial(woken.append, "after")])
    await turns(5)
    fan_out.wake([partial(woken.append, "later")])
    await turns(5)
    assert (woken, [type(error) for error in told]) == (["before", "after", "later"], [ValueError])
