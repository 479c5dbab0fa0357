"""How soon a process learns of a change that another one made: `python tests/soak/news.py [STORE …] [--changes N]`.

Two services share a store. A job is watched at one and completed at the other, again and again, with change notices and
without, and with notices that are lost, every one, while the signs of life arrive. It prints the times from the
worker's OK to the last version of the watch. Each service is a process; where notices are lost both are in this one.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.jobs import complete, create
from harness.service import INSTALLED, Process, Service, service_here
from harness.stores import STORES, DelegatingStore
from jobstatus.core.store import NoticeChannel, Store
from jobstatus.stores import open_store
from jobstatus.v1 import job_status_pb2 as pb

ACQUAINTED_SECONDS: Final = 5.0
"""After so long each service has heard the other's sign of life."""
LOST: Final = "lost"


async def news_ms(one: Service, other: Service, job_id: str) -> float:
    """From the OK of a completion at one service to the end of a watch at the other."""
    await create(one, job_id)
    watch = other.jobs.WatchJob(pb.WatchJobRequest(job_id=job_id))
    versions = aiter(watch)
    await anext(versions)
    ended = asyncio.ensure_future(anext(versions))
    await complete(one, job_id)
    began = time.perf_counter()
    version = await ended
    took = (time.perf_counter() - began) * 1000
    if version.job.state != pb.JOB_STATE_COMPLETED:
        raise RuntimeError(f"the watch of {job_id} has another state")
    watch.cancel()
    return took


class LosingChannel:
    """A channel that loses each notice which names jobs. The signs of life arrive, so none is missed."""

    def __init__(self, real: NoticeChannel) -> None:
        self._real = real

    async def publish(self, text: str) -> None:
        _, _, job_ids = text.partition(" ")
        if not job_ids:
            await self._real.publish(text)

    async def hear(self, heard: Callable[[str], None]) -> str:
        return await self._real.hear(heard)


class LosingStore(DelegatingStore):
    """A store whose notices are lost."""

    def __init__(self, real: Store) -> None:
        super().__init__(real)
        assert real.notices is not None
        self.notices = LosingChannel(real.notices)


@asynccontextmanager
async def two_processes(url: str, folder: Path, notices: str) -> AsyncIterator[list[Service]]:
    """The installed command, twice."""
    async with AsyncExitStack() as stack:
        services = list[Service]()
        for name in ("one", "other"):
            place = folder / name
            place.mkdir()
            process = Process(place, STORE=url, CHANGE_NOTICES=notices)
            process.start_command = INSTALLED
            await stack.enter_async_context(process)
            services.append(await stack.enter_async_context(process.connected()))
        yield services


@asynccontextmanager
async def two_that_lose(url: str) -> AsyncIterator[list[Service]]:
    """Two services in this process, whose notices are lost."""
    async with service_here(LosingStore(open_store(url))) as one, service_here(LosingStore(open_store(url))) as other:
        yield [one, other]


async def measure(kind: str, changes: int, notices: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = STORES[kind](Path(folder))
        running = two_that_lose(url) if notices == LOST else two_processes(url, Path(folder), notices)
        async with running as (one, other):
            await asyncio.sleep(ACQUAINTED_SECONDS)
            times = [await news_ms(one, other, f"job-{number}") for number in range(changes)]
        print(
            f"{kind}, change_notices={notices}: median {median(times):.1f} ms,"
            f" 99 of 100 within {quantiles(times, n=100)[-1]:.1f} ms, the last {max(times):.1f} ms",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="*", default=["postgresql", "valkey"])
    parser.add_argument("--changes", type=int, default=500)
    options = parser.parse_args()
    for kind in options.stores:
        for notices in ("true", "false", LOST):
            changes = options.changes if notices != LOST else max(2, options.changes // 5)  # of a second each
            asyncio.run(measure(kind, changes, notices))


if __name__ == "__main__":
    main()
