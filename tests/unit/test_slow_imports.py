"""What takes long to import is imported where it is used, so that commands start fast."""

import subprocess
import sys

import pytest

SLOW = {
    "the help of jobs": ("import jobstatus.cli.jobs", ("asyncio", "grpc", "google.protobuf")),
    "the help of keys": ("import jobstatus.cli.keys", ("asyncio", "grpc", "google.protobuf")),
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
