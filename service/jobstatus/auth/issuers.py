"""Whose tokens count, and what they prove.

A token's `iss` picks an entry; the entry alone says algorithm, keys and kinds (RFC 8725, sections 3.1 and 3.8). Nothing
that a token says makes this code read a file, open a connection or try a second key.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import jwt
from jwt.exceptions import InvalidJTIError, InvalidSubjectError

from jobstatus.auth.claims import check_times, read_principal
from jobstatus.auth.compact import read_token
from jobstatus.auth.errors import InvalidCredential, KeyConfigError, Reason
from jobstatus.auth.issuer_config import IssuerConfig, Kind
from jobstatus.auth.key_source import KeySource
from jobstatus.auth.keys import Key
from jobstatus.core.access import Principal

__all__ = ["IssuerConfig", "Kind", "TokenVerifier", "VerifiedToken"]

_OPTIONS: Final[jwt.types.Options] = {
    "require": ["exp", "iss", "aud"],
    "enforce_minimum_key_length": True,
    "verify_exp": False,  # times are judged by `claims`, with the clock that we are given
    "verify_nbf": False,
    "verify_iat": False,
}
_REASONS: Final[Mapping[type[Exception], Reason]] = {
    jwt.InvalidAlgorithmError: Reason.WRONG_ALGORITHM,
    jwt.InvalidAudienceError: Reason.WRONG_AUDIENCE,
    jwt.InvalidSignatureError: Reason.BAD_SIGNATURE,
    jwt.MissingRequiredClaimError: Reason.BAD_CLAIM,
    InvalidSubjectError: Reason.BAD_CLAIM,
    InvalidJTIError: Reason.BAD_CLAIM,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedToken:
    """What a token proved. `expires_at` is its `exp`, in seconds since the epoch."""

    principal: Principal
    kind: Kind
    expires_at: int


class TokenVerifier:
    """Verifies tokens of the configured issuers. The keys are loaded and checked on construction.

    `generation` grows each time that a key changed: what was verified in an earlier one may no longer count.
    """

    def __init__(self, configs: Sequence[IssuerConfig]) -> None:
        self.generation = 0
        self._reloading = threading.Lock()
        self._jwt = jwt.PyJWT(options=_OPTIONS)
        self._sources: dict[str, KeySource] = {}
        for config in configs:
            if config.issuer in self._sources:
                raise KeyConfigError(config.issuer, "it is configured twice")
            self._sources[config.issuer] = KeySource(config)

    @property
    def reads_files(self) -> bool:
        """Whether `reload` has anything to look at."""
        return any(source.config.key_file is not None for source in self._sources.values())

    def verify(self, token: str, now_seconds: float) -> VerifiedToken:
        """What the token proves now; raises InvalidCredential for everything that can be wrong with it."""
        unverified = read_token(token)
        source = self._find_source(unverified.claims)
        config = source.config
        if unverified.header.get("alg") != config.algorithm:
            raise InvalidCredential(Reason.WRONG_ALGORITHM)
        key = source.keys.find(unverified.header)
        if key is None:
            raise InvalidCredential(Reason.UNKNOWN_KEY_ID)
        self._check_signature(token, key, config)
        expires_at = check_times(unverified.claims, config, now_seconds)
        kind, principal = read_principal(unverified.claims, config)
        principal = replace(principal, valid_until=expires_at + config.leeway_seconds)
        return VerifiedToken(principal=principal, kind=kind, expires_at=expires_at)

    def reload(self) -> bool:
        """Read the key files that changed; whether any key did. Blocks: not for the event loop's thread."""
        with self._reloading:
            changes = [source.reload() for source in self._sources.values()]
            self.generation += any(changes)
        return any(changes)

    def _find_source(self, claims: Mapping[str, Any]) -> KeySource:
        issuer = claims.get("iss")
        source = self._sources.get(issuer) if isinstance(issuer, str) else None
        if source is None:
            raise InvalidCredential(Reason.UNKNOWN_ISSUER)
        return source

    def _check_signature(self, token: str, key: Key, config: IssuerConfig) -> None:
        """Raise InvalidCredential unless the signature, the issuer and the audience are right.

        The libraries below raise more than they declare, and their texts may quote the token: neither gets through.
        """
        try:
            self._jwt.decode(token, key, algorithms=[config.algorithm], audience=config.audience, issuer=config.issuer)
        except Exception as error:  # noqa: BLE001 - see above
            raise InvalidCredential(_REASONS.get(type(error), Reason.MALFORMED)) from None
