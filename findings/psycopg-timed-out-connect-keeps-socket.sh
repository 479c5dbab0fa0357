#!/bin/sh
# A guess: when `await AsyncConnection.connect()` has raised a time-out, its socket is closed.
# The truth: the error, its traceback and the frames of the attempt refer to each other, and one of the frames holds the
#   libpq connection. So the socket stays open until the garbage collector happens to run, although nobody has the error
#   any more.
# Why it matters: a service that connects again and again while its database is silent gathers file descriptors, 25 to
#   174 of them in one outage, until it has none left. `traceback.clear_frames` on the error closes the socket at once.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'psycopg[binary]==3.3.9'
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import gc
import os
import socket
import sys
import traceback

import psycopg

gc.disable()  # so that the collector does not come by chance


def open_files():
    return len(os.listdir("/proc/self/fd"))


async def attempt(conninfo, *, clear):
    try:
        await psycopg.AsyncConnection.connect(conninfo)
    except psycopg.errors.ConnectionTimeout as error:
        if clear:
            traceback.clear_frames(error.__traceback__)


async def main():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system takes connections, and nobody answers
        conninfo = f"host=127.0.0.1 port={silent.getsockname()[1]} user=somebody dbname=any connect_timeout=2"
        counts = [open_files()]
        for clear in (False, True):
            await asyncio.gather(*(attempt(conninfo, clear=clear) for _ in range(5)))
            counts.append(open_files())
        gc.collect()
        counts.append(open_files())
    return counts


before, after, after_clearing, collected = asyncio.run(main())
print("psycopg", psycopg.__version__)
print(f"sockets left open by five attempts: {after - before}; when the frames are cleared: {after_clearing - after};")
print(f"after a collection: {collected - before}")
sys.exit(0 if (after - before, after_clearing - after, collected - before) == (5, 0, 0) else 1)
PYTHON
