"""How soon a process learns of a change that another one made: `python tests/soak/news.py [STORE …] [--changes N]`.

Two services share a store. A job is watched at one and completed at the other, again and again, with change notices and
without. It prints the times from the worker's OK to the last version of the watch.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median, quantiles
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.jobs import complete, create
from harness.service import INSTALLED, Process, Service
from harness.stores import STORES
from jobstatus.v1 import job_status_pb2 as pb

ACQUAINTED_SECONDS: Final = 5.0
"""After so long each service has heard the other's sign of life."""


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


async def measure(kind: str, changes: int, notices: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            services = list[Service]()
            for name in ("one", "other"):
                place = Path(folder) / name
                place.mkdir()
                process = Process(place, STORE=STORES[kind](Path(folder)), CHANGE_NOTICES=notices)
                process.start_command = INSTALLED
                await stack.enter_async_context(process)
                services.append(await stack.enter_async_context(process.connected()))
            await asyncio.sleep(ACQUAINTED_SECONDS)
            times = [await news_ms(services[0], services[1], f"job-{number}") for number in range(changes)]
        print(
            f"{kind}, change_notices={notices}: median {median(times):.1f} ms,"
            f" 99 of 100 within {quantiles(times, n=100)[-1]:.1f} ms, the last {max(times):.1f} ms"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="*", default=["postgresql", "valkey"])
    parser.add_argument("--changes", type=int, default=500)
    options = parser.parse_args()
    for kind in options.stores:
        for notices in ("true", "false"):
            asyncio.run(measure(kind, options.changes, notices))


if __name__ == "__main__":
    main()
