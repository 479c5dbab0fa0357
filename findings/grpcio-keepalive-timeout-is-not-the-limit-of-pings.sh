#!/bin/sh
# A guess: with `grpc.keepalive_time_ms` and `grpc.keepalive_timeout_ms` a peer that does not answer a keepalive ping
#   within the second time is disconnected, as gRPC's guide to keepalive says.
# The truth: a ping that is not answered ends the connection after `grpc.http2.ping_timeout_ms`, which is 60 s by
#   default; the keepalive timeout has no part in it.
# Why it matters: who sets the two documented options alone finds a vanished peer after 80 s in place of 40.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'grpcio==1.85.1'
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import sys
import time

import grpc

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
KEEPALIVE = (("grpc.keepalive_time_ms", 1000), ("grpc.keepalive_timeout_ms", 1000))
ALWAYS = (("grpc.keepalive_permit_without_calls", 1), ("grpc.http2.max_pings_without_data", 0))
PING = 6


async def seconds_until_closed(options, limit):
    """A client that says hello and then answers nothing: how long after the first ping it is disconnected."""
    server = grpc.aio.server(options=(*KEEPALIVE, *ALWAYS, *options))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HELLO)
    pinged_at = None
    try:
        async with asyncio.timeout(limit):
            while True:
                head = await reader.readexactly(9)
                await reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == PING and pinged_at is None:
                    pinged_at = time.monotonic()
    except (asyncio.IncompleteReadError, ConnectionError):
        return time.monotonic() - pinged_at
    except TimeoutError:
        return None
    finally:
        writer.close()
        await server.stop(0)


async def main():
    documented = await seconds_until_closed((), 10)
    real = await seconds_until_closed((("grpc.http2.ping_timeout_ms", 1000),), 10)
    print("grpcio", grpc.__version__)
    print("keepalive_timeout_ms = 1000:", "still open after 9 s" if documented is None else f"closed after {documented:.1f} s")
    print("ping_timeout_ms = 1000 as well:", "still open after 9 s" if real is None else f"closed after {real:.1f} s")
    return 0 if documented is None and real is not None else 1


sys.exit(asyncio.run(main()))
PYTHON
