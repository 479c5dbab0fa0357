"""Polls on every store, beside a bare aiohttp handler and beside what a user would write instead.

Half of the jobs are pending, half completed with a result of 1 KB. All are asked over 64 connections that stay open, by
credentials of the three kinds in turn; SQLite and the references also one poll after the other.
"""

from typing import Final

from benchmarks.compared import BARE, FASTAPI, compare
from benchmarks.figures import Options, Series
from benchmarks.servers import NAMES
from benchmarks.workload import Workload

NAME: Final = "polls"


async def measure(options: Options) -> list[Series]:
    workload = Workload(jobs=options.jobs, credentials=options.credentials)
    return await compare(NAME, workload, options, alone=(BARE, FASTAPI, NAMES["sqlite"]))
