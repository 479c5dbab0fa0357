#!/bin/sh
# A guess: `remove_signal_handler` of an event loop puts back what handled the signal before `add_signal_handler`.
# The truth: it sets the default, in asyncio and in uvloop, also where the signal was ignored before, as SIGHUP is under
#   nohup.
# Why it matters: a process that was started to survive the end of its terminal dies of it after the removal; and a signal
#   that comes between removing a handler and ignoring the signal ends a process that had stopped gracefully.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'uvloop==0.23.0'
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import signal
import sys

import uvloop


async def add_and_remove():
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, print)
    asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)


found = {}
for name, factory in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop)):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(add_and_remove())
        found[name] = signal.getsignal(signal.SIGHUP)
print("Python", sys.version.split()[0], "uvloop", uvloop.__version__, "ignored before; afterwards:", found)
sys.exit(0 if set(found.values()) == {signal.SIG_DFL} else 1)
PYTHON
