"""Parse a token without trusting it (JWS compact serialization, RFC 7515, section 3.1).

Stricter than PyJWT, which accepts padding, guessed encodings and repeated claims. Knows no keys and no
issuers: the result is what the token claims, not what is true.
"""

import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from jobstatus.auth.errors import InvalidCredential, Reason
from jobstatus.core.json_text import parse_object

_TO_BASE64: Final = bytes.maketrans(b"-_+/=", b"+/\0\0\0")
"""From base64url; what that does not have becomes what base64 does not have either."""
_PADDING: Final = (b"", b"", b"==", b"=")
_LAST_CHARACTERS: Final = ("", "", "AQgw", "AEIMQUYcgkosw048")
"""By length modulo 4: 1 is impossible, 2 leaves 4 bits that encode nothing, 3 leaves 2."""

UNSUPPORTED: Final = ("crit", "b64", "cty")
"""Header fields that change the meaning of the rest. None is supported, so a token that has one is refused."""


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """The parts of a token. Nothing in it may be trusted before `signature` of `signing_input` is verified."""

    header: Mapping[str, Any] = field(repr=False)
    claims: dict[str, Any] = field(repr=False)
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def read_token(token: str) -> UnverifiedToken:
    """Parse a token; raise InvalidCredential unless it is a plain JWT in canonical encoding."""
    try:
        header, claims, signature = token.split(".")  # ValueError unless there are three
        unverified = UnverifiedToken(
            _read_header(header),
            parse_object(_decode_base64url(claims)),
            f"{header}.{claims}".encode(),
            _decode_base64url(signature),
        )
    except ValueError:
        raise InvalidCredential(Reason.MALFORMED) from None
    _check_header(unverified.header)
    return unverified


def has_token_header(text: str) -> bool:
    """Return whether the text has a token's three segments, of which the first is the header of one."""
    header, _, rest = text.partition(".")
    try:
        return rest.count(".") == 1 and bool(_read_header(header))
    except ValueError:
        return False


@lru_cache(64)
def _read_header(segment: str) -> Mapping[str, Any]:
    """Parse the first segment, which all tokens of one key have in common."""
    return parse_object(_decode_base64url(segment))


def _check_header(header: Mapping[str, Any]) -> None:
    """Refuse unsupported extensions.

    `jku`, `x5u`, `x5c` and `jwk` are ignored because keys come from the configuration alone.
    """
    if any(name in header for name in UNSUPPORTED):
        raise InvalidCredential(Reason.UNSUPPORTED_HEADER)


def _decode_base64url(segment: str) -> bytes:
    """Decode a segment without padding; raise ValueError unless it is the canonical encoding of its bytes.

    It is canonical if the bits of the last character that encode nothing are 0 (RFC 4648, section 3.5).
    """
    rest = len(segment) % 4
    if not segment or (rest and segment[-1] not in _LAST_CHARACTERS[rest]):
        raise ValueError("not base64url")
    encoded = segment.encode("ascii").translate(_TO_BASE64) + _PADDING[rest]
    return binascii.a2b_base64(encoded, strict_mode=True)
