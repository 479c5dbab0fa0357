"""Credentials on the wire: which are believed, and that the rest is refused and logged nowhere."""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from google.protobuf.timestamp_pb2 import Timestamp
from harness.faults import Clock
from harness.forging import (
    EC_KEY,
    ED_KEY,
    forge,
    hs256,
    jwks,
    private_pem,
    ps256,
    public_der,
    public_file,
    public_jwk,
    public_pem,
    rsa_key,
)
from harness.hostile_tokens import ABSENT, BAD_TOKENS, GOOD, GOOD_TOKENS, claims, header
from harness.http import Answer, request
from harness.jobs import job_in, put_virtual_key
from harness.logged import events_logged, pieces_logged
from harness.service import Service, service_here
from harness.tokens import AUDIENCE, ISSUER, SECRET, admin_token, bearer, token, virtual_key_token
from harness.waiting import until
from jobstatus.auth.errors import KeyConfigError
from jobstatus.auth.issuers import Kind
from jobstatus.core.job import JobState
from jobstatus.core.virtual_keys import hash_key
from jobstatus.settings import IssuerSettings
from jobstatus.v1 import virtual_keys_pb2 as vk_pb
from pydantic import SecretStr

KEY: Final = "sk-bf-0123456789abcdef0123456789abcdef"
PATH: Final = "/v1/async/audio/transcriptions/"
CHALLENGE: Final = 'Bearer realm="jobstatus"'
pytestmark = pytest.mark.asyncio(loop_scope="module")
Header = str | bytes
T = TypeVar("T")


def issuer_of(**fields: Any) -> IssuerSettings:
    """The tests' issuer but for these fields; with a key file it has no secret."""
    secret = None if {"public_key_file", "jwks_file"} & fields.keys() else SecretStr(SECRET)
    given = {"issuer": ISSUER, "audience": AUDIENCE, "algorithm": "HS256", "secret": secret, **fields}
    return IssuerSettings(**given)


@asynccontextmanager
async def furnished(*issuers: IssuerSettings, store: str = "memory://", **settings: Any) -> AsyncIterator[Service]:
    """The service with these issuers, a completed job of vk-1, and KEY registered for it."""
    async with service_here(store, issuers=issuers or (issuer_of(),), **settings) as running:
        await put_virtual_key(running, key_sha256=[hash_key(KEY)])
        await job_in(running, JobState.COMPLETED, "done")
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Service]:
    """The same with the tests' issuer, one for all tests that only present credentials."""
    async with furnished() as running:
        yield running


async def poll(service: Service, *headers: Header, job_id: str = "done") -> Answer:
    return await request(service.http_port, PATH + job_id, *headers)


async def status_with(service: Service, credential: str) -> int:
    return (await poll(service, bearer(credential))).status


async def assert_refused(
    service: Service, *headers: Header, was_sent: bool = True, code: str = "invalid_credentials"
) -> None:
    """A 401 that is the same whether the job exists or not, with the challenge that belongs to it."""
    answers = [await poll(service, "X-Request-Id: r", *headers, job_id=job_id) for job_id in ("done", "unknown")]
    for answer in answers:
        assert (answer.status, answer.headers["content-type"]) == (401, "application/json")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["www-authenticate"] == CHALLENGE + (', error="invalid_token"' if was_sent else "")
        code = code if was_sent else "missing_credentials"
        assert list(answer.json) == ["event_id", "is_bifrost_error", "status_code", "error", "extra_fields"]
        assert (answer.json["error"]["type"], answer.json["error"]["code"]) == ("authentication_error", code)
    assert answers[0].body == answers[1].body


# --- headers: J1, J2, J21, J23, J24, J27 ---

NOTHING_SENT: Final[dict[str, Sequence[Header]]] = {
    "J1 no header": (),
    "J1 empty": ("Authorization:",),
    "J1 scheme alone": ("Authorization: Bearer",),
    "J1 scheme and spaces": ("Authorization: Bearer    ",),
    "J1 empty x-bf-vk": ("x-bf-vk:",),
    "J2 basic": ("Authorization: Basic dXNlcjpwYXNzd29yZA==",),
    "J2 no scheme": (f"Authorization: {GOOD}",),
    "J2 another scheme": (f"Authorization: Token {GOOD}",),
    "J2 tab": (f"Authorization: Bearer\t{GOOD}",),
    "J27 another header": (f"X-Auth-Token: {KEY}",),
    "J27 proxy": (f"Proxy-Authorization: Bearer {GOOD}",),
    "J27 cookie": (f"Cookie: access_token={GOOD}; Authorization=Bearer {GOOD}",),
    "J27 underscore": (f"Authoriz_ation: Bearer {GOOD}", f"x_bf_vk: {KEY}"),
    "J27 form": (f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(KEY)}\r\n\r\n{KEY}",),
}
BAD_HEADERS: Final[dict[str, Sequence[Header]]] = {
    "J21 inner space": (f"Authorization: Bearer {GOOD} {GOOD}",),
    "J21 a b": ("Authorization: Bearer a b",),
    "J21 comma": (f"Authorization: Bearer {GOOD}, Bearer {GOOD}",),
    "J23 0x80": (b"Authorization: Bearer \x80",),
    "J23 0xFF in the scheme": (b"Authorization: B\xffarer x",),
    "J23 0xFF at the end": (f"Authorization: Bearer {GOOD}".encode() + b"\xff",),
    "J23 UTF-8": ("Authorization: Bearer grüße".encode(),),
    "J23 x-bf-vk": (b"x-bf-vk: \xff\x80",),
    "J24 key with 0xE9": (b"Authorization: Bearer sk-bf-\xe9",),
    "J24 x-bf-vk with UTF-8": ("x-bf-vk: sk-bf-é".encode(),),
    "another key in x-api-key": ("x-api-key: sk-1234",),
    "JWT in x-goog-api-key": (f"x-goog-api-key: {GOOD}",),
    "JWT in x-bf-vk": (f"x-bf-vk: {GOOD}",),
    "scheme in x-bf-vk": (f"x-bf-vk: Bearer {KEY}",),
    "space in x-bf-vk": (f"x-bf-vk: {KEY} {KEY}",),
}
GOOD_HEADERS: Final[list[Sequence[Header]]] = [
    (f"authorization: bearer {GOOD}",),
    (f"AUTHORIZATION: BEARER {GOOD}",),
    (f"Authorization:bEaReR {GOOD}  ",),
    (f"Authorization: Bearer   {GOOD}",),
    (f"Authorization: Bearer {KEY}",),
    (f"x-bf-vk: {KEY}",),
    (f"X-BF-VK:{KEY} ",),
    (f"x-api-key: {KEY}",),
    (f"X-Goog-Api-Key: {KEY}",),
    (f"Authorization: Bearer {KEY}", f"x-bf-vk: {KEY}", f"x-api-key: {KEY}", f"x-goog-api-key: {KEY}"),
    (f"Authorization: Bearer {GOOD}", f"Authorization: Bearer {GOOD}"),
    ("Authorization: Bearer dummy-key", f"x-bf-vk: {KEY}"),
    ("Authorization: Basic dXNlcjpwYXNzd29yZA==", f"x-api-key: {KEY}"),
    ("x-api-key: dummy-key", f"x-bf-vk: {KEY}"),
    ("x-goog-api-key: dummy-key", f"Authorization: Bearer {GOOD}"),
    ("Authorization:", f"x-bf-vk: {KEY}"),
]
SEVERAL: Final[list[Sequence[Header]]] = [
    (f"Authorization: Bearer {GOOD}", f"x-bf-vk: {KEY}"),
    (f"x-bf-vk: {KEY}", f"x-api-key: {KEY}0"),
    (f"Authorization: Bearer {KEY}", f"Authorization: Bearer {GOOD}"),
]


@pytest.mark.parametrize("headers", NOTHING_SENT.values(), ids=NOTHING_SENT.keys())
async def test_no_credential_is_challenged_without_an_error(
    service: Service, caplog: pytest.LogCaptureFixture, headers: Sequence[Header]
) -> None:
    """Without a Bearer credential in its place the challenge names no error; what was sent elsewhere is not logged."""
    caplog.set_level(logging.DEBUG)
    await assert_refused(service, *headers, was_sent=False)
    assert pieces_logged(caplog, GOOD) + pieces_logged(caplog, KEY) == []


@pytest.mark.parametrize("name", ["access_token", "token", "Authorization", "x-bf-vk"])
async def test_credential_in_the_query_is_none(service: Service, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """A credential in the URL is not looked at, and is in no log line (J27)."""
    caplog.set_level(logging.DEBUG)
    for credential in (GOOD, KEY):
        answer = await poll(service, job_id=f"done?{name}={credential}")
        assert (answer.status, answer.headers["www-authenticate"]) == (401, CHALLENGE)
        assert pieces_logged(caplog, credential) == []


@pytest.mark.parametrize("headers", BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
async def test_bad_headers_are_refused(
    service: Service, caplog: pytest.LogCaptureFixture, headers: Sequence[Header]
) -> None:
    """Raw bytes, inner spaces, and more than one credential are refused, though a good one may be among them."""
    caplog.set_level(logging.DEBUG)
    await assert_refused(service, *headers)
    assert pieces_logged(caplog, GOOD) + pieces_logged(caplog, KEY) == []


@pytest.mark.parametrize("lines", GOOD_HEADERS)
async def test_good_headers_are_accepted(service: Service, lines: Sequence[Header]) -> None:
    """The scheme and the headers' names are taken in any case, a key in any header, one credential several times."""
    assert (await poll(service, *lines)).status == 200


@pytest.mark.parametrize("lines", SEVERAL)
async def test_several_credentials_are_told(service: Service, lines: Sequence[Header]) -> None:
    """Two different credentials are refused, and the client is told that it sent several."""
    await assert_refused(service, *lines, code="multiple_credentials")


# --- tokens of one issuer: J3, J5 to J16, J18, J19, J21 ---


@pytest.mark.parametrize("credential", BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
async def test_bad_tokens_are_refused(service: Service, caplog: pytest.LogCaptureFixture, credential: str) -> None:
    """A token with anything wrong in it is refused as invalid, and no piece of it is in any log line."""
    caplog.set_level(logging.DEBUG)
    await assert_refused(service, bearer(credential))
    assert pieces_logged(caplog, credential) == []


@pytest.mark.parametrize("credential", GOOD_TOKENS.values(), ids=GOOD_TOKENS.keys())
async def test_good_tokens_are_accepted(service: Service, caplog: pytest.LogCaptureFixture, credential: str) -> None:
    """The table of bad tokens does not refuse too much: these are as odd as is allowed. They are not logged either."""
    caplog.set_level(logging.DEBUG)
    assert await status_with(service, credential) == 200
    assert pieces_logged(caplog, credential) == []


@pytest.mark.parametrize("leeway", [0, 10])
async def test_token_ends_with_its_exp_and_the_leeway(leeway: int) -> None:
    """A token works until its exp and the leeway have passed and not from then on, also one that is remembered (J7)."""
    clock = Clock()
    async with furnished(issuer_of(leeway_seconds=leeway), clock=clock) as service:
        exp = int(clock.time()) + 100
        remembered, fresh = (forge(claims(exp=exp, jti=name)) for name in ("remembered", "fresh"))
        clock.move(seconds=exp + leeway - clock.time() - 0.1)
        assert await status_with(service, remembered) == 200
        clock.move(ms=200)
        assert [await status_with(service, credential) for credential in (remembered, fresh)] == [401, 401]


async def test_longest_lifetime_is_the_issuers(service: Service) -> None:
    """An issuer may be allowed shorter lives than others; a token that lives longer is refused."""
    async with furnished(issuer_of(max_lifetime_seconds=600)) as strict:
        assert await status_with(strict, GOOD) == 401
    assert await status_with(service, GOOD) == 200


async def test_key_id_of_the_setting_is_the_only_one() -> None:
    """With a key_id configured, tokens that name it or none are believed, others are not (J15)."""
    async with furnished(issuer_of(key_id="main")) as service:
        for kid, status in (("main", 200), (ABSENT, 200), ("other", 401), ("Main", 401)):
            assert await status_with(service, forge(claims(), header(kid=kid))) == status


async def test_claim_names_are_the_issuers() -> None:
    """The claims that name the virtual key and the role are those of the settings, and only those."""
    issuer = issuer_of(virtual_key_claim="vk", role_claim="groups", admin_role="root")
    async with furnished(issuer) as service:
        assert await status_with(service, token(vk="vk-1")) == 200
        assert await status_with(service, token(groups="root")) == 200
        for credential in (GOOD, admin_token(), token(role="root"), token(groups="admin")):
            assert await status_with(service, credential) == 401


# --- several issuers: J4, J5, J12, J16, J28, J29 ---

KEYS: Final[dict[str, tuple[str, Callable[[], Any]]]] = {
    "hs": ("HS256", lambda: SECRET),
    "rs": ("RS256", rsa_key),
    "es": ("ES256", lambda: EC_KEY),
    "ed": ("EdDSA", lambda: ED_KEY),
}
KINDS: Final = {
    "hs": {Kind.VIRTUAL_KEY},
    "rs": {Kind.ADMIN},
    "es": {Kind.VIRTUAL_KEY},
    "ed": {Kind.VIRTUAL_KEY, Kind.ADMIN},
}
CLAIMS_OF: Final[dict[Kind, dict[str, Any]]] = {
    Kind.VIRTUAL_KEY: {"virtual_key_id": "vk-1"},
    Kind.ADMIN: {"role": "admin"},
}


def four_issuers(folder: Path) -> list[IssuerSettings]:
    """One issuer for each algorithm, each for other kinds of token."""
    files = {
        name: {"public_key_file": public_file(folder, name, key())} for name, (_, key) in KEYS.items() if name != "hs"
    }
    return [
        issuer_of(issuer=name, audience=f"for-{name}", algorithm=algorithm, kinds=KINDS[name], **files.get(name, {}))
        for name, (algorithm, _) in KEYS.items()
    ]


def minted(issuer: str, kind: Kind, *, by: str | None = None, audience: str | None = None) -> str:
    """A token that says it is the issuer's; signed with its own key, or `by` another's."""
    algorithm, key = KEYS[by or issuer]
    signing = key()
    secret = signing if isinstance(signing, str) else private_pem(signing)
    return token(secret, algorithm, iss=issuer, aud=audience or f"for-{issuer}", **CLAIMS_OF[kind])


async def test_each_issuer_has_its_algorithm_key_audience_and_kinds(tmp_path: Path) -> None:
    """A token counts if it is of its issuer's kinds, for its audience and signed by its key, not another's (J12)."""
    async with furnished(*four_issuers(tmp_path)) as service:
        for issuer, kinds in KINDS.items():
            for kind in Kind:
                expected = 200 if kind in kinds else 401
                assert await status_with(service, minted(issuer, kind)) == expected, (issuer, kind)
                for other in KEYS.keys() - {issuer}:
                    assert await status_with(service, minted(issuer, kind, by=other)) == 401
                    assert await status_with(service, minted(issuer, kind, audience=f"for-{other}")) == 401
        assert await status_with(service, GOOD) == 401


async def test_public_key_is_no_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An HMAC made with the issuer's public key, in any of its forms, is refused whatever the header says (J4)."""
    caplog.set_level(logging.DEBUG)
    key = rsa_key()
    pem, der, jwk = public_pem(key), public_der(key), public_jwk(key)
    body = b"".join(pem.splitlines()[1:-1])
    forms = [pem, pem.replace(b"\n", b"\r\n"), b" " + pem, pem.replace(b"\n", b""), pem.rstrip(), der, body]
    forms += [base64.b64encode(der), json.dumps(jwk).encode(), jwks(main=key).encode(), b""]
    issuer = issuer_of(algorithm="RS256", public_key_file=public_file(tmp_path, "rsa", key))
    async with furnished(issuer) as service:
        assert await status_with(service, virtual_key_token("vk-1", secret=private_pem(key), algorithm="RS256")) == 200
        for form in forms:
            for alg in ("HS256", "RS256"):
                forged = forge(claims(), header(alg=alg), hs256(form))
                await assert_refused(service, bearer(forged))
                assert pieces_logged(caplog, forged) == []


async def test_signature_of_a_sibling_algorithm_is_refused(tmp_path: Path) -> None:
    """PS256 under an RS256 header, RS384 and RS512, and an ES256 header over P-384 are refused (J5)."""
    key, p384 = rsa_key(), ec.generate_private_key(ec.SECP384R1())
    rsa_issuer = issuer_of(issuer="rs", algorithm="RS256", public_key_file=public_file(tmp_path, "rsa", key))
    ec_issuer = issuer_of(issuer="es", algorithm="ES256", public_key_file=public_file(tmp_path, "ec", EC_KEY))
    forged = [forge(claims(iss="rs"), header(alg=alg), ps256(key)) for alg in ("RS256", "PS256")]
    forged += [jwt.encode(claims(iss="rs"), key, alg) for alg in ("RS384", "RS512", "PS256")]
    forged += [jwt.encode(claims(iss="es"), p384, "ES384")]
    forged += [forge(claims(iss="es"), header(alg="ES256"), lambda data: p384.sign(data, ec.ECDSA(SHA256())))]
    async with furnished(rsa_issuer, ec_issuer) as service:
        assert await status_with(service, jwt.encode(claims(iss="rs"), key, "RS256")) == 200
        assert await status_with(service, jwt.encode(claims(iss="es"), EC_KEY, "ES256")) == 200
        for credential in forged:
            await assert_refused(service, bearer(credential))


async def test_keys_that_a_token_brings_are_ignored(tmp_path: Path) -> None:
    """jku, x5u and jwk are not followed: a stranger's key is refused, ours accepted, and nobody is called (J16)."""
    calls: list[object] = []
    listener = await asyncio.start_server(lambda *streams: calls.append(streams), "127.0.0.1", 0)
    async with listener:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/jwks.json"
        stranger, ours = rsa_key("stranger"), rsa_key()
        issuer = issuer_of(algorithm="RS256", public_key_file=public_file(tmp_path, "rsa", ours))
        async with furnished(issuer) as service:
            for member in ({"jku": url}, {"x5u": url}, {"jwk": public_jwk(stranger)}, {"jku": url, "kid": "stranger"}):
                forged = jwt.encode(claims(), stranger, "RS256", headers=member)
                await assert_refused(service, bearer(forged))
            for member in ({"jku": url}, {"x5u": url}, {"jwk": public_jwk(stranger)}):
                assert await status_with(service, jwt.encode(claims(), ours, "RS256", headers=member)) == 200
    assert calls == []


async def test_weak_keys_end_the_start(tmp_path: Path) -> None:
    """A key that is too short or of the wrong sort ends the start with a sentence that names the issuer (J28)."""
    small = public_file(tmp_path, "small", rsa_key("small", 1024))
    for weak in (
        issuer_of(secret=SecretStr("short")),
        issuer_of(secret=SecretStr("x" * 31)),
        issuer_of(secret=SecretStr(public_pem(rsa_key()).decode())),
        issuer_of(algorithm="RS256", public_key_file=small),
        issuer_of(algorithm="ES256", public_key_file=public_file(tmp_path, "rsa", rsa_key())),
    ):
        with pytest.raises(KeyConfigError, match=ISSUER):
            async with furnished(weak):
                pass


async def test_rotated_keys_are_obeyed(tmp_path: Path) -> None:
    """Within seconds of a new JWKS file new keys work and withdrawn ones do not, remembered tokens included (J29)."""
    path = tmp_path / "jwks.json"
    old, new = rsa_key("old"), rsa_key("new")
    path.write_text(jwks(old=old))
    by_old, by_new = (
        jwt.encode(claims(), key, "RS256", headers={"kid": name}) for name, key in (("old", old), ("new", new))
    )

    async with furnished(issuer_of(algorithm="RS256", jwks_file=path)) as service:

        async def both() -> tuple[int, int]:
            return await status_with(service, by_old), await status_with(service, by_new)

        assert await both() == (200, 401)
        path.write_text(jwks(old=old, new=new))
        await until(lambda: _is(both(), (200, 200)))
        path.write_text(jwks(new=new))
        await until(lambda: _is(both(), (401, 200)))


REFUSED: Final = {
    "unknown_issuer": (claims(iss="https://other.example"), {"kid": "one"}, "https://other.example", "one"),
    "expired": (claims(exp=1), {}, ISSUER, None),
    "bad_signature": (claims(iss=ISSUER), {}, ISSUER, None),
}
"""By reason: claims, further header fields, and what the log shows of both."""


@pytest.mark.parametrize("reason", REFUSED)
async def test_a_refusal_leaves_a_line(caplog: pytest.LogCaptureFixture, reason: str) -> None:
    """It has the answer's request id, the reason, and what the token claims to be of; a repetition has none."""
    fields, members, issuer, key_id = REFUSED[reason]
    secret = SECRET if reason == "expired" else "x" * 40
    credential = jwt.encode(fields, secret, "HS256", headers=members)
    caplog.set_level(logging.INFO)
    async with furnished() as service:
        for name in ("first", "second"):
            assert (await poll(service, bearer(credential), f"X-Request-Id: {name}")).status == 401
    (line,) = [vars(record) for record in caplog.records if getattr(record, "event", "") == "credential_refused"]
    assert (line["levelname"], line["request_id"], line["reason"], line["requests"]) == ("INFO", "first", reason, 1)
    assert (line["issuer"], line.get("kid")) == (issuer, key_id)
    assert pieces_logged(caplog, credential) == []


async def test_each_reason_has_its_line_and_debug_has_all(caplog: pytest.LogCaptureFixture) -> None:
    """A flood of one reason hides no other, and at the level debug each refusal is found by its request id."""
    unknown, broken = jwt.encode(claims(iss="other"), "x" * 40, "HS256"), "no.token.at-all"
    caplog.set_level(logging.DEBUG)
    async with furnished() as service:
        for credential in (unknown, broken, broken, unknown):
            assert (await poll(service, bearer(credential))).status == 401
    lines = [vars(record) for record in caplog.records if getattr(record, "event", "") == "credential_refused"]
    assert [(line["levelname"], line["reason"], line.get("issuer")) for line in lines] == [
        ("INFO", "unknown_issuer", "other"),
        ("INFO", "malformed", None),
        ("DEBUG", "malformed", None),
        ("DEBUG", "unknown_issuer", "other"),  # from the cache of refused tokens
    ]


async def test_half_a_key_file_locks_nobody_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While the JWKS file is broken the keys from before stay in use, and the log says so; then it counts again."""
    path = tmp_path / "jwks.json"
    key = rsa_key()
    credential = jwt.encode(claims(), key, "RS256")
    path.write_text(jwks(main=key))
    async with furnished(issuer_of(algorithm="RS256", jwks_file=path)) as service:
        path.write_text(jwks(main=key)[:100])
        await until(lambda: "keys_not_reloaded" in events_logged(caplog))
        assert await status_with(service, credential) == 200
        path.write_text(jwks(other=rsa_key("other")))
        await until(lambda: _is(status_with(service, credential), 401))


async def _is(outcome: Awaitable[T], expected: T) -> bool:
    return await outcome == expected


# --- virtual keys: J25 ---

BAD_KEYS: Final = {
    "prefix alone": "sk-bf-",
    "first half": KEY[:20],
    "one less": KEY[:-1],
    "one more": KEY + "0",
    "upper case": KEY.upper(),
    "upper prefix": KEY.replace("sk-bf", "SK-BF"),
    "another prefix": KEY.replace("sk-bf-", "sk-"),
    "without the prefix": KEY.removeprefix("sk-bf-"),
    "its hash": "sk-bf-" + hash_key(KEY).hex(),
    "wildcard": "sk-bf-%",
    "quote": "sk-bf-' OR 1=1--",
    "twice": KEY + KEY,
    "7 kB": KEY + "0" * 7000,
}


@pytest.mark.parametrize("key", BAD_KEYS.values(), ids=BAD_KEYS.keys())
async def test_keys_are_compared_whole(service: Service, caplog: pytest.LogCaptureFixture, key: str) -> None:
    """Anything but the very key is refused in both headers, and is in no log line."""
    caplog.set_level(logging.DEBUG)
    await assert_refused(service, bearer(key))
    await assert_refused(service, f"x-bf-vk: {key}")
    assert pieces_logged(caplog, key) == []


async def test_key_that_is_far_too_long_is_refused(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    """A header beyond what the parser takes is a 400 that repeats nothing, is not logged, and ends the connection."""
    caplog.set_level(logging.DEBUG)
    key = "sk-bf-" + "0123456789abcdef" * 1024
    answer = await poll(service, bearer(key))
    assert (answer.status, answer.json["error"]["code"]) == (400, "malformed_request")
    assert b"0123456789" not in answer.body
    assert pieces_logged(caplog, key[:100]) == []


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_life_of_a_virtual_key(tmp_path: Path, store: str) -> None:
    """Disabling stops a virtual key's keys and JWTs at once, deleting its keys only; putting it back undoes both."""
    url = "memory://" if store == "memory" else f"sqlite:///{tmp_path / 'jobs.db'}"
    async with furnished(store=url) as service:

        async def statuses() -> list[int]:
            """With the key in each header, with a JWT of the virtual key, with an admin's."""
            lines = (bearer(KEY), f"x-bf-vk: {KEY}", bearer(GOOD), bearer(admin_token()))
            return [(await poll(service, line)).status for line in lines]

        assert await statuses() == [200, 200, 200, 200]
        await put_virtual_key(service, key_sha256=[hash_key(KEY)], disabled=True)
        assert await statuses() == [401, 401, 401, 200]
        await put_virtual_key(service, key_sha256=[hash_key(KEY)])
        assert await statuses() == [200, 200, 200, 200]
        await service.virtual_keys.DeleteVirtualKey(vk_pb.DeleteVirtualKeyRequest(virtual_key_id="vk-1"))
        assert await statuses() == [401, 401, 200, 200]
        await put_virtual_key(service, key_sha256=[hash_key("sk-bf-another"), hash_key(KEY)])
        assert await statuses() == [200, 200, 200, 200]
        await put_virtual_key(service, key_sha256=[hash_key("sk-bf-another")])
        assert await statuses() == [401, 401, 200, 200]


async def test_virtual_key_expires() -> None:
    """From its expires_at on a virtual key's keys and JWTs are refused, though they were good a moment before."""
    clock = Clock()
    async with furnished(clock=clock) as service:
        expires_at = Timestamp()
        expires_at.FromMilliseconds(clock.ms + 2000)
        await put_virtual_key(service, key_sha256=[hash_key(KEY)], expires_at=expires_at)
        clock.move(ms=1999)
        assert [await status_with(service, credential) for credential in (KEY, GOOD)] == [200, 200]
        clock.move(ms=1)
        assert [await status_with(service, credential) for credential in (KEY, GOOD)] == [401, 401]
        assert await status_with(service, admin_token()) == 200


async def test_change_of_another_process_is_obeyed(tmp_path: Path) -> None:
    """A virtual key that one process disables stops working in another process on the same store within seconds."""
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    async with furnished(store=url) as here, service_here(url) as there:
        assert [await status_with(there, credential) for credential in (KEY, GOOD)] == [200, 200]
        await put_virtual_key(here, key_sha256=[hash_key(KEY)], disabled=True)
        await until(lambda: _is(status_with(there, KEY), 401))
        await until(lambda: _is(status_with(there, GOOD), 401))


async def test_virtual_keys_do_not_need_an_issuer() -> None:
    """With no issuer configured keys work and every token is refused."""
    async with service_here(issuers=(), jwt="off") as service:
        await put_virtual_key(service, key_sha256=[hash_key(KEY)])
        await job_in(service, JobState.COMPLETED, "done")
        assert await status_with(service, KEY) == 200
        await assert_refused(service, bearer(GOOD))
