"""An edge of its own in front of a cluster that loses a part: polls of the other parts go on through it."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import pytest
from harness import valkey
from harness.jobs import create
from harness.service import Service, edge_here, service_here
from harness.tokens import admin_token, bearer
from harness.waiting import until
from jobstatus.app.edge import EdgeLimits
from jobstatus.auth.virtual_key_cache import LOOKUPS
from jobstatus.core.batch_reader import BatchReaderLimits
from jobstatus.stores import open_store
from jobstatus.stores.redis.keys import Keys, bucket_of
from jobstatus.upstream.reader import UpstreamLimits

NAMES: Final = [f"job-{number}" for number in range(60)]
ADMIN: Final = bearer(admin_token())
POLLERS: Final = 4
HEALED_SECONDS: Final = 60.0
LIMIT_SECONDS: Final = 4.0
"""What the edge gives its service here, for the machine may be slow, and what a poll may wait before it is asked."""
IN_TIME_SECONDS: Final = 3 * LIMIT_SECONDS


@pytest.fixture(scope="module")
def whole() -> Iterator[valkey.Cluster]:
    """A cluster that the tests here break and mend."""
    cluster = valkey.Cluster().start()
    yield cluster
    cluster.remove()


def names_on(cluster: valkey.Cluster, server: valkey.Server) -> set[str]:
    """The jobs that this server has."""
    owners = [cluster.owner(bucket.slot) for bucket in Keys("any").buckets]
    return {name for name in NAMES if owners[bucket_of(name.encode())] is server}


class Polled:
    """What many pollers saw: by job the statuses in order, and how long the slowest poll took."""

    def __init__(self) -> None:
        self.statuses: dict[str, list[int]] = {name: [] for name in NAMES}
        self.slowest = 0.0

    async def poll(self, front: Service, name: str) -> None:
        started = time.monotonic()
        status = (await front.poll(name, ADMIN)).status
        self.slowest = max(self.slowest, time.monotonic() - started)
        self.statuses[name].append(status)

    async def poll_all(self, front: Service, stop: asyncio.Event, first: int) -> None:
        """Poll every POLLERSth job, again and again."""
        while not stop.is_set():
            for name in NAMES[first::POLLERS]:
                await self.poll(front, name)
                await asyncio.sleep(0.005)  # the servers need the machine

    def counts(self, names: set[str]) -> Counter[int]:
        return Counter(status for name in names for status in self.statuses[name])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_the_other_parts_go_on(whole: valkey.Cluster, number: signal.Signals) -> None:
    """A primary dies, or stands still: its jobs are a 503, never a 404, until a replica serves them; others never."""
    patient = BatchReaderLimits(wait_seconds=LIMIT_SECONDS)
    limits = EdgeLimits(
        upstream=UpstreamLimits(call_seconds=LIMIT_SECONDS, batches=patient),
        lookups=replace(LOOKUPS, wait_seconds=LIMIT_SECONDS),
    )
    whole.wait()
    victim = whole.primaries()[0]
    async with (
        service_here(open_store(whole.url(f"prefix={number.name}"))) as service,
        edge_here(service, limits=limits) as edge,
    ):
        for name in NAMES:
            await create(service, name)
        lost = names_on(whole, victim)
        polled, stop = Polled(), asyncio.Event()
        async with asyncio.timeout(120), asyncio.TaskGroup() as pollers:
            for first in range(POLLERS):
                pollers.create_task(polled.poll_all(edge, stop, first))
            await until(lambda: all(polled.statuses.values()))
            victim.send(number)
            await until(lambda: polled.counts(lost)[503] > 0)
            await until(lambda: all(polled.statuses[name][-1] == 202 for name in lost), HEALED_SECONDS)
            stop.set()
        if number == signal.SIGSTOP:
            victim.send(signal.SIGCONT)
        else:
            victim.kill()
            victim.start()
        assert set(polled.counts(lost)) == {202, 503}
        assert set(polled.counts(set(NAMES) - lost)) == {202}
        assert polled.slowest < IN_TIME_SECONDS
