"""Signals that come while a process ends."""

import signal
import subprocess
import sys
from typing import Final

import pytest
from harness.http import LIMIT_SECONDS

ROUNDS: Final = 3
ENDINGS: Final = """
import asyncio, os, sys
from jobstatus.processes import process

number, rounds = map(int, sys.argv[1:])

async def work(up):
    stop = asyncio.Event()
    process.catch_signals(stop, is_child=True)
    os.write(up, b"!")
    await stop.wait()
    process._end()

for _ in range(rounds):
    reader, up = os.pipe()
    child = os.fork()
    if not child:
        sys.exit(process._run(work(up)))
    os.read(reader, 1)
    ended = 0
    while not ended:
        for _ in range(1000):
            os.kill(child, number)  # also when it has ended, because it is waited for below only
        ended, status = os.waitpid(child, os.WNOHANG)
    print(os.waitstatus_to_exitcode(status), flush=True)  # a fork has a copy of what is not flushed
"""
"""Starts processes that do nothing but stop, and tells each to stop until it is gone. They are forks of one that has
imported the package, because an import takes longer than all the rest."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_moment_is_left_in_which_a_further_signal_changes_the_exit_code(number: signal.Signals) -> None:
    """A process that is told to stop all the time until it is gone has stopped gracefully."""
    done = subprocess.run(
        [sys.executable, "-c", ENDINGS, str(int(number)), str(ROUNDS)],
        capture_output=True,
        timeout=LIMIT_SECONDS,
        check=True,
    )
    assert done.stdout.split() == [b"0"] * ROUNDS
