"""Credentials for tests, minted with PyJWT alone so that they do not trust the code under test."""

import time
from typing import Any, Final

import jwt

ISSUER: Final = "https://issuer.test"
AUDIENCE: Final = "jobstatus"
SECRET: Final = "a secret of the tests with more than thirty-two bytes"


def token(
    secret: str | bytes = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any
) -> str:
    """A token that is valid for an hour unless the claims say otherwise; a claim of None is left out."""
    everything = {"iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 3600, **claims}
    kept = {name: value for name, value in everything.items() if value is not None}
    return jwt.encode(kept, secret, algorithm=algorithm, headers=headers)


def virtual_key_token(virtual_key_id: str, **claims: Any) -> str:
    return token(virtual_key_id=virtual_key_id, **claims)


def admin_token(**claims: Any) -> str:
    return token(role="admin", **claims)


def bearer(credential: str) -> str:
    """The header line."""
    return f"Authorization: Bearer {credential}"
