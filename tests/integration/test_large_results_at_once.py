"""Large results of a store that reads at once: sent without a task to a client that reads fast, and held for others."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from harness.fronts import held_bytes
from harness.jobs import complete, create
from harness.raw import connection, next_answer
from harness.service import Service, service_here
from harness.stores import STORES
from harness.tokens import bearer, virtual_key_token
from harness.waiting import until
from jobstatus.core.store import SMALL_RESULT_BYTES

OWNER: Final = bearer(virtual_key_token("vk-1"))
MIB: Final = 2**20
SIZES: Final = (SMALL_RESULT_BYTES + 1, 2**16, MIB, 8 * MIB)
"""The last one is more than is written in one turn of the loop, and than the systems' buffers take."""


@pytest.fixture(params=("memory", "sqlite"))
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    async with service_here(STORES[request.param](tmp_path)) as service:
        await create(service, "small", virtual_key_id="vk-1")
        for size in SIZES:
            await create(service, f"job-{size}", virtual_key_id="vk-1")
            await complete(service, f"job-{size}", result_of(size))
        yield service


def result_of(size: int) -> bytes:
    return b'"' + bytes(range(ord("a"), ord("z") + 1)) * (size // 26) + b'"'


def get(job_id: str) -> bytes:
    return f"GET /v1/async/audio/transcriptions/{job_id} HTTP/1.1\r\nHost: test\r\n{OWNER}\r\n\r\n".encode()


async def test_results_of_all_sizes_arrive_in_turn_on_one_connection(service: Service) -> None:
    """Between polls that are small, twice each. In the end nothing is held."""
    async with connection(service.http_port) as (reader, writer):
        for size in SIZES * 2:
            writer.write(get(f"job-{size}"))
            answer = await next_answer(reader)
            assert answer.status == 200
            assert answer.body.endswith(b'"result":' + result_of(size) + b"}")
            writer.write(get("small"))
            assert (await next_answer(reader)).status == 202
    assert await held_bytes(service) == 0


async def test_an_answer_is_held_until_it_is_read(service: Service) -> None:
    """The connection then serves the next request, one that had come before the answer was read."""
    size = SIZES[-1]
    async with connection(service.http_port) as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(get(f"job-{size}"))
        await until(lambda: _holds(service, size))
        writer.write(get("small"))
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        assert (await next_answer(reader)).body.endswith(result_of(size) + b"}")
        assert (await next_answer(reader)).status == 202
        assert await held_bytes(service) == 0


async def test_an_answer_is_held_no_longer_than_its_client_stays(service: Service) -> None:
    size = SIZES[-1]
    async with connection(service.http_port) as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(get(f"job-{size}"))
        await until(lambda: _holds(service, size))
        writer.transport.abort()
        await until(lambda: _holds(service, 0))


async def _holds(service: Service, size: int) -> bool:
    held = await held_bytes(service)
    return held > size // 2 if size else not held
