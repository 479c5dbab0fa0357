"""Reflection: what tools ask that were built without our protos, in both versions of the protocol."""

from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2 as pb
from harness.service import service_here
from harness.wire import channel_to
from jobstatus.rpc.reflection import SERVICE_NAMES, symbols

SERVED: Final = ("jobstatus.v1.JobStatus", "jobstatus.v1.VirtualKeys", "grpc.health.v1.Health", *SERVICE_NAMES)
NOT_FOUND: Final = grpc.StatusCode.NOT_FOUND.value[0]


class Asking:
    """One stream of reflection."""

    def __init__(self, channel: grpc.aio.Channel, service: str) -> None:
        both_ways: Any = channel.stream_stream
        self._stream = both_ways(
            f"/{service}/ServerReflectionInfo",
            request_serializer=pb.ServerReflectionRequest.SerializeToString,
            response_deserializer=pb.ServerReflectionResponse.FromString,
        )()

    async def ask(self, **fields: Any) -> pb.ServerReflectionResponse:
        request = pb.ServerReflectionRequest(host="test", **fields)
        await self._stream.write(request)
        answer: pb.ServerReflectionResponse = await self._stream.read()
        assert answer.original_request == request
        return answer

    async def files(self, **fields: Any) -> list[FileDescriptorProto]:
        answer = await self.ask(**fields)
        return [FileDescriptorProto.FromString(data) for data in answer.file_descriptor_response.file_descriptor_proto]


@pytest.fixture(params=SERVICE_NAMES)
async def reflection(request: pytest.FixtureRequest) -> AsyncIterator[Asking]:
    """A stream of each version."""
    async with service_here(with_reflection=True) as service, channel_to(service.grpc_port) as channel:
        yield Asking(channel, request.param)


async def test_services_are_listed(reflection: Asking) -> None:
    """Every service that is served is named."""
    answer = await reflection.ask(list_services="")
    assert [service.name for service in answer.list_services_response.service] == sorted(SERVED)


async def test_a_service_can_be_described(reflection: Asking) -> None:
    """The files of a service come with all that they need, so that a tool can build each of its messages."""
    for name in SERVED:
        files = await reflection.files(file_containing_symbol=name)
        pool = DescriptorPool()
        for file in sorted(files, key=lambda file: len(file.dependency)):
            pool.Add(file)
        service = pool.FindServiceByName(name)
        assert all(method.input_type.full_name for method in service.methods)


async def test_each_symbol_leads_to_its_file(reflection: Asking) -> None:
    """Messages, fields, enums, their values and methods are found by their full names, nested ones too."""
    (file, *_) = await reflection.files(file_by_filename="jobstatus/v1/job_status.proto")
    found = set(symbols(file))
    assert {
        "jobstatus.v1.JobStatus.CreateJob",
        "jobstatus.v1.Job.state",
        "jobstatus.v1.Operation.operation",
        "jobstatus.v1.JOB_STATE_PENDING",
        "jobstatus.v1.FollowJobsRequest.VersionsEntry.key",
    } <= found
    for symbol in found:
        assert (await reflection.files(file_containing_symbol=symbol))[0].name == file.name, symbol


async def test_what_is_not_there_is_not_found(reflection: Asking) -> None:
    """Unknown names are NOT_FOUND, a request for nothing is INVALID_ARGUMENT, and the stream goes on."""
    extension = pb.ExtensionRequest(containing_type="jobstatus.v1.Job", extension_number=1)
    unknown: tuple[dict[str, Any], ...] = (
        {"file_containing_symbol": "jobstatus.v1.JobStatus.Nothing"},
        {"file_containing_symbol": "jobstatus.v1"},
        {"file_by_filename": "nothing.proto"},
        {"file_containing_extension": extension},
        {"all_extension_numbers_of_type": "jobstatus.v1.Nothing"},
    )
    for fields in unknown:
        assert (await reflection.ask(**fields)).error_response.error_code == NOT_FOUND, fields
    assert (await reflection.ask()).error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    answer = await reflection.ask(all_extension_numbers_of_type="jobstatus.v1.Job")
    assert answer.all_extension_numbers_response.base_type_name == "jobstatus.v1.Job"
