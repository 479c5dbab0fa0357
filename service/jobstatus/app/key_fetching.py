"""Fetch the documents of identity providers over HTTP: key sets, and what says where they are.

A provider is trusted to say which keys are its own, and for nothing else: redirects are not followed, cookies are not
kept, answers are bounded in size and time and not decompressed.
"""

import asyncio
import re
import ssl
from collections.abc import Iterable
from functools import cache
from typing import Final
from urllib.request import getproxies, proxy_bypass

from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, DummyCookieJar, StreamReader
from yarl import URL

from jobstatus import __version__
from jobstatus.auth.remote_keys import Document, FetchFailed, JwksLimits

_HEADERS: Final = {
    "Accept": "application/json, application/jwk-set+json",
    "Accept-Encoding": "identity",
    "User-Agent": f"jobstatus/{__version__}",
}
_PIECE_BYTES: Final = 64 * 1024
_OK: Final = 200
_max_age: Final = re.compile(r'\s*max-age\s*=\s*"?(\d{1,15})"?\s*', re.IGNORECASE | re.ASCII).fullmatch
_is_number: Final = re.compile(r"\d{1,15}", re.ASCII).fullmatch


async def fetch(url: str, limits: JwksLimits) -> Document:
    """Return the document at the URL; raise FetchFailed. The proxies of the environment are used."""
    try:
        async with (
            ClientSession(
                timeout=ClientTimeout(total=limits.answer_seconds),
                headers=_HEADERS,
                cookie_jar=DummyCookieJar(),
                auto_decompress=False,
            ) as session,
            session.get(url, allow_redirects=False, proxy=proxy_of(url), ssl=await _trust_for(url)) as response,
        ):
            if response.status != _OK:
                raise FetchFailed(f"{url} answered {response.status}; redirects are not followed")
            body = await _read(response.content, url, limits.max_bytes)
            headers = response.headers
            return Document(body, fresh_seconds(headers.getall("Cache-Control", ()), headers.get("Age")))
    except TimeoutError:
        raise FetchFailed(f"{url} did not answer within {limits.answer_seconds:g} s") from None
    except ClientConnectorError as error:
        raise FetchFailed(f"{url} cannot be reached: {error}") from None
    except (ClientError, OSError, ValueError) as error:
        raise FetchFailed(f"{url} cannot be fetched: {type(error).__name__}") from None


async def _trust_for(url: str) -> ssl.SSLContext | bool:
    """Return a context that trusts the system's authorities. They are read in a thread, because that takes long."""
    return await asyncio.to_thread(_trust) if URL(url).scheme == "https" else True


@cache
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()


async def _read(content: StreamReader, url: str, max_bytes: int) -> bytes:
    pieces = bytearray()
    while piece := await content.read(_PIECE_BYTES):
        pieces += piece
        if len(pieces) > max_bytes:
            raise FetchFailed(f"{url} answered with more than {max_bytes} bytes")
    return bytes(pieces)


def proxy_of(url: str) -> str | None:
    """Return the proxy that HTTPS_PROXY and NO_PROXY name for a URL.

    Plain HTTP, which is for this machine, has none: whoever runs the proxy could answer with keys of his own.
    """
    parts = URL(url)
    if parts.scheme != "https" or proxy_bypass(parts.host or ""):
        return None
    return getproxies().get("https")


def fresh_seconds(cache_control: Iterable[str], age: str | None) -> float | None:
    """Return for how long an answer is fresh (RFC 9111, section 4.2); None where it does not say.

    An answer that must not be stored, or must be validated each time, is fresh for 0 seconds.
    """
    directives = [part for line in cache_control for part in line.split(",")]
    if any(part.strip().lower() in ("no-store", "no-cache") for part in directives):
        return 0
    for directive in directives:
        if found := _max_age(directive):
            spent = int(age) if age and _is_number(age) else 0
            return max(0, int(found[1]) - spent)
    return None
