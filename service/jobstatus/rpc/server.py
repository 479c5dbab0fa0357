"""The gRPC server: its limits, its transport security, health and reflection, and how it stops.

On a loopback address every client may call. On another address the settings require TLS with client certificates,
unless they say that the network is trusted.
"""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from jobstatus.core.errors import ClientNotAllowed, ClientNotIdentified
from jobstatus.rpc.handlers import Context, RpcAdapter, service_names
from jobstatus.rpc.job_status import MAX_ANSWER_BYTES, JobStatusServicer
from jobstatus.rpc.pages import PageLimits
from jobstatus.rpc.virtual_keys import VirtualKeysServicer
from jobstatus.telemetry.metrics import Metrics
from jobstatus.v1 import job_status_pb2, virtual_keys_pb2

_MESSAGE_OVERHEAD: Final = 4 * 1024 * 1024
"""Room beyond the largest result, so that a result a little too large is refused with a reason."""

EDGE_METHODS: Final = frozenset({"GetJob", "BatchGetJobs", "FollowJobs", "BatchGetVirtualKeys"})
"""The calls of an edge: enough to answer polls, and none that changes or lists anything."""

DESCRIPTORS: Final = (
    job_status_pb2.DESCRIPTOR.services_by_name["JobStatus"],
    virtual_keys_pb2.DESCRIPTOR.services_by_name["VirtualKeys"],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcLimits:
    """The bounds of the gRPC server."""

    max_rpcs: int = 20_000
    """Calls in progress. A further one is RESOURCE_EXHAUSTED."""
    pages: PageLimits = PageLimits()  # noqa: RUF009  # a frozen value
    """The bounds of listings."""
    min_idle_ms: int = 5_000
    """The shortest interval of signs of life that a watch may ask for."""
    min_ping_interval_ms: int = 15_000
    """Clients that ping more often are disconnected, calls in progress or not. The documents promise 20 s; the rest is
    for networks that deliver one ping late and the next in time."""
    max_age_ms: int = 5 * 60 * 1000
    """Clients reconnect this often (give or take a tenth), so that a new replica or process gets its share of them."""
    max_age_grace_ms: int = 30 * 1000
    """Calls on a connection of that age go on for so long. A watch that does not end by then is ended; clients resume
    it where it ended."""
    ping_ms: int = 20_000
    """The server pings each client this often, calls in progress or not, to find those that vanished."""
    pong_ms: int = 20_000
    """A client that does not answer a ping for so long, or acknowledges no data, is disconnected."""
    hold_seconds: float = 0.05
    """How long a stop holds answers back before it closes, and again until the next call; see `RpcServer.stop`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM files: the server's chain and key, and the CA that issues client certificates.

    A client certificate must have one of the names (SAN or CN) in `allowed_clients`; any name will do when that is
    empty. One with a name in `edge_clients` may make an edge's calls only.
    """

    certificate: Path
    key: Path
    client_ca: Path
    allowed_clients: frozenset[str]
    edge_clients: frozenset[str] = frozenset()

    def credentials(self) -> grpc.ServerCredentials:
        """Return gRPC's credentials. Raises OSError when a file cannot be read or is not valid."""
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate, self.key)
            context.load_verify_locations(self.client_ca)
        except ssl.SSLError as error:
            names = f"{self.certificate}, {self.key} or {self.client_ca}"
            raise OSError(f"the TLS files for gRPC cannot be used ({names}): {error.reason or error}") from error
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_credentials([pair], self.client_ca.read_bytes(), require_client_auth=True)

    def identify(self, context: Context, method: str) -> None:
        """Raise ClientNotIdentified or ClientNotAllowed unless the certificate has a name that may call the method."""
        names = {name.decode("utf-8", "replace") for name in context.peer_identities() or () if name}
        if not names:
            raise ClientNotIdentified
        if names & self.edge_clients:
            if method not in EDGE_METHODS:
                raise ClientNotAllowed
        elif self.allowed_clients and not names & self.allowed_clients:
            raise ClientNotAllowed


def _allow_all(_: Context, _method: str) -> None:
    return None


class RpcServer:
    """The gRPC server of one process. Construct it inside the running loop."""

    def __init__(
        self,
        *,
        job_status: JobStatusServicer,
        virtual_keys: VirtualKeysServicer,
        metrics: Metrics,
        max_result_bytes: int,
        tls: Tls | None,
        with_reflection: bool,
        shared: bool = False,
        limits: RpcLimits = RpcLimits(),  # a frozen value
    ) -> None:
        """With `shared` other processes of the same user listen on the same address."""
        self._tls = tls
        self._health = health_aio.HealthServicer()
        self._server = grpc.aio.server(
            options=server_options(max_result_bytes, limits, shared=shared),
            maximum_concurrent_rpcs=limits.max_rpcs,
        )
        self._hold_seconds = limits.hold_seconds
        self._adapter = RpcAdapter(metrics, tls.identify if tls else _allow_all)
        servicers: Sequence[object] = (job_status, virtual_keys)
        self._server.add_generic_rpc_handlers(
            [self._adapter.service(*pair) for pair in zip(DESCRIPTORS, servicers, strict=True)]
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if with_reflection:
            from jobstatus.rpc.reflection import Reflection  # noqa: PLC0415 (slow to import, and seldom wanted)

            names = [*service_names(DESCRIPTORS), health.SERVICE_NAME]
            files = [*(descriptor.file for descriptor in DESCRIPTORS), health_pb2.DESCRIPTOR]
            self._server.add_generic_rpc_handlers(Reflection(names, files).handlers())

    async def start(self, address: str) -> int:
        """Listen and return the port. Raises OSError when the address is not available or a PEM file not valid."""
        try:
            if self._tls is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._tls.credentials())
        except RuntimeError as error:
            raise OSError(
                f"cannot listen on {address} for gRPC: is it in use, or not an address of this machine?"
            ) from error
        await self._server.start()
        return port

    async def set_serving(self, *, serving: bool) -> None:
        """Set the status that health reports."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *service_names(DESCRIPTORS)):
            await self._health.set(name, status)

    async def say_stopping(self) -> None:
        """Have health report NOT_SERVING for good."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_seconds: float) -> None:
        """Tell clients to connect elsewhere, let the calls in progress end, and cancel what is left after the grace.

        gRPC cancels a call that arrives after this began and before its client has read the GOAWAY, and one that has
        arrived and was not accepted yet. To make both rare, answers are held back for a moment before: then clients
        that wait for an answer send nothing, the loop accepts what has arrived, and the GOAWAY comes before the answer.
        Of clients that do not wait, the next call is furthest away when one has just come.
        """
        if grace_seconds:
            self._adapter.hold()
            await asyncio.sleep(self._hold_seconds)
            await self._adapter.next_call(self._hold_seconds)
        try:
            stopping = asyncio.create_task(self._server.stop(grace_seconds), name="jobstatus-rpc-stop")
            await asyncio.sleep(0)  # it has begun: the GOAWAY is on its way
        finally:
            self._adapter.release()
        await stopping


def server_options(max_result_bytes: int, limits: RpcLimits, *, shared: bool) -> Sequence[tuple[str, int]]:
    """Return gRPC's options. gRPC ignores a name that it does not know, so a test compares the names with gRPC's."""
    return (
        ("grpc.max_connection_age_ms", limits.max_age_ms),
        ("grpc.max_connection_age_grace_ms", limits.max_age_grace_ms),
        ("grpc.so_reuseport", int(shared)),  # else a second server on the port would go unnoticed
        ("grpc.max_receive_message_length", max_result_bytes + _MESSAGE_OVERHEAD),
        ("grpc.max_send_message_length", max(max_result_bytes, MAX_ANSWER_BYTES) * 2 + _MESSAGE_OVERHEAD),
        ("grpc.http2.min_ping_interval_without_data_ms", limits.min_ping_interval_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        # Calls that have arrived and not been accepted. gRPC's own limit is 1000, beyond which it cancels silently.
        ("grpc.server.max_pending_requests", limits.max_rpcs),
        ("grpc.server.max_pending_requests_hard_limit", limits.max_rpcs),
        ("grpc.keepalive_time_ms", limits.ping_ms),
        ("grpc.keepalive_timeout_ms", limits.pong_ms),  # only data; gRPC gives pings another limit:
        ("grpc.http2.ping_timeout_ms", limits.pong_ms),
        ("grpc.http2.max_pings_without_data", 0),  # any number: a watch may be silent for hours
    )
