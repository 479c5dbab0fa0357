"""An address `[::]` is every address of the machine, those of IPv4 included, on each port."""

import asyncio
import socket
from typing import Final

import pytest
from harness.service import edge_here, service_here
from jobstatus.processes.shared_ports import reserved
from jobstatus.rest.server import HttpServer, is_any
from jobstatus.settings import Address

LOOPBACK: Final = ("127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("host", "is_so"),
    [("::", True), ("0:0:0:0:0:0:0:0", True), ("::1", False), ("0.0.0.0", False), ("localhost", False), ("", False)],
)
def test_any_address_is_known_however_it_is_spelt(host: str, is_so: bool) -> None:
    assert is_any(host) is is_so


async def is_open(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


async def test_every_port_serves_both_families() -> None:
    """REST, gRPC and the admin port of a service, REST and the admin port of an edge."""
    async with (
        service_here(http="[::]:0", grpc="[::]:0", admin="[::]:0", grpc_insecure=True) as service,
        edge_here(service, http="[::]:0", admin="[::]:0") as edge,
    ):
        ports = (service.http_port, service.grpc_port, service.admin_port, edge.http_port, edge.admin_port)
        assert {(port, host) for port in ports for host in LOOPBACK if not await is_open(host, port)} == set()


@pytest.mark.parametrize("host", LOOPBACK)
async def test_one_address_is_that_address_alone(host: str) -> None:
    """A service that names a loopback address of one family is not reached by the other."""
    async with service_here(http=str(Address(host, 0))) as service:
        assert [await is_open(each, service.http_port) for each in LOOPBACK] == [each == host for each in LOOPBACK]


async def test_processes_share_a_port_of_both_families() -> None:
    """The supervisor holds it for them, and another service on either family is refused."""

    async def handle(_: object) -> None:
        raise AssertionError

    with reserved(Address("::", 0), "HTTP") as address:
        servers = [HttpServer(handle, max_connections=1, grace_seconds=0) for _ in range(2)]  # type: ignore[arg-type]
        try:
            for server in servers:
                assert await server.start(*address, shared=True) == address.port
            assert [await is_open(host, address.port) for host in LOOPBACK] == [True, True]
            for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                with socket.socket(family) as other, pytest.raises(OSError, match="in use"):
                    other.bind((host, address.port))
        finally:
            for server in servers:
                await server.stop()
