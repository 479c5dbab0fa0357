"""What the claims of a verified token mean: until when, and for whom.

Times are judged here and not by PyJWT, which asks its own clock and takes numeric strings, floats and true. Knows no
keys: by now the signature, the issuer and the audience have been checked.
"""

from collections.abc import Mapping
from typing import Any

from jobstatus.auth.errors import InvalidCredential, Reason
from jobstatus.auth.issuer_config import IssuerConfig, Kind
from jobstatus.core.access import Principal
from jobstatus.core.job import is_valid_id


def check_times(claims: Mapping[str, Any], config: IssuerConfig, now_seconds: float) -> int:
    """The token's `exp`, in seconds since the epoch, if the token is valid now; raises InvalidCredential."""
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
    """What kind of token it is and whom it stands for; raises InvalidCredential.

    It must have a virtual key's id or the admin role, not both (RFC 8725, section 3.12), and its issuer must be allowed
    to mint that kind. A virtual key's id counts when it is present at all, a role only when it is the admin's.
    """
    names_key = config.virtual_key_claim in claims
    is_admin = _read_role(claims, config) == config.admin_role
    if names_key == is_admin:
        raise InvalidCredential(Reason.BAD_CLAIM)
    kind = Kind.VIRTUAL_KEY if names_key else Kind.ADMIN
    if kind not in config.kinds:
        raise InvalidCredential(Reason.WRONG_KIND)
    return kind, Principal(_read_virtual_key_id(claims, config) if names_key else None)


def _read_time(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int:  # not isinstance: true is an int to Python
        raise InvalidCredential(Reason.BAD_TIME)
    return value


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
