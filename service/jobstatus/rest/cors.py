"""Answers that pages of other origins may read: the CORS protocol of the Fetch standard (section 3.3). Pure.

Only the origins that the operator names are allowed, each by its own name. Credentials are headers, never cookies, so
`Access-Control-Allow-Credentials` is never sent.
"""

import re
from collections.abc import Collection
from typing import Final

from jobstatus.auth.credential import KEY_HEADERS

_METHODS: Final = "GET, HEAD"
_REQUEST_HEADERS: Final = (
    "Accept",
    "Authorization",
    "If-Match",
    "If-None-Match",
    "Last-Event-ID",
    "Prefer",
    "X-Request-Id",
    *sorted(KEY_HEADERS),
)
"""What the service reads."""
_EXPOSED: Final = "Retry-After, ETag, Job-Progress, X-Request-Id, Preference-Applied"
_PREFLIGHT_SECONDS: Final = 7200
"""How long a browser may keep the answer to a preflight. Chromium keeps none longer."""
VARY: Final = "Vary: Origin\r\n"
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}

_LABEL: Final = "[a-z0-9_-]+"
_parse_origin: Final = re.compile(
    rf"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:(?P<any>\*)(?P<parent>(?:\.{_LABEL}){{2,}})|{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])"
    r"(?P<port>:[0-9]{1,5})?"
).fullmatch
_is_names: Final = re.compile(r"[\w.-]+(?:[ \t]*,[ \t]*[\w.-]+)*", re.ASCII).fullmatch


def checked_origin(text: str) -> str:
    """Return an origin, or all subdomains of one (`https://*.example.com`), as browsers spell it. Raise ValueError."""
    origin = text.lower()
    if (parsed := _parse_origin(origin)) is None:
        raise ValueError(
            f"has {text!r}, which is not an origin such as https://app.example.com, http://localhost:3000 or"
            " https://*.example.com: a scheme, a host and no path"
        )
    port = parsed["port"]
    return origin.removesuffix(port) if port and port == _DEFAULT_PORTS.get(parsed["scheme"]) else origin


class Cors:
    """The origins whose pages may read answers."""

    def __init__(self, origins: Collection[str]) -> None:
        """`origins` are those of `checked_origin`; `https://*.example.com` includes deeper subdomains."""
        patterns = (re.escape(origin).replace(r"\*", rf"{_LABEL}(?:\.{_LABEL})*") for origin in sorted(origins))
        self._allows = re.compile("|".join(patterns)).fullmatch
        self.is_on = bool(origins)

    def lines(self, origin: str | None) -> str:
        """Return the header lines of an answer, each with its CRLF, for a request with this `Origin`.

        `Vary` is sent to every client, because a cache must not keep an answer without the other lines for a page.
        """
        if not self.is_on:
            return ""
        if origin is None or not self._allows(origin):
            return VARY
        return f"Access-Control-Allow-Origin: {origin}\r\nAccess-Control-Expose-Headers: {_EXPOSED}\r\n{VARY}"

    def preflight_lines(self, origin: str | None, asked_headers: str | None) -> str:
        """Return the header lines of the answer to a preflight; an empty string when the origin is not allowed.

        A page may send any header, because the service ignores those that it does not know, and libraries add theirs.
        """
        if not self.is_on or origin is None or not self._allows(origin):
            return ""
        return (
            f"Access-Control-Allow-Origin: {origin}\r\n"
            f"Access-Control-Allow-Methods: {_METHODS}\r\n"
            f"Access-Control-Allow-Headers: {', '.join(_allowed_headers(asked_headers))}\r\n"
            f"Access-Control-Max-Age: {_PREFLIGHT_SECONDS}\r\n"
            "Vary: Origin, Access-Control-Request-Headers\r\n"
        )


def _allowed_headers(asked: str | None) -> list[str]:
    """Return what the service reads, and what else was asked for."""
    if asked is None or not _is_names(asked):
        return [*_REQUEST_HEADERS]
    known = {name.lower() for name in _REQUEST_HEADERS}
    return [*_REQUEST_HEADERS, *(name.strip() for name in asked.split(",") if name.strip().lower() not in known)]
