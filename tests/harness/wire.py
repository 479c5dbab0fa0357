"""gRPC as bytes, and its refusals as values: what a stub would hide from the tests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from harness.http import LIMIT_SECONDS

DOMAIN = "jobstatus.v1"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""With this a client of HTTP/2 begins: the preface, and settings that say nothing."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call was refused. Refusals are equal when code, reason and metadata are; the message is for people."""

    code: grpc.StatusCode
    reason: str
    metadata: dict[str, str] = field(default_factory=dict)
    message: str = field(default="", compare=False)


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    """What the error says in its one ErrorInfo, and has to say in plain metadata, too."""
    refusal = refusal_in(error)
    assert [value for key, value in error.trailing_metadata() if key == "jobstatus-reason"] == [refusal.reason]
    return refusal


def refusal_in(error: grpc.aio.AioRpcError) -> Refusal:
    """What the error says in its one ErrorInfo, which has to be of our domain; so does every build."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it has all that is asked of a Call
    assert status is not None, error
    (detail,) = status.details
    info = ErrorInfo()
    assert detail.Unpack(info)
    assert info.domain == DOMAIN
    return Refusal(error.code(), info.reason, dict(info.metadata), status.message)


async def refused(call: Awaitable[Any]) -> Refusal:
    """How the service refuses the call; fails if it does not."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(LIMIT_SECONDS):
            await call
    return refusal_of(caught.value)


@asynccontextmanager
async def channel_to(port: int) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of its own to a service of this machine."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel


async def call_raw(channel: grpc.aio.Channel, method: str, data: bytes, **options: Any) -> bytes:
    """One unary call with these very bytes to /package.Service/Method; the bytes of the answer."""
    call: Any = channel.unary_unary(method)
    answer: bytes = await call(data, **options)
    return answer
