"""An identity provider on a loopback address: it describes itself, publishes keys, rotates them and goes away.

It signs in at once whoever comes: authorization code with PKCE (RFC 7636), for clients that it knows.

The sets have the shapes that real providers publish; keys and names are made here.
"""

import hashlib
import json
import secrets
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from yarl import URL

from harness.faults import Clock
from harness.forging import forge, public_jwk, rsa_key, segment
from harness.tokens import AUDIENCE

_CERTIFICATE: Final = {"x5c": ["MIICmzCCAYMCBgGT"], "x5t": "7dTVu0lcK_2SBnM5"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What is peculiar to the sets of one provider. `more` has keys of other kinds."""

    issuer_path: str
    keys_path: str
    cache_control: str
    members: dict[str, Any]
    more: tuple[dict[str, Any], ...] = ()


_ENCRYPTION: Final = public_jwk(rsa_key("encryption"), "encryption") | {"use": "enc", "alg": "RSA-OAEP"}
SHAPES: Final = {
    "Keycloak": Shape(
        issuer_path="/realms/main",
        keys_path="/realms/main/protocol/openid-connect/certs",
        cache_control="no-cache",
        members={"use": "sig", "alg": "RS256", **_CERTIFICATE, "x5t#S256": "mN1ZZ_7dTVu0lcK"},
        more=(_ENCRYPTION | _CERTIFICATE,),
    ),
    "Entra": Shape(
        issuer_path="/5e1c0a52-0000-4000-8000-1f2e3d4c5b6a/v2.0",
        keys_path="/5e1c0a52-0000-4000-8000-1f2e3d4c5b6a/discovery/v2.0/keys",
        cache_control="max-age=86400, private",
        members={"use": "sig", "cloud_instance_name": "example.com", **_CERTIFICATE},
    ),
    "Auth0": Shape(
        issuer_path="/",
        keys_path="/.well-known/jwks.json",
        cache_control="public, max-age=15, stale-while-revalidate=15, stale-if-error=86400",
        members={"use": "sig", "alg": "RS256", **_CERTIFICATE},
    ),
    "Google": Shape(
        issuer_path="",
        keys_path="/oauth2/v3/certs",
        cache_control="public, max-age=19845, must-revalidate, no-transform",
        members={"use": "sig", "alg": "RS256"},
    ),
}


@dataclass
class Provider:
    """A running provider. `fetched_at` has the time of each request for its keys, by the clock of the tests."""

    shape: Shape
    clock: Clock
    keys: dict[str, rsa.RSAPrivateKey]
    url: str = ""
    is_away: bool = False
    fetched_at: list[float] = field(default_factory=list)
    described: int = 0
    answers: dict[str, Callable[[], web.StreamResponse]] = field(default_factory=dict)
    """What is answered at a path in place of the usual."""
    clients: dict[str, str] = field(default_factory=dict)
    """The address to which each client comes back."""
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    """What was asked for each code that is not used yet."""

    @property
    def issuer(self) -> str:
        return self.url + self.shape.issuer_path

    @property
    def jwks_url(self) -> str:
        return self.url + self.shape.keys_path

    def token(self, key_id: str, **claims: Any) -> str:
        """A token of vk-1 that is issued now and valid for an hour, signed with this key."""
        return jwt.encode(self.claims(**claims), rsa_key(key_id), "RS256", {"kid": key_id})

    def unknown(self, key_id: str, **claims: Any) -> str:
        """The same of a key that the provider never had."""
        header = {"alg": "RS256", "typ": "JWT", "kid": key_id}
        return forge(self.claims(**claims), header, lambda _: bytes(256))

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(self.clock.time())
        return {"iss": self.issuer, "aud": AUDIENCE, "iat": now, "exp": now + 3600, "virtual_key_id": "vk-1", **changes}

    def publish(self, *key_ids: str) -> None:
        """Have these keys, and no others, in the set from now on."""
        self.keys = {key_id: rsa_key(key_id) for key_id in key_ids}

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        is_description = request.path == self.shape.issuer_path.rstrip("/") + "/.well-known/openid-configuration"
        if request.path == self.shape.keys_path:
            self.fetched_at.append(self.clock.time())
        self.described += is_description
        if self.is_away:
            return web.Response(status=503, text="<html>away</html>", content_type="text/html")
        if request.path in self.answers:
            return self.answers[request.path]()
        if is_description:
            return web.json_response(self.description())
        if request.path == self.shape.keys_path:
            return self.published()
        return await self.sign_in(request)

    async def sign_in(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer at the endpoints of its description."""
        url = self.url + request.path
        if url == f"{self.issuer}/authorize":
            return self.authorize(dict(request.query))
        if url == f"{self.issuer}/token" and request.method == "POST":
            return self.exchange({name: str(value) for name, value in (await request.post()).items()})
        return web.Response(status=404)

    def description(self) -> dict[str, Any]:
        """What it says of itself."""
        return {
            "issuer": self.issuer,
            "jwks_uri": self.jwks_url,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "code_challenge_methods_supported": ["plain", "S256"],
            "scopes_supported": [],
        }

    def authorize(self, asked: dict[str, str]) -> web.StreamResponse:
        """Send the client's window back with a code."""
        wanted = {"response_type": "code", "code_challenge_method": "S256"}
        known = {**wanted, "redirect_uri": self.clients.get(asked.get("client_id", ""))}
        if any(asked.get(name) != value for name, value in known.items()) or "openid" not in asked["scope"].split():
            return web.Response(status=400, text=f"not as it must be: {asked}")
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        answer = {"code": code, "state": asked["state"], "iss": self.issuer}
        return web.Response(status=302, headers={"Location": str(URL(asked["redirect_uri"]).with_query(answer))})

    def exchange(self, given: dict[str, str]) -> web.StreamResponse:
        """Exchange a code for tokens, once, for whoever knows the verifier of its challenge."""
        asked = self.codes.pop(given.get("code", ""), {})
        challenge = segment(hashlib.sha256(given.get("code_verifier", "").encode()).digest())
        is_good = (
            given.get("grant_type") == "authorization_code"
            and asked.get("code_challenge") == challenge
            and all(given.get(name) == asked[name] for name in ("client_id", "redirect_uri"))
        )
        origin = str(URL(self.clients.get(given.get("client_id", ""), "https://nobody.test")).origin())
        headers = {"Access-Control-Allow-Origin": origin, "Cache-Control": "no-store"}
        if not is_good:
            return web.json_response({"error": "invalid_grant"}, status=400, headers=headers)
        (key_id, *_) = self.keys
        tokens = {
            "access_token": self.admin_token(key_id),
            "id_token": self.admin_token(key_id, aud=given["client_id"]),
            "token_type": "Bearer",
            "expires_in": 3600,
        }
        return web.json_response(tokens, headers=headers)

    def admin_token(self, key_id: str, **claims: Any) -> str:
        """A token of ada, an admin."""
        everything = self.claims(role="admin", sub="ada", **claims)
        everything.pop("virtual_key_id")
        return jwt.encode(everything, rsa_key(key_id), "RS256", {"kid": key_id})

    def published(self) -> web.Response:
        """The set as it is now."""
        own = [public_jwk(key, key_id) | self.shape.members for key_id, key in self.keys.items()]
        body = json.dumps({"keys": [*self.shape.more, *own]})
        headers = {"Cache-Control": self.shape.cache_control}
        return web.Response(text=body, content_type="application/json", headers=headers)


@asynccontextmanager
async def provider(
    shape: str = "Keycloak", clock: Clock | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Provider]:
    """A provider on a free port, with the key `first`; with `tls` for localhost over https."""
    running = Provider(SHAPES[shape], clock or Clock(), {"first": rsa_key("first")})
    runner = web.ServerRunner(web.Server(running.answer, handler_cancellation=True), shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    running.url = f"{'https://localhost' if tls else 'http://127.0.0.1'}:{runner.addresses[0][1]}"
    try:
        yield running
    finally:
        await runner.cleanup()
