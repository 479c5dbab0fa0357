"""What it costs to look for changes that other processes made: `python -m benchmarks.looks [STORE …]`.

While anybody waits, each process asks its store ten times a second for the versions of all jobs that are waited for.
Prints for each store how long one such look takes, and how much processor time of the asking process.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import uvloop
from harness.stores import SHARED, STORES
from jobstatus.stores import open_store

from benchmarks.figures import Options
from benchmarks.workload import Workload, is_completed, job_id_of, seed

_COUNTS: Final = (100, 1000, 10_000)
_LOOKS: Final = 10


async def look(kind: str, folder: Path) -> None:
    """Print what looks at more and more jobs cost."""
    url = STORES[kind](folder)
    await seed(url, Workload(jobs=max(_COUNTS), credentials=2), Options(folder=folder, stores=(kind,)))
    async with open_store(url) as store:
        for count in _COUNTS:
            versions = {job_id: 2 if is_completed(job_id) else 1 for job_id in map(job_id_of, range(count))}
            if await store.changed(versions):
                raise RuntimeError("a job is at another version than it was given")
            began_at, cpu = time.perf_counter(), time.process_time()
            for _ in range(_LOOKS):
                await store.changed(versions)
            taken, cpu = time.perf_counter() - began_at, time.process_time() - cpu
            print(f"{kind}, {count:,} jobs: {taken / _LOOKS * 1e3:.1f} ms, CPU {cpu / _LOOKS * 1e3:.1f} ms", flush=True)


async def main(kinds: list[str]) -> None:
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            await look(kind, Path(folder))


if __name__ == "__main__":
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main(sys.argv[1:] or list(SHARED)))
