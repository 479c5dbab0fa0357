"""Read the one credential in a request's headers.

A virtual key may come in several headers, because clients that are made for other services send their API key in one
of their own. Such clients often fill in a placeholder where another header has the real credential, so that what cannot
be a credential of this service is passed over beside one that can. Two different ones that can be are refused.

The values are untrusted: they may hold surrogates (raw bytes above 0x7F) and be long. Their length and encoding are
checked before their content, so that a long one costs no more than a short one.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from jobstatus.auth.compact import has_token_header
from jobstatus.auth.errors import InvalidCredential, MissingCredential, Reason
from jobstatus.core.virtual_keys import KEY_PREFIX, hash_key

KEY_HEADERS: Final = ("x-bf-vk", "x-api-key", "x-goog-api-key")
"""The headers that hold a virtual key and nothing else."""
MAX_CREDENTIAL_CHARS: Final = 4 * 1024
MAX_SHOWN_CHARS: Final = 128
_SCHEME: Final = "bearer"
_token_header: Final = re.compile(r"(?:^|[._-])e[yw][A-Za-z0-9_-]{11,}\.").search
"""The first segment of a JWT: a JSON object in base64url, which begins with `{` and a quotation mark or white space."""


class Fingerprint(NamedTuple):
    """What a credential is recognised by; nobody can authenticate with it, so that it may be kept."""

    digest: bytes
    """The SHA-256 of the whole credential."""
    is_key: bool
    """Whether it is a virtual key; else it is a token, or nothing."""


def fingerprint_of(authorization: Sequence[str], keys: Sequence[str]) -> Fingerprint:
    """Return the fingerprint of the one credential of a request. As `read_credential`."""
    credential = read_credential(authorization, keys)
    return Fingerprint(hash_key(credential), credential.startswith(KEY_PREFIX))


def read_credential(authorization: Sequence[str], keys: Sequence[str]) -> str:
    """Return the one credential of a request, which may be in several headers.

    Takes the values of all Authorization headers and of all KEY_HEADERS. The credential is ASCII, has no space, and
    begins with the key prefix if it came in one of KEY_HEADERS. Raises MissingCredential or InvalidCredential.
    """
    if len(authorization) + len(keys) > 1:
        return _read_several(authorization, keys)
    if authorization:
        return _read_authorization(authorization[0])
    if keys:
        return _read_key(keys[0])
    raise MissingCredential(Reason.NO_CREDENTIAL)


def may_be_credential(text: str) -> bool:
    """Return whether a text of a stranger holds what looks like a virtual key or a token."""
    return KEY_PREFIX in text or ("." in text and _token_header(text) is not None)


def shown(text: str) -> str:
    """Return a text of a stranger as the log may have it: short, without control characters and credentials."""
    if may_be_credential(text):
        return "(may be a credential)"
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:MAX_SHOWN_CHARS])


def _read_several(authorization: Sequence[str], keys: Sequence[str]) -> str:
    """Return the only credential that can be ours; where none can, return or raise what the first that is sent is."""
    ours = {value for value in map(_bearer, authorization) if value is not None and _can_be_ours(value)}
    ours.update(value for value in keys if value.startswith(KEY_PREFIX))
    if len(ours) > 1:
        raise InvalidCredential(Reason.SEVERAL_CREDENTIALS)
    if ours:
        return _check(ours.pop())
    missing = MissingCredential(Reason.NO_CREDENTIAL)
    for read, values in (_read_authorization, authorization), (_read_key, keys):
        for value in values:
            try:
                return read(value)
            except MissingCredential as error:
                missing = error
    raise missing


def _can_be_ours(credential: str) -> bool:
    if credential.startswith(KEY_PREFIX):
        return True
    return len(credential) <= MAX_CREDENTIAL_CHARS and has_token_header(credential)


def _bearer(value: str) -> str | None:
    """Return the credential of the Bearer scheme, None for another scheme."""
    scheme, _, credential = value.partition(" ")
    return credential.lstrip(" ") if scheme.lower() == _SCHEME else None


def _read_authorization(value: str) -> str:
    credential = _bearer(value)
    if credential is None:
        if not value.isascii():
            raise InvalidCredential(Reason.NOT_ASCII)
        raise MissingCredential(Reason.UNSUPPORTED_SCHEME if value.strip() else Reason.NO_CREDENTIAL)
    if not credential.strip():
        raise MissingCredential(Reason.NO_CREDENTIAL)
    return _check(credential)


def _read_key(value: str) -> str:
    if not value.strip():
        raise MissingCredential(Reason.NO_CREDENTIAL)
    if not value.startswith(KEY_PREFIX):
        raise InvalidCredential(Reason.NOT_A_VIRTUAL_KEY)
    return _check(value)


def _check(credential: str) -> str:
    """Return the credential; raise InvalidCredential if it is too long, not ASCII, or has a space."""
    if len(credential) > MAX_CREDENTIAL_CHARS:
        raise InvalidCredential(Reason.TOO_LONG)
    if not credential.isascii():
        raise InvalidCredential(Reason.NOT_ASCII)
    if " " in credential:
        raise InvalidCredential(Reason.INNER_SPACE)
    return credential
