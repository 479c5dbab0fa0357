"""Issuers whose keys are fetched from identity providers: in the shapes of four products, rotated, and away."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from aiohttp import web
from google.protobuf.duration_pb2 import Duration
from harness.faults import Clock
from harness.http import Answer
from harness.identity_provider import SHAPES, Provider, provider
from harness.jobs import job_in
from harness.logged import events_logged
from harness.service import Service, edge_here, service_here
from harness.tokens import AUDIENCE, ISSUER, SECRET, bearer, virtual_key_token
from harness.waiting import LIMIT_SECONDS, until
from jobstatus.app.key_fetching import fetch
from jobstatus.auth.authenticator import Authenticator
from jobstatus.auth.errors import InvalidCredential, KeysUnavailable
from jobstatus.auth.issuers import TokenVerifier
from jobstatus.auth.remote_keys import RemoteKeys
from jobstatus.core.job import JobState
from jobstatus.settings import IssuerSettings
from jobstatus.stores.memory import MemoryJobStore
from pydantic import SecretStr

LOCAL: Final = IssuerSettings(issuer=ISSUER, audience=AUDIENCE, algorithm="HS256", secret=SecretStr(SECRET))
STEADY: Final = frozenset({"Entra", "Auth0", "Google"})
"""Providers that publish a key long before they sign with it."""


def issuer_of(running: Provider, *, discovery: bool = False) -> IssuerSettings:
    """The settings for its tokens."""
    source: dict[str, Any] = {"discovery": True} if discovery else {"jwks_url": running.jwks_url}
    return IssuerSettings(issuer=running.issuer, audience=AUDIENCE, algorithm="RS256", **source)


@asynccontextmanager
async def furnished(*providers: Provider, discovery: bool = False, **settings: Any) -> AsyncIterator[Service]:
    """The service with these providers and the tests' own issuer, and a completed job of vk-1."""
    issuers = (LOCAL, *(issuer_of(each, discovery=discovery) for each in providers))
    async with service_here(issuers=issuers, **settings) as running:
        await job_in(running, JobState.COMPLETED, "done", result_ttl=Duration(seconds=24 * 3600))
        yield running


async def poll(service: Service, credential: str) -> Answer:
    return await service.poll("done", bearer(credential))


async def status_with(service: Service, credential: str) -> int:
    return (await poll(service, credential)).status


@pytest.mark.parametrize("discovery", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
async def test_each_shape_of_provider_is_understood(shape: str, discovery: bool) -> None:
    """Tokens of its keys are accepted, those of others and of its key for encryption are not; one fetch is enough."""
    async with provider(shape) as running:
        running.publish("first", "second")
        async with furnished(running, discovery=discovery) as service:
            assert await status_with(service, running.token("first")) == 200
            assert await status_with(service, running.token("second")) == 200
            assert await status_with(service, running.token("encryption")) != 200
            assert await status_with(service, running.unknown("first")) == 401
            assert await status_with(service, running.token("first", iss=ISSUER)) == 401
            assert (len(running.fetched_at), running.described) == (1, int(discovery))


async def test_a_start_without_the_provider_serves_everybody_else(caplog: pytest.LogCaptureFixture) -> None:
    """Its own tokens are told to come back until it is there; the log says so, once, and when it is over."""
    caplog.set_level(logging.INFO)
    clock = Clock()
    async with provider("Keycloak", clock) as running, provider("Google", clock) as other:
        running.is_away = True
        async with furnished(running, other, clock=clock) as service:
            mine, others = running.token("first"), other.token("first")
            refused = await poll(service, mine)
            assert (refused.status, refused.json["error"]["code"]) == (503, "keys_unavailable")
            assert refused.headers["retry-after"] == "5"
            assert await status_with(service, others) == 200
            assert await status_with(service, virtual_key_token("vk-1")) == 200
            assert events_logged(caplog).count("issuer_keys_unavailable") == 1
            running.is_away = False
            assert await status_with(service, mine) == 503
            clock.move(seconds=30)
            assert await status_with(service, mine) == 200
            assert events_logged(caplog).count("issuer_keys_recovered") == 1


async def test_an_hour_without_the_provider_is_not_noticed_by_its_tokens(caplog: pytest.LogCaptureFixture) -> None:
    """The keys from before stay for as long as the setting says; a new key works as soon as the provider is back."""
    clock = Clock()
    async with (
        provider("Keycloak", clock) as running,
        furnished(running, clock=clock, jwks_keep_seconds=7200) as service,
    ):
        assert await status_with(service, running.token("first")) == 200
        running.is_away = True
        for _ in range(12):
            clock.move(seconds=300)
            assert await status_with(service, running.token("first")) == 200
            assert await status_with(service, running.token("second")) == 503
        running.publish("first", "second")
        running.is_away = False
        clock.move(seconds=30)
        assert await status_with(service, running.token("second")) == 200
        running.is_away = True
        clock.move(seconds=7200)
        await until(lambda: "issuer_keys_dropped" in events_logged(caplog))
        assert await status_with(service, running.token("first")) == 503
        assert await status_with(service, virtual_key_token("vk-1", exp=int(clock.time()) + 60)) == 200


async def test_a_withdrawn_key_stops_working_within_a_refresh() -> None:
    """The set is fetched in the background when it is due, though no token asks for it."""
    clock = Clock()
    async with provider("Auth0", clock) as running, furnished(running, clock=clock) as service:
        token = running.token("first")
        assert await status_with(service, token) == 200
        running.publish("second")
        clock.move(seconds=30)
        await until(lambda: len(running.fetched_at) == 2)

        async def is_refused() -> bool:
            return await status_with(service, token) == 401

        await until(is_refused)


async def test_an_edge_fetches_for_itself() -> None:
    """It needs the provider, not the service, to know a token."""
    async with provider() as running, furnished() as service:
        async with edge_here(service, issuers=(issuer_of(running, discovery=True),)) as edge:
            assert await status_with(edge, running.token("first")) == 200
            assert await status_with(edge, running.unknown("first")) == 401
        assert len(running.fetched_at) == 1


async def test_a_provider_that_is_silent_holds_up_its_own_tokens_only() -> None:
    """Others are served meanwhile, and the service stops without waiting for it."""
    async with provider() as running:
        asked = asyncio.Event()
        running.answers[running.shape.keys_path] = lambda: Silent(asked)
        async with furnished(running) as service:
            waiting = asyncio.create_task(poll(service, running.token("first")))
            await asyncio.wait_for(asked.wait(), LIMIT_SECONDS)
            assert await status_with(service, virtual_key_token("vk-1")) == 200
            assert not waiting.done()
            waiting.cancel()
        assert len(running.fetched_at) == 1


class Silent(web.StreamResponse):
    """Begins and never goes on; sets `asked` when it has begun."""

    def __init__(self, asked: asyncio.Event) -> None:
        super().__init__()
        self._asked = asked

    async def prepare(self, request: web.BaseRequest) -> Any:
        await super().prepare(request)
        self._asked.set()
        await asyncio.Event().wait()


class Load:
    """An authenticator with one provider, and what became of the tokens that it was sent."""

    def __init__(self, running: Provider) -> None:
        self.provider, self.clock = running, running.clock
        clocks = self.clock.clocks
        config = issuer_of(running).config()
        self.keys = RemoteKeys(config, fetch, clock=clocks.seconds, monotonic=clocks.monotonic)
        self.authenticator = Authenticator(
            verifier=TokenVerifier([], [self.keys]),
            store=MemoryJobStore(),
            clock=clocks.seconds,
            monotonic=clocks.monotonic,
        )
        self.good: Counter[str] = Counter()
        self.bad: Counter[str] = Counter()

    async def send(self, token: str) -> str:
        try:
            await self.authenticator.authenticate([f"Bearer {token}"], [])
        except InvalidCredential:
            return "refused"
        except KeysUnavailable:
            return "later"
        return "accepted"

    async def pass_seconds(self, count: int, key_id: str) -> None:
        """Each second brings 200 tokens that name as many unknown keys, and four good ones of this key between them."""
        unknown = [self.provider.unknown(f"unknown-{number}") for number in range(200)]
        for _ in range(count):
            for number, token in enumerate(unknown):
                if number % 50 == 0:
                    good = self.provider.token(key_id, jti=str(number))
                    self.good[await self.send(good)] += 1
                self.bad[await self.send(token)] += 1
            self.clock.move(seconds=1)
            await asyncio.gather(self.keys.refresh(), self.authenticator.refresh())


@pytest.mark.parametrize("shape", SHAPES)
async def test_keys_rotate_under_load(shape: str) -> None:
    """No good token is refused and no bad one accepted, with at most one fetch in half a minute.

    Keycloak signs with a new key at once. Under this load its tokens may have to wait for the next fetch, and are told
    to come back. The others publish a key first.
    """
    clock = Clock()
    async with provider(shape, clock) as running:
        load = Load(running)
        await load.pass_seconds(5, "first")
        running.publish("first", "second")
        await load.pass_seconds(26, "first" if shape in STEADY else "second")
        assert (load.good["refused"], load.bad["accepted"]) == (0, 0)
        assert load.good["later"] == (0 if shape in STEADY else 25 * 4)
        load.good.clear()
        running.publish("second")
        await load.pass_seconds(31, "second")
        assert load.good == Counter(accepted=31 * 4)
        assert load.bad["accepted"] == 0
        assert await load.send(running.token("first")) != "accepted"
        pauses = [late - early for early, late in zip(running.fetched_at, running.fetched_at[1:], strict=False)]
        assert len(pauses) >= 2
        assert min(pauses) >= 30
