"""Read the one credential in a request's headers.

The values are untrusted: they may hold surrogates (raw bytes above 0x7F) and be long. Their length and encoding are
checked before their content.
"""

from collections.abc import Sequence
from typing import Final

from jobstatus.auth.errors import InvalidCredential, MissingCredential, Reason
from jobstatus.core.virtual_keys import KEY_PREFIX

MAX_CREDENTIAL_CHARS: Final = 8 * 1024
_SCHEME: Final = "bearer"


def read_credential(authorization: Sequence[str], virtual_key: Sequence[str]) -> str:
    """Return the credential of a request that has exactly one of the two headers, once.

    Takes the values of all Authorization and of all x-bf-vk headers. The credential is ASCII, has no space, and begins
    with the key prefix if it came in x-bf-vk. Raises MissingCredential or InvalidCredential.
    """
    if len(authorization) + len(virtual_key) > 1:
        raise InvalidCredential(Reason.SEVERAL_CREDENTIALS)
    if authorization:
        return _read_authorization(authorization[0])
    if virtual_key:
        return _read_virtual_key(virtual_key[0])
    raise MissingCredential(Reason.NO_CREDENTIAL)


def _read_authorization(value: str) -> str:
    if len(value) > len(_SCHEME) + 1 + MAX_CREDENTIAL_CHARS:
        raise InvalidCredential(Reason.TOO_LONG)
    if not value.isascii():
        raise InvalidCredential(Reason.NOT_ASCII)
    scheme, _, credential = value.partition(" ")
    if scheme.lower() != _SCHEME:
        raise MissingCredential(Reason.UNSUPPORTED_SCHEME if scheme else Reason.NO_CREDENTIAL)
    if not credential.strip():
        raise MissingCredential(Reason.NO_CREDENTIAL)
    if " " in credential:
        raise InvalidCredential(Reason.INNER_SPACE)
    return credential


def _read_virtual_key(value: str) -> str:
    if len(value) > MAX_CREDENTIAL_CHARS:
        raise InvalidCredential(Reason.TOO_LONG)
    if not value.isascii():
        raise InvalidCredential(Reason.NOT_ASCII)
    if not value.strip():
        raise MissingCredential(Reason.NO_CREDENTIAL)
    if not value.startswith(KEY_PREFIX):
        raise InvalidCredential(Reason.NOT_A_VIRTUAL_KEY)
    if " " in value:
        raise InvalidCredential(Reason.INNER_SPACE)
    return value
