"""Tokens that no library would make: any header and claims, signed with anything. And the keys to sign with."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from harness.tokens import SECRET

Sign = Callable[[bytes], bytes]


def segment(value: Any) -> str:
    """A token's segment; what is not bytes becomes JSON first (NaN and Infinity as Python spells them)."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def hs256(secret: str | bytes = SECRET) -> Sign:
    """Signs with an HMAC of anything; no rule about keys is asked."""
    key = secret.encode() if isinstance(secret, str) else secret
    return lambda signed: hmac.new(key, signed, hashlib.sha256).digest()


def ps256(key: rsa.RSAPrivateKey) -> Sign:
    """Signs as RSASSA-PSS, where RS256 would be PKCS #1 v1.5."""
    return lambda signed: key.sign(signed, padding.PSS(padding.MGF1(SHA256()), 32), SHA256())


def forge(claims: Any, header: Any = None, sign: Sign = hs256()) -> str:  # noqa: B008  # a function without state
    """A token of this header (HS256's if none is given) and these claims, signed like this."""
    signed = f"{segment({'alg': 'HS256', 'typ': 'JWT'} if header is None else header)}.{segment(claims)}"
    return f"{signed}.{segment(sign(signed.encode()))}"


_EXPONENT: Final = 65_537
_PRIMES: Final = iter(Path(__file__).with_name("rsa_primes.txt").read_text().splitlines())
"""The primes of some keys of 2048 bits: every process of the tests needs keys, and 0.1 s to find the primes of one."""


@cache
def rsa_key(name: str = "first", bits: int = 2048) -> rsa.RSAPrivateKey:  # noqa: ARG001  # the name tells keys apart
    """An RSA key; the same one for the same name."""
    primes = next(_PRIMES, None) if bits == 2048 else None
    if primes is None:
        return rsa.generate_private_key(public_exponent=_EXPONENT, key_size=bits)
    p, q = (int(prime, 16) for prime in primes.split())
    d = pow(_EXPONENT, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(_EXPONENT, p * q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), rsa.rsa_crt_iqmp(p, q), public)
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


EC_KEY: Final = ec.generate_private_key(ec.SECP256R1())
ED_KEY: Final = ed25519.Ed25519PrivateKey.generate()


def private_pem(key: PrivateKeyTypes) -> bytes:
    """What tokens are signed with."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: PrivateKeyTypes) -> bytes:
    """What an issuer publishes."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def public_der(key: PrivateKeyTypes) -> bytes:
    """The same without armour."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def public_file(folder: Path, name: str, key: PrivateKeyTypes) -> Path:
    """A PEM file of the public key."""
    path = folder / f"{name}.pem"
    path.write_bytes(public_pem(key))
    return path


def public_jwk(key: PrivateKeyTypes, key_id: str | None = None) -> dict[str, Any]:
    """The public key as a JWK, named if a name is given."""
    public: Any = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        jwk = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        jwk = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        jwk = OKPAlgorithm.to_jwk(public, as_dict=True)
    return jwk if key_id is None else {**jwk, "kid": key_id}


def jwks(**keys: PrivateKeyTypes) -> str:
    """A JWK set of the public keys, by their key ids."""
    return json.dumps({"keys": [public_jwk(key, key_id) for key_id, key in keys.items()]})
