"""Server reflection, v1 and v1alpha: the descriptors of the services, for tools that were built without our protos.

grpcio-reflection serves v1alpha alone and does not find methods by name, because Python's descriptor pool does not. The
two versions differ in their package only, so the messages of v1alpha serve both.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2 as pb

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
File: TypeAlias = Any
"""A FileDescriptor. The stubs of protobuf and of gRPC's libraries name different classes."""

SERVICE_NAMES: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
METHOD: Final = "ServerReflectionInfo"


class Reflection:
    """Answers about the services of some files, and about reflection itself."""

    def __init__(self, service_names: Iterable[str], files: Iterable[File]) -> None:
        self._service_names = sorted({*service_names, *SERVICE_NAMES})
        self._files: dict[str, FileDescriptorProto] = {}
        for file in files:
            self._add(file)
        self._add(pb.DESCRIPTOR)
        later = _of_v1(self._files[pb.DESCRIPTOR.name])
        self._files[later.name] = later
        self._file_of = {symbol: file.name for file in self._files.values() for symbol in symbols(file)}

    def _add(self, file: File) -> None:
        if file.name not in self._files:
            self._files[file.name] = proto = FileDescriptorProto()
            file.CopyToProto(proto)
            for dependency in file.dependencies:
                self._add(dependency)

    def handlers(self) -> Sequence[grpc.GenericRpcHandler]:
        """Return the handlers of both versions."""
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve,
            request_deserializer=pb.ServerReflectionRequest.FromString,
            response_serializer=pb.ServerReflectionResponse.SerializeToString,
        )
        return [grpc.method_handlers_generic_handler(name, {METHOD: handler}) for name in SERVICE_NAMES]

    async def _serve(
        self, requests: AsyncIterator[pb.ServerReflectionRequest], _: Context
    ) -> AsyncGenerator[pb.ServerReflectionResponse]:
        async for request in requests:
            yield pb.ServerReflectionResponse(
                valid_host=request.host, original_request=request, **self._answer(request)
            )

    def _answer(self, request: pb.ServerReflectionRequest) -> Mapping[str, Any]:
        """Return the fields of the response that tell what was asked for."""
        match request.WhichOneof("message_request"):
            case "list_services":
                names = [pb.ServiceResponse(name=name) for name in self._service_names]
                return {"list_services_response": pb.ListServiceResponse(service=names)}
            case "file_by_filename":
                return self._file(request.file_by_filename)
            case "file_containing_symbol":
                return self._file(self._file_of.get(request.file_containing_symbol))
            case "all_extension_numbers_of_type" if request.all_extension_numbers_of_type in self._file_of:
                numbers = pb.ExtensionNumberResponse(base_type_name=request.all_extension_numbers_of_type)
                return {"all_extension_numbers_response": numbers}
            case None:
                return _refusal(grpc.StatusCode.INVALID_ARGUMENT, "the request asks for nothing")
            case _:
                return _refusal(grpc.StatusCode.NOT_FOUND, "not found")  # no file has extensions

    def _file(self, name: str | None) -> Mapping[str, Any]:
        """Return the file, and those that it needs."""
        if name not in self._files:
            return _refusal(grpc.StatusCode.NOT_FOUND, "not found")
        needed: dict[str, bytes] = {}
        self._collect(name, needed)
        return {"file_descriptor_response": pb.FileDescriptorResponse(file_descriptor_proto=needed.values())}

    def _collect(self, name: str, needed: dict[str, bytes]) -> None:
        if name not in needed:
            needed[name] = self._files[name].SerializeToString()
            for dependency in self._files[name].dependency:
                self._collect(dependency, needed)


def symbols(file: FileDescriptorProto) -> Iterator[str]:
    """Yield the full name of everything that the file defines: messages, fields, enums, services, methods."""
    scope = f"{file.package}." if file.package else ""
    for message in file.message_type:
        yield from _symbols_of_message(scope, message)
    for enum in file.enum_type:
        yield from _symbols_of_enum(scope, enum)
    for service in file.service:
        yield f"{scope}{service.name}"
        yield from (f"{scope}{service.name}.{method.name}" for method in service.method)


def _symbols_of_message(scope: str, message: DescriptorProto) -> Iterator[str]:
    name = f"{scope}{message.name}"
    yield name
    yield from (f"{name}.{field.name}" for field in message.field)
    yield from (f"{name}.{oneof.name}" for oneof in message.oneof_decl)
    for nested in message.nested_type:
        yield from _symbols_of_message(f"{name}.", nested)
    for enum in message.enum_type:
        yield from _symbols_of_enum(f"{name}.", enum)


def _symbols_of_enum(scope: str, enum: EnumDescriptorProto) -> Iterator[str]:
    """A value is a sibling of its enum, as in C++."""
    yield f"{scope}{enum.name}"
    yield from (f"{scope}{value.name}" for value in enum.value)


def _of_v1(file: FileDescriptorProto) -> FileDescriptorProto:
    """Return the file of v1, made from that of v1alpha."""
    text = text_format.MessageToString(file)
    for separator in "./":
        text = text.replace(f"reflection{separator}v1alpha", f"reflection{separator}v1")
    later = FileDescriptorProto()
    text_format.Parse(text, later)
    return later


def _refusal(code: grpc.StatusCode, message: str) -> Mapping[str, Any]:
    number, _ = code.value
    return {"error_response": pb.ErrorResponse(error_code=number, error_message=message)}
