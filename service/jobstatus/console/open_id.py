"""Signing in with an issuer of OpenID Connect: what a page must know for that, from the issuer's own description.

The page does the rest: authorization code with PKCE, as a public client. It gets an access token, which is then checked
like any other token of an admin. An ID token would not do, because its audience is the client and not this service.

Everything fails closed. While the issuer does not describe itself, the page has no endpoint, and its policy no origin.
"""

import asyncio
import json
import logging
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from jobstatus.auth.discovery import read_description, url_in
from jobstatus.auth.key_urls import discovery_url
from jobstatus.auth.remote_keys import Document, Fetch, FetchFailed, JwksLimits

_is_origin: Final = re.compile(r"https?://[A-Za-z0-9._-]+(?::[0-9]{1,5})?").fullmatch
"""What a source of a Content-Security-Policy may be; it has no form for an address of IPv6."""
_METHOD: Final = "S256"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignIn:
    """What a page must know. The endpoints are empty while the issuer does not describe itself."""

    issuer: str
    client_id: str
    scope: str
    audience: str | None = None
    authorization_endpoint: str = ""
    token_endpoint: str = ""

    def to_text(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @property
    def origin(self) -> str:
        """The origin that the page connects to; empty while there is none."""
        parts = urlsplit(self.token_endpoint)
        return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""


class OpenIdProvider:
    """Keeps what the issuer says of itself. Use it in one event loop."""

    def __init__(
        self,
        client: SignIn,
        fetch: Fetch,
        *,
        monotonic: Callable[[], float],
        limits: JwksLimits = JwksLimits(),  # noqa: B008  # a frozen value
    ) -> None:
        """`client` is what the settings say; `monotonic` returns seconds that never step."""
        self._client = self._known = client
        self._fetch = fetch
        self._monotonic = monotonic
        self._limits = limits
        self._due_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._has_failed = False

    async def describe(self) -> SignIn:
        """Return what a page must know by now. The issuer is asked if that is due; all callers wait for one answer."""
        if self._fetching is None and self._monotonic() >= self._due_at:
            self._fetching = asyncio.create_task(self._update())
        if self._fetching is not None:
            await asyncio.shield(self._fetching)
        return self._known

    async def _update(self) -> None:
        limits, begun_at = self._limits, self._monotonic()
        try:
            document = await self._fetch(discovery_url(self._client.issuer), limits)
            self._known = _described(self._client, document.body)
        except (FetchFailed, ValueError) as error:
            self._known, self._due_at = self._client, begun_at + limits.least_seconds
            self._fail(str(error))
        else:
            self._due_at = begun_at + _fresh_seconds(document, limits)
            self._has_failed = False
        finally:
            self._fetching = None

    def _fail(self, problem: str) -> None:
        """Log the first of consecutive failures."""
        if not self._has_failed:
            _log.warning(
                "Nobody can sign in to the console with its OpenID Connect issuer at the moment.",
                extra={"event": "console_oidc_unavailable", "issuer": self._client.issuer, "problem": problem},
            )
        self._has_failed = True


def _described(client: SignIn, document: bytes) -> SignIn:
    """Return what the issuer's description adds. Raises ValueError."""
    description = read_description(document, client.issuer)
    methods = description.get("code_challenge_methods_supported")
    if methods is not None and not (isinstance(methods, list) and _METHOD in methods):
        raise ValueError("the issuer does not support PKCE with S256")
    found = replace(
        client,
        authorization_endpoint=url_in(description, "authorization_endpoint"),
        token_endpoint=url_in(description, "token_endpoint"),
    )
    if not _is_origin(found.origin):
        raise ValueError("the token_endpoint of the discovery document has a host that no policy can name")
    return found


def _fresh_seconds(document: Document, limits: JwksLimits) -> float:
    fresh = limits.usual_seconds if document.fresh_seconds is None else document.fresh_seconds
    return min(max(fresh, limits.least_seconds), limits.most_seconds)
