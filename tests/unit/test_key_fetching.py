"""How documents of identity providers are fetched: bounded, from the very host, and fresh for as long as it says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest
from aiohttp import web
from harness.certificates import Authorities
from harness.identity_provider import Provider, provider
from jobstatus.app.key_fetching import fetch, fresh_seconds, proxy_of
from jobstatus.auth.remote_keys import FetchFailed, JwksLimits

LIMITS: Final = JwksLimits(answer_seconds=60, max_bytes=100_000)
IMPATIENT: Final = replace(LIMITS, answer_seconds=0.3)


@pytest.fixture
async def issuer() -> AsyncIterator[Provider]:
    """A provider that answers well until it is told otherwise."""
    async with provider("Google") as running:
        yield running


def answering(**fields: Any) -> Callable[[], web.StreamResponse]:
    return lambda: web.Response(**fields)


async def test_a_document_is_fetched_with_its_freshness(issuer: Provider) -> None:
    """The bytes as they are, whatever their type."""
    body = b'{"keys": []}'.ljust(100_000)
    headers = {"Cache-Control": "max-age=60", "Age": "20"}
    issuer.answers["/keys"] = answering(body=body, content_type="text/plain", headers=headers)
    document = await fetch(f"{issuer.url}/keys", LIMITS)
    assert (document.body, document.fresh_seconds) == (body, 40)


class Endless(web.StreamResponse):
    """Goes on as long as somebody reads."""

    async def prepare(self, request: web.BaseRequest) -> Any:
        await super().prepare(request)
        while True:
            await self.write(b" " * 1000)


class Silent(web.StreamResponse):
    """Begins and never goes on."""

    async def prepare(self, request: web.BaseRequest) -> Any:
        await super().prepare(request)
        await self.write(b"{")
        await asyncio.Event().wait()


BAD: Final[dict[str, tuple[Callable[[], web.StreamResponse], str]]] = {
    "not there": (answering(status=404), "answered 404"),
    "in trouble": (answering(status=500, text="secret"), "answered 500"),
    "elsewhere": (answering(status=302, headers={"Location": "/oauth2/v3/certs"}), "answered 302; redirects are not"),
    "nothing new": (answering(status=304), "answered 304"),
    "too large": (answering(body=b" " * 100_001), "more than 100000 bytes"),
    "endless": (Endless, "more than 100000 bytes"),
    "silent": (Silent, "did not answer within 0.3 s"),
    "not HTTP": (answering(body=b"x", headers={"X": "a\0b"}), "cannot be fetched: "),
}


@pytest.mark.parametrize("case", BAD)
async def test_other_answers_are_failures(issuer: Provider, case: str) -> None:
    """What is no plain 200 of a bearable size in time is refused with a sentence for the operator."""
    answer, problem = BAD[case]
    issuer.answers["/keys"] = answer
    with pytest.raises(FetchFailed, match=problem) as failed:
        await fetch(f"{issuer.url}/keys", IMPATIENT if answer is Silent else LIMITS)
    assert f"{issuer.url}/keys" in str(failed.value)
    assert "secret" not in str(failed.value)


async def test_a_redirect_is_not_followed(issuer: Provider) -> None:
    """Neither on the host nor to another: the other hears nothing."""
    async with provider("Google") as other:
        issuer.answers["/keys"] = answering(status=307, headers={"Location": other.jwks_url})
        with pytest.raises(FetchFailed):
            await fetch(f"{issuer.url}/keys", LIMITS)
        assert other.fetched_at == []


async def test_nobody_at_the_address_is_a_failure(issuer: Provider, unused_tcp_port: int) -> None:
    """The sentence says that it cannot be reached."""
    assert issuer.url
    with pytest.raises(FetchFailed, match="cannot be reached"):
        await fetch(f"http://127.0.0.1:{unused_tcp_port}/keys", LIMITS)


async def test_a_certificate_that_is_not_trusted_is_a_failure() -> None:
    """Whoever answers must be the host; the sentence says what is wrong."""
    async with provider(tls=Authorities().server("localhost")) as running:
        with pytest.raises(FetchFailed, match=r"cannot be reached: .*certificate verify failed"):
            await fetch(running.jwks_url, LIMITS)
        assert running.fetched_at == []


@pytest.mark.parametrize(
    ("cache_control", "age", "seconds"),
    [
        ((), None, None),
        (("public",), None, None),
        (("max-age=60",), None, 60),
        (('MAX-AGE="60"',), None, 60),
        (("public, max-age = 60 , must-revalidate",), None, 60),
        (("public", "max-age=60"), "0", 60),
        (("max-age=60",), "45", 15),
        (("max-age=60",), "100", 0),
        (("max-age=60",), "soon", 60),
        (("max-age=60, max-age=90",), None, 60),
        (("s-maxage=60",), None, None),
        (("x-max-age=60",), None, None),
        (("max-age=-1",), None, None),
        (("max-age=\u0663",), None, None),
        (("max-age=99999999999999999999",), None, None),
        (("no-cache",), None, 0),
        (("no-store, max-age=60",), None, 0),
    ],
)
def test_freshness_is_read(cache_control: Sequence[str], age: str | None, seconds: float | None) -> None:
    """RFC 9111: max-age less Age; what must not be stored is not fresh; what is malformed says nothing."""
    assert fresh_seconds(cache_control, age) == seconds


def test_proxies_are_for_others_than_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTPS_PROXY and NO_PROXY as everywhere; plain HTTP, which is for loopback, goes straight."""
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert proxy_of("https://login.example.com/keys") is None
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3129")
    monkeypatch.setenv("NO_PROXY", "inside.example.com")
    assert proxy_of("https://login.example.com/keys") == "http://proxy.example:3128"
    assert proxy_of("https://inside.example.com/keys") is None
    assert proxy_of("http://127.0.0.1:8080/keys") is None
