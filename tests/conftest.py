"""Fixtures of all tests. The loop is uvloop, as it is when the service serves."""

import signal
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
import uvloop
from harness.service import Service, service_here
from hypothesis import HealthCheck, settings

signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell lets what it starts in the background ignore Ctrl-C, and the commands that tests start would inherit that."""

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], Any]]:  # noqa: ARG001  # the hook's signature
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """The whole service in this process, on the memory store."""
    async with service_here() as running:
        yield running
