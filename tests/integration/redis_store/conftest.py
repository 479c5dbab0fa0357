"""A server, and a store on it."""

from collections.abc import AsyncIterator, Iterator

import pytest
from harness import valkey
from jobstatus.core.store import Store
from jobstatus.stores import open_store


@pytest.fixture
def server() -> Iterator[valkey.Server]:
    """A server of the test's own."""
    server = valkey.Server().start()
    yield server
    server.remove()


@pytest.fixture
async def store(server: valkey.Server) -> AsyncIterator[Store]:
    """A store on it."""
    async with open_store(server.url()) as opened:
        yield opened
