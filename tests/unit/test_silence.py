"""What the other serving processes do while one of them is silent."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from harness.waiting import until
from jobstatus.processes.child_channel import ChildChannel
from jobstatus.processes.silence import SilenceLimits, extend_leases_in_silence

IMPATIENT = SilenceLimits(ask_every_seconds=0.005, answer_seconds=0.5)


class Child:
    """The other end of a channel: what it was asked, and whether it runs."""

    def __init__(self, channel: ChildChannel) -> None:
        self.channel = channel
        self.asked: list[str] = []
        self.runs = asyncio.Event()
        self.runs.set()

    async def live(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            number, question = json.loads(line)
            await self.runs.wait()
            self.asked.append(question)
            writer.write(json.dumps([number, ""]).encode() + b"\n")


@asynccontextmanager
async def child() -> AsyncIterator[Child]:
    channel, childs_end = await ChildChannel.opened()
    reader, writer = await asyncio.open_unix_connection(sock=childs_end)
    writer.write(b"up\n")
    assert await channel.wait_until_up()
    found = Child(channel)
    living = asyncio.create_task(found.live(reader, writer))
    try:
        yield found
    finally:
        living.cancel()
        writer.close()
        await until(lambda: not channel.is_open)


@asynccontextmanager
async def children(count: int) -> AsyncIterator[list[Child]]:
    """So many, supervised."""
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(child()) for _ in range(count)]
        watching = asyncio.create_task(extend_leases_in_silence(lambda: [each.channel for each in found], IMPATIENT))
        try:
            yield found
        finally:
            watching.cancel()


async def test_the_others_restart_leases_until_it_answers(caplog: pytest.LogCaptureFixture) -> None:
    """Again and again, because the workers of the silent one are not heard for as long; the log says it once."""
    caplog.set_level(logging.WARNING)
    async with children(2) as (stopped, other):
        await until(lambda: len(other.asked) > 3)
        assert {*stopped.asked, *other.asked} == {"alive"}
        stopped.runs.clear()
        await until(lambda: other.asked.count("restart_leases") > 1)
        stopped.runs.set()
        await until(lambda: other.asked[-4:] == ["alive"] * 4)
        assert "restart_leases" not in stopped.asked
    assert [vars(record)["event"] for record in caplog.records] == ["leases_extended"]


async def test_one_that_has_ended_is_not_silent(caplog: pytest.LogCaptureFixture) -> None:
    """Its workers lose their connections and are heard by the others at once."""
    caplog.set_level(logging.WARNING)
    async with children(1) as (other,):
        async with child() as ended:
            pass
        assert not ended.channel.is_open
        channels = [other.channel, ended.channel]
        watching = asyncio.create_task(extend_leases_in_silence(lambda: channels, IMPATIENT))
        before = len(other.asked)
        await until(lambda: len(other.asked) > before + 6)
        watching.cancel()
        assert set(other.asked) == {"alive"}
    assert caplog.records == []
