"""Which URLs keys may be fetched from. Knows no network: names are judged, not resolved."""

import ipaddress
from typing import Final
from urllib.parse import SplitResult, urlsplit

DISCOVERY_PATH: Final = "/.well-known/openid-configuration"


def discovery_url(issuer: str) -> str:
    """Return where an issuer describes itself (OpenID Connect Discovery 1.0, section 4)."""
    return issuer.removesuffix("/") + DISCOVERY_PATH


def is_trustworthy(url: str) -> bool:
    """Return whether what is fetched from this URL comes from its host: https, or http on this machine."""
    parts = _split(url)
    return parts is not None and (parts.scheme == "https" or is_local_http(url))


def is_local_http(url: str) -> bool:
    """Return whether this is a URL of plain HTTP on a loopback address."""
    parts = _split(url)
    return parts is not None and parts.scheme == "http" and _is_loopback(parts.hostname or "")


def _split(url: str) -> SplitResult | None:
    """Return the parts of an absolute URL without credentials and fragment; None for anything else."""
    if not url.isascii() or not url.isprintable() or " " in url:
        return None
    try:
        parts = urlsplit(url)
        is_complete = bool(parts.scheme and parts.hostname) and (parts.port or 443) > 0
    except ValueError:
        return None
    return parts if is_complete and "@" not in parts.netloc and "#" not in url else None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
