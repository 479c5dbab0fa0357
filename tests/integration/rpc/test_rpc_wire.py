"""Bytes that are no requests, and calls that are no calls: what no client may be able to do."""

import asyncio
from typing import Any, Final

import grpc
import pytest
from grpc import StatusCode as Code
from harness.http import LIMIT_SECONDS
from harness.jobs import create, creation
from harness.refusals import invalid
from harness.rpc import get, watch
from harness.service import Service, service_here
from harness.waiting import until
from harness.wire import PREFACE, call_raw, channel_to, refused
from jobstatus.app.limits import ServiceLimits
from jobstatus.rpc.server import DESCRIPTORS, RpcLimits
from jobstatus.v1 import job_status_pb2 as pb

MALFORMED: Final = invalid("request")


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x10abc", b"\x0a", b"\x0b\x0a", b"\x00"])
async def test_bytes_that_are_no_message(empty: Service, data: bytes) -> None:
    """Garbage and a truncated field are INVALID_ARGUMENT for every method, not UNKNOWN with a traceback's text (G1)."""
    async with channel_to(empty.grpc_port) as channel:
        for service in DESCRIPTORS:
            for method in service.methods:
                path = f"/{service.full_name}/{method.name}"
                if method.client_streaming:
                    both_ways: Any = channel.stream_stream(path)
                    call = both_ways(iter([data]))
                    assert await call.read() == b""  # it is connected
                    assert await refused(call.read()) == MALFORMED
                elif method.server_streaming:
                    stream: Any = channel.unary_stream(path)
                    assert await refused(stream(data).read()) == MALFORMED
                else:
                    assert await refused(call_raw(channel, path, data)) == MALFORMED


async def test_text_that_is_not_utf8(empty: Service) -> None:
    """A string that is not UTF-8 is INVALID_ARGUMENT, like any other message that is none (G1)."""
    async with channel_to(empty.grpc_port) as channel:
        for path in ("JobStatus/CreateJob", "JobStatus/GetJob", "JobStatus/CompleteJob", "VirtualKeys/PutVirtualKey"):
            assert await refused(call_raw(channel, f"/jobstatus.v1.{path}", b"\x0a\x02\xff\xfe")) == MALFORMED


async def test_odd_encodings_are_read_as_protobuf_says(empty: Service) -> None:
    """Unknown fields are ignored and not stored, of a repeated singular field the last counts (G3)."""
    async with channel_to(empty.grpc_port) as channel:
        plain = creation("j1").SerializeToString()
        unknown = b"\xfa\x3f\x06secret" + b"\x98\x40\x01"
        answer = await call_raw(
            channel, "/jobstatus.v1.JobStatus/CreateJob", unknown + creation("j0").SerializeToString() + plain
        )
        assert pb.CreateJobResponse.FromString(answer).job.job_id == "j1"
        assert b"secret" not in answer
        stored = await call_raw(
            channel, "/jobstatus.v1.JobStatus/GetJob", pb.GetJobRequest(job_id="j1").SerializeToString()
        )
        assert b"secret" not in stored
        wrong_type = call_raw(channel, "/jobstatus.v1.JobStatus/GetJob", b"\x08\x01")
        assert await refused(wrong_type) == invalid("job_id")


@pytest.mark.parametrize(
    "path",
    ["/jobstatus.v1.JobStatus/Nope", "/jobstatus.v1.Nope/GetJob", "/x/y", "/grpc.channelz.v1.Channelz/GetServers"],
)
async def test_unknown_methods_are_unimplemented(empty: Service, path: str) -> None:
    """What is not served is UNIMPLEMENTED (G30)."""
    async with channel_to(empty.grpc_port) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_raw(channel, path, b"")
    assert caught.value.code() is Code.UNIMPLEMENTED


async def test_metadata_has_a_bound(service: Service) -> None:
    """Metadata of 7 kB passes, of 20 kB does not, and the connection serves the next call (G14)."""
    request = pb.GetJobRequest(job_id="pending")
    await service.jobs.GetJob(request, metadata=[("x-long", "x" * 7000)])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.jobs.GetJob(request, metadata=[("x-long", "x" * 20_000)])
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
    await service.jobs.GetJob(request)


async def test_deadlines(service: Service) -> None:
    """A deadline in the past ends the call, one of ten years or none at all does not (G27)."""
    request = pb.GetJobRequest(job_id="pending")
    for seconds in (None, 10 * 365 * 24 * 3600):
        assert (await service.jobs.GetJob(request, timeout=seconds)).job.job_id == "pending"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.jobs.GetJob(request, timeout=-1)
    assert caught.value.code() is Code.DEADLINE_EXCEEDED


async def test_calls_over_the_limit_are_shed() -> None:
    """Above the limit of concurrent calls one is RESOURCE_EXHAUSTED; when one has ended there is room again (G34)."""
    async with service_here(limits=ServiceLimits(rpc=RpcLimits(max_rpcs=2))) as service:
        await create(service, "j1")
        watches = [watch(service, "j1") for _ in range(2)]
        for stream in watches:
            await stream.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await get(service, "j1")
        assert caught.value.code() is Code.RESOURCE_EXHAUSTED
        watches[0].cancel()

        async def is_served() -> bool:
            try:
                return (await get(service, "j1")).job_id == "j1"
            except grpc.aio.AioRpcError:
                return False

        await until(is_served)


PING: Final = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)
PONG: Final = b"\x00\x00\x08\x06\x01\x00\x00\x00\x00" + bytes(8)
PING_HEAD: Final = 9


async def test_flood_of_pings_is_sent_away(service: Service) -> None:
    """A connection that only pings gets GOAWAY with ENHANCE_YOUR_CALM; others are served meanwhile (G34)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.grpc_port)
    writer.write(PREFACE + PING * 50)
    async with asyncio.timeout(LIMIT_SECONDS):
        received = await reader.read()
    writer.close()
    assert b"too_many_pings" in received
    assert (await get(service, "pending")).version == 1


async def test_pings_in_the_allowed_interval_are_answered() -> None:
    """A connection without any call may ping for as long as it wants, once in each interval."""
    limits = RpcLimits(min_ping_interval_ms=20)
    async with service_here(limits=ServiceLimits(rpc=limits)) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.grpc_port)
        writer.write(PREFACE)
        for _ in range(8):  # three that come too early are one too many
            writer.write(PING)
            async with asyncio.timeout(LIMIT_SECONDS):
                await reader.readuntil(PONG)
            with pytest.raises(TimeoutError):  # until the interval is over
                await asyncio.wait_for(reader.readuntil(b"too_many_pings"), limits.min_ping_interval_ms / 500)
        writer.close()


def test_pings_are_allowed_as_documented() -> None:
    """One ping every 20 s, as the documents promise, with some room for the network."""
    assert 0 < RpcLimits().min_ping_interval_ms <= 0.8 * 20_000


async def test_client_that_answers_no_ping_is_disconnected() -> None:
    """The server pings a connection without calls and data; one that answers stays, one that ceases to is closed."""
    limits = RpcLimits(ping_ms=20, pong_ms=200)
    async with service_here(limits=ServiceLimits(rpc=limits)) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.grpc_port)
        try:
            writer.write(PREFACE)
            async with asyncio.timeout(LIMIT_SECONDS):
                for _ in range(5):
                    await reader.readuntil(PING[:PING_HEAD])
                    writer.write(PONG[:PING_HEAD] + await reader.readexactly(8))
                received = await reader.read()
        finally:
            writer.close()
        assert PING[:PING_HEAD] in received
        assert b"too_many_pings" not in received


def test_vanished_client_is_found_within_a_minute() -> None:
    """A ping, and the time to answer it."""
    assert RpcLimits().ping_ms + RpcLimits().pong_ms <= 50_000
