"""Load on a server, by a generator in a process of its own: wrk where it is installed, else ours.

Most of what wrk does for a request is the kernel's work, so that a server in Python is busy long before it. Ours costs
more and reads no more of an answer than it must. That neither is the bottleneck is told by the report: how busy the
generator was is a measure of its own. The processor time of the server does not depend on it.
"""

import asyncio
import json
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.figures import CPU, P50, P99, RATE, Collected
from benchmarks.servers import ROOT, Target

BEHIND: Final = "CPU time a request, of what is behind it"
BUSY: Final = "how busy the load generator was"
_SPARE_SECONDS: Final = 30.0


class Load(NamedTuple):
    """What came of a round: answers, all of them 2xx, and times."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_seconds: float
    """Processor time of the server."""
    behind_seconds: float
    """The same of what is behind it."""
    busy: float
    """Processor time of the generator in each second."""

    def add_to(self, collected: Collected, subject: str) -> None:
        """As values of a round."""
        collected.add(subject, CPU, "µs", self.cpu_seconds / self.requests * 1e6)
        collected.add(subject, RATE, "requests/s", self.requests / self.seconds)
        collected.add(subject, P50, "ms", self.p50_ms)
        collected.add(subject, P99, "ms", self.p99_ms)
        if self.behind_seconds:
            collected.add(subject, BEHIND, "µs", self.behind_seconds / self.requests * 1e6, is_compared=False)
        collected.add(subject, BUSY, "% of a core", self.busy * 100, is_compared=False)


def write_requests(path: Path, requests: Sequence[bytes]) -> Path:
    """The file that `load` wants."""
    path.write_bytes(b"".join(requests))
    return path


async def load(target: Target, requests: Path, *, connections: int, seconds: int) -> Load:
    """Ask the requests of the file, over and over, on so many connections that stay open.

    Raises RuntimeError when an answer was missing or not a 2xx.
    """
    command = _command(target.port, requests, connections, seconds)
    before = _times(target)
    started_at = time.perf_counter()
    async with asyncio.timeout(seconds + _SPARE_SECONDS):
        said = await _output(command)
    taken = time.perf_counter() - started_at
    served, behind, generated = (after - earlier for after, earlier in zip(_times(target), before, strict=True))
    found = json.loads(said.splitlines()[-1])
    if found.pop("failed"):
        raise RuntimeError(f"{target.name} gave answers that were not wanted: {said}")
    return Load(**found, cpu_seconds=served, behind_seconds=behind, busy=generated / taken)


@cache
def generator_name() -> str:
    """For the report."""
    program = shutil.which("wrk")
    if program is None:
        return "benchmarks.generator"
    said = subprocess.run([program, "--version"], check=False, capture_output=True, text=True, timeout=10).stdout
    version = re.match(r"wrk \S*?(\d[\d.]*)", said)
    return f"wrk {version[1]}" if version else "wrk"


def _command(port: int, requests: Path, connections: int, seconds: int) -> list[str]:
    program = shutil.which("wrk")
    if program is None:
        ours = (sys.executable, "-m", "benchmarks.generator", str(port), str(requests))
        return [*ours, "--connections", str(connections), "--seconds", str(seconds)]
    limits = ("--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s", "--timeout", "10s")
    return [
        program,
        *limits,
        "--script",
        str(Path(__file__).with_name("wrk.lua")),
        f"http://127.0.0.1:{port}",
        "--",
        str(requests),
    ]


def _times(target: Target) -> tuple[float, float, float]:
    """Of the server, of what is behind it, and of generators that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return target.cpu_seconds(), target.cpu_seconds_behind(), ended.ru_utime + ended.ru_stime


async def _output(command: Sequence[str]) -> str:
    """What the program printed. It has a session of its own, so that Ctrl-C reaches this process alone."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=pipe, stderr=asyncio.subprocess.STDOUT, start_new_session=True
    )
    try:
        said, _ = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode:
        raise RuntimeError(f"the load generator failed: {said.decode()}")
    return said.decode()
