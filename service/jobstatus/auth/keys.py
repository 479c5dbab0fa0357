"""Parse and check the keys that verify tokens.

Each algorithm has one row in a table: its type of key, the requirements on the key, and the signature. Keys are parsed
once, at start, so that no request pays for it and no weak or misplaced key is used. Knows neither files nor issuers.
"""

import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurve,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey, Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from jwt import InvalidKeyError
from jwt.algorithms import Algorithm as Signature
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm, RSAPSSAlgorithm

Key: TypeAlias = bytes | RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey
PrivateKey: TypeAlias = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey

MIN_SECRET_BYTES: Final = 32
MIN_RSA_BITS: Final = 2048
_UNPARSABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm)


class KeyRefused(ValueError):
    """A key may not be used. The message gives the reason and holds no part of the key."""


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys of one issuer by key id. `only` is the single key, for tokens without a `kid`, or None."""

    by_id: Mapping[str, Key] = field(repr=False)
    only: Key | None = field(repr=False)

    def find(self, header: Mapping[str, Any]) -> Key | None:
        """Return the key for a token with this header. The `kid` is only a name: nothing is fetched by it."""
        if "kid" not in header:
            return self.only
        key_id = header["kid"]
        return self.by_id.get(key_id) if isinstance(key_id, str) else None


def parse_secret(secret: str | bytes) -> bytes:
    """Return the bytes of an HMAC secret; raise KeyRefused."""
    try:
        data = secret.encode() if isinstance(secret, str) else secret
    except UnicodeEncodeError:
        raise KeyRefused("the secret is not valid text") from None
    return cast("bytes", check_key("HS256", data))


def parse_public_pem(algorithm: str, pem: bytes) -> Key:
    """Return the one public key in a PEM text; raise KeyRefused."""
    if b"PRIVATE KEY" in pem:
        raise KeyRefused("the file holds a private key, where only the public one belongs")
    if pem.count(b"-----BEGIN") != 1:
        raise KeyRefused("the file must hold exactly one public key in PEM")
    try:
        key = load_pem_public_key(pem)
    except _UNPARSABLE:
        raise KeyRefused("the file is not a public key in PEM") from None
    return check_key(algorithm, key)


def parse_private_pem(algorithm: str, pem: str | bytes) -> PrivateKey:
    """Return the private key in a PEM text without a password, for minting; raise KeyRefused."""
    try:
        key = load_pem_private_key(pem.encode() if isinstance(pem, str) else pem, password=None)
    except _UNPARSABLE:
        raise KeyRefused("the key is not a private key in PEM without a password") from None
    check_key(algorithm, key.public_key())
    return cast("PrivateKey", key)


def check_key(algorithm: str, key: object) -> Key:
    """Return the key if it meets the requirements of this algorithm; raise KeyRefused."""
    problem = ALGORITHMS[algorithm].find_problem(key)
    if problem is not None:
        raise KeyRefused(problem)
    return cast("Key", key)


def is_name_of(name: object, algorithm: str) -> bool:
    """Return whether an `alg` in a token or a key set may mean this algorithm; the key must fit the name too."""
    return name == algorithm or (isinstance(name, str) and name in ALGORITHMS[algorithm].aliases)


def _find_secret_problem(key: object) -> str | None:
    if not isinstance(key, bytes):
        return "HS256 takes a secret, not a public key"
    if _is_public(key):
        return "the secret looks like a key or a certificate, which others may know"
    if len(key) < MIN_SECRET_BYTES:
        return f"the secret has {len(key)} bytes, HS256 needs at least {MIN_SECRET_BYTES} (RFC 7518, section 3.2)"
    return None


def _find_rsa_problem(algorithm: str, key: object) -> str | None:
    if not isinstance(key, RSAPublicKey):
        return f"{algorithm} takes an RSA public key"
    if key.key_size < MIN_RSA_BITS:
        return f"the RSA key has {key.key_size} bits, {algorithm} needs at least {MIN_RSA_BITS} (RFC 7518, section 3.3)"
    return None


def _find_ec_problem(algorithm: str, curve: type[EllipticCurve], curve_name: str, key: object) -> str | None:
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, curve):
        return None
    return f"{algorithm} takes an elliptic curve public key on {curve_name}"


def _find_okp_problem(algorithm: str, types: tuple[type, ...], type_names: str, key: object) -> str | None:
    return None if isinstance(key, types) else f"{algorithm} takes an {type_names} public key"


def _is_public(secret: bytes) -> bool:
    """Return whether a secret has the form of a public key: PEM, SSH, DER, a certificate, a JWK, or base64 of one.

    With a published key as HMAC secret anybody could forge tokens (CVE-2022-29217).
    """
    return b"-----BEGIN" in secret or any(map(_looks_like_key, (secret, _decode_base64(secret))))


def _looks_like_key(secret: bytes) -> bool:
    if not secret:
        return False
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except InvalidKeyError:
        return True
    return False


def _decode_base64(text: bytes) -> bytes:
    """Decode base64 of either alphabet; return empty bytes for anything else."""
    body = re.sub(rb"[\s=]", b"", text).translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return binascii.a2b_base64(body + b"=" * (-len(body) % 4), strict_mode=True)
    except ValueError:
        return b""


class Algorithm(NamedTuple):
    """One signature algorithm and its requirements on keys. `find_problem` returns None for a key that may be used.

    `signature` verifies with keys that passed `find_problem`, so it need not check or convert a key for each token.
    `aliases` are other names for it in tokens and key sets.
    """

    key_type: str
    find_problem: Callable[[object], str | None]
    signature: Signature
    aliases: frozenset[str] = frozenset()


def _rsa(name: str, signature: Signature) -> Algorithm:
    return Algorithm("RSA", partial(_find_rsa_problem, name), signature)


def _ec(name: str, hash_type: Any, curve: type[EllipticCurve], curve_name: str) -> Algorithm:
    return Algorithm("EC", partial(_find_ec_problem, name, curve, curve_name), ECAlgorithm(hash_type))


def _okp(name: str, types: tuple[type, ...], type_names: str, *aliases: str) -> Algorithm:
    return Algorithm("OKP", partial(_find_okp_problem, name, types, type_names), OKPAlgorithm(), frozenset(aliases))


ALGORITHMS: Final[Mapping[str, Algorithm]] = {
    "HS256": Algorithm("oct", _find_secret_problem, HMACAlgorithm(HMACAlgorithm.SHA256)),
    "RS256": _rsa("RS256", RSAAlgorithm(RSAAlgorithm.SHA256)),
    "RS384": _rsa("RS384", RSAAlgorithm(RSAAlgorithm.SHA384)),
    "RS512": _rsa("RS512", RSAAlgorithm(RSAAlgorithm.SHA512)),
    "PS256": _rsa("PS256", RSAPSSAlgorithm(RSAPSSAlgorithm.SHA256)),
    "PS384": _rsa("PS384", RSAPSSAlgorithm(RSAPSSAlgorithm.SHA384)),
    "PS512": _rsa("PS512", RSAPSSAlgorithm(RSAPSSAlgorithm.SHA512)),
    "ES256": _ec("ES256", ECAlgorithm.SHA256, SECP256R1, "P-256"),
    "ES384": _ec("ES384", ECAlgorithm.SHA384, SECP384R1, "P-384"),
    "ES512": _ec("ES512", ECAlgorithm.SHA512, SECP521R1, "P-521"),
    # RFC 9864 has a name for each curve in the place of EdDSA.
    "EdDSA": _okp("EdDSA", (Ed25519PublicKey, Ed448PublicKey), "Ed25519 or Ed448", "Ed25519", "Ed448"),
    "Ed25519": _okp("Ed25519", (Ed25519PublicKey,), "Ed25519", "EdDSA"),
    "Ed448": _okp("Ed448", (Ed448PublicKey,), "Ed448", "EdDSA"),
}
