"""The configuration of an issuer: its name, how its tokens are signed, and what they may claim.

An IssuerConfig is consistent by construction; only loading shows whether its key is usable. A token never chooses
anything of this.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from jobstatus.auth.errors import KeyConfigError
from jobstatus.auth.key_urls import is_trustworthy
from jobstatus.auth.keys import ALGORITHMS

DEFAULT_TYPE: Final = "JWT"
TOKEN_TYPES: Final[Mapping[str, str]] = {"jwt": DEFAULT_TYPE, "at+jwt": "at+jwt", "application/at+jwt": "at+jwt"}
"""The types of tokens by their `typ` in lower case. An access token of RFC 9068 has one of its own."""
DAY_SECONDS: Final = 24 * 60 * 60
_NEEDS_HTTPS: Final = "must be a URL with https (http on a loopback address only), without user, password and fragment"
_REGISTERED_CLAIMS: Final = frozenset({"iss", "aud", "exp", "nbf", "iat", "jti"})


class Kind(StrEnum):
    """The kinds of principal that a token can name."""

    VIRTUAL_KEY = "virtual_key"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerConfig:
    """One issuer, with exactly one source of keys. Raises KeyConfigError on construction.

    With `discovery` the issuer's name is a URL, and its description of itself says where its keys are (OpenID Connect).
    `key_id` is the `kid` that tokens may carry when there is one key, a secret or a PEM file. A token whose `exp` is
    further away than `max_lifetime_seconds` is refused; `leeway_seconds` allows for clocks that differ. A token without
    `typ` is of the type JWT.
    """

    issuer: str
    audience: str
    algorithm: str
    secret: str | None = field(default=None, repr=False)
    public_key_file: Path | None = None
    jwks_file: Path | None = None
    jwks_url: str | None = None
    discovery: bool = False
    key_id: str | None = None
    token_types: frozenset[str] = frozenset({DEFAULT_TYPE})
    kinds: frozenset[Kind] = frozenset(Kind)
    virtual_key_claim: str = "virtual_key_id"
    role_claim: str = "role"
    admin_role: str = "admin"
    max_lifetime_seconds: int = 30 * DAY_SECONDS
    leeway_seconds: int = 10

    def __post_init__(self) -> None:
        for problem, is_present in self._find_problems().items():
            if is_present:
                raise KeyConfigError(self.issuer, problem)

    @property
    def key_file(self) -> Path | None:
        """The file with the keys; None when the configuration holds the secret itself."""
        return self.public_key_file or self.jwks_file

    @property
    def is_remote(self) -> bool:
        """Whether the keys are fetched."""
        return self.jwks_url is not None or self.discovery

    def _find_problems(self) -> Mapping[str, bool]:
        """Return each possible problem and whether it is present."""
        sources = (self.secret, self.public_key_file, self.jwks_file, self.jwks_url, self.discovery or None)
        claims = (self.virtual_key_claim, self.role_claim)
        return {
            "the issuer must not be empty": not self.issuer,
            "the audience must not be empty": not self.audience,
            f"the algorithm must be one of {', '.join(ALGORITHMS)}": self.algorithm not in ALGORITHMS,
            "there must be exactly one source of keys": sum(source is not None for source in sources) != 1,
            f"{self.algorithm} takes a public key, not a secret": self.secret is not None and self.algorithm != "HS256",
            "HS256 takes a secret, not a public key": self.algorithm == "HS256"
            and (self.public_key_file is not None or self.is_remote),
            "key_id goes with a secret or a PEM file only": self.key_id is not None
            and (self.jwks_file is not None or self.is_remote),
            f"the jwks_url {_NEEDS_HTTPS}": self.jwks_url is not None and not is_trustworthy(self.jwks_url),
            f"with discovery the issuer {_NEEDS_HTTPS}": self.discovery
            and not ("?" not in self.issuer and is_trustworthy(self.issuer)),
            f"token_types must be of {', '.join(sorted({*TOKEN_TYPES.values()}))}": not self.token_types
            or not self.token_types <= {*TOKEN_TYPES.values()},
            "kinds must not be empty": not self.kinds,
            "the claims must have names of their own": not all(claims)
            or claims[0] == claims[1]
            or not _REGISTERED_CLAIMS.isdisjoint(claims),
            "the admin role must not be empty": not self.admin_role,
            "the longest lifetime must be at least a second": self.max_lifetime_seconds < 1,
            "the leeway must not be negative": self.leeway_seconds < 0,
        }
