"""What the figures were measured on: without it they mean nothing."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import apsw
import psutil
from harness import postgresql, valkey

from benchmarks import syncs
from benchmarks.figures import Options
from benchmarks.load import generator_name
from benchmarks.servers import EDGE, ROOT

_LIBRARIES: Final = (
    "aiohttp",
    "apsw",
    "fastapi",
    "grpcio",
    "hiredis",
    "httptools",
    "protobuf",
    "psycopg",
    "pyjwt",
    "redis",
    "uvicorn",
    "uvloop",
)


def facts(options: Options) -> dict[str, str]:
    """By name; of the stores' servers those that were started."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "processor": f"{_processor()}, {psutil.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "load generator of polls": generator_name(),
        "syncs of writes": syncs.how(store for store in options.stores if store != EDGE),
        "measured": "a quick try, not to be quoted" if options.quick else f"{options.rounds} rounds after a first one",
        **_servers(),
        **{name: found for name in _LIBRARIES if (found := _version(name))},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _servers() -> dict[str, str]:
    found = {"SQLite": apsw.sqlite_lib_version()}
    if postgresql.server.cache_info().currsize:
        found["PostgreSQL"] = str(postgresql.server().execute("SHOW server_version")[0][0])
    if valkey.single.cache_info().currsize:
        found["Valkey"] = valkey.single().info("valkey_version")
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """The commit that is checked out, and whether the files differ from it; empty without git."""
    try:
        head, changes = (_git("rev-parse", "--short=12", "HEAD"), _git("status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{head} with changes" if changes else head


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True, timeout=10)
    return done.stdout.strip()
