"""The gRPC server: its limits, its transport security, health and reflection, and how it stops.

On a loopback address it takes anybody; elsewhere it wants TLS with client certificates, or to be told that it need not.
"""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from jobstatus.core.errors import ClientNotAllowed, ClientNotIdentified
from jobstatus.rpc.handlers import Context, RpcAdapter, service_names
from jobstatus.rpc.job_status import MAX_ANSWER_BYTES, JobStatusServicer
from jobstatus.rpc.virtual_keys import VirtualKeysServicer
from jobstatus.telemetry.metrics import Metrics
from jobstatus.v1 import job_status_pb2, virtual_keys_pb2

MIN_PING_INTERVAL_MS: Final = 20_000
"""Clients may ping this often, also without calls under way; more often and they are sent away."""
MAX_AGE_MS: Final = 5 * 60 * 1000
MAX_AGE_GRACE_MS: Final = 30 * 1000
"""A watch that is still going on then is ended; clients take it up again where it ended."""
_MESSAGE_OVERHEAD: Final = 4 * 1024 * 1024
"""Room beyond the largest result, so that a result a little too large is refused with a reason."""
_MAX_RPCS: Final = 20_000

EDGE_METHODS: Final = frozenset({"GetJob", "BatchGetJobs", "FollowJobs", "BatchGetVirtualKeys"})
"""What an edge of its own may call: enough to answer polls, and nothing that changes or lists anything."""

DESCRIPTORS: Final = (
    job_status_pb2.DESCRIPTOR.services_by_name["JobStatus"],
    virtual_keys_pb2.DESCRIPTOR.services_by_name["VirtualKeys"],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM files: the server's chain and key, and the CA that client certificates must come from.

    `allowed_clients`: names (SAN or CN) of which a client certificate must have one; empty: any certificate of the CA.
    """

    certificate: Path
    key: Path
    client_ca: Path
    allowed_clients: frozenset[str]
    edge_clients: frozenset[str] = frozenset()

    def credentials(self) -> grpc.ServerCredentials:
        """Raises OSError when a file cannot be read or is not what it should be."""
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
        """Raise ClientNotIdentified or ClientNotAllowed unless the peer's certificate has a name that may call this."""
        names = {name.decode("utf-8", "replace") for name in context.peer_identities() or () if name}
        if not names:
            raise ClientNotIdentified
        if names & self.edge_clients:
            if method not in EDGE_METHODS:
                raise ClientNotAllowed
        elif self.allowed_clients and not names & self.allowed_clients:
            raise ClientNotAllowed


def _anybody(_: Context, _method: str) -> None:
    return None


class RpcServer:
    """The server of one process. Build and use it inside the running loop."""

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
    ) -> None:
        """`shared`: the address is shared with other processes of this user's."""
        self._tls = tls
        self._health = health_aio.HealthServicer()
        self._server = grpc.aio.server(
            options=_options(max_result_bytes, shared=shared), maximum_concurrent_rpcs=_MAX_RPCS
        )
        surroundings = RpcAdapter(metrics, tls.identify if tls else _anybody)
        servicers: Sequence[object] = (job_status, virtual_keys)
        self._server.add_generic_rpc_handlers(
            [
                surroundings.service(descriptor, servicer)
                for descriptor, servicer in zip(DESCRIPTORS, servicers, strict=True)
            ]
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if with_reflection:
            names = [*service_names(DESCRIPTORS), health.SERVICE_NAME, reflection.SERVICE_NAME]
            reflection.enable_server_reflection(names, self._server)

    async def start(self, address: str) -> int:
        """Listen; the port it became. Raises OSError when the address cannot be had or a PEM file not be read."""
        try:
            if self._tls is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._tls.credentials())
        except RuntimeError as error:
            raise OSError(
                f"cannot listen on {address} for gRPC: is it in use, or no address of this machine?"
            ) from error
        await self._server.start()
        return port

    async def set_serving(self, *, serving: bool) -> None:
        """What health says from now on."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *service_names(DESCRIPTORS)):
            await self._health.set(name, status)

    async def say_stopping(self) -> None:
        """Health says NOT_SERVING for good."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_seconds: float) -> None:
        """Accept nothing more, let the calls under way end, cut what is left after the grace."""
        await self._server.stop(grace_seconds)


def _options(max_result_bytes: int, *, shared: bool) -> Sequence[tuple[str, int]]:
    # The kernel spreads connections, not calls: where several processes share them, clients connect anew now and then.
    ages = (("grpc.max_connection_age_ms", MAX_AGE_MS), ("grpc.max_connection_age_grace_ms", MAX_AGE_GRACE_MS))
    return (
        *(ages if shared else ()),
        ("grpc.so_reuseport", int(shared)),  # unless it is wanted a second server on the port would go unnoticed
        ("grpc.max_receive_message_length", max_result_bytes + _MESSAGE_OVERHEAD),
        ("grpc.max_send_message_length", max(max_result_bytes, MAX_ANSWER_BYTES) * 2 + _MESSAGE_OVERHEAD),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        # Calls that have arrived and not been picked up; beyond 1000 gRPC would cancel some without a reason.
        ("grpc.server.max_pending_requests", _MAX_RPCS),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_RPCS),
    )
