"""How many bytes of messages the service takes into memory at a time."""

import asyncio
import gc
from contextlib import ExitStack
from typing import Any, NoReturn, cast

import grpc
import pytest
from grpc import StatusCode as Code
from harness.http import request
from harness.jobs import complete, create
from harness.service import Service, service_here
from harness.waiting import until
from harness.wire import Refusal, channel_to, refusal_of, refused
from jobstatus.app.limits import ServiceLimits
from jobstatus.core.errors import Overloaded
from jobstatus.rpc.intake import LARGE_MESSAGE_BYTES, SLOW_TICKS, Intake
from jobstatus.rpc.options import RpcLimits

MIB = 1024 * 1024
OVERLOADED = Refusal(Code.RESOURCE_EXHAUSTED, "OVERLOADED")


def test_bytes_are_counted_until_the_block_ends() -> None:
    """What is beyond the bound is refused and not counted; a block gives its bytes back however it ends."""
    intake = Intake(100, 60)
    with intake.place() as first:
        intake.count(first, 60)
        with pytest.raises(Overloaded), intake.place() as second:
            intake.count(second, 41)
        assert intake.held_bytes() == 60
        with intake.place() as third:
            intake.count(third, 40)
            intake.count(first, 10)
            assert intake.held_bytes() == 50
    assert intake.held_bytes() == 0


def test_the_largest_message_has_room() -> None:
    """A bound that is smaller than one message is that message's length."""
    intake = Intake(1, 60)
    with intake.place() as place:
        intake.count(place, 60)
        assert intake.held_bytes() == 60


def test_large_messages_leave_room_for_small_ones() -> None:
    """What large ones may not use is there for small ones, until that is used too."""
    intake = Intake(16 * MIB, MIB)
    with ExitStack() as stack:
        for _ in range(15):
            intake.count(stack.enter_context(intake.place()), MIB)
        with pytest.raises(Overloaded):
            intake.count(stack.enter_context(intake.place()), LARGE_MESSAGE_BYTES + 1)
        for _ in range(MIB // LARGE_MESSAGE_BYTES):
            intake.count(stack.enter_context(intake.place()), LARGE_MESSAGE_BYTES)
        with pytest.raises(Overloaded):
            intake.count(stack.enter_context(intake.place()), 1)
    assert intake.held_bytes() == 0


class Arriving:
    """A call whose message has not arrived."""

    def __init__(self) -> None:
        self.has_arrived = asyncio.Event()

    async def read(self) -> bytes:
        await self.has_arrived.wait()
        return b"small"


def never(_: Overloaded) -> NoReturn:
    raise AssertionError("there is room")


async def test_a_message_that_a_busy_loop_reads_late_is_not_taken_for_the_largest() -> None:
    """To a loop that was held up a timer has ended before the message is read; only more of them make it a slow one."""
    intake, call = Intake(1, MIB, tick_seconds=0), Arriving()
    with intake.place() as place:
        receiving = asyncio.create_task(intake.receive(cast("Any", call), place, never))
        for _ in range(SLOW_TICKS):
            await asyncio.sleep(0)
            assert intake.held_bytes() == 0
        await until(lambda: intake.held_bytes() == MIB)
        call.has_arrived.set()
        assert await receiving == b"small"
        assert intake.held_bytes() == len(b"small")


async def held_bytes(service: Service) -> int:
    lines = (await request(service.admin_port, "/metrics")).body.decode().splitlines()
    (line,) = (line for line in lines if line.startswith("jobstatus_rpc_message_bytes "))
    return int(float(line.split()[1]))


async def test_messages_beyond_the_bound_are_refused() -> None:
    """Of many large results at once some are stored and the others OVERLOADED; nothing is counted afterwards."""
    limits = ServiceLimits(rpc=RpcLimits(hold_seconds=0, max_message_bytes=6 * MIB))
    async with service_here(max_result_bytes=2 * MIB, limits=limits) as service:
        for number in range(8):
            await create(service, f"j{number}")
        result = b'"' + b"x" * (2 * MIB - 2) + b'"'

        async def outcome(number: int) -> Refusal | None:
            try:
                await complete(service, f"j{number}", result)
            except grpc.aio.AioRpcError as error:
                return refusal_of(error)
            return None

        outcomes = await asyncio.gather(*(outcome(number) for number in range(8)))
        assert None in outcomes
        assert OVERLOADED in outcomes
        assert all(each in (None, OVERLOADED) for each in outcomes)
        await until(lambda: holds(service, 0))
        await complete(service, "j0", result)


async def holds(service: Service, count: int) -> bool:
    return await held_bytes(service) == count


async def test_messages_that_are_slow_to_arrive_are_bounded() -> None:
    """A message on its way has the room of the largest; beyond the bound it is refused, and a cancelled one leaves."""
    limits = ServiceLimits(rpc=RpcLimits(hold_seconds=0, max_message_bytes=0))
    async with service_here(max_result_bytes=MIB, limits=limits) as service, channel_to(service.grpc_port) as channel:
        slow: Any = channel.stream_unary("/jobstatus.v1.JobStatus/CompleteJob")
        first = slow()
        await first.wait_for_connection()
        await until(lambda: holds(service, 5 * MIB))
        second = slow()
        assert await refused(second) == OVERLOADED
        first.cancel()
        await until(lambda: holds(service, 0))
        await create(service, "j1")
        await complete(service, "j1")


async def test_a_call_without_a_message_is_refused() -> None:
    """A client that ends its half without a message is told so."""
    async with service_here() as service, channel_to(service.grpc_port) as channel:
        call: Any = channel.stream_unary("/jobstatus.v1.JobStatus/CompleteJob")
        assert (await refused(call(iter(())))).code is Code.INVALID_ARGUMENT


def copies_of(own: bytes) -> int:
    """How many other bytes objects have it in them."""
    held = {id(each): each for thing in gc.get_objects() for each in gc.get_referents(thing) if type(each) is bytes}
    return sum(len(each) >= len(own) and each is not own and own in each for each in held.values())


async def test_a_refused_message_is_let_go_of() -> None:
    """The error that gRPC keeps of a call does not keep its message until a collection of cycles."""
    async with service_here(max_result_bytes=MIB) as service:
        await create(service, "j1")
        result = b'"refused' + b"x" * (MIB // 2) + b"]"
        gc.disable()
        try:
            with pytest.raises(grpc.aio.AioRpcError):
                await complete(service, "j1", result)
            assert copies_of(result) == 0
        finally:
            gc.enable()
