"""Keys that are fetched: when, how often, and what becomes of them when that fails."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any, Final

import jwt
import pytest
from harness.faults import Clock
from harness.forging import public_jwk, rsa_key
from harness.logged import events_logged
from jobstatus.auth.authenticator import Authenticator
from jobstatus.auth.errors import InvalidCredential, KeyConfigError, KeysUnavailable, Reason
from jobstatus.auth.issuers import IssuerConfig, TokenVerifier
from jobstatus.auth.key_urls import discovery_url, is_trustworthy
from jobstatus.auth.remote_keys import Document, FetchFailed, JwksLimits, RemoteKeys
from jobstatus.stores.memory import MemoryJobStore

ISSUER: Final = "https://login.example.com/realms/main"
KEYS_URL: Final = "https://login.example.com/keys"
DISCOVERY: Final = discovery_url(ISSUER)


class Web:
    """What the provider answers, by URL, and what it was asked. Answers can be held back."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.documents: dict[str, Document] = {}
        self.failure: Exception | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    def publish(self, *key_ids: str, fresh_seconds: float | None = None) -> None:
        """Have these keys in the set."""
        keys = [public_jwk(rsa_key(key_id), key_id) for key_id in key_ids]
        self.documents[KEYS_URL] = Document(json.dumps({"keys": keys}).encode(), fresh_seconds)

    def describe(self, **metadata: Any) -> None:
        """Have this in the discovery document."""
        self.documents[DISCOVERY] = Document(json.dumps(metadata).encode(), None)

    async def fetch(self, url: str, _: JwksLimits) -> Document:
        self.asked.append(url)
        await self.may_answer.wait()
        if self.failure is not None:
            raise self.failure
        return self.documents[url]


class Service:
    """An authenticator with one issuer whose keys are fetched, and the clock it lives by."""

    def __init__(self, *, keep_seconds: float = 24 * 3600, **changes: Any) -> None:
        self.clock, self.web = Clock(), Web()
        source = {} if changes.get("discovery") else {"jwks_url": KEYS_URL}
        fields = {"issuer": ISSUER, "audience": "jobstatus", "algorithm": "RS256"}
        config = IssuerConfig(**{**fields, **source, **changes})
        clocks = self.clock.clocks
        limits = JwksLimits(keep_seconds=keep_seconds)
        self.keys = RemoteKeys(config, self.web.fetch, clock=clocks.seconds, monotonic=clocks.monotonic, limits=limits)
        self.authenticator = Authenticator(
            verifier=TokenVerifier([], [self.keys]),
            store=MemoryJobStore(),
            clock=clocks.seconds,
            monotonic=clocks.monotonic,
        )
        self.web.publish("a")

    def token(self, key_id: str | None, signed_by: str | None = None, **changes: Any) -> str:
        """A token that is issued now; a claim of None is left out."""
        now = self.clock.time()
        claims = {"iss": ISSUER, "aud": "jobstatus", "iat": now, "exp": now + 3600, "virtual_key_id": "vk", **changes}
        kept = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(
            kept, rsa_key(signed_by or key_id or "a"), "RS256", None if key_id is None else {"kid": key_id}
        )

    async def outcome(self, token: str) -> str:
        """Accepted, unavailable, or the reason of the refusal."""
        try:
            await self.authenticator.authenticate([f"Bearer {token}"], [])
        except InvalidCredential as refused:
            return refused.reason
        except KeysUnavailable:
            return "unavailable"
        return "accepted"

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, and do what a service does about once a second."""
        self.clock.move(seconds=seconds)
        await self.keys.refresh()
        await self.authenticator.refresh()


async def test_the_first_token_waits_for_the_keys() -> None:
    """Nothing is judged before the keys are there; all who come meanwhile wait for the same fetch."""
    service = Service()
    service.web.may_answer.clear()
    waiting = [asyncio.create_task(service.outcome(service.token("a"))) for _ in range(5)]
    await asyncio.sleep(0)
    assert service.authenticator.try_authenticate([f"Bearer {service.token('a')}"], []) is None
    waiting[0].cancel()
    service.web.may_answer.set()
    assert await asyncio.gather(*waiting[1:]) == ["accepted"] * 4
    assert service.web.asked == [KEYS_URL]


@pytest.mark.parametrize(
    ("fresh_seconds", "pause"), [(0, 30), (15, 30), (60, 60), (None, 300), (3600, 3600), (86_400, 3600)]
)
async def test_keys_are_fetched_again_when_they_are_due(fresh_seconds: float | None, pause: float) -> None:
    """After as long as Cache-Control says, but between half a minute and an hour."""
    service = Service()
    service.web.publish("a", fresh_seconds=fresh_seconds)
    await service.pass_time(0)
    await service.pass_time(pause - 0.1)
    assert len(service.web.asked) == 1
    await service.pass_time(0.1)
    assert len(service.web.asked) == 2


async def test_an_unknown_key_is_asked_for_at_once_and_then_seldom() -> None:
    """A key that was published since the last fetch works with its first token; others cause no more fetches."""
    service = Service()
    await service.pass_time(0)
    await service.pass_time(31)
    service.web.publish("a", "b")
    assert await service.outcome(service.token("b")) == "accepted"
    assert len(service.web.asked) == 2
    for number in range(50):
        assert await service.outcome(service.token(f"x{number}", "a", iat=None)) == Reason.UNKNOWN_KEY_ID
    assert len(service.web.asked) == 2
    await service.pass_time(30)
    assert await service.outcome(service.token("x", "a")) == Reason.UNKNOWN_KEY_ID
    assert await service.outcome(service.token("x", "a")) == Reason.UNKNOWN_KEY_ID
    assert len(service.web.asked) == 3


async def test_a_token_that_may_be_of_a_newer_key_is_not_refused() -> None:
    """While nobody may ask again, a token that was issued after the last fetch may be good: its client comes back."""
    service = Service()
    await service.pass_time(0)
    await service.pass_time(15)
    service.web.publish("a", "b")
    new, old = service.token("b"), service.token("x", "a", iat=service.clock.time() - 30)
    assert await service.outcome(new) == "unavailable"
    assert await service.outcome(old) == Reason.UNKNOWN_KEY_ID
    await service.pass_time(15)
    assert await service.outcome(new) == "accepted"
    assert len(service.web.asked) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"aud": "other"}, Reason.WRONG_AUDIENCE),
        ({"exp": 1}, Reason.EXPIRED),
        ({"virtual_key_id": None}, Reason.BAD_CLAIM),
        ({"iss": "https://other.example"}, Reason.UNKNOWN_ISSUER),
    ],
)
async def test_a_token_that_is_bad_anyway_fetches_nothing(changes: dict[str, Any], reason: Reason) -> None:
    """What is wrong with it beside its key is found out first."""
    service = Service()
    assert await service.outcome(service.token("x", "a", **changes)) == reason
    assert service.web.asked == []


async def test_a_token_without_kid_fetches_nothing_once_there_are_keys() -> None:
    """It is for the only key of a set; no fetch would tell which of several."""
    service = Service()
    assert await service.outcome(service.token(None)) == "accepted"
    service.web.publish("a", "b")
    await service.pass_time(300)
    assert await service.outcome(service.token(None)) == Reason.UNKNOWN_KEY_ID
    assert len(service.web.asked) == 2


async def test_a_withdrawn_key_stops_working() -> None:
    """Also for tokens that are cached, as soon as the set without it has been fetched."""
    service = Service()
    token = service.token("a")
    assert await service.outcome(token) == "accepted"
    service.web.publish("b")
    await service.pass_time(300)
    assert await service.outcome(token) == Reason.UNKNOWN_KEY_ID


FAILURES: Final[dict[str, Callable[[Web], object]]] = {
    "no answer": lambda web: setattr(web, "failure", FetchFailed("it does not answer")),
    "not JSON": lambda web: web.documents.update({KEYS_URL: Document(b"<html>", None)}),
    "no keys": lambda web: web.documents.update({KEYS_URL: Document(b'{"keys": []}', None)}),
    "no usable key": lambda web: web.documents.update({KEYS_URL: Document(b'{"keys": [{"kty": "EC"}]}', None)}),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_old_keys_stay_when_a_fetch_fails(failure: str, caplog: pytest.LogCaptureFixture) -> None:
    """For as long as the setting says; the log says when it begins, when it is over, and when the keys are dropped."""
    caplog.set_level(logging.INFO)
    service = Service(keep_seconds=3600)
    await service.pass_time(0)
    FAILURES[failure](service.web)
    for _ in range(11):
        await service.pass_time(300)
        assert await service.outcome(service.token("a")) == "accepted"
        assert await service.outcome(service.token("b")) == "unavailable"
    assert events_logged(caplog).count("issuer_keys_unavailable") == 1
    await service.pass_time(300)
    assert await service.outcome(service.token("a")) == "unavailable"
    assert events_logged(caplog).count("issuer_keys_dropped") == 1
    service.web.failure = None
    service.web.publish("a")
    await service.pass_time(30)
    assert await service.outcome(service.token("a")) == "accepted"
    assert events_logged(caplog).count("issuer_keys_recovered") == 1
    assert events_logged(caplog).count("issuer_keys_changed") == 2


async def test_a_provider_that_is_away_is_asked_seldom() -> None:
    """Once in half a minute, whatever tokens come."""
    service = Service()
    service.web.failure = FetchFailed("it does not answer")
    for _ in range(120):
        await service.pass_time(1)
        assert await service.outcome(service.token("a")) == "unavailable"
    assert len(service.web.asked) == 4


async def test_an_error_of_this_program_reaches_the_caller() -> None:
    """It is not taken for a failure of the provider, and the next fetch is made all the same."""
    service = Service()
    service.web.failure = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await service.outcome(service.token("a"))
    service.web.failure = None
    await service.pass_time(30)
    assert await service.outcome(service.token("a")) == "accepted"


async def test_closing_ends_the_fetch_under_way() -> None:
    """Nothing of it is left behind; closing twice, or with nothing under way, is fine."""
    service = Service()
    service.web.may_answer.clear()
    waiting = asyncio.create_task(service.keys.refresh())
    await asyncio.sleep(0)
    await service.keys.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await service.keys.close()


async def test_discovery_says_where_the_keys_are() -> None:
    """The description is fetched each time, so that a provider may move its keys."""
    service = Service(discovery=True)
    service.web.describe(issuer=ISSUER, jwks_uri=KEYS_URL)
    assert await service.outcome(service.token("a")) == "accepted"
    assert service.web.asked == [DISCOVERY, KEYS_URL]


@pytest.mark.parametrize(
    "metadata",
    [
        {"jwks_uri": KEYS_URL},
        {"issuer": f"{ISSUER}/", "jwks_uri": KEYS_URL},
        {"issuer": ISSUER.upper(), "jwks_uri": KEYS_URL},
        {"issuer": [ISSUER], "jwks_uri": KEYS_URL},
        {"issuer": ISSUER},
        {"issuer": ISSUER, "jwks_uri": [KEYS_URL]},
        {"issuer": ISSUER, "jwks_uri": KEYS_URL.replace("https", "http")},
        {"issuer": ISSUER, "jwks_uri": "http://127.0.0.1/keys"},
        {"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"},
        {"issuer": ISSUER, "jwks_uri": "/keys"},
    ],
)
async def test_only_the_issuers_own_description_counts(metadata: dict[str, Any]) -> None:
    """One of another issuer, or that leads to a place where keys are not safe, is as good as none."""
    service = Service(discovery=True)
    service.web.describe(**metadata)
    assert await service.outcome(service.token("a")) == "unavailable"
    assert service.web.asked == [DISCOVERY]


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b'{"issuer": "a", "issuer": "b"}', b"\xff"])
async def test_a_broken_description_is_a_failed_fetch(body: bytes) -> None:
    """The same as no answer."""
    service = Service(discovery=True)
    service.web.documents[DISCOVERY] = Document(body, None)
    assert await service.outcome(service.token("a")) == "unavailable"


@pytest.mark.parametrize(
    ("url", "is_good"),
    [
        ("https://login.example.com/keys", True),
        ("https://login.example.com:8443", True),
        ("http://127.0.0.1:8080/keys", True),
        ("http://[::1]/keys", True),
        ("http://localhost/keys", True),
        ("http://login.example.com/keys", False),
        ("http://127.0.0.1.example.com/keys", False),
        ("http://localhost@login.example.com/keys", False),
        ("https://user:secret@login.example.com/keys", False),
        ("https://login.example.com/keys#a", False),
        ("https://login.example.com:99999/keys", False),
        ("https://login.example.com/ke ys", False),
        ("https://login.example.com/ke\nys", False),
        ("https://[::1/keys", False),
        ("https:///keys", False),
        ("login.example.com/keys", False),
        ("ftp://login.example.com/keys", False),
        ("", False),
    ],
)
def test_keys_come_from_safe_places_only(url: str, is_good: bool) -> None:
    """Https, or http on this machine; nothing with a password in it."""
    assert is_trustworthy(url) == is_good
    if is_good:
        IssuerConfig(issuer="a", audience="b", algorithm="RS256", jwks_url=url)
    else:
        with pytest.raises(KeyConfigError, match="the jwks_url must be a URL with https"):
            IssuerConfig(issuer="a", audience="b", algorithm="RS256", jwks_url=url)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"issuer": "batch", "discovery": True}, "with discovery the issuer must be a URL"),
        ({"issuer": "https://a.example/?b", "discovery": True}, "with discovery the issuer must be a URL"),
        ({"jwks_url": KEYS_URL, "discovery": True}, "exactly one source of keys"),
        ({"jwks_url": KEYS_URL, "secret": "x" * 32}, "exactly one source of keys"),
        ({"jwks_url": KEYS_URL, "algorithm": "HS256"}, "HS256 takes a secret"),
        ({"discovery": True, "algorithm": "HS256"}, "HS256 takes a secret"),
        ({"jwks_url": KEYS_URL, "key_id": "a"}, "key_id goes with"),
    ],
)
def test_incoherent_sources_are_refused(changes: dict[str, Any], problem: str) -> None:
    """One source, and what goes with it."""
    with pytest.raises(KeyConfigError, match=problem):
        IssuerConfig(**{"issuer": ISSUER, "audience": "b", "algorithm": "RS256", **changes})


def test_issuers_are_named_once() -> None:
    """Wherever their keys are."""
    remote = Service().keys
    local = IssuerConfig(issuer=ISSUER, audience="jobstatus", algorithm="HS256", secret="x" * 32)
    with pytest.raises(KeyConfigError, match="configured twice"):
        TokenVerifier([local], [remote])


@pytest.mark.parametrize(
    ("issuer", "url"),
    [
        ("https://a.example", "https://a.example/.well-known/openid-configuration"),
        ("https://a.example/", "https://a.example/.well-known/openid-configuration"),
        ("https://a.example/b", "https://a.example/b/.well-known/openid-configuration"),
    ],
)
def test_description_is_below_the_issuer(issuer: str, url: str) -> None:
    """OpenID Connect Discovery 1.0, section 4.1: a slash at the end is not doubled."""
    assert discovery_url(issuer) == url
