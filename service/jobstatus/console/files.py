"""The page and its parts, which are package data, and the headers that every answer of the console has."""

import gzip
import hashlib
import html
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Final

from jobstatus.console.open_id import SignIn

_CONNECT: Final = "connect-src 'self'"
CONTENT_SECURITY_POLICY: Final = (
    f"default-src 'none'; script-src 'self'; style-src 'self'; {_CONNECT}; img-src 'self' data:;"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'"
)
SECURITY: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "jobstatus",
}
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticFile:
    """A file as it is served."""

    body: bytes
    zipped: bytes
    headers: dict[str, str]
    tag: str


@cache
def static_file(name: str) -> StaticFile | None:
    """Return a file of the console by its path below /console/, which is empty for the page; None for others."""
    name = name or "index.html"
    if name not in _names():
        return None
    body = files("jobstatus.console").joinpath("static", *name.split("/")).read_bytes()
    return _served(body, name, SECURITY)


@lru_cache(maxsize=8)
def page(sign_in: SignIn) -> StaticFile:
    """Return the page for this way to sign in, which it may connect to. The way is an element of the page itself, so
    that it and the policy never differ.
    """
    plain = static_file("")
    assert plain is not None  # noqa: S101  # for the type checker
    meta = f'<meta name="sign-in" content="{html.escape(sign_in.to_text())}" />\n  </head>'
    allowed = f"{_CONNECT} {sign_in.origin}".rstrip()
    policy = CONTENT_SECURITY_POLICY.replace(_CONNECT, allowed)
    return _served(
        plain.body.replace(b"</head>", meta.encode()), "index.html", {**SECURITY, "Content-Security-Policy": policy}
    )


def _served(body: bytes, name: str, security: Mapping[str, str]) -> StaticFile:
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    kept = {"Content-Type": _TYPES[name.rpartition(".")[2]], "Cache-Control": "no-cache", "ETag": tag}
    return StaticFile(body=body, zipped=gzip.compress(body, mtime=0), headers={**security, **kept}, tag=tag)


@cache
def _names() -> frozenset[str]:
    """Return the paths of all files that are served, so that no request chooses a path of its own."""
    root = files("jobstatus.console").joinpath("static")
    found = [entry.name for entry in root.iterdir()]
    found += [f"vendor/{entry.name}" for entry in root.joinpath("vendor").iterdir()]
    return frozenset(name for name in found if name.rpartition(".")[2] in _TYPES)
