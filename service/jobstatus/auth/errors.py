"""The refusals of credentials and keys.

A caller distinguishes two cases, a missing and an invalid credential. All else is for logs and metrics and must not
reach the client. No error holds a part of a credential or of a key.
"""

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Self


class Reason(StrEnum):
    """One stable word for each kind of refusal, few enough to be a metric's label."""

    NO_CREDENTIAL = "no_credential"
    UNSUPPORTED_SCHEME = "unsupported_scheme"
    SEVERAL_CREDENTIALS = "several_credentials"
    TOO_LONG = "too_long"
    NOT_ASCII = "not_ascii"
    INNER_SPACE = "inner_space"
    NOT_A_VIRTUAL_KEY = "not_a_virtual_key"
    VIRTUAL_KEYS_OFF = "virtual_keys_off"
    UNKNOWN_VIRTUAL_KEY = "unknown_virtual_key"
    UNUSABLE_VIRTUAL_KEY = "unusable_virtual_key"
    NO_ISSUER = "no_issuer"
    MALFORMED = "malformed"
    UNSUPPORTED_HEADER = "unsupported_header"
    UNKNOWN_ISSUER = "unknown_issuer"
    WRONG_ALGORITHM = "wrong_algorithm"
    UNKNOWN_KEY_ID = "unknown_key_id"
    BAD_SIGNATURE = "bad_signature"
    WRONG_AUDIENCE = "wrong_audience"
    BAD_TIME = "bad_time"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    LIFETIME_TOO_LONG = "lifetime_too_long"
    BAD_CLAIM = "bad_claim"
    WRONG_KIND = "wrong_kind"


class CredentialError(Exception):
    """The root of all refusals of a request.

    `issuer` and `key_id` are what a refused token claims, as the log may have it; empty where it claims nothing.
    """

    def __init__(self, reason: Reason, issuer: str = "", key_id: str = "") -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.issuer = issuer
        self.key_id = key_id

    def again(self) -> Callable[[], Self]:
        """Return what makes the same refusal, for further requests of the same content.

        It may be kept: it does not hold this error, whose frames hold the request and its credentials.
        """
        return partial(type(self), self.reason, self.issuer, self.key_id)


class MissingCredential(CredentialError):
    """Nothing usable was sent: 401 without an error code (RFC 6750, section 3.1)."""


class InvalidCredential(CredentialError):
    """A credential was sent and is bad: 401 with error="invalid_token"."""


class KeysUnavailable(Exception):
    """Whether the credential is good cannot be told, because its issuer's keys could not be fetched yet: 503."""


class KeyConfigError(ValueError):
    """An issuer's configuration or key is refused; the message is one sentence that names the issuer and the fault."""

    def __init__(self, issuer: str, problem: str) -> None:
        super().__init__(f"issuer {issuer!r}: {problem}")
        self.issuer = issuer
        self.problem = problem
