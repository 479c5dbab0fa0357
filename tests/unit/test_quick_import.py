"""aiohttp is imported without the system's authorities, and nothing else goes without them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

CODE = """
import gc, os, ssl, sys
from jobstatus.processes.quick_import import import_aiohttp

before = dict(os.environ)
import_aiohttp()
contexts = [each for each in gc.get_objects() if isinstance(each, ssl.SSLContext)]
print("aiohttp" in sys.modules, len(contexts) > 0, sum(each.cert_store_stats()["x509"] for each in contexts))
print(dict(os.environ) == before, ssl.create_default_context().cert_store_stats()["x509"])
"""


@pytest.mark.parametrize("is_named", [True, False])
def test_only_the_import_goes_without_authorities(tmp_path: Path, is_named: bool) -> None:
    """Whether the environment names a file of them or not, it is as before afterwards."""
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(authority)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SSL_CERT", "JOBSTATUS_"))}
    named = {"SSL_CERT_FILE": str(authority), "SSL_CERT_DIR": str(tmp_path)} if is_named else {}
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=True, env=env | named
    )
    first, second = done.stdout.splitlines()
    assert first == "True True 0"
    assert second.split()[0] == "True"
    assert not is_named or second.split()[1] == "1"
