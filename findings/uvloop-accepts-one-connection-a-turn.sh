#!/bin/sh
# A guess: when clients are waiting in the queue of a listening socket, an event loop accepts them all, or as many as
#   the backlog says, as soon as it sees the socket is readable. asyncio's own loop does.
# The truth: uvloop accepts one connection of a listening socket in each turn of the loop, because libuv no longer
#   accepts in a loop.
# Why it matters: with a thousand busy connections a turn takes 100 ms, and so the two hundredth client in the queue
#   waits for 20 s although its connection was made at once and each answer takes microseconds. Several servers on
#   duplicates of one listening socket accept as many in a turn.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'uvloop==0.23.0'
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import socket
import sys

import uvloop

CLIENTS = 100


async def turns_to_accept():
    """In how many turns of the loop the clients that wait already are accepted."""
    turn, accepted_in = 0, []

    class Accepted(asyncio.Protocol):
        def connection_made(self, transport):
            accepted_in.append(turn)

    server = await asyncio.get_running_loop().create_server(Accepted, "127.0.0.1", 0, backlog=2 * CLIENTS)
    clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(CLIENTS)]
    while len(accepted_in) < CLIENTS:
        turn += 1
        await asyncio.sleep(0)
    server.close()
    for client in clients:
        client.close()
    return len(set(accepted_in))


turns = {}
for name, factory in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop)):
    with asyncio.Runner(loop_factory=factory) as runner:
        turns[name] = runner.run(turns_to_accept())
print("uvloop", uvloop.__version__, "Python", sys.version.split()[0])
print(f"turns of the loop to accept {CLIENTS} waiting clients:", turns)
sys.exit(0 if turns["asyncio"] < 5 and turns["uvloop"] >= CLIENTS else 1)
PYTHON
