"""Pages of other origins, at both edges: those that are named may read every answer, all others none."""

from collections.abc import AsyncIterator
from typing import Final

import pytest
from harness.events import events
from harness.faults import MeddledStore
from harness.fronts import FRONTS, front_here, held_bytes
from harness.http import exchange, request
from harness.jobs import complete, create, put_virtual_key
from harness.raw import connection
from harness.service import Service, service_here
from harness.tokens import bearer, virtual_key_token
from harness.waiting import until
from jobstatus.core.errors import StoreUnavailable
from jobstatus.rest.fast_path import FastPathProtocol, Requests
from jobstatus.rest.limits import RestLimits

OWNER: Final = bearer(virtual_key_token("vk-1"))
PAGE: Final = "https://app.example.com"
FROM_PAGE: Final = f"Origin: {PAGE}"
FROM_STRANGER: Final = "Origin: https://evil.example"
ORIGINS: Final = frozenset({PAGE, "https://*.example.org"})
ALLOWING: Final = [
    f"Access-Control-Allow-Origin: {PAGE}",
    "Access-Control-Expose-Headers: Retry-After, ETag, Job-Progress, X-Request-Id, Preference-Applied",
    "Vary: Origin",
]
PREFLIGHT: Final = (FROM_PAGE, "Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization")


@pytest.fixture(params=FRONTS)
async def front(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    async with front_here(request.param, cors_origins=ORIGINS) as running:
        await put_virtual_key(running)
        yield running


async def head_of(
    front: Service, job_id: str, *headers: str, method: str = "GET", kind: str = "audio/transcriptions"
) -> list[str]:
    """The lines of the answer's head."""
    lines = [f"{method} /v1/async/{kind}/{job_id} HTTP/1.1", "Host: test", "Connection: close", *headers, "", ""]
    return head_in(await exchange(front.http_port, "\r\n".join(lines).encode()))


def head_in(answer: bytes) -> list[str]:
    return answer.partition(b"\r\n\r\n")[0].decode("ascii").split("\r\n")


def cors_lines(head: list[str]) -> list[str]:
    """What the head says of other origins."""
    return sorted(line for line in head if line.startswith("Access-Control") or line == "Vary: Origin")


async def test_every_answer_can_be_read_by_a_page_that_is_named(front: Service) -> None:
    """Errors and kept answers too: what a browser does not let a page read looks like a broken network."""
    await create(front, "going")
    await create(front, "done")
    await complete(front, "done")
    await create(front, "large")
    await complete(front, "large", b'"' + b"x" * 100_000 + b'"')
    tag = (await front.poll("done", OWNER)).headers["etag"]
    expected = {
        200: await head_of(front, "done", OWNER, FROM_PAGE),
        202: await head_of(front, "going", OWNER, FROM_PAGE),
        304: await head_of(front, "done", OWNER, FROM_PAGE, f"If-None-Match: {tag}"),
        401: await head_of(front, "done", FROM_PAGE),
        404: await head_of(front, "unknown", OWNER, FROM_PAGE),
        405: await head_of(front, "done", OWNER, FROM_PAGE, method="DELETE"),
    }
    for status, head in expected.items():
        assert (head[0].split(" ")[1], cors_lines(head)) == (str(status), ALLOWING)
    for head in (
        await head_of(front, "large", OWNER, FROM_PAGE),
        await head_of(front, "done", OWNER, FROM_PAGE, method="HEAD"),
        await head_of(front, "done", OWNER, FROM_PAGE, "Prefer: wait=30"),
        await head_of(front, "done", OWNER, FROM_PAGE, kind="nothing"),
    ):
        assert cors_lines(head) == ALLOWING


async def test_an_event_stream_can_be_read_by_a_page_that_is_named(front: Service) -> None:
    """From its head on; an answer that replaces it is like any other."""
    await create(front, "j1")
    async with events(front, "j1", OWNER, FROM_PAGE) as stream:
        assert stream.headers["access-control-allow-origin"] == PAGE
        assert "Job-Progress" in stream.headers["access-control-expose-headers"]
        assert (await stream.event()).json["status"] == "pending"
    async with events(front, "j1", OWNER, FROM_STRANGER) as stream:
        assert "access-control-allow-origin" not in stream.headers
        assert "Origin" in stream.headers["vary"]
    head = await head_of(front, "other", OWNER, FROM_PAGE, "Accept: text/event-stream")
    assert (head[0].split(" ")[1], cors_lines(head)) == ("404", ALLOWING)


@pytest.mark.parametrize("header", [FROM_STRANGER, "Origin: null", "Origin: https://example.org", "X-None: x"])
async def test_no_other_page_is_told_anything(front: Service, header: str) -> None:
    """The answer is the same as without an Origin; caches learn that it depends on it."""
    await create(front, "j1")
    await complete(front, "j1")
    for lines in ((OWNER, header), (header,), (OWNER, header, "Prefer: wait=30")):
        assert cors_lines(await head_of(front, "j1", *lines)) == ["Vary: Origin"]


async def test_subdomains_are_named_by_a_star(front: Service) -> None:
    origin = "https://a.b.example.org"
    assert f"Access-Control-Allow-Origin: {origin}" in await head_of(front, "j1", f"Origin: {origin}")


async def test_a_preflight_is_answered(front: Service) -> None:
    """It carries no credential; 204, no body, and no length of one. It is counted on its own."""
    head = await head_of(front, "j1", *PREFLIGHT, method="OPTIONS")
    assert head[0] == "HTTP/1.1 204 No Content"
    fields = dict(line.split(": ", 1) for line in head[1:])
    assert fields["Access-Control-Allow-Origin"] == PAGE
    assert fields["Access-Control-Allow-Methods"] == "GET, HEAD"
    assert "Authorization" in fields["Access-Control-Allow-Headers"].split(", ")
    assert "Access-Control-Allow-Credentials" not in fields
    assert not {"Content-Length", "Content-Type", "Transfer-Encoding"} & fields.keys()
    metrics = (await request(front.admin_port, "/metrics")).body.decode()
    assert 'jobstatus_http_request_seconds_count{code="204",route="preflight"} 1.0' in metrics


@pytest.mark.parametrize("headers", [(FROM_STRANGER, *PREFLIGHT[1:]), PREFLIGHT[1:], (FROM_PAGE,)])
async def test_other_options_are_not_allowed(front: Service, headers: tuple[str, ...]) -> None:
    head = await head_of(front, "j1", *headers, method="OPTIONS")
    assert head[0].split(" ")[1] == "405"
    assert not any(line.startswith("Access-Control-Allow-Methods") for line in head)


@pytest.mark.parametrize("kind", FRONTS)
async def test_by_default_no_page_is_named(kind: str) -> None:
    """Then no answer speaks of origins, and a preflight is any OPTIONS."""
    async with front_here(kind) as front:
        await create(front, "j1")
        await complete(front, "j1")
        heads = [
            await head_of(front, "j1", OWNER, FROM_PAGE),
            await head_of(front, "j1", *PREFLIGHT, method="OPTIONS"),
            await head_of(front, "j1", OWNER, FROM_PAGE, "Prefer: wait=30"),
        ]
        async with events(front, "j1", OWNER, FROM_PAGE) as stream:
            assert not any(name.startswith("access-control") for name in stream.headers)
    assert [head[0].split(" ")[1] for head in heads] == ["200", "405", "200"]
    assert [cors_lines(head) for head in heads] == [[], [], []]


async def test_a_page_can_read_that_the_store_is_away() -> None:
    """Also where the store takes part and the answers of large results do not fit."""
    store = MeddledStore()
    async with (
        service_here(store, cors_origins=ORIGINS, rest=RestLimits(max_large_bytes=2**20)) as service,
        connection(service.http_port) as (_, writer),
    ):
        await create(service, "large")
        await complete(service, "large", b'"' + b"x" * 8 * 2**20 + b'"')
        writer.write(f"GET /v1/async/audio/transcriptions/large HTTP/1.1\r\nHost: test\r\n{OWNER}\r\n\r\n".encode())

        async def is_held() -> bool:
            return await held_bytes(service) > 0

        await until(is_held)
        too_large = await head_of(service, "large", OWNER, FROM_PAGE)
        store.fail_all(StoreUnavailable())
        away = await head_of(service, "large", OWNER, FROM_PAGE)
    for head in (too_large, away):
        assert (head[0].split(" ")[1], cors_lines(head)) == ("503", ALLOWING)


class CountedProtocol(FastPathProtocol):
    """A connection that counts the calls of its handler."""

    calls: Final[list[int]] = []

    def hand_over(self, requests: Requests) -> None:
        self.calls.extend([1] * len(requests))
        super().hand_over(requests)


async def test_a_plain_poll_of_a_page_needs_no_handler() -> None:
    """Its answer is that of the handler."""
    CountedProtocol.calls.clear()
    rest = RestLimits(connection_type=CountedProtocol)
    async with (
        service_here(cors_origins=ORIGINS, rest=rest) as service,
        connection(service.http_port) as (reader, writer),
    ):

        async def head(*headers: str) -> list[str]:
            lines = ["GET /v1/async/audio/transcriptions/j1 HTTP/1.1", "Host: test", "X-Request-Id: same", OWNER]
            writer.write("\r\n".join([*lines, *headers, "", ""]).encode())
            found = head_in(await reader.readuntil(b"\r\n\r\n"))
            (length,) = [line for line in found if line.startswith("Content-Length: ")]
            await reader.readexactly(int(length.partition(": ")[2]))
            return [line for line in found if not line.startswith("Date: ")]

        await create(service, "j1")
        await head()
        CountedProtocol.calls.clear()
        at_once = [await head(FROM_PAGE), await head(FROM_STRANGER), await head()]
        assert CountedProtocol.calls == []
        handled = [await head(*lines, "Prefer: x") for lines in ((FROM_PAGE,), (FROM_STRANGER,), ())]
        assert CountedProtocol.calls == [1, 1, 1]
    assert [sorted(lines) for lines in at_once] == [sorted(lines) for lines in handled]
    assert [cors_lines(lines) for lines in at_once] == [ALLOWING, ["Vary: Origin"], ["Vary: Origin"]]
