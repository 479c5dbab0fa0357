#!/bin/sh
# A guess: `server.stop(grace)` of grpc.aio sends a GOAWAY, and a call that was on its way then is either served or
#   refused in a way that lets the client's gRPC send it elsewhere, unnoticed.
# The truth: the first GOAWAY says that every call up to the highest possible number is still welcome (HTTP/2's way to
#   avoid just this race), and gRPC then ends a call that comes with CANCELLED, as if its handler had done so. No client
#   library repeats that by itself.
# Why it matters: a write on its way to a server that stops is lost to clients without retries of their own. Fewer are
#   lost when answers are held back for a moment before the stop, so that clients which wait for them send nothing.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'grpcio==1.85.1' 'hpack==4.1.0'
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import struct
import sys

import grpc
import hpack

HEADERS, SETTINGS, GOAWAY = 1, 4, 7
started, release = asyncio.Event(), asyncio.Event()


async def hold(request, context):
    started.set()
    await release.wait()
    return b""


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def call(stream):
    names = (":method", "POST"), (":scheme", "http"), (":path", "/test.Test/Hold"), (":authority", "test")
    head = hpack.Encoder().encode((*names, ("te", "trailers"), ("content-type", "application/grpc")))
    return frame(HEADERS, 4, stream, head) + frame(0, 1, stream, bytes(5))


async def next_frame(reader):
    head = await asyncio.wait_for(reader.readexactly(9), 10)
    payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
    return head[3], int.from_bytes(head[5:9], "big"), payload


async def main():
    server = grpc.aio.server()
    handlers = {"Hold": grpc.unary_unary_rpc_method_handler(hold)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0) + call(1))
    await started.wait()
    stopping = asyncio.create_task(server.stop(10))
    welcome = None
    decoder, status = hpack.Decoder(), {}
    while 3 not in status or 1 not in status:
        kind, stream, payload = await next_frame(reader)
        if kind == GOAWAY and welcome is None:
            welcome = struct.unpack(">I", payload[:4])[0]
            writer.write(call(3))  # as if it had been on its way
        if kind == HEADERS:
            status |= {stream: value for name, value in decoder.decode(payload) if name == "grpc-status"}
            release.set()
    writer.close()
    await stopping
    print("grpcio", grpc.__version__)
    print("calls that the first GOAWAY still welcomes: up to", welcome)
    print("status of the call in progress:", status[1], "and of the one that came then:", status[3])
    return 0 if (welcome, status) == (2**31 - 1, {1: "0", 3: "1"}) else 1


sys.exit(asyncio.run(main()))
PYTHON
