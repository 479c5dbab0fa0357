"""Keys and issuers' configurations: what is refused at the start, and how keys change under a running service."""

import base64
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from harness.forging import rsa_key
from harness.logged import events_logged, everything_logged
from jobstatus.auth.errors import InvalidCredential, KeyConfigError
from jobstatus.auth.issuers import IssuerConfig, Kind, TokenVerifier
from jobstatus.auth.key_source import MAX_FILE_BYTES
from jobstatus.auth.keys import KeyRefused, check_key
from jobstatus.auth.minting import mint_token
from jobstatus.core.access import Principal
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

NOW: Final = 1_800_000_000.0
SECRET: Final = "a secret of the tests, thirty-two bytes or more"
RSA_KEY: Final = rsa_key()
OTHER_RSA_KEY: Final = rsa_key("other")
WEAK_RSA_KEY: Final = rsa_key("weak", 1024)
EC_KEY: Final = ec.generate_private_key(ec.SECP256R1())
P384_KEY: Final = ec.generate_private_key(ec.SECP384R1())
ED_KEY: Final = ed25519.Ed25519PrivateKey.generate()
ED448_KEY: Final = ed448.Ed448PrivateKey.generate()


def make_config(**changes: Any) -> IssuerConfig:
    """An issuer named `tests`; it has a secret unless another source is given."""
    settings: dict[str, Any] = {"issuer": "tests", "audience": "jobstatus", "algorithm": "HS256"}
    if not {"public_key_file", "jwks_file"} & set(changes):
        settings["secret"] = SECRET
    return IssuerConfig(**{**settings, **changes})


def public_pem(key: PrivateKeyTypes, form: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> bytes:
    """The public half in PEM."""
    return key.public_key().public_bytes(Encoding.PEM, form)


def private_pem(key: PrivateKeyTypes) -> bytes:
    """The private key in PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_jwk(key: rsa.RSAPrivateKey = RSA_KEY, **fields: object) -> dict[str, object]:
    """The public half as a JWK, with these fields."""
    return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "key_ops": ["verify"], **fields}


def write_jwks(path: Path, *keys: object) -> None:
    """Put a set with these keys in the place of the file, as a careful publisher does."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"keys": keys}))
    new.replace(path)


def make_token(key: str | bytes, kid: str | None, algorithm: str = "RS256") -> str:
    """A good token of the issuer `tests`."""
    claims = {"iss": "tests", "aud": "jobstatus", "exp": int(NOW) + 600, "virtual_key_id": "vk-1"}
    return jwt.encode(claims, key, algorithm, None if kid is None else {"kid": kid})


def is_believed(verifier: TokenVerifier, token: str) -> bool:
    """Whether the token is believed now."""
    try:
        return verifier.verify(token, NOW).principal == Principal("vk-1")
    except InvalidCredential:
        return False


def assert_refused(make: Callable[[], object], problem: str) -> None:
    """The start is refused with one sentence that names the issuer and the fault, and no secret."""
    with pytest.raises(KeyConfigError, match=r"^issuer 'tests': ") as refused:
        make()
    message = str(refused.value)
    assert problem in refused.value.problem
    assert refused.value.issuer == "tests"
    assert "\n" not in message
    assert SECRET not in message


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"algorithm": "HS512"}, "must be one of HS256, RS256, RS384, RS512, PS256,"),
        ({"algorithm": "none"}, "must be one of"),
        ({"algorithm": "rs256"}, "must be one of"),
        ({"algorithm": "RS256"}, "RS256 takes a public key, not a secret"),
        ({"public_key_file": Path("public.pem")}, "HS256 takes a secret, not a public key"),
        ({"secret": None}, "exactly one source of keys"),
        ({"jwks_file": Path("keys.json"), "secret": SECRET}, "exactly one source of keys"),
        ({"jwks_file": Path("keys.json"), "key_id": "key-1"}, "key_id goes with"),
        ({"audience": ""}, "audience must not be empty"),
        ({"token_types": frozenset[str]()}, "token_types must be of JWT, at+jwt"),
        ({"token_types": {"JWT", "AT+JWT"}}, "token_types must be of JWT, at+jwt"),
        ({"kinds": frozenset[Kind]()}, "kinds must not be empty"),
        ({"role_claim": "virtual_key_id"}, "names of their own"),
        ({"role_claim": ""}, "names of their own"),
        ({"virtual_key_claim": "iss"}, "names of their own"),
        ({"admin_role": ""}, "admin role must not be empty"),
        ({"max_lifetime_seconds": 0}, "lifetime must be at least"),
        ({"leeway_seconds": -1}, "leeway must not be negative"),
    ],
)
def test_incoherent_configurations_are_refused(changes: dict[str, Any], problem: str) -> None:
    """A configuration that cannot mean anything is refused when it is made."""
    assert_refused(lambda: make_config(**changes), problem)


def test_smallest_bounds_are_taken() -> None:
    """A lifetime of a second and no leeway at all can be asked for."""
    verifier = TokenVerifier([make_config(max_lifetime_seconds=1, leeway_seconds=0)])
    assert verifier.verify(mint("HS256", SECRET, ttl_seconds=1), NOW).expires_at == int(NOW) + 1


def test_issuers_are_named_once() -> None:
    """Two entries with one issuer are refused: a token's iss picks exactly one."""
    assert_refused(lambda: TokenVerifier([make_config(), make_config(audience="other")]), "configured twice")


def test_secret_is_not_shown() -> None:
    """A configuration and its keys can be printed without giving the secret away."""
    config = make_config(key_id="key-1")
    verifier = TokenVerifier([config])
    assert SECRET not in f"{config!r} {verifier._sources['tests'].keys!r}"


@pytest.mark.parametrize("length", [0, 5, 31])
def test_short_secrets_are_refused(length: int) -> None:
    """J28: an HMAC secret has at least 32 bytes."""
    assert_refused(lambda: TokenVerifier([make_config(secret="x" * length)]), f"has {length} bytes, HS256 needs")
    TokenVerifier([make_config(secret="x" * 32)])
    TokenVerifier([make_config(secret="\u00e9" * 16)])


_PEM: Final = public_pem(RSA_KEY).decode()
_BODY: Final = "".join(_PEM.splitlines()[1:-1])


@pytest.mark.parametrize(
    "secret",
    [
        _PEM,
        _PEM.replace("\n", "\r\n"),
        " " + _PEM,
        _PEM.replace("\n", ""),
        _PEM.strip(),
        _PEM.partition("-----END")[0],
        _BODY,
        _BODY.rstrip("="),
        _BODY.replace("+", "-").replace("/", "_"),
        "\n".join(_PEM.splitlines()[1:-1]),
        public_pem(RSA_KEY, PublicFormat.PKCS1).decode(),
        public_pem(EC_KEY).decode(),
        private_pem(RSA_KEY).decode(),
        RSA_KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
        json.dumps(make_jwk()),
        json.dumps({"keys": [make_jwk()]}),
        base64.b64encode(json.dumps(make_jwk()).encode()).decode(),
    ],
)
def test_public_keys_are_no_secrets(secret: str) -> None:
    """J4: something that is published, or looks like it, does not become an HMAC secret."""
    assert_refused(lambda: TokenVerifier([make_config(secret=secret)]), "the secret looks like a key")


@pytest.mark.parametrize(
    "secret", [base64.b64encode(bytes(range(48))).decode(), "0123456789abcdef" * 4, '{"not": "a key"}' * 3, "[" * 5000]
)
def test_odd_secrets_are_taken(secret: str) -> None:
    """Random bytes in base64 or hex and other odd texts are secrets like any other."""
    verifier = TokenVerifier([make_config(secret=secret)])
    assert is_believed(verifier, make_token(secret, None, "HS256"))


def test_secret_is_text() -> None:
    """A secret that cannot be encoded is refused, and not shown."""
    assert_refused(lambda: TokenVerifier([make_config(secret="\udc80" * 40)]), "not valid text")


@pytest.mark.parametrize(
    ("algorithm", "pem", "problem"),
    [
        ("RS256", public_pem(WEAK_RSA_KEY), "has 1024 bits, RS256 needs at least 2048"),
        ("RS256", public_pem(EC_KEY), "RS256 takes an RSA public key"),
        ("RS256", public_pem(ED_KEY), "RS256 takes an RSA public key"),
        ("ES256", public_pem(P384_KEY), "on P-256"),
        ("ES256", public_pem(ec.generate_private_key(ec.SECP256K1())), "on P-256"),
        ("ES256", public_pem(RSA_KEY), "on P-256"),
        ("ES384", public_pem(EC_KEY), "on P-384"),
        ("ES512", public_pem(P384_KEY), "on P-521"),
        ("PS512", public_pem(WEAK_RSA_KEY), "has 1024 bits, PS512 needs at least 2048"),
        ("Ed25519", public_pem(ED448_KEY), "Ed25519 takes an Ed25519 public key"),
        ("Ed448", public_pem(ED_KEY), "Ed448 takes an Ed448 public key"),
        ("EdDSA", public_pem(x25519.X25519PrivateKey.generate()), "Ed25519 or Ed448"),
        ("EdDSA", public_pem(EC_KEY), "Ed25519 or Ed448"),
        ("RS256", private_pem(RSA_KEY), "holds a private key"),
        ("ES256", private_pem(EC_KEY), "holds a private key"),
        ("EdDSA", private_pem(ED_KEY), "holds a private key"),
        (
            "RS256",
            RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"x")),
            "holds a private key",
        ),
        ("RS256", public_pem(RSA_KEY) + private_pem(RSA_KEY), "holds a private key"),
        ("RS256", public_pem(RSA_KEY) + public_pem(OTHER_RSA_KEY), "exactly one public key"),
        ("RS256", b"", "exactly one public key"),
        ("RS256", b"-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----\n", "not a public key"),
        ("RS256", b"-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n", "not a public key"),
        ("RS256", public_pem(RSA_KEY)[:200], "not a public key"),
        ("RS256", b" " * (MAX_FILE_BYTES + 1), "larger than"),
    ],
)
def test_unfit_pem_files_are_refused(tmp_path: Path, algorithm: str, pem: bytes, problem: str) -> None:
    """J28: a weak key, a key of another type, a private one and no key at all are refused."""
    path = tmp_path / "key.pem"
    path.write_bytes(pem)
    assert_refused(lambda: TokenVerifier([make_config(algorithm=algorithm, public_key_file=path)]), problem)


def test_keys_fit_their_algorithm_only() -> None:
    """No algorithm takes the key of another, whatever way it came."""
    keys = {
        "HS256": SECRET.encode(),
        "RS256": RSA_KEY.public_key(),
        "ES256": EC_KEY.public_key(),
        "EdDSA": ED_KEY.public_key(),
    }
    for algorithm in keys:
        for owner, key in keys.items():
            if owner == algorithm:
                assert check_key(algorithm, key) is key
            else:
                with pytest.raises(KeyRefused, match=f"{algorithm} takes"):
                    check_key(algorithm, key)


@pytest.mark.parametrize("source", ["public_key_file", "jwks_file"])
def test_unreadable_files_are_refused(tmp_path: Path, source: str) -> None:
    """A file that is missing, or is none, is refused, and named."""
    for path in tmp_path / "missing", tmp_path:
        config = make_config(algorithm="RS256", **{source: path})
        assert_refused(lambda config=config: TokenVerifier([config]), f"the key file {path} cannot be read")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ([], "has no keys"),
        ([1], "is not an object"),
        ([make_jwk(kty="oct")], "kty does not fit RS256"),
        ([{"kty": "oct", "k": "x" * 64}], "kty does not fit RS256"),
        ([make_jwk(alg="RS512")], "alg is not RS256"),
        ([make_jwk(alg=None)], "alg is not RS256"),
        ([make_jwk(use="enc")], "use is not sig"),
        ([make_jwk(key_ops=["encrypt"])], "key_ops do not include verify"),
        ([make_jwk(key_ops="verify")], "key_ops do not include verify"),
        ([make_jwk(kid=1)], "kid is not a string"),
        ([make_jwk(n=1)], "malformed"),
        ([make_jwk(n="")], "malformed"),
        ([{"kty": "RSA"}], "malformed"),
        ([make_jwk(WEAK_RSA_KEY)], "has 1024 bits"),
        ([RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True) | {"key_ops": ["verify"]}], "is a private key"),
        ([make_jwk(kid="a"), make_jwk(OTHER_RSA_KEY, kid="a")], "same kid"),
        ([make_jwk(), make_jwk(OTHER_RSA_KEY)], "has no kid"),
    ],
)
def test_unfit_jwks_are_refused(tmp_path: Path, keys: list[object], problem: str) -> None:
    """A set without a usable key is refused with the first reason, and so is one with two keys under one id."""
    path = tmp_path / "keys.json"
    write_jwks(path, *keys)
    assert_refused(lambda: TokenVerifier([make_config(algorithm="RS256", jwks_file=path)]), problem)


@pytest.mark.parametrize(
    ("algorithm", "jwk", "problem"),
    [
        ("ES256", ECAlgorithm.to_jwk(P384_KEY.public_key(), as_dict=True), "on P-256"),
        ("ES256", ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True) | {"y": "A" * 43}, "malformed"),
        ("EdDSA", OKPAlgorithm.to_jwk(ED_KEY, as_dict=True), "is a private key"),
        ("EdDSA", OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True) | {"alg": "Ed448"}, "Ed448 takes"),
        ("Ed25519", OKPAlgorithm.to_jwk(ED448_KEY.public_key(), as_dict=True) | {"alg": "EdDSA"}, "Ed25519 takes"),
        ("Ed25519", OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True) | {"alg": "Ed448"}, "alg is not Ed25519"),
        ("EdDSA", OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True) | {"crv": "X25519"}, "malformed"),
        ("HS256", make_jwk(), "kty does not fit HS256"),
        ("HS256", {"kty": "oct"}, "malformed"),
        ("HS256", {"kty": "oct", "k": "YWJj"}, "has 3 bytes"),
        ("HS256", {"kty": "oct", "k": base64.urlsafe_b64encode(public_pem(RSA_KEY)).decode()}, "looks like a key"),
    ],
)
def test_unfit_jwks_of_other_algorithms_are_refused(
    tmp_path: Path, algorithm: str, jwk: dict[str, object], problem: str
) -> None:
    """What is asked of a key in a PEM file or a setting is asked of one in a set."""
    path = tmp_path / "keys.json"
    write_jwks(path, jwk)
    assert_refused(lambda: TokenVerifier([make_config(algorithm=algorithm, jwks_file=path)]), problem)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"keys": {}}', '{"keys": [], "keys": []}', "\ufeff{}", "[" * 5000])
def test_broken_jwks_are_refused(tmp_path: Path, text: str) -> None:
    """A file that is no JWK Set is refused."""
    path = tmp_path / "keys.json"
    path.write_text(text, encoding="utf-8")
    assert_refused(lambda: TokenVerifier([make_config(algorithm="RS256", jwks_file=path)]), "the JWKS")


def test_unusable_keys_in_a_jwks_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Good keys work beside keys that we cannot use; each of those is named in the log, without its contents."""
    path = tmp_path / "keys.json"
    enc = make_jwk(OTHER_RSA_KEY, kid="enc", use="enc")
    write_jwks(
        path, make_jwk(kid="a"), enc, "x", {"kty": "EC"}, make_jwk(OTHER_RSA_KEY), make_jwk(OTHER_RSA_KEY, kid="b")
    )
    with caplog.at_level(logging.WARNING):
        verifier = TokenVerifier([make_config(algorithm="RS256", jwks_file=path)])
    assert is_believed(verifier, make_token(private_pem(RSA_KEY), "a"))
    assert is_believed(verifier, make_token(private_pem(OTHER_RSA_KEY), "b"))
    assert not is_believed(verifier, make_token(private_pem(OTHER_RSA_KEY), "enc"))
    assert not is_believed(verifier, make_token(private_pem(RSA_KEY), None))
    assert set(events_logged(caplog)) == {"jwks_key_skipped"}
    problems = "\n".join(vars(record)["problem"] for record in caplog.records)
    assert [f"key {number} " in problems for number in range(1, 7)] == [False, True, True, True, True, False]
    assert str(enc["n"]) not in everything_logged(caplog)


def test_kid_chooses_among_the_keys_of_a_jwks(tmp_path: Path) -> None:
    """J15: with two keys a token must name its own; with one it need not name any."""
    path = tmp_path / "keys.json"
    write_jwks(path, make_jwk(kid="a"), make_jwk(OTHER_RSA_KEY, kid="b"))
    verifier = TokenVerifier([make_config(algorithm="RS256", jwks_file=path)])
    pem = private_pem(RSA_KEY)
    tokens = {kid: make_token(pem, kid) for kid in ("a", "b", "c", None)}
    assert [kid for kid, token in tokens.items() if is_believed(verifier, token)] == ["a"]
    write_jwks(path, make_jwk(), {"kty": "EC", "kid": "c"})
    alone = TokenVerifier([make_config(algorithm="RS256", jwks_file=path)])
    assert is_believed(alone, tokens[None])
    assert not is_believed(alone, tokens["a"])


@pytest.mark.parametrize(
    ("algorithm", "jwk", "key"),
    [
        ("ES256", ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True), private_pem(EC_KEY)),
        ("EdDSA", OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True), private_pem(ED_KEY)),
        ("HS256", {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("=")}, SECRET),
    ],
)
def test_jwks_holds_keys_of_each_algorithm(
    tmp_path: Path, algorithm: str, jwk: dict[str, object], key: str | bytes
) -> None:
    """Every algorithm can have its keys in a set, HS256 its secrets too."""
    path = tmp_path / "keys.json"
    write_jwks(path, {**jwk, "kid": "a", "alg": algorithm, "use": "sig"})
    verifier = TokenVerifier([make_config(algorithm=algorithm, jwks_file=path)])
    assert is_believed(verifier, make_token(key, "a", algorithm))


def test_keys_rotate(tmp_path: Path) -> None:
    """J29: while both keys are in the set tokens of both are believed; after the overlap only those of the new one."""
    path = tmp_path / "keys.json"
    old, new = make_token(private_pem(RSA_KEY), "old"), make_token(private_pem(OTHER_RSA_KEY), "new")
    steps = [([(RSA_KEY, "old")], True, False), ([(RSA_KEY, "old"), (OTHER_RSA_KEY, "new")], True, True)]
    steps.append(([(OTHER_RSA_KEY, "new")], False, True))
    verifier = None
    for keys, old_is_good, new_is_good in steps:
        write_jwks(path, *(make_jwk(key, kid=kid) for key, kid in keys))
        if verifier is None:
            verifier = TokenVerifier([make_config(algorithm="RS256", jwks_file=path)])
        else:
            generation = verifier.generation
            assert verifier.reload()
            assert verifier.generation == generation + 1
        assert not verifier.reload()
        assert (is_believed(verifier, old), is_believed(verifier, new)) == (old_is_good, new_is_good)


def test_pem_file_rotates(tmp_path: Path) -> None:
    """J29: a PEM file that is written over in place is noticed as well."""
    path = tmp_path / "key.pem"
    path.write_bytes(public_pem(RSA_KEY))
    verifier = TokenVerifier([make_config(algorithm="RS256", public_key_file=path)])
    path.write_bytes(public_pem(OTHER_RSA_KEY))
    os.utime(path, (NOW, NOW))
    assert verifier.reload()
    assert not is_believed(verifier, make_token(private_pem(RSA_KEY), None))
    assert is_believed(verifier, make_token(private_pem(OTHER_RSA_KEY), None))


def test_untouched_and_merely_touched_files_change_nothing(tmp_path: Path) -> None:
    """Reloading says that a key changed only when one did: not for a secret, the same file, or the same content."""
    path = tmp_path / "keys.json"
    write_jwks(path, make_jwk(kid="a"))
    verifier = TokenVerifier([make_config(algorithm="RS256", jwks_file=path)])
    assert not verifier.reload()
    os.utime(path, (NOW, NOW))
    assert not verifier.reload()
    without_files = TokenVerifier([make_config()])
    assert (verifier.reads_files, without_files.reads_files) == (True, False)
    assert not without_files.reload()


def test_bad_file_leaves_the_old_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """J29: a file that goes bad or away is named in the log once and the old keys work on, until it is good again."""
    path = tmp_path / "keys.json"
    write_jwks(path, make_jwk(kid="a"))
    verifier = TokenVerifier([make_config(algorithm="RS256", jwks_file=path)])
    token = make_token(private_pem(RSA_KEY), "a")
    for spoil in (
        lambda: path.write_text('{"keys": [{"kty'),
        path.unlink,
        lambda: write_jwks(path, make_jwk(use="enc")),
    ):
        spoil()
        caplog.clear()
        assert [verifier.reload() for _ in range(3)] == [False] * 3
        assert is_believed(verifier, token)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert events_logged(caplog) == ["keys_not_reloaded"]
        assert "issuer 'tests'" in vars(caplog.records[0])["problem"]
    write_jwks(path, make_jwk(OTHER_RSA_KEY, kid="b"))
    assert verifier.reload()
    assert is_believed(verifier, make_token(private_pem(OTHER_RSA_KEY), "b"))
    assert not is_believed(verifier, token)


def test_file_that_returns_is_no_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A volume that is away for a moment and comes back is no change, and is missed aloud each time."""
    volume = tmp_path / "volume"
    volume.mkdir()
    path = volume / "keys.json"
    write_jwks(path, make_jwk(kid="a"))
    verifier = TokenVerifier([make_config(algorithm="RS256", jwks_file=path)])
    for _ in range(2):
        caplog.clear()
        volume.rename(tmp_path / "away")
        assert not verifier.reload()
        assert len(caplog.records) == 1
        (tmp_path / "away").rename(volume)
        assert not verifier.reload()


def test_one_bad_file_does_not_hold_up_others(tmp_path: Path) -> None:
    """Each issuer's file is looked at, whatever became of another's."""
    paths = [tmp_path / "a.pem", tmp_path / "b.pem"]
    for path in paths:
        path.write_bytes(public_pem(RSA_KEY))
    first, second = (
        make_config(issuer=issuer, algorithm="RS256", public_key_file=path)
        for issuer, path in zip(("other", "tests"), paths, strict=True)
    )
    verifier = TokenVerifier([first, second])
    paths[0].unlink()
    paths[1].write_bytes(public_pem(OTHER_RSA_KEY))
    assert verifier.reload()
    assert is_believed(verifier, make_token(private_pem(OTHER_RSA_KEY), None))


def mint(algorithm: str, key: str | bytes, ttl_seconds: int = 60) -> str:
    """A token of the issuer `tests`."""
    return mint_token(
        issuer="tests",
        audience="jobstatus",
        algorithm=algorithm,
        key=key,
        key_id=None,
        claims={"role": "admin"},
        ttl_seconds=ttl_seconds,
        now_seconds=NOW,
    )


@pytest.mark.parametrize(
    ("algorithm", "key", "problem"),
    [
        ("HS512", SECRET, "must be one of"),
        ("HS256", "short", "has 5 bytes"),
        ("HS256", private_pem(RSA_KEY), "looks like a key"),
        ("RS256", SECRET, "not a private key"),
        ("RS256", public_pem(RSA_KEY), "not a private key"),
        ("RS256", "\udc80", "not a private key"),
        ("RS256", private_pem(WEAK_RSA_KEY), "has 1024 bits"),
        ("RS256", private_pem(EC_KEY), "RS256 takes"),
        ("ES256", private_pem(P384_KEY), "on P-256"),
        ("ES256", EC_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")), "a password"),
    ],
)
def test_unfit_signing_keys_are_refused(algorithm: str, key: str | bytes, problem: str) -> None:
    """No token is minted that a verifier would refuse for its key."""
    assert_refused(lambda: mint(algorithm, key), problem)


@pytest.mark.parametrize("ttl_seconds", [0, -1])
def test_minted_tokens_live(ttl_seconds: int) -> None:
    """A token that would be born expired is not minted."""
    with pytest.raises(ValueError, match="at least a second"):
        mint("HS256", SECRET, ttl_seconds)
