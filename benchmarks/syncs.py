"""How many times something is forced to stable storage: calls of fsync and fdatasync, by whoever makes them.

PostgreSQL counts them itself. SQLite's and Valkey's are counted by strace, where it is installed and allowed to look. A
service is started by it and stopped only at these calls, which takes next to nothing; a Valkey server that runs already
is stopped at every call of the system, so that these are the figures of a slower server.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Final

import psutil
from harness import postgresql
from harness.waiting import until

from benchmarks.servers import behind

_CALLS: Final = ("-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", "signal=none")
_CALL: Final = re.compile(rb"\bf(?:data)?sync\(")
_YAMA: Final = Path("/proc/sys/kernel/yama/ptrace_scope")
_OTHERS: Final = """
    SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""
_STEP_SECONDS: Final = 20.0

Count = Callable[[bool], Awaitable[int]]
"""The number of syncs so far. To be told whether the service has ended: then it is exact."""


def why_not(store: str) -> str | None:
    """Why those of a store of this kind cannot be counted; None when they can."""
    if store == "postgresql":
        return None
    if shutil.which("strace") is None:
        return "strace is not installed"
    if not _traces():
        return "strace may not look at programs here, or is older than 5.3"
    if store != "sqlite" and os.geteuid() != 0 and _YAMA.exists() and _YAMA.read_text().strip() != "0":
        return "strace may not look at a server that runs already"
    return None


@cache
def _traces() -> bool:
    """Whether strace runs a program as `tracing_command` wants it to."""
    command = (*tracing_command(Path(os.devnull)), sys.executable, "-c", "")
    return subprocess.run(command, check=False, capture_output=True, timeout=_STEP_SECONDS).returncode == 0


def how(stores: Iterable[str]) -> str:
    """For the report."""
    reasons = {store: why_not(store) for store in stores}
    return "; ".join(f"not measured for {store}: {reason}" for store, reason in reasons.items() if reason) or "counted"


def tracing_command(log: Path) -> tuple[str, ...]:
    """What to put before the command of a service upon SQLite for `counting`."""
    return ("strace", "--seccomp-bpf", *_CALLS, "-o", str(log))


@asynccontextmanager
async def counting(store: str, log: Path) -> AsyncIterator[Count]:
    """Count those of whoever syncs for a store of this kind; `log` is a file for that, empty at first."""
    match store:
        case "postgresql":
            yield _counted_by_postgresql
        case "sqlite":
            yield partial(_counted_in, log)
        case _:
            async with _traced(behind(store), log):
                yield partial(_counted_in, log)


async def _counted_in(log: Path, _has_ended: bool) -> int:
    return len(_calls(log))


def _calls(log: Path) -> list[bytes]:
    return _CALL.findall(log.read_bytes())


@asynccontextmanager
async def _traced(processes: Sequence[psutil.Process], log: Path) -> AsyncIterator[None]:
    words = [word for process in processes for word in ("-p", str(process.pid))]
    tracer = await asyncio.create_subprocess_exec("strace", *_CALLS, "-o", str(log), *words, start_new_session=True)
    try:
        await until(lambda: all(_is_traced(process.pid) for process in processes), _STEP_SECONDS)
        yield
    finally:
        with suppress(ProcessLookupError):
            tracer.terminate()
        await tracer.wait()


def _is_traced(pid: int) -> bool:
    return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()


async def _counted_by_postgresql(has_ended: bool) -> int:
    """Since version 18 it does. What a connection did last is counted when it has ended."""
    server = postgresql.server()
    if has_ended:
        await until(lambda: server.execute(_OTHERS)[0][0] == 0, _STEP_SECONDS)
    return int(server.execute("SELECT coalesce(sum(fsyncs), 0) FROM pg_stat_io")[0][0])
