"""What a running service and a running edge take into use without a restart, and that a bad part spoils all of it."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from grpc import StatusCode as Code
from harness.certificates import Authorities
from harness.http import LIMIT_SECONDS, request
from harness.identity_provider import provider
from harness.jobs import create
from harness.service import AT_ONCE, Service, stubs
from harness.tokens import AUDIENCE, ISSUER, SECRET, bearer, virtual_key_token
from harness.waiting import until
from jobstatus.app.edge import EdgeLimits, serving_edge
from jobstatus.app.service import serving
from jobstatus.auth.errors import KeyConfigError
from jobstatus.client.channel import ServiceChannel
from jobstatus.settings import IssuerSettings, Settings
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub
from pydantic import SecretStr

Reload = Callable[[Settings, tuple[IssuerSettings, ...]], Awaitable[list[str]]]

FREE: Final[dict[str, Any]] = {
    **dict.fromkeys(("http", "grpc", "admin"), "127.0.0.1:0"),
    "store": "memory://",
}
OTHER_SECRET: Final = "another secret of the tests with more than thirty-two bytes"


def issuer_with(secret: str = SECRET, **changes: Any) -> IssuerSettings:
    values = {"issuer": ISSUER, "audience": AUDIENCE, "algorithm": "HS256", "secret": SecretStr(secret), **changes}
    return IssuerSettings(**values)


@asynccontextmanager
async def reloadable(*issuers: IssuerSettings, **settings: Any) -> AsyncIterator[tuple[Service, Reload]]:
    """A service, and what reloads it."""
    async with (
        serving(Settings(**FREE, **settings), issuers, with_reflection=False, limits=AT_ONCE) as listening,
        stubs(listening.http.port, listening.grpc.port, listening.admin.port) as service,
    ):
        yield service, listening.reload


async def status_with(service: Service, credential: str) -> int:
    return (await service.poll("job-1", bearer(credential))).status


# --- secrets and issuers ---


async def test_a_new_secret_counts_at_once() -> None:
    """Tokens that were verified with the old one, and refused before the new one came, are judged anew."""
    old, new = virtual_key_token("vk-1"), virtual_key_token("vk-1", secret=OTHER_SECRET)
    async with reloadable(issuer_with()) as (service, reload):
        await create(service, "job-1")
        assert [await status_with(service, token) for token in (old, new)] == [202, 401]
        await reload(Settings(**FREE), (issuer_with(OTHER_SECRET),))
        assert [await status_with(service, token) for token in (old, new)] == [401, 202]


async def test_an_issuer_that_is_removed_or_added_counts_at_once() -> None:
    """Down to no issuer at all, where virtual keys alone are accepted, and back."""
    other = issuer_with(OTHER_SECRET, issuer="https://other.test")
    first = virtual_key_token("vk-1")
    second = virtual_key_token("vk-1", secret=OTHER_SECRET, iss="https://other.test")
    async with reloadable(issuer_with()) as (service, reload):
        await create(service, "job-1")
        for issuers, expected in (
            ((issuer_with(),), [202, 401]),
            ((issuer_with(), other), [202, 202]),
            ((other,), [401, 202]),
            ((), [401, 401]),
            ((issuer_with(),), [202, 401]),
        ):
            await reload(Settings(**FREE), issuers)
            assert [await status_with(service, token) for token in (first, second)] == expected


async def test_a_poll_that_waits_ends_when_its_credential_does() -> None:
    """It was accepted before; the answer is that of a poll which comes now."""
    async with reloadable(issuer_with()) as (service, reload):
        await create(service, "job-1")
        header = bearer(virtual_key_token("vk-1"))
        waiting = asyncio.create_task(service.poll("job-1", header, "Prefer: wait=30"))

        async def waits() -> bool:
            return b"jobstatus_waiting_polls 1.0" in (await request(service.admin_port, "/metrics")).body

        await until(waits)
        await reload(Settings(**FREE), (issuer_with(OTHER_SECRET),))
        assert (await waiting).status == 401


async def test_an_unusable_issuer_changes_nothing(tmp_path: Path) -> None:
    """Neither the others of the same settings, nor the allowed clients."""
    tls = Authorities().settings(tmp_path)
    async with reloadable(issuer_with(), **tls) as (service, reload):
        weak = issuer_with("too short", issuer="https://other.test")
        with pytest.raises(KeyConfigError):
            await reload(Settings(**FREE, **tls), (issuer_with(OTHER_SECRET), weak))
        assert await status_with(service, virtual_key_token("vk-1")) == 404
        with pytest.raises(KeyConfigError, match="configured twice"):
            await reload(Settings(**FREE, **tls), (issuer_with(OTHER_SECRET), issuer_with(OTHER_SECRET)))
        assert await status_with(service, virtual_key_token("vk-1")) == 404


async def test_fetched_keys_are_kept() -> None:
    """A reload that leaves their provider as it is asks it for nothing, whatever else of the issuer changes."""
    async with provider("Google") as running:
        running.publish("first")
        issuer = IssuerSettings(issuer=running.issuer, audience=AUDIENCE, algorithm="RS256", jwks_url=running.jwks_url)
        renamed = issuer.model_copy(update={"virtual_key_claim": "azp"})
        async with reloadable(issuer) as (service, reload):
            await create(service, "job-1")
            token, other = running.token("first"), running.token("first", virtual_key_id=None, azp="vk-1")
            assert [await status_with(service, each) for each in (token, other)] == [202, 401]
            running.is_away = True
            await reload(Settings(**FREE), (issuer_with(), issuer))
            assert [await status_with(service, each) for each in (token, other)] == [202, 401]
            await reload(Settings(**FREE), (renamed,))
            assert [await status_with(service, each) for each in (token, other)] == [401, 202]
            assert len(running.fetched_at) == 1
            await reload(Settings(**FREE), ())
            assert await status_with(service, other) == 401


async def test_the_keys_of_a_new_provider_are_fetched() -> None:
    async with provider("Google") as running, reloadable() as (service, reload):
        running.publish("first")
        await create(service, "job-1")
        issuer = IssuerSettings(issuer=running.issuer, audience=AUDIENCE, algorithm="RS256", jwks_url=running.jwks_url)
        await reload(Settings(**FREE), (issuer,))
        await until(lambda: len(running.fetched_at) == 1)
        assert await status_with(service, running.token("first")) == 202


# --- TLS of the service ---


@asynccontextmanager
async def secure(port: int, credentials: grpc.ChannelCredentials) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of its own to a service of this machine."""
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        yield channel


async def call(channel: grpc.aio.Channel) -> Code:
    """How a call ends, that is not waited for when there is no connection."""
    stub = JobStatusStub(channel)
    try:
        await stub.ListJobs(pb.ListJobsRequest(), timeout=LIMIT_SECONDS)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return Code.OK


async def test_a_new_certificate_is_shown_to_new_connections(tmp_path: Path) -> None:
    """Each time; and the connections there are stay. The metrics tell of the files in use."""
    authorities = Authorities()
    tls = authorities.settings(tmp_path)
    os.utime(tls["grpc_tls_key"], (0, 0))
    async with reloadable(**tls) as (service, reload):
        assert await key_age(service) > 24 * 3600
        port = service.grpc_port
        shown = [await authorities.certificate_of(port)]
        async with secure(port, authorities.client("a")) as channel:
            assert await call(channel) is Code.OK
            for _ in range(2):
                authorities.settings(tmp_path)
                assert await reload(Settings(**FREE, **tls), ()) == ["grpc_tls_cert"]
                shown += [await authorities.certificate_of(port) for _ in range(2)]
                assert channel.get_state() is grpc.ChannelConnectivity.READY
                assert await call(channel) is Code.OK
        assert len(set(shown)) == 3
        assert shown[1] == shown[2]
        assert shown[3] == shown[4]
        assert await reload(Settings(**FREE, **tls), ()) == []
        assert await key_age(service) < 3600


async def key_age(service: Service) -> float:
    """How long ago, by the metrics, the private key in use was changed."""
    lines = (await request(service.admin_port, "/metrics")).body.decode().splitlines()
    (line,) = (line for line in lines if line.startswith("jobstatus_key_file_age_seconds{"))
    return float(line.rpartition(" ")[2])


async def test_a_new_authority_of_clients_counts_for_new_connections(tmp_path: Path) -> None:
    authorities = Authorities()
    tls = authorities.settings(tmp_path)
    async with reloadable(**tls) as (service, reload):
        async with secure(service.grpc_port, authorities.client("b", of_stranger=True)) as channel:
            assert await call(channel) is Code.UNAVAILABLE
        both = authorities.ours.cert_pem.bytes() + authorities.strangers.cert_pem.bytes()
        tls["grpc_tls_client_ca"].write_bytes(both)
        await reload(Settings(**FREE, **tls), ())
        async with secure(service.grpc_port, authorities.client("b", of_stranger=True)) as channel:
            assert await call(channel) is Code.OK


async def test_allowed_clients_count_for_open_connections(tmp_path: Path) -> None:
    authorities = Authorities()
    tls = authorities.settings(tmp_path)
    async with (
        reloadable(**tls) as (service, reload),
        secure(service.grpc_port, authorities.client("a")) as channel,
    ):
        for allowed, edges, expected in (
            ("a", "", Code.OK),
            ("b", "", Code.PERMISSION_DENIED),
            ("", "", Code.OK),
            ("", "a", Code.PERMISSION_DENIED),
        ):
            clients: Any = {"grpc_allowed_clients": allowed, "grpc_edge_clients": edges}
            await reload(Settings(**FREE, **tls, **clients), ())
            assert await call(channel) is expected


@pytest.mark.parametrize("broken", ["grpc_tls_cert", "grpc_tls_key", "grpc_tls_client_ca"])
async def test_a_broken_file_changes_nothing(tmp_path: Path, broken: str) -> None:
    """The sentence names the files; issuers and certificates stay."""
    authorities = Authorities()
    tls = authorities.settings(tmp_path)
    async with reloadable(issuer_with(), **tls) as (service, reload):
        before = await authorities.certificate_of(service.grpc_port)
        authorities.settings(tmp_path)
        tls[broken].write_bytes(tls[broken].read_bytes()[:200])
        with pytest.raises(OSError, match=rf"^the TLS files for gRPC cannot be used \(.*{broken}"):
            await reload(Settings(**FREE, **tls), (issuer_with(OTHER_SECRET),))
        assert await authorities.certificate_of(service.grpc_port) == before
        assert await status_with(service, virtual_key_token("vk-1")) == 404


# --- an edge ---


async def test_an_edge_shows_a_new_certificate(tmp_path: Path) -> None:
    """The service takes the new one alone, and polls go on."""
    authorities = Authorities()
    tls = authorities.settings(tmp_path)
    upstream = authorities.upstream_settings(tmp_path, "edge-1")
    async with (
        reloadable(**tls, grpc_edge_clients={"edge-1", "edge-2"}) as (service, reload_service),
        edge_in_front(service, **upstream) as (edge, reload),
    ):
        await create_with(service, authorities)
        assert await status_with(edge, virtual_key_token("vk-1")) == 202
        authorities.upstream_settings(tmp_path, "edge-2")
        assert await reload(edge_settings(service, **upstream), (issuer_with(),)) == ["upstream_tls_cert"]
        clients: Any = {"grpc_edge_clients": "edge-2", "grpc_allowed_clients": "a"}
        await reload_service(Settings(**FREE, **tls, **clients), ())
        assert await status_with(edge, virtual_key_token("vk-1")) == 202
        assert await reload(edge_settings(service, **upstream), (issuer_with(OTHER_SECRET),)) == []
        assert await status_with(edge, virtual_key_token("vk-1")) == 401


async def test_an_edge_keeps_a_certificate_that_works(tmp_path: Path) -> None:
    """One that the service does not accept is refused, and so is a broken file; either way issuers stay too."""
    authorities = Authorities()
    tls = authorities.settings(tmp_path)
    upstream = authorities.upstream_settings(tmp_path, "edge")
    async with reloadable(**tls) as (service, _), edge_in_front(service, **upstream) as (edge, reload):
        await create_with(service, authorities)
        authorities.upstream_settings(tmp_path, "edge", of_stranger=True)
        with pytest.raises(OSError, match=r"^the TLS files for JOBSTATUS_UPSTREAM cannot be used: they give no conn"):
            await reload(edge_settings(service, **upstream), (issuer_with(OTHER_SECRET),))
        upstream["upstream_tls_key"].write_text("no key")
        with pytest.raises(OSError, match=r"^the TLS files for JOBSTATUS_UPSTREAM cannot be used \("):
            await reload(edge_settings(service, **upstream), (issuer_with(OTHER_SECRET),))
        assert await status_with(edge, virtual_key_token("vk-1")) == 202


async def test_a_channel_that_was_replaced_is_closed_in_the_end(tmp_path: Path) -> None:
    """What is under way goes on until then; what begins is on the new one."""
    authorities, is_over = Authorities(), asyncio.Event()
    tls = authorities.settings(tmp_path)
    async with reloadable(**tls) as (service, _):
        await create_with(service, authorities)
        channel = ServiceChannel(
            f"127.0.0.1:{service.grpc_port}",
            credentials=authorities.client("a"),
            timeout_seconds=LIMIT_SECONDS,
            retry=False,
            sleep=lambda _: is_over.wait(),
        )
        async with channel:
            watching = channel.jobs.WatchJob(pb.WatchJobRequest(job_id="job-1"))
            await watching.read()
            await channel.replace_credentials(authorities.client("b"), within_seconds=LIMIT_SECONDS)
            assert (await channel.call(channel.jobs.GetJob, pb.GetJobRequest(job_id="job-1"))).job.job_id == "job-1"
            assert not watching.done()
            is_over.set()
            assert await watching.code() is Code.CANCELLED
            assert (await channel.call(channel.jobs.GetJob, pb.GetJobRequest(job_id="job-1"))).job.job_id == "job-1"


def edge_settings(service: Service, **settings: Any) -> Settings:
    values = {"http": "127.0.0.1:0", "admin": "127.0.0.1:0", "upstream": f"127.0.0.1:{service.grpc_port}", **settings}
    return Settings(**values)


@asynccontextmanager
async def edge_in_front(service: Service, **settings: Any) -> AsyncIterator[tuple[Service, Reload]]:
    chosen = edge_settings(service, **settings)
    async with serving_edge(chosen, (issuer_with(),), limits=EdgeLimits(connect_seconds=1.0)) as listening:
        yield service.behind(listening.http.port, listening.admin.port), listening.reload


async def create_with(service: Service, authorities: Authorities) -> None:
    """Create job-1 of vk-1 in a service that wants a certificate."""
    async with secure(service.grpc_port, authorities.client("a")) as channel:
        await create(replace(service, jobs=JobStatusStub(channel)), "job-1")
