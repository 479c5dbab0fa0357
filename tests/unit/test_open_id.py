"""Signing in with an issuer of OpenID Connect: what the page may know and connect to, and that it fails closed."""

import asyncio
import html
import json
import re
from typing import Any, Final

import pytest
from harness.logged import events_logged
from jobstatus.auth.remote_keys import Document, FetchFailed, JwksLimits
from jobstatus.console.files import CONTENT_SECURITY_POLICY, page, static_file
from jobstatus.console.open_id import OpenIdProvider, SignIn

ISSUER: Final = "https://id.example.com/realms/main"
CLIENT: Final = SignIn(issuer=ISSUER, client_id="console", scope="openid")
GOOD: Final[dict[str, Any]] = {
    "issuer": ISSUER,
    "authorization_endpoint": "https://id.example.com/authorize?tenant=1",
    "token_endpoint": "https://tokens.example.com:8443/token",
}
LIMITS: Final = JwksLimits()


class Issuer:
    """Answers with `description`, or does not."""

    def __init__(self, description: Any) -> None:
        self.description = description
        self.asked: list[str] = []
        self.now = 1000.0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.provider = OpenIdProvider(CLIENT, self.fetch, monotonic=lambda: self.now)

    async def fetch(self, url: str, _: JwksLimits) -> Document:
        self.asked.append(url)
        await self.may_answer.wait()
        if self.description is None:
            raise FetchFailed("it is away")
        return Document(json.dumps(self.description).encode(), 60.0)


@pytest.fixture
async def issuer() -> Issuer:
    return Issuer(GOOD)


async def test_the_issuer_is_asked_once_and_again_when_it_is_due(issuer: Issuer) -> None:
    """All who need it wait for one answer, which serves for as long as it is fresh."""
    issuer.may_answer.clear()
    asking = [asyncio.create_task(issuer.provider.describe()) for _ in range(3)]
    await asyncio.sleep(0)
    asking[0].cancel()
    issuer.may_answer.set()
    found = (await asyncio.gather(*asking, return_exceptions=True))[1:]
    assert found[0] == found[1] == await issuer.provider.describe()
    assert isinstance(found[0], SignIn)
    assert (found[0].authorization_endpoint, found[0].token_endpoint, found[0].origin) == (
        GOOD["authorization_endpoint"],
        GOOD["token_endpoint"],
        "https://tokens.example.com:8443",
    )
    assert issuer.asked == [f"{ISSUER}/.well-known/openid-configuration"]
    issuer.now += 60
    await issuer.provider.describe()
    assert len(issuer.asked) == 2


@pytest.mark.parametrize(
    "description",
    [
        None,
        [],
        {**GOOD, "issuer": "https://id.example.com/realms/other"},
        {**GOOD, "token_endpoint": "http://tokens.example.com/token"},
        {**GOOD, "token_endpoint": "http://127.0.0.1/token"},
        {**GOOD, "token_endpoint": "https://a;script-src/token"},
        {**GOOD, "token_endpoint": "https://*/token"},
        {**GOOD, "token_endpoint": "https://[2001:db8::1]/token"},
        {**GOOD, "authorization_endpoint": "javascript:alert(1)"},
        {name: value for name, value in GOOD.items() if name != "authorization_endpoint"},
        {**GOOD, "code_challenge_methods_supported": ["plain"]},
        {**GOOD, "code_challenge_methods_supported": "S256"},
    ],
)
async def test_nobody_signs_in_with_an_issuer_that_is_not_described_well(
    issuer: Issuer, description: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The page may connect to nothing; the issuer is asked again after a while, however many pages are opened."""
    issuer.description = description
    for _ in range(3):
        assert await issuer.provider.describe() == CLIENT
    assert len(issuer.asked) == 1
    issuer.now += LIMITS.least_seconds
    assert await issuer.provider.describe() == CLIENT
    assert events_logged(caplog) == ["console_oidc_unavailable"]
    issuer.now += LIMITS.least_seconds
    issuer.description = GOOD
    assert (await issuer.provider.describe()).origin
    issuer.now += LIMITS.most_seconds
    issuer.description = description
    assert not (await issuer.provider.describe()).origin
    assert len(events_logged(caplog)) == 2


async def test_the_page_says_how_to_sign_in_and_may_connect_there_only(issuer: Issuer) -> None:
    """What it says and its policy are of one answer; any other policy is as it was."""
    known = await issuer.provider.describe()
    served = page(known)
    policy = served.headers["Content-Security-Policy"]
    assert policy == CONTENT_SECURITY_POLICY.replace(
        "connect-src 'self'", "connect-src 'self' https://tokens.example.com:8443"
    )
    (said,) = re.findall(r'<meta name="sign-in" content="([^"]*)" />', served.body.decode())
    assert SignIn(**json.loads(html.unescape(said))) == known
    plain = static_file("")
    assert plain is not None
    assert plain.headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert plain.tag != served.tag


def test_the_page_without_endpoints_may_connect_to_nothing_else() -> None:
    """Nor does a setting become markup."""
    served = page(SignIn(issuer=ISSUER, client_id='"><script>', scope="openid"))
    assert served.headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert b"<script>" not in served.body
