"""The files of the console: what is vendored is what it was, and nothing in the page needs a looser policy."""

import hashlib
import re
from pathlib import Path
from typing import Final

import jobstatus.console
import pytest
from jobstatus.console.files import CONTENT_SECURITY_POLICY, static_file

STATIC: Final = Path(jobstatus.console.__file__).parent / "static"
VENDOR: Final = STATIC / "vendor"
OWN_SCRIPTS: Final = sorted(STATIC.glob("*.js"))


def test_vendored_files_are_those_that_were_recorded() -> None:
    """Each has the hash in SHA256SUMS, and there are no others but a note."""
    lines = [line.split("  ") for line in (VENDOR / "SHA256SUMS").read_text().splitlines()]
    recorded = {name: digest for digest, name in lines}
    found = {path.name for path in VENDOR.iterdir()} - {"SHA256SUMS", "README.md"}
    assert found == recorded.keys()
    for name, digest in recorded.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest


def test_the_page_has_nothing_inline() -> None:
    """No script, style or handler stands in the page itself, and it names files of its own folder only."""
    page = (STATIC / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=", page) == []
    names = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert names
    assert all((STATIC / name).is_file() for name in names)


@pytest.mark.parametrize("path", OWN_SCRIPTS, ids=lambda path: path.name)
def test_scripts_make_no_markup_of_data_and_keep_nothing(path: Path) -> None:
    """Texts become text nodes; the token is in no storage and no address; nothing is asked of another host."""
    script = path.read_text()
    for forbidden in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "localStorage",
        "sessionStorage",
        "document.cookie",
        "indexedDB",
        "://",
    ):
        assert forbidden not in script.replace('"http://www.w3.org/2000/svg"', "")
    imported = re.findall(r'from "(.+)"', script)
    assert all((STATIC / name).is_file() for name in imported)


@pytest.mark.parametrize("name", ["", "app.js", "console.css", "icon.svg", "vendor/uPlot.iife.min.js"])
def test_files_are_served_with_the_policy(name: str) -> None:
    found = static_file(name)
    assert found is not None
    assert found.headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert found.body


@pytest.mark.parametrize("name", ["vendor/SHA256SUMS", "vendor/uPlot.LICENSE", "..", "vendor/..", "../limits.py"])
def test_nothing_else_is_served(name: str) -> None:
    assert static_file(name) is None
