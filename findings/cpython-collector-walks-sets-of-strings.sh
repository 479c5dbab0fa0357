#!/bin/sh
# A guess: to the garbage collector a set of strings is as cheap as a dict whose keys are the same strings: neither can
#   be part of a cycle, and CPython stops tracking a dict that holds only such values.
# The truth: CPython tracks every set, whatever it holds, and walks all of its members in each full collection. The dict
#   with the same strings as keys is never visited.
# Why it matters: a set of some million names, kept while a large document is checked, stops every thread of a server
#   for 70 ms whenever the oldest generation is collected. Keys of a dict cost nothing there.
# It needs no package, only the interpreter that `python3` names.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
"$folder/venv/bin/python" - <<'PYTHON'
import gc
import sys

NAMES = [f"name-{number}" for number in range(1000)]


def is_visited(container):
    """Whether a full collection looks at the container: what is tracked is."""
    gc.collect()
    return gc.is_tracked(container)


as_set, as_dict = set(NAMES), dict.fromkeys(NAMES)
visited_set, visited_dict = is_visited(as_set), is_visited(as_dict)
print(sys.implementation.name, sys.version.split()[0])
print("a set of 1000 strings is visited:", visited_set)
print("a dict with the same strings as keys is visited:", visited_dict)
sys.exit(0 if visited_set and not visited_dict else 1)
PYTHON
