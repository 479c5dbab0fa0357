"""A token's text, taken apart before anything in it is believed (JWS compact serialization, RFC 7515, section 3.1).

Stricter than PyJWT, which takes padding, guessed encodings, repeated claims and any `typ`. Knows no keys and no
issuers: what comes out is what the token says of itself, not what is true.
"""

import base64
import re
from dataclasses import dataclass, field
from typing import Any, Final

from jobstatus.auth.errors import InvalidCredential, Reason
from jobstatus.auth.strict_json import parse_object

_is_base64url: Final = re.compile("[A-Za-z0-9_-]+").fullmatch

UNSUPPORTED: Final = ("crit", "b64", "cty")
"""Header fields that change what the rest means. None is supported, so a token that has one is not understood."""


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """What a token says of itself. Nothing here is true before the signature is checked."""

    header: dict[str, Any] = field(repr=False)
    claims: dict[str, Any] = field(repr=False)


def read_token(token: str) -> UnverifiedToken:
    """Take a token apart; raises InvalidCredential unless it is a plain JWT in one canonical spelling."""
    try:
        header_bytes, claims_bytes, _ = map(_decode_base64url, token.split("."))  # ValueError unless there are three
        unverified = UnverifiedToken(parse_object(header_bytes), parse_object(claims_bytes))
    except ValueError:
        raise InvalidCredential(Reason.MALFORMED) from None
    _check_header(unverified.header)
    return unverified


def _check_header(header: dict[str, Any]) -> None:
    """Refuse other kinds of token by `typ` (RFC 8725, section 3.11) and extensions that are not understood.

    `jku`, `x5u`, `x5c` and `jwk` are not looked at: keys come from the configuration alone.
    """
    typ = header.get("typ", "JWT")
    if not isinstance(typ, str) or typ.upper() != "JWT" or any(name in header for name in UNSUPPORTED):
        raise InvalidCredential(Reason.UNSUPPORTED_HEADER)


def _decode_base64url(segment: str) -> bytes:
    """The bytes of a segment without padding. ValueError unless this is the only way to spell them."""
    if not _is_base64url(segment):
        raise ValueError("not base64url")
    data = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=") != segment.encode():
        raise ValueError("not canonical")
    return data
