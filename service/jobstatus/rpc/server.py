"""The gRPC server: its transport security, health and reflection, and how it stops.

On a loopback address every client may call. On another address the settings require TLS with client certificates,
unless they say that the network is trusted.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from jobstatus.core.errors import ClientNotAllowed, ClientNotIdentified
from jobstatus.core.readiness import Health, Status
from jobstatus.rpc.audit import CallAudit, Context, client_names
from jobstatus.rpc.handlers import RpcAdapter, service_names
from jobstatus.rpc.job_status import JobStatusServicer
from jobstatus.rpc.options import DESCRIPTORS, RpcLimits, server_options
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
        names = set(client_names(context))
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
        limits: RpcLimits = RpcLimits(),  # noqa: B008  # a frozen value
        audit: CallAudit | None = None,
    ) -> None:
        """With `shared` other processes of the same user listen on the same address; `audit` as in RpcAdapter."""
        self._tls = tls
        self._health = health_aio.HealthServicer()
        self._server = grpc.aio.server(
            options=server_options(max_result_bytes, limits, shared=shared),
            maximum_concurrent_rpcs=limits.max_rpcs,
        )
        self._hold_seconds = limits.hold_seconds
        self._adapter = RpcAdapter(metrics, tls.identify if tls else _allow_all, audit)
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
