"""Mint tokens, for development and for the command line. The service itself never does."""

from collections.abc import Mapping

import jwt

from jobstatus.auth.errors import KeyConfigError
from jobstatus.auth.keys import ALGORITHMS, KeyRefused, parse_private_pem, parse_secret


def mint_token(
    *,
    issuer: str,
    audience: str,
    algorithm: str,
    key: str | bytes,
    key_id: str | None,
    claims: Mapping[str, object],
    ttl_seconds: int,
    now_seconds: float,
) -> str:
    """A token with these claims, valid from now for `ttl_seconds`; `iss`, `aud`, `exp` and `iat` are always ours.

    The key is an HMAC secret or a private key in PEM, and must be one that a verifier would accept. Raises
    KeyConfigError, or ValueError when the token would never be valid.
    """
    if ttl_seconds < 1:
        raise ValueError("a token must live for at least a second")
    if algorithm not in ALGORITHMS:
        raise KeyConfigError(issuer, f"the algorithm must be one of {', '.join(ALGORITHMS)}")
    try:
        signing_key = parse_secret(key) if algorithm == "HS256" else parse_private_pem(algorithm, key)
    except KeyRefused as refused:
        raise KeyConfigError(issuer, str(refused)) from None
    issued_at = int(now_seconds)
    payload = {**claims, "iss": issuer, "aud": audience, "exp": issued_at + ttl_seconds, "iat": issued_at}
    headers = None if key_id is None else {"kid": key_id}
    return jwt.PyJWT().encode(payload, signing_key, algorithm, headers)
