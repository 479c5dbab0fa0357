"""Fixtures of all tests, and which of them run in one process. The loop is uvloop, as it is when the service serves."""

import gc
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import pytest
import uvloop
from harness.places import temporary_root
from harness.service import Service, service_here
from hypothesis import HealthCheck, settings

signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell lets what it starts in the background ignore Ctrl-C, and the commands that tests start would inherit that."""

os.environ["SSL_CERT_FILE"] = os.devnull
"""aiohttp reads the machine's certificate authorities at import. No test needs them, and each process takes 70 ms."""

gc.disable()  # until all tests are collected: nothing of them is garbage
os.register_at_fork(before=gc.disable, after_in_parent=gc.enable)
"""Between fork and exec uvloop's child runs Python. A collection there finalizes what gRPC has left, which waits for
ever for a thread that the child does not have, and the parent waits for the child."""

os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(temporary_root()))  # where `tmp_path` is made

_UNTIMED: Final = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", _UNTIMED, derandomize=True, max_examples=30)
settings.register_profile("ci", _UNTIMED, max_examples=200, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))
"""`dev` tries the same few examples each time, so that the verdict depends on the code alone; `ci` looks for others."""

SERVERS: Final = {"postgresql", "valkey", "cluster"}
"""The stores that need a server; their tests have the store's name among their parameters."""
GROUPS: Final = {
    "test_postgresql_start": "postgresql",
    "test_postgresql_statements": "postgresql",
    "test_redis_connection": "valkey",
    "test_redis_indexes": "cluster",
}
"""Modules whose tests need a server, without a parameter that says so."""
LONGEST: Final = (
    *("postgresql", "test_workers_start_and_stop", "test_postgresql_faults", "test_workers", "cluster"),
    *("test_redis_cluster", "test_fast_path", "test_stop", "valkey", "test_edge_upstream", "test_contract", "test_cli"),
    *("test_sqlite_faults", "test_event_stream", "test_edge_command", "test_rest_waiting", "test_rpc_contract"),
)
"""The groups that take longest, which begin first: a process that began one of them late would be the last to end."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:  # noqa: ARG001  # the hook's signature
    """Twice as many processes as there are processors, because tests wait for half of their time."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2 * processors


def pytest_collection_finish() -> None:
    """Collect garbage from now on, but not among the tests themselves."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run each module in one process, and all tests that share a server, so that each server starts once."""
    groups = {item: group_of(item) for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    ranks = {group: rank for rank, group in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(groups[item], len(ranks)))


def group_of(item: pytest.Item) -> str:
    """Return the server that the test needs, or else its module."""
    kinds = SERVERS.intersection(re.split(r"[\[\]-]", item.name)[1:])
    module = item.path.stem
    return next(iter(kinds), None) or GROUPS.get(module, module)


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], Any]]:  # noqa: ARG001  # the hook's signature
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """The whole service in this process, on the memory store."""
    async with service_here() as running:
        yield running
