"""Polls of results of 1 MB, with the same references.

There are few jobs, for all of them have to be stored; only those that are completed are polled.
"""

from typing import Final

from benchmarks.compared import compare
from benchmarks.figures import Options, Series
from benchmarks.workload import Workload

NAME: Final = "large"
_JOBS: Final = 200
_BYTES: Final = 1024 * 1024


async def measure(options: Options) -> list[Series]:
    workload = Workload(
        jobs=min(_JOBS, options.jobs), credentials=options.credentials, result_bytes=_BYTES, asks_pending=False
    )
    return await compare(NAME, workload, options)
