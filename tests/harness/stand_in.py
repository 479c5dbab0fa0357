"""What an edge may meet in the place of a service of this version."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1 import virtual_keys_pb2 as vk_pb

Respond = Callable[[Any], Awaitable[Message]]


@asynccontextmanager
async def stand_in(**methods: Respond) -> AsyncIterator[str]:
    """The address of a gRPC server that answers these methods, and knows no others."""
    server = grpc.aio.server()
    for descriptor in (pb.DESCRIPTOR.services_by_name["JobStatus"], vk_pb.DESCRIPTOR.services_by_name["VirtualKeys"]):
        handlers = {
            method.name: grpc.unary_unary_rpc_method_handler(
                _handler(methods[method.name]),
                request_deserializer=GetMessageClass(method.input_type).FromString,
                response_serializer=GetMessageClass(method.output_type).SerializeToString,
            )
            for method in descriptor.methods
            if method.name in methods
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(descriptor.full_name, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def _handler(respond: Respond) -> Callable[[Any, Any], Awaitable[Message]]:
    async def handle(request: Any, _: Any) -> Message:
        return await respond(request)

    return handle
