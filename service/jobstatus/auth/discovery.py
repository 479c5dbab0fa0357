"""Read an issuer's description of itself (OpenID Connect Discovery 1.0, section 4). Knows no network.

What is wrong with one is told by a ValueError, whose message is a sentence for the operator.
"""

from collections.abc import Mapping
from typing import Any

from jobstatus.auth.key_urls import is_local_http, is_trustworthy
from jobstatus.core.json_text import parse_object


def read_description(document: bytes, issuer: str) -> Mapping[str, Any]:
    """Return the description if it is that of this issuer. Raises ValueError."""
    try:
        description = parse_object(document)
    except ValueError:
        raise ValueError("the discovery document is not a JSON object in UTF-8 with unique names") from None
    if description.get("issuer") != issuer:  # section 4.3
        raise ValueError("the discovery document is that of another issuer")
    return description


def url_in(description: Mapping[str, Any], name: str) -> str:
    """Return this URL of the description: https, or http on this machine where the issuer is. Raises ValueError."""
    url, issuer = description.get(name), description["issuer"]
    if not isinstance(url, str) or not is_trustworthy(url) or (is_local_http(url) and not is_local_http(issuer)):
        raise ValueError(f"the {name} of the discovery document is not a URL with https")
    return url
