"""Health, reflection, TLS, and who may call."""

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from grpc import StatusCode as Code
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from harness.certificates import Authorities
from harness.faults import MeddledStore
from harness.http import LIMIT_SECONDS
from harness.jobs import creation
from harness.service import Service, service_here
from harness.waiting import until
from harness.wire import Refusal, channel_to, refused
from jobstatus.app.service import serving
from jobstatus.core.errors import StoreUnavailable
from jobstatus.rpc.job_status import JobStatusServicer
from jobstatus.rpc.options import DESCRIPTORS
from jobstatus.rpc.reflection import SERVICE_NAMES
from jobstatus.rpc.virtual_keys import VirtualKeysServicer
from jobstatus.settings import Settings
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub

SERVICES: Final = ("jobstatus.v1.JobStatus", "jobstatus.v1.VirtualKeys")


async def test_health_follows_the_store() -> None:
    """Health is SERVING for the server and both services, NOT_SERVING while the store does not answer."""
    store = MeddledStore()
    async with service_here(store) as service, channel_to(service.grpc_port) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)

        async def are_all(status: int) -> bool:
            checks = [await health.Check(health_pb2.HealthCheckRequest(service=name)) for name in ("", *SERVICES)]
            return [check.status for check in checks] == [status] * 3

        await until(lambda: are_all(health_pb2.HealthCheckResponse.SERVING))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="unknown"))
        assert caught.value.code() is Code.NOT_FOUND
        store.fail_all(StoreUnavailable())
        await until(lambda: are_all(health_pb2.HealthCheckResponse.NOT_SERVING))
        store.fail_all(None)
        await until(lambda: are_all(health_pb2.HealthCheckResponse.SERVING))


@pytest.mark.parametrize("is_on", [True, False])
async def test_reflection_is_a_setting(is_on: bool) -> None:
    """Reflection names the services where it is switched on, and is UNIMPLEMENTED where it is not (G30)."""
    free: Any = {"http": "127.0.0.1:0", "grpc": "127.0.0.1:0", "admin": "127.0.0.1:0", "store": "memory://"}
    async with (
        serving(Settings(**free), (), with_reflection=is_on) as listening,
        channel_to(listening.grpc.port) as channel,
    ):
        make_stub: Any = reflection_pb2_grpc.ServerReflectionStub
        stream = make_stub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        if not is_on:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
            assert caught.value.code() is Code.UNIMPLEMENTED
        else:
            names = {service.name for service in (await stream.read()).list_services_response.service}
            assert names >= {*SERVICES, "grpc.health.v1.Health"}


def test_every_method_is_a_coroutine() -> None:
    """Each RPC has a handler, and none is a plain function, which gRPC would send to a thread without a word."""
    for descriptor, servicer in zip(DESCRIPTORS, (JobStatusServicer, VirtualKeysServicer), strict=True):
        for method in descriptor.methods:
            is_right = inspect.isasyncgenfunction if method.server_streaming else inspect.iscoroutinefunction
            assert is_right(getattr(servicer, method.name)), method.full_name


@pytest.fixture(scope="module")
def authorities() -> Authorities:
    """Two CAs: ours and a stranger's."""
    return Authorities()


@asynccontextmanager
async def calling(service: Service, credentials: grpc.ChannelCredentials | None) -> AsyncIterator[JobStatusStub]:
    """A stub with these credentials; None: without TLS."""
    target = f"127.0.0.1:{service.grpc_port}"
    async with (
        grpc.aio.secure_channel(target, credentials) if credentials else grpc.aio.insecure_channel(target)
    ) as channel:
        yield JobStatusStub(channel)


async def test_strangers_do_not_get_through_tls(authorities: Authorities, tmp_path: Path) -> None:
    """No certificate, one of another CA, an expired one, and no TLS are UNAVAILABLE before any handler runs (G28)."""
    strangers = {
        "nobody": authorities.nobody(),
        "another CA": authorities.client("gateway.test", of_stranger=True),
        "expired": authorities.client("gateway.test", has_expired=True),
        "plaintext": None,
    }
    async with service_here(**authorities.settings(tmp_path)) as service:
        for name, credentials in strangers.items():
            async with calling(service, credentials) as stub:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.CreateJob(creation("j1"), timeout=LIMIT_SECONDS)
                assert caught.value.code() is Code.UNAVAILABLE, name
        async with calling(service, authorities.client("anybody.test")) as stub:
            assert (await stub.ListJobs(pb.ListJobsRequest())).jobs == []


async def test_only_allowed_names_may_call(authorities: Authorities, tmp_path: Path) -> None:
    """With allowed names a certificate of our CA must have one of them, before anything of a request is read (G28)."""
    settings = authorities.settings(tmp_path)
    not_allowed = Refusal(Code.PERMISSION_DENIED, "CLIENT_NOT_ALLOWED")
    async with service_here(**settings, grpc_allowed_clients="gateway.test, worker.test") as service:
        for name in ("other.test", "sub.gateway.test", "gateway.test.evil"):
            async with calling(service, authorities.client(name)) as stub:
                assert await refused(stub.CreateJob(creation("j1"))) == not_allowed
                assert await refused(stub.CreateJob(creation(""))) == not_allowed
                assert await refused(stub.WatchJob(pb.WatchJobRequest(job_id="j1")).read()) == not_allowed
        for names in (("gateway.test",), ("worker.test",), ("other.test", "worker.test")):
            async with calling(service, authorities.client(*names)) as stub:
                assert (await stub.CreateJob(creation("j1"))).job.version == 1


@pytest.mark.parametrize("name", SERVICE_NAMES)
async def test_only_allowed_names_may_ask_for_reflection(authorities: Authorities, tmp_path: Path, name: str) -> None:
    """It describes calls that an edge, or a client without an allowed name, may not make."""
    names: dict[str, Any] = {"grpc_allowed_clients": "worker.test", "grpc_edge_clients": "edge.test"}
    async with service_here(**authorities.settings(tmp_path), **names, with_reflection=True) as service:

        async def ask(client: str) -> Any:
            credentials = authorities.client(client)
            async with grpc.aio.secure_channel(f"127.0.0.1:{service.grpc_port}", credentials) as channel:
                stream: Any = channel.stream_stream(
                    f"/{name}/ServerReflectionInfo",
                    request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                    response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
                )(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
                return await stream.read()

        for stranger in ("other.test", "edge.test"):
            assert await refused(ask(stranger)) == Refusal(Code.PERMISSION_DENIED, "CLIENT_NOT_ALLOWED")
        assert (await ask("worker.test")).list_services_response.service


@pytest.mark.parametrize("allowed", ["", "gateway.test"])
async def test_nameless_client_is_not_identified(authorities: Authorities, tmp_path: Path, allowed: str) -> None:
    """A certificate of our CA without any name identifies nobody, whether or not names are asked for."""
    async with (
        service_here(**authorities.settings(tmp_path), grpc_allowed_clients=allowed) as service,
        calling(service, authorities.nameless_client()) as stub,
    ):
        refusal = await refused(stub.CreateJob(creation("j1")))
        assert refusal == Refusal(Code.UNAUTHENTICATED, "CLIENT_NOT_IDENTIFIED")
