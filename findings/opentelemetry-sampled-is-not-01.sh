#!/bin/sh
# A guess: the `traceparent` of a sampled trace ends in `-01`, as in all examples; so a log or a proxy finds those traces
#   by that end, and two of them with one trace id have the same flags.
# The truth: OpenTelemetry's SDK for Python makes trace ids at random, says so in a second bit (level 2 of the W3C's Trace
#   Context), and sends `-03`; one that was begun elsewhere keeps `-01`.
# Why it matters: what compares the flags as text, instead of looking at the lowest bit, takes sampled traces for others.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'opentelemetry-sdk==1.45.2'
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

propagator, tracer = TraceContextTextMapPropagator(), TracerProvider().get_tracer("test")


def flags(context=None):
    """The flags that are sent from within a span with this parent."""
    carrier = {}
    with tracer.start_as_current_span("work", context=context):
        propagator.inject(carrier)
    return carrier["traceparent"].rpartition("-")[2]


elsewhere = propagator.extract({"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"})
found = {"begun here": flags(), "begun elsewhere": flags(elsewhere)}
print("opentelemetry-sdk", version("opentelemetry-sdk"), found)
sys.exit(0 if found == {"begun here": "03", "begun elsewhere": "01"} else 1)
PYTHON
