"""Tokens: which are believed, and everything that forged, broken and borrowed ones are refused for."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from harness.forging import rsa_key
from hypothesis import given, settings
from hypothesis import strategies as st
from jobstatus.auth.compact import read_token
from jobstatus.auth.errors import InvalidCredential, Reason
from jobstatus.auth.issuers import IssuerConfig, Kind, TokenVerifier, VerifiedToken
from jobstatus.auth.minting import mint_token
from jobstatus.core.access import Principal
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

NOW: Final = 1_800_000_000.5
SECRET: Final = "a secret of the tests, thirty-two bytes or more"
OTHER_SECRET: Final = "another secret of the tests, thirty-two bytes or more"
ISSUER: Final = "https://issuer.example"
AUDIENCE: Final = "jobstatus"
LEEWAY: Final = 10
MAX_LIFETIME: Final = 3600

_OTHER_RSA: Final = rsa_key("other")
_RSA: Final = rsa_key()
_ED25519: Final = ed25519.Ed25519PrivateKey.generate()
_ED448: Final = ed448.Ed448PrivateKey.generate()


def make_private_keys(
    rsa_key: rsa.RSAPrivateKey, ed25519_key: ed25519.Ed25519PrivateKey, ed448_key: ed448.Ed448PrivateKey
) -> Mapping[str, tuple[str, PrivateKeyTypes]]:
    """An algorithm and a key for each of its kinds of key."""
    return {
        **{name: (name, rsa_key) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")},
        "ES256": ("ES256", ec.generate_private_key(ec.SECP256R1())),
        "ES384": ("ES384", ec.generate_private_key(ec.SECP384R1())),
        "ES512": ("ES512", ec.generate_private_key(ec.SECP521R1())),
        "EdDSA with Ed25519": ("EdDSA", ed25519_key),
        "EdDSA with Ed448": ("EdDSA", ed448_key),
        "Ed25519": ("Ed25519", ed25519_key),
        "Ed448": ("Ed448", ed448_key),
    }


PRIVATE_KEYS: Final = make_private_keys(_RSA, _ED25519, _ED448)
STRANGERS_KEYS: Final = make_private_keys(
    _OTHER_RSA, ed25519.Ed25519PrivateKey.generate(), ed448.Ed448PrivateKey.generate()
)


def make_claims(**changes: object) -> dict[str, object]:
    """Good claims of a virtual key's token, with these changed."""
    good = {"iss": ISSUER, "aud": AUDIENCE, "exp": int(NOW) + 600, "virtual_key_id": "vk-1"}
    return {**good, **changes}


def without(name: str) -> dict[str, object]:
    """Good claims but for this one."""
    return {key: value for key, value in make_claims().items() if key != name}


def encode(data: bytes) -> str:
    """A segment of a token."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(header: bytes, claims: bytes, secret: bytes = SECRET.encode()) -> str:
    """A token of these very bytes, with an HMAC that is right for the secret."""
    signed = f"{encode(header)}.{encode(claims)}"
    return f"{signed}.{encode(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def forge(claims: object, secret: str | bytes = SECRET, header: Mapping[str, object] | None = None) -> str:
    """A token with these claims and header fields; `alg` and `typ` are right unless they are given."""
    fields = {"alg": "HS256", "typ": "JWT", **(header or {})}
    secret_bytes = secret.encode() if isinstance(secret, str) else secret
    return sign(json.dumps(fields).encode(), json.dumps(claims).encode(), secret_bytes)


def sign_with(algorithm: str, make_signature: Callable[[bytes], bytes]) -> str:
    """A token with good claims and whatever signature that makes."""
    segments = [json.dumps({"alg": algorithm}).encode(), json.dumps(make_claims()).encode()]
    signed = ".".join(map(encode, segments))
    return f"{signed}.{encode(make_signature(signed.encode()))}"


def signer(algorithm: str, key: PrivateKeyTypes) -> Callable[[bytes], bytes]:
    """Signs as PyJWT does, which knows the names of curves as EdDSA."""
    signature = jwt.PyJWS().get_algorithm_by_name("EdDSA" if algorithm.startswith("Ed") else algorithm)
    return lambda signed: signature.sign(signed, key)


def public_pem(key: PrivateKeyTypes) -> bytes:
    """The public half in PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: PrivateKeyTypes) -> bytes:
    """The private key in PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def assert_refused(verifier: TokenVerifier, token: str, reason: Reason | None = None, now: float = NOW) -> None:
    """The token is an InvalidCredential, for this reason, and the error tells nothing of it."""
    with pytest.raises(InvalidCredential) as refused:
        verifier.verify(token, now)
    assert refused.value.args == (refused.value.reason.value,)
    assert refused.value.__cause__ is None
    assert reason is None or refused.value.reason == reason


@pytest.fixture
def verifier() -> TokenVerifier:
    """One issuer with a secret, which may mint both kinds."""
    return TokenVerifier([make_config()])


@pytest.fixture
def rs256(tmp_path: Path) -> TokenVerifier:
    """One issuer with an RSA key in a PEM file."""
    path = tmp_path / "public.pem"
    path.write_bytes(public_pem(_RSA))
    return TokenVerifier([make_config(algorithm="RS256", secret=None, public_key_file=path)])


def make_config(**changes: Any) -> IssuerConfig:
    """The issuer of these tests, with these settings changed."""
    fields = {"issuer": ISSUER, "audience": AUDIENCE, "algorithm": "HS256", "secret": SECRET}
    return IssuerConfig(**{**fields, "max_lifetime_seconds": MAX_LIFETIME, "leeway_seconds": LEEWAY, **changes})


def test_virtual_key_token_is_believed(verifier: TokenVerifier) -> None:
    """A good token stands for its virtual key until its exp."""
    assert verifier.verify(forge(make_claims()), NOW) == VerifiedToken(
        principal=Principal("vk-1"), kind=Kind.VIRTUAL_KEY, expires_at=int(NOW) + 600
    )


def test_admin_token_is_believed(verifier: TokenVerifier) -> None:
    """A token with the admin role stands for an admin."""
    verified = verifier.verify(forge({**without("virtual_key_id"), "role": "admin"}), NOW)
    assert (verified.principal, verified.kind) == (Principal(None), Kind.ADMIN)


def test_claim_names_are_configurable() -> None:
    """The claims are looked for under the configured names, and under no others."""
    names = {"virtual_key_claim": "sub", "role_claim": "grp", "admin_role": "root"}
    renamed = TokenVerifier([make_config(**names)])
    claims = without("virtual_key_id")
    assert renamed.verify(forge({**claims, "sub": "vk-2", "role": "admin"}), NOW).principal == Principal("vk-2")
    assert renamed.verify(forge({**claims, "grp": "root"}), NOW).kind is Kind.ADMIN
    assert_refused(renamed, forge({**claims, "role": "admin"}), Reason.BAD_CLAIM)
    assert_refused(renamed, forge({**claims, "virtual_key_id": "vk-1"}), Reason.BAD_CLAIM)


@pytest.mark.parametrize("name", PRIVATE_KEYS)
def test_asymmetric_tokens_are_believed(name: str, tmp_path: Path) -> None:
    """Each algorithm verifies with the public half, and refuses another key's signature."""
    algorithm, key = PRIVATE_KEYS[name]
    path = tmp_path / "public.pem"
    path.write_bytes(public_pem(key))
    verifier = TokenVerifier([make_config(algorithm=algorithm, secret=None, public_key_file=path)])
    token = sign_with(algorithm, signer(algorithm, key))
    assert verifier.verify(token, NOW).principal == Principal("vk-1")
    forged = sign_with(algorithm, signer(algorithm, STRANGERS_KEYS[name][1]))
    assert_refused(verifier, forged, Reason.BAD_SIGNATURE)


@pytest.mark.parametrize(
    "algorithms", [("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("ES256", "ES384", "ES512")]
)
def test_algorithms_with_the_same_key_are_told_apart(tmp_path: Path, algorithms: tuple[str, ...]) -> None:
    """J5: what another algorithm makes of the very key is refused under its own name and under the issuer's."""
    path = tmp_path / "public.pem"
    for algorithm in algorithms:
        _, key = PRIVATE_KEYS[algorithm]
        path.write_bytes(public_pem(key))
        verifier = TokenVerifier([make_config(algorithm=algorithm, secret=None, public_key_file=path)])
        for other in {*algorithms} - {algorithm}:
            assert_refused(verifier, sign_with(other, signer(other, key)), Reason.WRONG_ALGORITHM)
            assert_refused(verifier, sign_with(algorithm, signer(other, key)), Reason.BAD_SIGNATURE)


@pytest.mark.parametrize(
    ("algorithm", "key", "alg", "reason"),
    [
        ("EdDSA", _ED25519, "Ed25519", None),
        ("EdDSA", _ED448, "Ed448", None),
        ("Ed25519", _ED25519, "EdDSA", None),
        ("Ed448", _ED448, "EdDSA", None),
        ("EdDSA", _ED448, "Ed25519", Reason.WRONG_ALGORITHM),
        ("EdDSA", _ED25519, "Ed448", Reason.WRONG_ALGORITHM),
        ("Ed25519", _ED25519, "Ed448", Reason.WRONG_ALGORITHM),
        ("Ed25519", _ED25519, "ed25519", Reason.WRONG_ALGORITHM),
        ("Ed25519", _ED25519, "ES256", Reason.WRONG_ALGORITHM),
    ],
)
def test_names_of_curves_mean_eddsa(
    tmp_path: Path, algorithm: str, key: PrivateKeyTypes, alg: str, reason: Reason | None
) -> None:
    """RFC 9864: a token may name its curve where the issuer says EdDSA and the other way round, but the right curve."""
    path = tmp_path / "public.pem"
    path.write_bytes(public_pem(key))
    verifier = TokenVerifier([make_config(algorithm=algorithm, secret=None, public_key_file=path)])
    token = sign_with(alg, signer("EdDSA", key))
    if reason is None:
        assert verifier.verify(token, NOW).principal == Principal("vk-1")
    else:
        assert_refused(verifier, token, reason)


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "nOnE"},
        {},
        {"alg": None},
        {"alg": 1},
        {"alg": ["HS256"]},
        {"alg": {}},
        {"alg": "hs256"},
    ],
)
@pytest.mark.parametrize("is_signed", [True, False])
def test_other_algorithms_are_refused(verifier: TokenVerifier, header: dict[str, object], is_signed: bool) -> None:
    """J3: no algorithm, none, and anything that is not the issuer's very word are refused, signed or not."""
    token = sign(json.dumps(header).encode(), json.dumps(make_claims()).encode())
    assert_refused(verifier, token if is_signed else token.rpartition(".")[0] + ".")


def _pem_variants() -> dict[str, bytes]:
    pem = public_pem(_RSA)
    key = _RSA.public_key()
    body = b"".join(pem.splitlines()[1:-1])
    jwk = RSAAlgorithm.to_jwk(key)
    return {
        "exact": pem,
        "crlf": pem.replace(b"\n", b"\r\n"),
        "leading space": b" " + pem,
        "one line": pem.replace(b"\n", b""),
        "no final newline": pem.rstrip(),
        "bare body": body,
        "DER": key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "PKCS1": key.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        "OpenSSH": key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        "JWK": jwk.encode(),
        "JWK set": json.dumps({"keys": [json.loads(jwk)]}).encode(),
    }


@pytest.mark.parametrize("variant", _pem_variants())
def test_public_key_is_no_hmac_secret(rs256: TokenVerifier, variant: str) -> None:
    """J4: a token that is signed with the published key as if it were a secret is refused, however that is spelled."""
    assert_refused(rs256, forge(make_claims(), _pem_variants()[variant]), Reason.WRONG_ALGORITHM)
    lying = forge(make_claims(), _pem_variants()[variant], {"alg": "RS256"})
    assert_refused(rs256, lying, Reason.BAD_SIGNATURE)


def test_related_algorithms_are_refused(verifier: TokenVerifier, rs256: TokenVerifier, tmp_path: Path) -> None:
    """J5: a longer hash, another padding under the right name, and another curve are refused."""
    assert_refused(verifier, jwt.encode(make_claims(), SECRET * 2, "HS512"), Reason.WRONG_ALGORITHM)
    pss = padding.PSS(padding.MGF1(SHA256()), SHA256.digest_size)
    assert_refused(rs256, sign_with("RS256", lambda data: _RSA.sign(data, pss, SHA256())), Reason.BAD_SIGNATURE)
    path = tmp_path / "p256.pem"
    path.write_bytes(public_pem(PRIVATE_KEYS["ES256"][1]))
    es256 = TokenVerifier([make_config(algorithm="ES256", secret=None, public_key_file=path)])
    p384 = ec.generate_private_key(ec.SECP384R1())
    raw = sign_with("ES256", lambda data: ECAlgorithm(ECAlgorithm.SHA256).sign(data, p384))
    assert_refused(es256, raw, Reason.BAD_SIGNATURE)
    der = sign_with("ES256", lambda data: p384.sign(data, ec.ECDSA(SHA256())))
    assert_refused(es256, der, Reason.BAD_SIGNATURE)


@pytest.mark.parametrize("claims", [without("exp"), make_claims(exp=None)])
def test_exp_is_required(verifier: TokenVerifier, claims: dict[str, object]) -> None:
    """J6: a token that never ends is refused."""
    assert_refused(verifier, forge(claims))


@pytest.mark.parametrize(
    ("now", "is_valid"),
    [
        (NOW, True),
        (NOW + 0.49 + LEEWAY, True),
        (NOW + 0.5 + LEEWAY, False),
        (NOW + 1 + LEEWAY, False),
        (NOW + 10**6, False),
    ],
)
def test_token_ends_with_its_exp(verifier: TokenVerifier, now: float, is_valid: bool) -> None:
    """J7: a token is good until the leeway after its exp is over, and not in that moment."""
    token = forge(make_claims(exp=int(NOW) + 1))
    if is_valid:
        assert verifier.verify(token, now).expires_at == int(NOW) + 1
    else:
        assert_refused(verifier, token, Reason.EXPIRED, now)


@pytest.mark.parametrize(
    "exp",
    [
        b"true",
        b"[1]",
        b"{}",
        b'"abc"',
        b'"1800000600"',
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"1" * 400,
        b"9" * 5000,
        b"-1",
        b"0",
        b"",
    ],
)
def test_exp_is_a_number_in_range(verifier: TokenVerifier, exp: bytes) -> None:
    """J7: what is no number of seconds, or none that a clock can show, is refused, also what PyJWT would take."""
    claims = json.dumps(make_claims(exp="here")).encode().replace(b'"here"', exp)
    assert_refused(verifier, sign(b'{"alg":"HS256"}', claims))


@pytest.mark.parametrize(("beyond", "is_valid"), [(0, True), (1, False), (10**9, False)])
def test_lifetime_is_bounded(verifier: TokenVerifier, beyond: int, is_valid: bool) -> None:
    """J7: a token may end at most the longest lifetime and the leeway from now."""
    now = int(NOW)
    token = forge(make_claims(exp=now + MAX_LIFETIME + LEEWAY + beyond))
    if is_valid:
        verifier.verify(token, now)
    else:
        assert_refused(verifier, token, Reason.LIFETIME_TOO_LONG, now)


@pytest.mark.parametrize("now", [1_000_000_000, 10_000_000_000])
def test_clock_is_the_one_given(verifier: TokenVerifier, now: int) -> None:
    """J7, J8: no other clock is asked: a token of 2001 is good in 2001, and one of 2286 in 2286."""
    token = forge(make_claims(exp=now + 600, nbf=now, iat=now))
    assert verifier.verify(token, now).expires_at == now + 600
    assert_refused(verifier, token, Reason.EXPIRED, now + 600 + LEEWAY)
    assert_refused(verifier, token, Reason.NOT_YET_VALID, now - 1 - LEEWAY)


@pytest.mark.parametrize(("exp", "until"), [(b"1800000600.25", 1800000600.25), (b"18000006e2", 1800000600)])
def test_exp_may_have_a_fraction(verifier: TokenVerifier, exp: bytes, until: float) -> None:
    """RFC 7519, section 2: a NumericDate is any JSON number; the fraction counts."""
    token = sign(b'{"alg":"HS256"}', json.dumps(make_claims(exp=0)).encode().replace(b'"exp": 0', b'"exp": ' + exp))
    assert verifier.verify(token, until + LEEWAY - 0.01).expires_at == until
    assert_refused(verifier, token, Reason.EXPIRED, until + LEEWAY)


@pytest.mark.parametrize("name", ["nbf", "iat"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (int(NOW), None),
        (int(NOW) + LEEWAY, None),
        (0, None),
        (int(NOW) + LEEWAY + 1, Reason.NOT_YET_VALID),
        (int(NOW) + 600, Reason.NOT_YET_VALID),
        (10**400, Reason.NOT_YET_VALID),
        ([1], Reason.BAD_TIME),
        ("1", Reason.BAD_TIME),
        (None, Reason.BAD_TIME),
        (True, Reason.BAD_TIME),
        (1.5, None),
        (int(NOW) + LEEWAY + 0.5, Reason.NOT_YET_VALID),
        (1e300, Reason.NOT_YET_VALID),
        (float("nan"), Reason.MALFORMED),
    ],
)
def test_token_does_not_begin_in_the_future(
    verifier: TokenVerifier, name: str, value: object, reason: Reason | None
) -> None:
    """J8: nbf and iat may be missing or past, not further ahead than the leeway, and nothing but numbers."""
    token = forge(make_claims(**{name: value}))
    if reason is None:
        verifier.verify(token, int(NOW))
    else:
        assert_refused(verifier, token, reason, int(NOW))


@pytest.mark.parametrize("audience", ["other", "job", 1, [], ["other"], None, "", ["jobstatus", 1], {}])
def test_other_audiences_are_refused(verifier: TokenVerifier, audience: object) -> None:
    """J9: a token for somebody else is refused."""
    assert_refused(verifier, forge(make_claims(aud=audience)))


def test_audience_is_required_and_may_be_a_list(verifier: TokenVerifier) -> None:
    """J9: a token without an audience is refused, one for several with ours among them is believed."""
    assert_refused(verifier, forge(without("aud")))
    assert verifier.verify(forge(make_claims(aud=["other", AUDIENCE])), NOW).principal == Principal("vk-1")


@pytest.mark.parametrize(
    "issuer", ["https://issuer", f"{ISSUER}/", ISSUER.upper(), [ISSUER], {}, None, "", 1, "\ud800"]
)
def test_other_issuers_are_refused(verifier: TokenVerifier, issuer: object) -> None:
    """J10: an issuer is known by its exact name, a prefix, another case or a list is another."""
    assert_refused(verifier, forge(make_claims(iss=issuer)), Reason.UNKNOWN_ISSUER)


def test_issuer_is_required(verifier: TokenVerifier) -> None:
    """J10: a token of nobody is refused."""
    assert_refused(verifier, forge(without("iss")), Reason.UNKNOWN_ISSUER)


@pytest.mark.parametrize(
    "claim", [1, None, "", "x" * 129, "../x", "vk\0", "vk 1", "vk-1\n", "vk\u00e9", ["vk-1"], {}, True]
)
def test_virtual_key_id_has_its_grammar(verifier: TokenVerifier, claim: object) -> None:
    """J11: a virtual key's id that is not one is refused, null and empty included."""
    assert_refused(verifier, forge(make_claims(virtual_key_id=claim)), Reason.BAD_CLAIM)


@pytest.mark.parametrize("claim", ["sub", "jti"])
def test_registered_claims_are_strings(verifier: TokenVerifier, claim: str) -> None:
    """J11: sub and jti say nothing here, but a token that has them wrong is no JWT."""
    verifier.verify(forge(make_claims(**{claim: "x"})), NOW)
    assert_refused(verifier, forge(make_claims(**{claim: 1})), Reason.BAD_CLAIM)


@pytest.mark.parametrize("role", [None, 1, True, ["admin"], {}])
def test_role_is_a_string(verifier: TokenVerifier, role: object) -> None:
    """A role that is no string is refused, also beside a virtual key's id."""
    assert_refused(verifier, forge(make_claims(role=role)), Reason.BAD_CLAIM)


@pytest.mark.parametrize("role", ["Admin", "user", ""])
def test_other_roles_mean_nothing(verifier: TokenVerifier, role: str) -> None:
    """A role that is not the admin's harms no virtual key's token and makes no admin."""
    assert verifier.verify(forge(make_claims(role=role)), NOW).principal == Principal("vk-1")
    assert_refused(verifier, forge({**without("virtual_key_id"), "role": role}), Reason.BAD_CLAIM)


@pytest.mark.parametrize("claim", ["vk-1", None, ""])
def test_token_has_one_kind(verifier: TokenVerifier, claim: object) -> None:
    """J12: both kinds of claim in one token, or neither, are refused; a virtual key's id counts even when null."""
    assert_refused(verifier, forge(make_claims(virtual_key_id=claim, role="admin")), Reason.BAD_CLAIM)
    assert_refused(verifier, forge(without("virtual_key_id")), Reason.BAD_CLAIM)


@pytest.fixture
def two_issuers() -> TokenVerifier:
    """One that mints for virtual keys, another that mints for admins."""
    keys = make_config(issuer="keys", kinds=frozenset({Kind.VIRTUAL_KEY}))
    admins = make_config(issuer="admins", secret=OTHER_SECRET, kinds=frozenset({Kind.ADMIN}))
    return TokenVerifier([keys, admins])


def test_issuer_mints_its_kinds_only(two_issuers: TokenVerifier) -> None:
    """J12: what an issuer may mint is ours to say, whatever its tokens claim."""
    admin = {**without("virtual_key_id"), "role": "admin"}
    assert two_issuers.verify(forge(make_claims(iss="keys")), NOW).kind is Kind.VIRTUAL_KEY
    assert two_issuers.verify(forge({**admin, "iss": "admins"}, OTHER_SECRET), NOW).kind is Kind.ADMIN
    assert_refused(two_issuers, forge({**admin, "iss": "keys"}), Reason.WRONG_KIND)
    assert_refused(two_issuers, forge(make_claims(iss="admins"), OTHER_SECRET), Reason.WRONG_KIND)
    assert_refused(two_issuers, forge(make_claims(iss="keys", role="admin")), Reason.BAD_CLAIM)


def test_issuers_have_keys_of_their_own(two_issuers: TokenVerifier) -> None:
    """J12: a token in the name of one issuer with the key of another is refused."""
    admin = {**without("virtual_key_id"), "role": "admin"}
    assert_refused(two_issuers, forge({**admin, "iss": "admins"}), Reason.BAD_SIGNATURE)
    assert_refused(two_issuers, forge(make_claims(iss="keys"), OTHER_SECRET), Reason.BAD_SIGNATURE)


@pytest.mark.parametrize("typ", ["JWT", "jwt", "Jwt"])
def test_typ_is_jwt(verifier: TokenVerifier, typ: str) -> None:
    """J13: typ may say JWT in any case, or be missing."""
    verifier.verify(forge(make_claims(), header={"typ": typ}), NOW)
    verifier.verify(sign(b'{"alg":"HS256"}', json.dumps(make_claims()).encode()), NOW)


@pytest.mark.parametrize(
    ("types", "typ", "is_valid"),
    [
        ({"at+jwt"}, "at+jwt", True),
        ({"at+jwt"}, "AT+JWT", True),
        ({"at+jwt"}, "application/at+jwt", True),
        ({"at+jwt"}, "JWT", False),
        ({"at+jwt"}, None, False),
        ({"at+jwt"}, "secevent+jwt", False),
        ({"at+jwt", "JWT"}, "at+jwt", True),
        ({"at+jwt", "JWT"}, "jwt", True),
        ({"at+jwt", "JWT"}, None, True),
        ({"JWT"}, "at+jwt", False),
        ({"JWT"}, None, True),
    ],
)
def test_issuer_has_its_types(types: set[str], typ: str | None, is_valid: bool) -> None:
    """RFC 9068: an issuer's tokens may be access tokens, which say so; no typ counts as JWT."""
    verifier = TokenVerifier([make_config(token_types=frozenset(types))])
    fields = {"alg": "HS256"} if typ is None else {"alg": "HS256", "typ": typ}
    token = sign(json.dumps(fields).encode(), json.dumps(make_claims()).encode())
    if is_valid:
        assert verifier.verify(token, NOW).principal == Principal("vk-1")
    else:
        assert_refused(verifier, token, Reason.UNSUPPORTED_HEADER)


@pytest.mark.parametrize(
    "header",
    [
        *({"typ": typ} for typ in ("at+jwt", "application/jwt", "JOSE", "", None, 1, ["JWT"])),
        *({"cty": cty} for cty in ("JWT", None, "")),
        *({"crit": crit} for crit in (["x"], ["b64"], "b64", [], None)),
        *({"b64": b64} for b64 in (False, True, None)),
        {"crit": ["b64"], "b64": False},
        {"crit": ["exp"], "exp": 1},
    ],
)
def test_other_types_and_extensions_are_refused(verifier: TokenVerifier, header: dict[str, object]) -> None:
    """J13, J14: other kinds of token, nested ones and those with extensions are refused, as they may mean anything."""
    assert_refused(verifier, forge(make_claims(), header=header), Reason.UNSUPPORTED_HEADER)


@pytest.mark.parametrize("kid", ["../../dev/null", "' OR 1=1--", "\0", "x" * 64 * 1024, 1, None, [], {}, "", "other"])
def test_unknown_kid_is_refused(verifier: TokenVerifier, kid: object) -> None:
    """J15: a kid is a name in a table; one that is not there is refused, be it a path, SQL or no string."""
    named = TokenVerifier([make_config(key_id="key-1")])
    assert_refused(named, forge(make_claims(), header={"kid": kid}), Reason.UNKNOWN_KEY_ID)
    assert_refused(verifier, forge(make_claims(), header={"kid": kid}), Reason.UNKNOWN_KEY_ID)


def test_kid_of_a_single_key(verifier: TokenVerifier) -> None:
    """J15: a key with a configured id takes tokens with that kid and without; one without an id takes no kid."""
    named = TokenVerifier([make_config(key_id="key-1")])
    for header in {"kid": "key-1"}, None:
        assert named.verify(forge(make_claims(), header=header), NOW).principal == Principal("vk-1")
    assert_refused(verifier, forge(make_claims(), header={"kid": "key-1"}), Reason.UNKNOWN_KEY_ID)


def test_keys_in_the_token_are_ignored(rs256: TokenVerifier) -> None:
    """J16: a key that a token brings along or points at is never used, and does no harm to a good signature."""
    thief = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    url = "http://127.0.0.1:9/jwks.json"
    brought = {"jku": url, "x5u": url, "jwk": json.loads(RSAAlgorithm.to_jwk(thief.public_key()))}
    assert_refused(rs256, jwt.encode(make_claims(), private_pem(thief), "RS256", brought), Reason.BAD_SIGNATURE)
    assert rs256.verify(jwt.encode(make_claims(), private_pem(_RSA), "RS256", brought), NOW).principal.virtual_key_id


@pytest.mark.parametrize(
    ("header", "claims"),
    [
        (b'{"alg":"none","alg":"HS256"}', b"%s"),
        (b'{"alg":"HS256","\\u0061lg":"HS256"}', b"%s"),
        (b'{"alg":"HS256"}', b'{"exp":1,%s'),
        (b'{"alg":"HS256"}', b'{"x":[{"a":1,"a":1}],%s'),
    ],
)
def test_repeated_names_are_refused(verifier: TokenVerifier, header: bytes, claims: bytes) -> None:
    """J18: a name that stands twice in an object, at any depth and however it is escaped, makes the token worthless."""
    good = json.dumps(make_claims()).encode()
    assert_refused(verifier, sign(header, claims % (good if claims == b"%s" else good[1:])), Reason.MALFORMED)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_refused(verifier: TokenVerifier, encoding: str) -> None:
    """J19: header and claims are UTF-8 without a byte order mark."""
    header, claims = json.dumps({"alg": "HS256"}), json.dumps(make_claims())
    assert_refused(verifier, sign(header.encode(), claims.encode(encoding)), Reason.MALFORMED)
    assert_refused(verifier, sign(header.encode(encoding), claims.encode()), Reason.MALFORMED)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b'"x"', b"1", b"{}x", b"\xff", b'{"a":"\xed\xa0\x80"}', b"[" * 5000, b'{"a":' * 1200],
)
def test_segments_are_json_objects(verifier: TokenVerifier, data: bytes) -> None:
    """J19: what is no JSON object, or nested without end, is refused in either place."""
    assert_refused(verifier, sign(b'{"alg":"HS256"}', data), Reason.MALFORMED)
    assert_refused(verifier, sign(data, json.dumps(make_claims()).encode()), Reason.MALFORMED)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: "",
        lambda _: ".",
        lambda _: "..",
        lambda _: "...",
        lambda token: token.rpartition(".")[0],
        lambda token: token.rpartition(".")[0] + ".",
        lambda token: token + ".",
        lambda token: "." + token,
        lambda token: token + ".abc",
        lambda token: token + ".abc.def",
        lambda token: token + "=",
        lambda token: token + "==",
        lambda token: token + "AA",
        lambda token: token + "!",
        lambda token: token + "\n",
        lambda token: token.replace(".", "=.", 1),
        lambda token: token.replace(".", " .", 1),
        lambda token: token[:-1] + chr(ord(token[-1]) + 1),
        lambda token: token + "\udc80",
        lambda token: token + "\u00e9",
    ],
)
def test_token_has_one_spelling(verifier: TokenVerifier, spoil: Callable[[str], str]) -> None:
    """J13, J21, J23: five segments, fewer or more than three, padding and stray characters are refused."""
    assert_refused(verifier, spoil(forge(make_claims())), Reason.MALFORMED)


def test_token_is_read_strictly_before_it_is_verified() -> None:
    """J21: the strict reader itself refuses a segment that is spelled in another way, and does not rely on PyJWT."""
    token = forge(make_claims())
    assert read_token(token).claims == make_claims()
    for other in token[:-1] + chr(ord(token[-1]) + 1), token + "=", token + ".", token.rpartition(".")[0]:
        with pytest.raises(InvalidCredential):
            read_token(other)


@settings(deadline=None)
@given(st.text() | st.lists(st.text("Aaey09-_=J", max_size=20), min_size=3, max_size=3).map(".".join))
def test_no_text_is_more_than_invalid(token: str) -> None:
    """J23: whatever the text is, it raises nothing but InvalidCredential."""
    assert_refused(TokenVerifier([make_config()]), token)


_JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda x: st.lists(x, max_size=2)
)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["alg", "typ", "kid", "cty", "crit", "x5c"]), _JSON),
    st.dictionaries(
        st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "role", "virtual_key_id", "sub"]), _JSON, min_size=1
    ),
)
def test_no_claim_is_more_than_invalid(header: dict[str, object], claims: dict[str, object]) -> None:
    """J23: a token with a right signature and any values at all is believed or refused, nothing else."""
    try:
        TokenVerifier([make_config()]).verify(forge(make_claims(**claims), header=header), NOW)
    except InvalidCredential:
        return


@settings(deadline=None)
@given(st.integers(min_value=0), st.sampled_from("AZaz09-_."))
def test_no_character_can_be_changed(position: int, character: str) -> None:
    """A token with any character changed is another token, and refused."""
    token = forge(make_claims())
    position %= len(token)
    changed = token[:position] + character + token[position + 1 :]
    if changed != token:
        assert_refused(TokenVerifier([make_config()]), changed)


@pytest.mark.parametrize("name", ["HS256", *PRIVATE_KEYS])
def test_minted_tokens_are_believed(name: str, tmp_path: Path) -> None:
    """What the command line mints is what the service believes, with and without a kid."""
    if name == "HS256":
        algorithm, key, config = name, SECRET.encode(), make_config(key_id="key-1")
    else:
        algorithm, private_key = PRIVATE_KEYS[name]
        key, path = private_pem(private_key), tmp_path / "public.pem"
        path.write_bytes(public_pem(private_key))
        config = make_config(algorithm=algorithm, secret=None, public_key_file=path, key_id="key-1")
    for key_id in None, "key-1":
        token = mint_token(
            issuer=ISSUER,
            audience=AUDIENCE,
            algorithm=algorithm,
            key=key,
            key_id=key_id,
            claims={"virtual_key_id": "vk-1", "iss": "somebody else"},
            ttl_seconds=60,
            now_seconds=NOW,
        )
        assert TokenVerifier([config]).verify(token, NOW).expires_at == int(NOW) + 60
