"""What takes long to import is imported where it is used, so that commands start fast."""

import os
import subprocess
import sys

import pytest

SLOW = {
    "the help of jobs": ("import jobstatus.cli.jobs", ("asyncio", "grpc", "google.protobuf")),
    "the help of keys": ("import jobstatus.cli.keys", ("asyncio", "grpc", "google.protobuf")),
    "the help of token": ("import jobstatus.cli.tokens", ("asyncio", "cryptography", "jwt", "pydantic")),
    "a client": (
        "from jobstatus.client import JobState, JobStatusClient",
        ("jobstatus.client.blocking", "jobstatus.client.loop_thread"),
    ),
    "jobs get": (
        "from jobstatus.cli import run; run(['jobs', 'get', 'x', '--grpc', '127.0.0.1:1'])",
        (
            *("aiohttp", "apsw", "cryptography", "grpc_health.v1", "grpc_reflection.v1alpha", "importlib.metadata"),
            *(
                "jobstatus.client.blocking",
                "jobstatus.settings",
                "jwt",
                "prometheus_client",
                "pydantic",
                "rich",
                "structlog",
            ),
            *("tomllib", "uvloop", "yaml"),
        ),
    ),
    "a start of the service": (
        (
            "import jobstatus.processes.start, jobstatus.app.service as _; "
            "from jobstatus.processes.launch import Source, prepare; prepare(Source(check=lambda *_: None))"
        ),
        (
            *("apsw", "difflib", "grpc_reflection.v1alpha", "hiredis", "psycopg", "structlog", "tomllib"),
            *("opentelemetry", "opentelemetry.trace"),
            *("importlib.readers", "jobstatus.processes.supervisor", "jobstatus.upstream", "unittest", "xml"),
        ),
    ),
    "a start of the edge": (
        "import jobstatus.cli.edge, jobstatus.processes.start, jobstatus.app.edge",
        (
            *("apsw", "grpc_health.v1", "grpc_reflection.v1alpha", "jobstatus.rpc.server", "jobstatus.stores.rows"),
            *("opentelemetry", "opentelemetry.trace"),
        ),
    ),
    "a supervisor": ("import jobstatus.processes.start, jobstatus.processes.supervisor", ("apsw", "grpc", "structlog")),
    "the double": ("import jobstatus.testing", ("grpc_health.v1", "jobstatus.rpc.server", "prometheus_client")),
    "a JSON log": (
        "from jobstatus.telemetry.logs import configure; configure(level='info', log_format='json')",
        ("structlog", "rich"),
    ),
}


@pytest.mark.parametrize("case", SLOW)
def test_a_slow_package_is_not_loaded(case: str) -> None:
    """In a process of its own, because this one has loaded everything."""
    code, packages = SLOW[case]
    code += f"; import sys; print(sorted(sys.modules.keys() & set({packages!r})))"
    env = {name: value for name, value in os.environ.items() if not name.startswith("JOBSTATUS_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=env)
    assert done.stdout.strip() == "[]"


def test_a_command_collects_garbage_once_it_is_imported() -> None:
    """Not before, because nearly all that imports make stays; and never over that again."""
    code = """
import gc, sys
before = gc.get_freeze_count()  # of the interpreter itself
import jobstatus.cli
from jobstatus.cli.garbage import collect_from_now_on

sys.argv = ["jobstatus", "--version"]
try:
    jobstatus.cli.main()
except SystemExit:
    print(gc.isenabled(), gc.get_freeze_count() - before)
collect_from_now_on()
print(gc.isenabled(), gc.get_freeze_count() > before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split()[-4:] == ["False", "0", "True", "True"]
