"""Signals that come while a process ends."""

import os
import signal
import subprocess
import sys
import time
from typing import Final

import pytest
from harness.http import LIMIT_SECONDS

ENDING: Final = """
import asyncio, sys
from jobstatus.processes import process

async def work():
    stop = asyncio.Event()
    process.catch_signals(stop, is_child=True)
    print("up", flush=True)
    await stop.wait()
    process._end()

sys.exit(process._run(work()))
"""
ROUNDS: Final = 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_moment_is_left_in_which_a_further_signal_changes_the_exit_code(number: signal.Signals) -> None:
    """A process that is told to stop all the time until it is gone has stopped gracefully."""
    for _ in range(ROUNDS):
        with subprocess.Popen([sys.executable, "-c", ENDING], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            ends_at = time.monotonic() + LIMIT_SECONDS
            while process.poll() is None and time.monotonic() < ends_at:
                for _ in range(1000):
                    os.kill(process.pid, number)  # also when it has ended, because it is waited for by `poll` only
        assert process.returncode == 0
