"""Verify the tokens of the configured issuers.

A token's `iss` selects an issuer; its configuration alone determines algorithm, keys and kinds (RFC 8725, sections 3.1
and 3.8). No content of a token makes this code read a file, open a connection or try a second key.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobstatus.auth.claims import check_registered, check_times, read_principal
from jobstatus.auth.compact import UnverifiedToken, read_token
from jobstatus.auth.errors import InvalidCredential, KeyConfigError, Reason
from jobstatus.auth.issuer_config import DEFAULT_TYPE, TOKEN_TYPES, IssuerConfig, Kind
from jobstatus.auth.key_source import KeySource
from jobstatus.auth.keys import ALGORITHMS, Key, is_name_of
from jobstatus.core.access import Principal

__all__ = ["IssuerConfig", "Kind", "TokenVerifier", "VerifiedToken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedToken:
    """The outcome of a verification. `expires_at` is the token's `exp`, in seconds since the epoch."""

    principal: Principal
    kind: Kind
    expires_at: float


class TokenVerifier:
    """Verifies tokens of the configured issuers. The keys are loaded and checked on construction.

    `generation` grows each time a key changes: a token that was verified in an earlier one may no longer be valid.
    """

    def __init__(self, configs: Sequence[IssuerConfig]) -> None:
        self.generation = 0
        self._reloading = threading.Lock()
        self._sources: dict[str, KeySource] = {}
        for config in configs:
            if config.issuer in self._sources:
                raise KeyConfigError(config.issuer, "it is configured twice")
            self._sources[config.issuer] = KeySource(config)

    @property
    def reads_files(self) -> bool:
        """Whether `reload` has any file to read."""
        return any(source.config.key_file is not None for source in self._sources.values())

    def verify(self, token: str, now_seconds: float) -> VerifiedToken:
        """Return what the token proves now, which is `now_seconds` since the epoch; raise InvalidCredential."""
        unverified = read_token(token)
        source = self._find_source(unverified.claims)
        config = source.config
        _check_header(unverified.header, config)
        key = source.keys.find(unverified.header)
        if key is None:
            raise InvalidCredential(Reason.UNKNOWN_KEY_ID)
        _check_signature(unverified, key, config.algorithm)
        check_registered(unverified.claims, config)
        expires_at = check_times(unverified.claims, config, now_seconds)
        kind, principal = read_principal(unverified.claims, config)
        principal = replace(principal, valid_until=expires_at + config.leeway_seconds)
        return VerifiedToken(principal=principal, kind=kind, expires_at=expires_at)

    def reload(self) -> bool:
        """Read the key files that changed; return whether any key changed. Blocks: not for the event loop's thread."""
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


def _check_header(header: Mapping[str, Any], config: IssuerConfig) -> None:
    """Raise InvalidCredential unless algorithm and type are the issuer's (RFC 8725, sections 3.1 and 3.11)."""
    if not is_name_of(header.get("alg"), config.algorithm):
        raise InvalidCredential(Reason.WRONG_ALGORITHM)
    typ = header.get("typ", DEFAULT_TYPE)
    if not isinstance(typ, str) or TOKEN_TYPES.get(typ.lower()) not in config.token_types:
        raise InvalidCredential(Reason.UNSUPPORTED_HEADER)


def _check_signature(token: UnverifiedToken, key: Key, algorithm: str) -> None:
    """Raise InvalidCredential unless the signature is right and the key fits the `alg` of the token.

    The libraries raise more than they declare, and their texts may quote the token, so no error of theirs is passed on.
    """
    alg = token.header["alg"]
    if alg != algorithm and ALGORITHMS[alg].find_problem(key) is not None:
        raise InvalidCredential(Reason.WRONG_ALGORITHM)
    try:
        is_right = ALGORITHMS[algorithm].signature.verify(token.signing_input, key, token.signature)
    except Exception:  # noqa: BLE001 - see above
        is_right = False
    if not is_right:
        raise InvalidCredential(Reason.BAD_SIGNATURE)
