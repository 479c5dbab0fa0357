"""The client's channel: several replicas behind a name, and what a caller may add to it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, get_args

import grpc
import pytest
from harness.replica import Replica, replica_here, target_of
from harness.waiting import until
from jobstatus.client import (
    AnswerTooLarge,
    JobState,
    JobStatusClient,
    Overloaded,
    ResultTooLarge,
    ServiceFailed,
    ServiceUnreachable,
)
from jobstatus.client.channel import Balancing, Metadata, channel_options
from jobstatus.client.errors import TRANSIENT, from_call


@pytest.fixture
async def replicas() -> AsyncIterator[Sequence[Replica]]:
    async with replica_here() as one, replica_here() as other:
        yield one, other


async def ask(client: JobStatusClient, times: int = 1) -> None:
    for _ in range(times):
        assert (await client.get_job("job-1")).state is JobState.COMPLETED


async def test_calls_take_turns_among_all_addresses_of_a_name(replicas: Sequence[Replica]) -> None:
    """Once all are connected; nothing has to be set for it."""
    async with JobStatusClient(target_of(*replicas)) as client:

        async def both_are_asked() -> bool:
            await ask(client)
            return all(replica.calls for replica in replicas)

        await until(both_are_asked)
        before = [len(replica.calls) for replica in replicas]
        await ask(client, 10)
        assert [len(replica.calls) - count for replica, count in zip(replicas, before, strict=True)] == [5, 5]


async def test_calls_stay_with_one_replica_where_that_is_asked_for(replicas: Sequence[Replica]) -> None:
    """`balancing="pick_first"`."""
    async with JobStatusClient(target_of(*replicas), balancing="pick_first") as client:
        await ask(client, 20)
    assert sorted(len(replica.calls) for replica in replicas) == [0, 20]


async def test_a_retry_goes_to_another_replica(replicas: Sequence[Replica]) -> None:
    """One that refuses, or goes, costs a caller a moment and no call."""
    async with AsyncExitStack() as stack:
        going = await stack.enter_async_context(replica_here())
        refusing = await stack.enter_async_context(replica_here(refuses=True))
        async with JobStatusClient(target_of(refusing, going, *replicas)) as client:

            async def all_are_asked() -> bool:
                await ask(client)
                return all(replica.calls for replica in (refusing, going, *replicas))

            await until(all_are_asked)
            await stack.aclose()
            await ask(client, 20)


async def test_a_replica_that_is_down_from_the_start_is_left_out(replicas: Sequence[Replica]) -> None:
    """Its address may be the first of the name."""
    async with replica_here() as gone:
        pass
    for balancing in get_args(Balancing):
        async with JobStatusClient(target_of(gone, *replicas), balancing=balancing, retry=False) as client:
            await ask(client, 5)


async def test_an_option_of_the_caller_replaces_the_clients(replicas: Sequence[Replica]) -> None:
    """gRPC itself would take the first of two."""
    config = '{"loadBalancingConfig":[{"pick_first":{}}]}'
    options = [("grpc.service_config", config), ("grpc.primary_user_agent", "me")]
    async with JobStatusClient(target_of(*replicas), options=options) as client:
        await ask(client, 20)
    assert sorted(len(replica.calls) for replica in replicas) == [0, 20]
    asked = replicas[0].calls or replicas[1].calls
    assert str(asked[0]["user-agent"]).startswith("me ")
    names = [name for name, _ in channel_options("a:1", options=options)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("target", "is_local"),
    [
        ("127.0.0.1:1", True),
        ("localhost:1", True),
        ("dns:///localhost:1", True),
        ("unix:/run/jobstatus", True),
        ("unix:///run/jobstatus", True),
        ("ipv4:127.0.0.1:1,127.0.0.2:1", True),
        ("ipv6:[::1]:1", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", False),
        ("dns:jobstatus.example:1", False),
        ("jobstatus.example:1", False),
    ],
)
def test_only_what_is_on_this_machine_is_kept_from_a_proxy(target: str, is_local: bool) -> None:
    """Of the environment: however the target is written."""
    assert (("grpc.enable_http_proxy", 0) in channel_options(target)) is is_local


async def test_every_call_carries_the_metadata(replicas: Sequence[Replica]) -> None:
    """Unary calls and streams; names in lower case, as HTTP/2 has them."""
    metadata: Metadata = [("Authorization", "Bearer x"), ("trace-bin", b"\xff")]
    async with JobStatusClient(target_of(replicas[0]), metadata=metadata) as client:
        await ask(client)
        await client.wait_for_job("job-1")
    for call in replicas[0].calls:
        assert (call["authorization"], call["trace-bin"]) == ("Bearer x", b"\xff")
    assert len(replicas[0].calls) == 2


async def test_metadata_can_change_from_try_to_try(replicas: Sequence[Replica]) -> None:
    """A token that is renewed, for example; what its function raises reaches the caller."""
    tokens = ["1", "2"]

    def metadata() -> Metadata:
        if not tokens:
            raise OSError("no token left")
        return [("Token", tokens.pop(0))]

    replicas[0].refuses = True
    async with JobStatusClient(target_of(replicas[0]), metadata=metadata) as client:
        with pytest.raises(OSError, match="no token left"):
            await client.get_job("job-1")
    assert [call["token"] for call in replicas[0].calls] == ["1", "2"]


@pytest.mark.parametrize("pair", [("a b", "x"), ("", "x"), ("näme", "x"), ("token", "secret\n"), ("token", "sécret")])
def test_metadata_that_cannot_be_sent_is_refused(pair: tuple[str, str]) -> None:
    """When the client is made, without repeating what may be a secret."""
    with pytest.raises(ValueError, match="metadata") as caught:
        JobStatusClient("127.0.0.1:1", metadata=[pair])
    assert "cret" not in str(caught.value)


def name_of(details: Any) -> str:
    """The RPC's name. Its path is bytes in grpc.aio, whatever the annotation says."""
    path: bytes = details.method
    return path.decode().rpartition("/")[2]


class Counting(grpc.aio.UnaryUnaryClientInterceptor):
    """Notes the method of each unary call."""

    def __init__(self) -> None:
        self.methods: list[str] = []

    async def intercept_unary_unary(
        self, continuation: Callable[[Any, Any], Awaitable[Any]], client_call_details: Any, request: Any
    ) -> Any:
        self.methods.append(name_of(client_call_details))
        return await continuation(client_call_details, request)


class CountingStreams(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self) -> None:
        self.methods: list[str] = []

    async def intercept_unary_stream(
        self, continuation: Callable[[Any, Any], Awaitable[Any]], client_call_details: Any, request: Any
    ) -> Any:
        self.methods.append(name_of(client_call_details))
        return await continuation(client_call_details, request)


async def test_interceptors_see_every_try(replicas: Sequence[Replica]) -> None:
    """Of unary calls and of watches; errors are those of the client all the same."""
    unary, streams = Counting(), CountingStreams()
    target = target_of(replicas[0])
    async with JobStatusClient(target, interceptors=[unary, streams], timeout=timedelta(seconds=1)) as client:
        await ask(client)
        await client.wait_for_job("job-1")
        assert [job.version async for job in client.watch_job("job-1")] == [2]
        replicas[0].refuses = True
        with pytest.raises(ServiceUnreachable, match="not here"):
            await client.get_job("job-1")
        with pytest.raises(ServiceUnreachable, match="not here"):
            await client.wait_for_job("job-1", patience=timedelta())
    assert len(unary.methods) > 2
    assert set(unary.methods) == {"GetJob"}
    assert streams.methods == ["WatchJob"] * 3


async def test_an_answer_beyond_the_callers_own_limit_is_fetched_once(replicas: Sequence[Replica]) -> None:
    """A retry would fetch the same again; the rest of the job can be read."""
    options = [("grpc.max_receive_message_length", 500)]
    async with JobStatusClient(target_of(replicas[0]), options=options) as client:
        for read in (client.get_job("job-1"), client.wait_for_job("job-1"), anext(client.watch_job("job-1"))):
            with pytest.raises(AnswerTooLarge, match="larger than"):
                await read
    assert len(replicas[0].calls) == 3


def failed(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


@pytest.mark.parametrize(
    ("code", "details", "of_a_read", "of_a_write"),
    [
        ("RESOURCE_EXHAUSTED", "CLIENT: Received message larger than max (9 vs. 4)", AnswerTooLarge, AnswerTooLarge),
        ("RESOURCE_EXHAUSTED", "SERVER: Received message larger than max (9 vs. 4)", AnswerTooLarge, ResultTooLarge),
        ("RESOURCE_EXHAUSTED", "gRPC message exceeds maximum size 4: 9", AnswerTooLarge, ResultTooLarge),
        ("OUT_OF_RANGE", "decoded message length too large: found 9 bytes", AnswerTooLarge, ResultTooLarge),
        ("OUT_OF_RANGE", "", AnswerTooLarge, ServiceFailed),
        ("RESOURCE_EXHAUSTED", "Concurrent RPC limit exceeded!", Overloaded, Overloaded),
    ],
)
def test_a_message_beyond_a_limit_is_told_from_too_many_calls(
    code: str, details: str, of_a_read: type[Exception], of_a_write: type[Exception]
) -> None:
    """Only too many calls pass by themselves."""
    for is_read, kind in ((True, of_a_read), (False, of_a_write)):
        error = from_call(failed(grpc.StatusCode[code], details), "here:1", is_read=is_read)
        assert type(error) is kind
        assert isinstance(error, TRANSIENT) is (kind is Overloaded)
