"""Mint tokens, for development and for the command line. The service itself never does."""

import base64
import json
from collections.abc import Mapping

from jobstatus.auth.errors import KeyConfigError
from jobstatus.auth.issuer_config import DEFAULT_TYPE
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
    token_type: str = DEFAULT_TYPE,
) -> str:
    """Return a token with these claims, valid for `ttl_seconds` from now; `iss`, `aud`, `exp` and `iat` are ours.

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
    header = {"alg": algorithm, "typ": token_type} | ({} if key_id is None else {"kid": key_id})
    signed = f"{_segment(header)}.{_segment(payload)}"
    return f"{signed}.{_base64url(ALGORITHMS[algorithm].signature.sign(signed.encode(), signing_key))}"


def _segment(value: Mapping[str, object]) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
