"""Imports aiohttp without the certificate authorities of the system.

aiohttp reads all of them when it is imported, which is a good part of the CPU time of a start, and a server needs none.
A session that is not given a context of its own then trusts nobody; `app.key_fetching`, the only client of the service,
has its own.
"""

import os
from importlib import import_module
from typing import Final

_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Where OpenSSL looks for authorities instead of in the system's files."""


def import_aiohttp() -> None:
    """Import aiohttp while OpenSSL finds no authorities. Call it before there are other threads."""
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update(dict.fromkeys(_VARIABLES, os.devnull))
    try:
        import_module("aiohttp")
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
