#!/bin/sh
# A guess: a key of gRPC's metadata may be there several times, and the server's handler sees each value, in order. Those
#   that read a trace's context take the first one, as HTTP's rules for duplicates of such a header suggest.
# The truth: of several `traceparent` only the last one arrives; other keys, `tracestate` among them, keep all values.
# Why it matters: a client library that adds its `traceparent` to metadata that have one already replaces the caller's
#   without a trace of it, and the `tracestate` that arrives may then belong to the other one.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'grpcio==1.85.1'
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

received = []


class Handler(grpc.GenericRpcHandler):
    def service(self, _details):
        def answer(_request, context):
            received.extend(context.invocation_metadata())
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


FIRST, SECOND = ("00-" + digit * 32 + "-" + digit * 16 + "-01" for digit in "12")
sent = [("traceparent", FIRST), ("traceparent", SECOND), ("tracestate", "a=1"), ("tracestate", "b=2"), ("x-n", "1"), ("x-n", "2")]
server = grpc.server(ThreadPoolExecutor(1))
server.add_generic_rpc_handlers((Handler(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    channel.unary_unary("/test/Call")(b"", metadata=sent)
server.stop(None)
found = {key: [value for name, value in received if name == key] for key in ("traceparent", "tracestate", "x-n")}
print("grpcio", grpc.__version__, found)
sys.exit(0 if found == {"traceparent": [SECOND], "tracestate": ["a=1", "b=2"], "x-n": ["1", "2"]} else 1)
PYTHON
