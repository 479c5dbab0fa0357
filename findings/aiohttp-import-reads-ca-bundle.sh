#!/bin/sh
# A guess: importing an HTTP library opens no file but its own; certificates are read with the first https request.
# The truth: `import aiohttp`, a server that never connects to anything included, makes two client TLS contexts, of
#   which one reads and parses the machine's whole bundle of certificate authorities. With the usual bundle of about
#   140 authorities that was a fifth of the whole import (70 of 350 ms of CPU time where it was found).
# Why it matters: each start of a server process pays for it, and so does each process that a test suite starts. It is
#   also the moment from which the authorities are fixed: a bundle that is updated later is not seen.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'aiohttp==3.14.5'
"$folder/venv/bin/python" - <<'PYTHON'
import ssl
import sys

read = []
load_default_certs = ssl.SSLContext.load_default_certs


def counting(context, purpose=ssl.Purpose.SERVER_AUTH):
    load_default_certs(context, purpose)
    read.append(context.cert_store_stats()["x509_ca"])


ssl.SSLContext.load_default_certs = counting  # before the import, to count what it does
import aiohttp

print("aiohttp", aiohttp.__version__)
print("bundles read while it was imported:", len(read), "with authorities:", read)
sys.exit(0 if len(read) == 1 else 1)
PYTHON
