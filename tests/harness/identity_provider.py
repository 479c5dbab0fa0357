"""An identity provider on a loopback address: it describes itself, publishes keys, rotates them and goes away.

The sets have the shapes that real providers publish; keys and names are made here.
"""

import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from harness.faults import Clock
from harness.forging import forge, public_jwk, rsa_key
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
            return web.json_response({"issuer": self.issuer, "jwks_uri": self.jwks_url, "scopes_supported": []})
        if request.path == self.shape.keys_path:
            return self.published()
        return web.Response(status=404)

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
