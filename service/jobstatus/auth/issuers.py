"""Verify the tokens of the configured issuers.

A token's `iss` selects an issuer; its configuration alone determines algorithm, keys and kinds (RFC 8725, sections 3.1
and 3.8). No content of a token says where keys are, and no second key is tried. Nothing here opens a connection: that
a token's key may not have been fetched yet is reported to the caller.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobstatus.auth.claims import check_registered, check_times, read_principal
from jobstatus.auth.compact import UnverifiedToken, read_token
from jobstatus.auth.credential import shown
from jobstatus.auth.errors import InvalidCredential, KeyConfigError, Reason
from jobstatus.auth.issuer_config import DEFAULT_TYPE, TOKEN_TYPES, IssuerConfig, Kind
from jobstatus.auth.key_source import KeySource
from jobstatus.auth.keys import ALGORITHMS, Key, is_name_of
from jobstatus.auth.remote_keys import KeyNotFetched, RemoteKeys
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

    def __init__(self, configs: Sequence[IssuerConfig], remote: Sequence[RemoteKeys] = ()) -> None:
        """`configs` are the issuers whose keys are here, `remote` the keys of the others."""
        self._reloads = 0
        self._reloading = threading.Lock()
        self._local = [KeySource(config) for config in configs]
        self._remote = remote
        self._sources: dict[str, KeySource | RemoteKeys] = {}
        sources: list[KeySource | RemoteKeys] = [*self._local, *remote]
        for source in sources:
            if source.config.issuer in self._sources:
                raise KeyConfigError(source.config.issuer, "it is configured twice")
            self._sources[source.config.issuer] = source

    @property
    def generation(self) -> int:
        """The number of changes so far. Reloads are in a thread and fetches in the event loop: each count their own."""
        return self._reloads + sum(keys.version for keys in self._remote)

    def files_changed_at(self) -> dict[str, float]:
        """Return when each key file in use was changed, in seconds since the epoch, by its path."""
        changed_at = {str(source.config.key_file): source.changed_at for source in self._local}
        return {path: at for path, at in changed_at.items() if at is not None}

    def fetched_ages(self) -> dict[str, float]:
        """Return how many seconds ago the keys of each issuer were fetched."""
        ages = {keys.config.issuer: keys.age_seconds for keys in self._remote}
        return {issuer: age for issuer, age in ages.items() if age is not None}

    @property
    def reads_files(self) -> bool:
        """Whether `reload` has any file to read."""
        return any(source.config.key_file is not None for source in self._local)

    def verify(self, token: str, now_seconds: float) -> VerifiedToken:
        """Return what the token proves now, which is `now_seconds` since the epoch.

        Raise InvalidCredential, or KeyNotFetched if the token is good but for a key that the next fetch may bring.
        """
        unverified = read_token(token)
        try:
            return self._verify(unverified, now_seconds)
        except InvalidCredential as error:
            error.issuer, error.key_id = _claimed(unverified.claims, "iss"), _claimed(unverified.header, "kid")
            raise

    def _verify(self, unverified: UnverifiedToken, now_seconds: float) -> VerifiedToken:
        source = self._find_source(unverified.claims)
        config = source.config
        _check_header(unverified.header, config)
        key = source.keys.find(unverified.header)
        if key is None:
            raise _unknown_key(source, unverified, now_seconds)
        _check_signature(unverified, key, config.algorithm)
        return _read_claims(unverified.claims, config, now_seconds)

    def reload(self) -> bool:
        """Read the key files that changed; return whether any key changed. Blocks: not for the event loop's thread."""
        with self._reloading:
            changes = [source.reload() for source in self._local]
            self._reloads += any(changes)
        return any(changes)

    def _find_source(self, claims: Mapping[str, Any]) -> KeySource | RemoteKeys:
        issuer = claims.get("iss")
        source = self._sources.get(issuer) if isinstance(issuer, str) else None
        if source is None:
            raise InvalidCredential(Reason.UNKNOWN_ISSUER)
        return source


def _claimed(part: Mapping[str, Any], name: str) -> str:
    value = part.get(name)
    return shown(value) if isinstance(value, str) else ""


def _read_claims(claims: Mapping[str, Any], config: IssuerConfig, now_seconds: float) -> VerifiedToken:
    """Return what the claims say, if the signature is right; raise InvalidCredential."""
    check_registered(claims, config)
    expires_at = check_times(claims, config, now_seconds)
    kind, principal = read_principal(claims, config)
    principal = replace(principal, valid_until=expires_at + config.leeway_seconds)
    return VerifiedToken(principal=principal, kind=kind, expires_at=expires_at)


def _unknown_key(
    source: KeySource | RemoteKeys, token: UnverifiedToken, now_seconds: float
) -> InvalidCredential | KeyNotFetched:
    """Return the error for a token whose key is not there.

    A token that is bad in another way does not make anybody fetch keys.
    """
    given = token.header.get("kid")
    key_id = given if isinstance(given, str) else None
    if not isinstance(source, RemoteKeys) or (key_id is None and source.has_keys):
        return InvalidCredential(Reason.UNKNOWN_KEY_ID)
    _read_claims(token.claims, source.config, now_seconds)
    return KeyNotFetched(source, key_id, token.claims.get("iat"))


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
