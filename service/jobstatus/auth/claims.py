"""Check and read the claims of a token whose signature is verified (RFC 7519, section 4.1).

PyJWT's checks are not used because they read their own clock, accept numeric strings and true as times, drop
fractions, and would parse the claims a second time. Knows no keys.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from jobstatus.auth.credential import shown
from jobstatus.auth.errors import InvalidCredential, Reason
from jobstatus.auth.issuer_config import IssuerConfig, Kind
from jobstatus.core.access import Principal
from jobstatus.core.job import is_valid_id

_REQUIRED: Final = ("exp", "iss", "aud")
_STRINGS: Final = ("sub", "jti")


def check_registered(claims: Mapping[str, Any], config: IssuerConfig) -> None:
    """Raise InvalidCredential unless the required claims are there and the token is meant for this audience.

    `aud` is a string or a list of strings; `sub` and `jti` are strings where they are present.
    """
    if any(claims.get(name) is None for name in _REQUIRED) or not claims["aud"]:
        raise InvalidCredential(Reason.BAD_CLAIM)
    audiences = [claims["aud"]] if isinstance(claims["aud"], str) else claims["aud"]
    if (
        not isinstance(audiences, list)
        or not all(isinstance(audience, str) for audience in audiences)
        or config.audience not in audiences
    ):
        raise InvalidCredential(Reason.WRONG_AUDIENCE)
    if any(name in claims and not isinstance(claims[name], str) for name in _STRINGS):
        raise InvalidCredential(Reason.BAD_CLAIM)


def check_times(claims: Mapping[str, Any], config: IssuerConfig, now_seconds: float) -> float:
    """Return `exp`, in seconds since the epoch, if the token is valid now; raise InvalidCredential."""
    leeway = config.leeway_seconds
    expires_at = _read_time(claims, "exp")
    if expires_at <= now_seconds - leeway:
        raise InvalidCredential(Reason.EXPIRED)
    if expires_at > now_seconds + config.max_lifetime_seconds + leeway:
        raise InvalidCredential(Reason.LIFETIME_TOO_LONG)
    for name in ("nbf", "iat"):
        if name in claims and _read_time(claims, name) > now_seconds + leeway:
            raise InvalidCredential(Reason.NOT_YET_VALID)
    return expires_at


def read_principal(claims: Mapping[str, Any], config: IssuerConfig) -> tuple[Kind, Principal]:
    """Return the kind of the token and its principal; raise InvalidCredential.

    The token must have a virtual key's id or the admin role, not both (RFC 8725, section 3.12), and its issuer must be
    allowed to mint that kind. Any value of the virtual key claim counts as present; only the admin's role counts.
    """
    names_key = config.virtual_key_claim in claims
    is_admin = _read_role(claims, config) == config.admin_role
    if names_key == is_admin:
        raise InvalidCredential(Reason.BAD_CLAIM)
    kind = Kind.VIRTUAL_KEY if names_key else Kind.ADMIN
    if kind not in config.kinds:
        raise InvalidCredential(Reason.WRONG_KIND)
    if names_key:
        return kind, Principal(_read_virtual_key_id(claims, config))
    return kind, Principal(None, identity=(config.issuer, shown(claims.get("sub", ""))))


def _read_time(claims: Mapping[str, Any], name: str) -> float:
    """Return a NumericDate, which may have a fraction (RFC 7519, section 2)."""
    value = claims.get(name)
    if type(value) is int or (type(value) is float and math.isfinite(value)):  # not isinstance: true is an int
        return value
    raise InvalidCredential(Reason.BAD_TIME)


def _read_role(claims: Mapping[str, Any], config: IssuerConfig) -> str | None:
    role = claims.get(config.role_claim)
    if role is None and config.role_claim not in claims:
        return None
    if not isinstance(role, str):
        raise InvalidCredential(Reason.BAD_CLAIM)
    return role


def _read_virtual_key_id(claims: Mapping[str, Any], config: IssuerConfig) -> str:
    virtual_key_id = claims[config.virtual_key_claim]
    if not isinstance(virtual_key_id, str) or not is_valid_id(virtual_key_id):
        raise InvalidCredential(Reason.BAD_CLAIM)
    return virtual_key_id
