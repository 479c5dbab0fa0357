"""The gRPC server: its transport security, health and reflection, and how it stops.

On a loopback address every client may call. On another address the settings require TLS with client certificates,
unless they say that the network is trusted.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from jobstatus.auth.tls_files import Pem
from jobstatus.core.caller import TRACEPARENT, WRITER
from jobstatus.core.errors import ClientNotAllowed, ClientNotIdentified
from jobstatus.core.readiness import Health, Status
from jobstatus.rpc.audit import CallAudit, client_name, client_names
from jobstatus.rpc.call_context import CREATING_METHODS, traceparent_in
from jobstatus.rpc.handlers import RpcAdapter, service_names
from jobstatus.rpc.intake import Context, Intake
from jobstatus.rpc.job_status import JobStatusServicer
from jobstatus.rpc.options import DESCRIPTORS, RpcLimits, max_message_length, server_options
from jobstatus.rpc.virtual_keys import VirtualKeysServicer
from jobstatus.telemetry.metrics import Metrics
from jobstatus.v1 import job_status_pb2

EDGE_METHODS: Final = frozenset({"GetJob", "BatchGetJobs", "FollowJobs", "BatchGetVirtualKeys"})
"""The calls of an edge: enough to answer polls, and none that changes or lists anything."""
_WRITES: Final = job_status_pb2.DESCRIPTOR.services_by_name["JobStatus"].full_name
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """The server's certificate and the CA that issues client certificates, and what its clients may do.

    A client certificate must have one of the names (SAN or CN) in `allowed_clients`; any name will do when that is
    empty. One with a name in `edge_clients` may make an edge's calls only.
    """

    pem: Pem
    allowed_clients: frozenset[str]
    edge_clients: frozenset[str] = frozenset()

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """Return what gRPC's handshakes need."""
        return grpc.ssl_server_certificate_configuration([(self.pem.key, self.pem.certificate)], self.pem.ca)

    def identify(self, context: Context, method: str) -> None:
        """Raise ClientNotIdentified or ClientNotAllowed unless the certificate has a name that may call the method."""
        names = set(client_names(context))
        if not names:
            raise ClientNotIdentified
        if names & self.edge_clients:
            if method not in EDGE_METHODS:
                raise ClientNotAllowed
        elif self.allowed_clients and not names & self.allowed_clients:
            raise ClientNotAllowed


class _Security:
    """The TLS of a server, which may be replaced while it serves. gRPC asks for a new one before each handshake."""

    def __init__(self, tls: Tls | None) -> None:
        self.tls = tls
        self._unfetched: grpc.ServerCertificateConfiguration | None = None

    def credentials(self, tls: Tls) -> grpc.ServerCredentials:
        """Return gRPC's credentials."""
        return grpc.dynamic_ssl_server_credentials(
            tls.configuration(),
            self._fetch,  # type: ignore[arg-type]  # None is documented, and means no change
            require_client_authentication=True,
        )

    def replace(self, tls: Tls) -> bool:
        """Use these certificates for connections from now on, and these names for calls from now on."""
        is_new = self.tls is None or tls.pem != self.tls.pem
        if is_new:
            self._unfetched = tls.configuration()
        self.tls = tls
        return is_new

    def identify(self, context: Context, method: str) -> None:
        """As `Tls.identify`; without TLS all clients may call. Tell the core what a write has of its call."""
        if self.tls is not None:
            self.tls.identify(context, method)
            if method not in EDGE_METHODS:
                WRITER.set(client_name(context))
        if method in CREATING_METHODS:
            TRACEPARENT.set(traceparent_in(context))

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the certificates if they are new since the last call, which is from a thread of gRPC."""
        unfetched, self._unfetched = self._unfetched, None
        return unfetched


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
        limits: RpcLimits = RpcLimits(),  # noqa: B008  # a frozen value
        audit: CallAudit | None = None,
    ) -> None:
        """With `shared` other processes of the same user listen on the same address; `audit` as in RpcAdapter."""
        self._security = _Security(tls)
        self._health = health_aio.HealthServicer()
        self._server = grpc.aio.server(
            options=server_options(max_result_bytes, limits, shared=shared),
            maximum_concurrent_rpcs=limits.max_rpcs,
        )
        self._hold_seconds = limits.hold_seconds
        intake = Intake(limits.max_message_bytes, max_message_length(max_result_bytes))
        metrics.measure_messages(intake.held_bytes)
        self._adapter = RpcAdapter(metrics, self._security.identify, intake, audit)
        servicers: Sequence[object] = (job_status, virtual_keys)
        self._server.add_generic_rpc_handlers(
            [self._adapter.service(*pair) for pair in zip(DESCRIPTORS, servicers, strict=True)]
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if with_reflection:
            from jobstatus.rpc.reflection import Reflection  # noqa: PLC0415 (slow to import, and seldom wanted)

            names = [*service_names(DESCRIPTORS), health.SERVICE_NAME]
            files = [*(descriptor.file for descriptor in DESCRIPTORS), health_pb2.DESCRIPTOR]
            self._server.add_generic_rpc_handlers(Reflection(names, files).handlers(self._adapter))

    async def start(self, address: str) -> int:
        """Listen and return the port. Raises OSError when the address is not available."""
        tls = self._security.tls
        try:
            if tls is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._security.credentials(tls))
        except RuntimeError as error:
            raise OSError(
                f"cannot listen on {address} for gRPC: is it in use, or not an address of this machine?"
            ) from error
        await self._server.start()
        return port

    def replace_tls(self, tls: Tls) -> bool:
        """Use this for connections and calls from now on, and return whether the certificates are new.

        Open connections stay. Only for a server that has TLS.
        """
        return self._security.replace(tls)

    async def set_health(self, health: Health) -> None:
        """Have health report what works: JobStatus needs a store that takes writes, all else one that is read."""
        for name in ("", *service_names(DESCRIPTORS)):
            works = health.status is Status.READY if name == _WRITES else health.serves_polls
            await self._health.set(name, _SERVING if works else _NOT_SERVING)

    async def say_stopping(self) -> None:
        """Have health report NOT_SERVING for good."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_seconds: float, *, on_goaway: Callable[[], None] = lambda: None) -> None:
        """Tell clients to connect elsewhere, let the calls in progress end, and cancel what is left after the grace.

        `on_goaway` is called when clients have been told: what it refuses, they ask elsewhere.

        gRPC cancels a call that arrives after this began and before its client has read the GOAWAY, and one that has
        arrived and was not accepted yet. To make both rare, answers are held back for a moment before: then clients
        that wait for an answer send nothing, the loop accepts what has arrived, and the GOAWAY comes before the answer.
        Of clients that do not wait, the next call is furthest away when one has just come.
        """
        if grace_seconds:
            self._adapter.hold()
        try:
            if grace_seconds:
                await asyncio.sleep(self._hold_seconds)
                await self._adapter.next_call(self._hold_seconds)
            stopping = asyncio.create_task(self._server.stop(grace_seconds), name="jobstatus-rpc-stop")
            await asyncio.sleep(0)  # it has begun: the GOAWAY is on its way
            on_goaway()
        finally:
            self._adapter.release()
        await stopping
