"""How the service hands out its own description: to keep and revalidate, and not as often as anybody likes."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from harness.faults import Clock
from harness.http import parse, request
from harness.raw import received_until_closed
from harness.service import Service, edge_here, service_here
from jobstatus.rest.limits import RestLimits

PATH = "/openapi.json"


@pytest.fixture(params=["service", "edge"])
async def front(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    async with service_here() as service:
        if request.param == "service":
            yield service
        else:
            async with edge_here(service) as edge:
                yield edge


async def test_it_may_be_kept_and_asked_for_again(front: Service) -> None:
    """By anybody, for an hour; then its tag tells whether it has changed."""
    document = await request(front.http_port, PATH)
    assert (document.status, document.headers["cache-control"]) == (200, "public, max-age=3600")
    assert document.json["openapi"].startswith("3.1")
    tag = document.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await request(front.http_port, PATH, f"If-None-Match: {known}", method="HEAD")
        assert (again.status, again.headers["etag"]) == (304, tag)
        assert again.headers["cache-control"] == "public, max-age=3600"
    assert (await request(front.http_port, PATH, 'If-None-Match: "other"')).body == document.body


async def test_head_is_get_without_the_body(front: Service) -> None:
    both = [await request(front.http_port, PATH, "X-Request-Id: same", method=method) for method in ("GET", "HEAD")]
    get, head = ({**answer.headers, "date": ""} for answer in both)
    assert get == head
    assert int(head["content-length"]) == len(both[0].body) > 0


async def request_from(address: str, port: int) -> int:
    """The status of the answer to a request from this address."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    try:
        writer.write(f"GET {PATH} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        return parse(await received_until_closed(reader)).status
    finally:
        writer.close()


async def test_one_address_does_not_get_it_as_often_as_it_likes() -> None:
    """Others get it meanwhile, and so does this one in the next second; what costs nothing is always answered."""
    clock = Clock()
    async with service_here(clock=clock, rest=RestLimits(documents_each=2), max_connections_each=100) as service:
        port = service.http_port
        tag = (await request(port, PATH)).headers["etag"]
        assert [(await request(port, PATH)).status for _ in range(3)] == [200, 503, 503]
        refused = await request(port, PATH)
        assert (refused.json["error"]["code"], refused.headers["retry-after"]) == ("requested_too_often", "2")
        assert (await request(port, PATH, method="HEAD")).status == 200
        assert (await request(port, PATH, f"If-None-Match: {tag}", method="HEAD")).status == 304
        assert await request_from("127.0.0.2", port) == 200
        clock.move(seconds=1)
        assert (await request(port, PATH)).status == 200


async def test_a_proxy_gets_it_for_all_of_its_clients() -> None:
    """Where connections are not limited for each address, an address says nothing about who asks."""
    async with service_here(clock=Clock(), rest=RestLimits(documents_each=1), max_connections_each=0) as service:
        assert [(await request(service.http_port, PATH)).status for _ in range(5)] == [200] * 5
