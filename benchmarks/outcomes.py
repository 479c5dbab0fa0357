"""CPU time of a poll by its outcome, on SQLite.

One server answers polls of each outcome in turn, in the same rounds: a refusal must not cost more than an answer. Every
answer is checked for its status, so the load comes from this process; it is no part of the server's CPU time.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from harness.tokens import bearer, token

from benchmarks.figures import CPU, Collected, Options, Series
from benchmarks.servers import NAMES, Target, serving, store_url
from benchmarks.workload import KINDS_OF_CREDENTIALS, PATH, Workload, credential_line, is_admin, job_id_of, seed

NAME: Final = "outcomes"
KIND: Final = "sqlite"
OK: Final = "200"
"""With which the others are compared."""
_FORGED: Final = "another secret of more than thirty-two bytes"
_AT_A_TIME: Final = 50
"""Polls on a connection between two looks at the clock."""


async def measure(options: Options) -> list[Series]:
    workload = Workload(jobs=options.jobs, credentials=options.credentials)
    store = store_url(KIND, options.folder)
    await seed(store, workload, options)
    collected = Collected(NAME)
    async with serving(KIND, options.folder, store) as target:
        polls = polls_by_outcome(workload)
        for number in options.each_round(f"{NAME}: asking {NAMES[KIND]}"):
            for outcome, request in polls.items():
                cpu_us = await cpu_us_of_poll(target, outcome, request, options)
                if number:
                    collected.add(outcome, CPU, "µs", cpu_us)
    return collected.series(dict.fromkeys((outcome for outcome in polls if outcome != OK), OK))


def polls_by_outcome(workload: Workload) -> Mapping[str, bytes]:
    """Return a request for each outcome, whose name begins with its status."""
    numbers = [number for number in range(workload.jobs) if not is_admin(number)]
    ended = next(number for number in numbers if workload.job(number).is_terminal)
    going = next(number for number in numbers if not workload.job(number).is_terminal)
    mine, others = credential_line(ended), credential_line(ended + KINDS_OF_CREDENTIALS)
    return {
        OK: _get(job_id_of(ended), mine),
        "202": _get(job_id_of(going), credential_line(going)),
        "304": _get(job_id_of(ended), mine, "If-None-Match: *"),
        "404": _get(job_id_of(workload.jobs), mine),
        "404, of another owner": _get(job_id_of(ended), others),
        "401, no credential": _get(job_id_of(ended)),
        "401, bad token": _get(job_id_of(ended), bearer(token(_FORGED, virtual_key_id="vk-1"))),
    }


def _get(job_id: str, *lines: str) -> bytes:
    return "\r\n".join((f"GET {PATH}{job_id} HTTP/1.1", "Host: bench", *lines, "", "")).encode()


async def cpu_us_of_poll(target: Target, outcome: str, request: bytes, options: Options) -> float:
    """Return the server's CPU time of one such poll, in µs."""
    ends_at = asyncio.get_running_loop().time() + options.seconds
    before = target.cpu_seconds()
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(_ask(target, outcome, request, ends_at)) for _ in range(options.connections)]
    return (target.cpu_seconds() - before) / sum(task.result() for task in asked) * 1e6


async def _ask(target: Target, outcome: str, request: bytes, ends_at: float) -> int:
    """Poll on one connection until then; return how often. Raise RuntimeError for another status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    status, polls = outcome[:3].encode(), 0
    try:
        while asyncio.get_running_loop().time() < ends_at:
            for _ in range(_AT_A_TIME):
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                if head[9:12] != status:
                    raise RuntimeError(f"{target.name} answers {head[:12]!r}, not {outcome}")
                _, found, length = head.partition(b"Content-Length: ")
                if found:
                    await reader.readexactly(int(length.partition(b"\r\n")[0]))
            polls += _AT_A_TIME
    finally:
        writer.close()
    return polls
