"""Turns come one after the other, in order, with a pause after each."""

import asyncio

import pytest
from jobstatus.stores.scan_turns import ScanTurns


async def test_turns_come_in_order_and_one_at_a_time() -> None:
    """Each begins after the one before has ended, whether by itself or with an error."""
    turns, said = ScanTurns(pause_share=0), list[str]()

    async def take(name: str) -> None:
        async with turns.turn():
            said.append(f"{name} begins")
            await asyncio.sleep(0)
            said.append(f"{name} ends")
            if name == "b":
                raise ValueError(name)

    found = await asyncio.gather(*map(take, "abc"), return_exceptions=True)
    assert said == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]
    assert [type(error) for error in found] == [type(None), ValueError, type(None)]


async def test_only_the_next_turn_waits_for_the_pause() -> None:
    """The caller goes on at once."""
    turns = ScanTurns(pause_share=0, min_pause_seconds=1000)
    async with asyncio.timeout(30), turns.turn():
        pass
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), turns.turn():
            raise AssertionError("the next turn has begun")


async def test_a_long_turn_has_a_bounded_pause() -> None:
    """As where a store did not answer until a time limit."""
    turns = ScanTurns(pause_share=1e9)
    async with turns.turn():
        await asyncio.sleep(0)
    async with asyncio.timeout(30), turns.turn():
        pass


async def test_callers_that_leave_hold_up_nobody() -> None:
    """Whether one leaves in its turn, while it waits, or in the moment between."""
    turns, said = ScanTurns(pause_share=0), list[str]()
    leave = asyncio.Event()

    async def take(name: str) -> None:
        async with turns.turn():
            said.append(name)
            await leave.wait()

    tasks = [asyncio.create_task(take(name)) for name in "abcd"]
    await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[2].cancel()
    await asyncio.wait([tasks[0]])
    asyncio.get_running_loop().call_later(0, tasks[1].cancel)  # as soon as it has been given the turn
    leave.set()
    async with asyncio.timeout(30):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert said in (["a", "d"], ["a", "b", "d"])
    assert not tasks[3].cancelled()
