#!/bin/sh
# A guess: of a channel option that is given twice the later one counts, as in a dictionary or on a command line. A
#   library may then put its caller's options behind its own defaults.
# The truth: the first one counts and the second is ignored in silence, by the blocking and by the asyncio channel.
# Why it matters: a client that appended its caller's options to its own would take every option and obey none of
#   those that it sets itself: the receive limit, the load balancing and the keepalive are such.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'grpcio==1.85.1'
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

METHOD = "/example.Echo/Say"
NAME = "grpc.primary_user_agent"
OPTIONS = [(NAME, "first"), (NAME, "second")]


def answer(request, context):
    return dict(context.invocation_metadata())["user-agent"].split()[0].encode()


server = grpc.server(ThreadPoolExecutor(2))
say = {"Say": grpc.unary_unary_rpc_method_handler(answer)}
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("example.Echo", say)])
target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
server.start()


async def by_asyncio():
    async with grpc.aio.insecure_channel(target, options=OPTIONS) as channel:
        return await channel.unary_unary(METHOD)(b"")


with grpc.insecure_channel(target, options=OPTIONS) as channel:
    counted = {"blocking": channel.unary_unary(METHOD)(b"").decode(), "asyncio": asyncio.run(by_asyncio()).decode()}
server.stop(0).wait()
print("grpcio", grpc.__version__)
print("given:", [value for _, value in OPTIONS], "counted:", counted)
sys.exit(0 if set(counted.values()) == {"first"} else 1)
PYTHON
