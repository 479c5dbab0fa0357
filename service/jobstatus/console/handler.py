"""The console over HTTP: its page, its questions and its event streams, on the admin port.

Data needs the header Authorization, which no other page can make a browser send; there are no cookies. So a request
from elsewhere gets nothing, whatever it is.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from aiohttp import web

from jobstatus.auth.lru_cache import LruCache
from jobstatus.console import filters
from jobstatus.console.files import SECURITY, StaticFile, page, static_file
from jobstatus.console.limits import ConsoleLimits
from jobstatus.console.links import SignInLinks
from jobstatus.console.messages import Answer, Ask, Question, document, refusal
from jobstatus.console.open_id import OpenIdProvider
from jobstatus.console.pulse import Pulse
from jobstatus.console.stream import VIEWS, Streamer, arguments_of
from jobstatus.rest.admission import RateLimit, RateLimited, RateLimiter
from jobstatus.rest.headers import accepts_gzip
from jobstatus.rest.send_limits import cut_off
from jobstatus.telemetry.throttle import LogThrottle

ROOT: Final = "/console"
_API: Final = "/console/api/"
_TICKET: Final = "ticket "
KNOWN_ADMINS: Final = 1000
"""How many credentials that were accepted are remembered."""

NOT_FOUND: Final = refusal(404, "There is nothing at this path.")
WRONG_METHOD: Final = refusal(405, "This path does not allow this method.")
OTHER_SITE: Final = refusal(403, "The console answers its own page only.")
TOO_OFTEN: Final = refusal(429, "Too many requests at a time; the page tries again.")
TOO_MANY_PAGES: Final = refusal(503, "Too many pages are open; close one of them.")
USED_LINK: Final = refusal(
    401, "This link was used already, or is too old; sign in with a token of `jobstatus token admin`."
)

_READS: Final = {"session": (), "failures": filters.NAMES, "workers": (), "keys": ("page",), "jobs": filters.NAMES}
"""What can be read by a path of its own, and the parameters."""
_OF_JOBS: Final = {
    ("GET", ""): "job",
    ("GET", "result"): "result",
    ("POST", "cancel"): "cancel",
    ("POST", "delete"): "delete",
}
_OF_KEYS: Final = {("POST", "disable"): "disable"}

_log = logging.getLogger(__name__)


class Console:
    """Handles every request below /console."""

    def __init__(
        self,
        ask: Ask,
        pulse: Pulse,
        *,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
        links: SignInLinks | None,
        limits: ConsoleLimits,
        open_id: OpenIdProvider | None = None,
    ) -> None:
        """`links` are those that sign in, and `open_id` is the provider that does; None where there are none."""
        self._ask = ask
        self._pulse = pulse
        self._links = links
        self._open_id = open_id
        self._limits = limits
        self._streamer = Streamer(ask, pulse, clock=clock, limits=limits)
        rate = RateLimit(per_second=limits.requests_per_second, burst=limits.burst)
        self._rate = RateLimiter(rate, monotonic)
        self._strangers = RateLimiter(rate, monotonic)
        self._admins: LruCache[bytes, bytes] = LruCache(KNOWN_ADMINS)
        """The digests of credentials that were accepted lately."""
        self._failed = LogThrottle()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the response to any request below /console."""
        try:
            return await self._handle(request)
        except Exception:  # noqa: BLE001  # the last line of defence: no error reaches aiohttp
            if requests := self._failed.should_log():
                _log.exception(
                    "A request to the console failed because of a bug of this program.",
                    extra={"event": "console_failed", "requests": requests},
                )
            return _json(refusal(500, "The service has a bug; its log says which."))

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == ROOT:
            return web.Response(status=308, headers={**SECURITY, "Location": f"{ROOT}/"})
        if not request.path.startswith(_API):
            return await self._static(request)
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            return _json(OTHER_SITE)
        credential = _digest(request.headers.getall("Authorization", ()))
        try:
            self._count(request, is_admin=self._admins.get(credential) is not None)
        except RateLimited as limited:
            return _json(TOO_OFTEN, {"Retry-After": str(limited.retry_after_seconds)})
        return await self._answer(request, credential)

    def _count(self, request: web.BaseRequest, *, is_admin: bool) -> None:
        """Count a request. Raise RateLimited if it is one too many.

        Admins have a limit together, and strangers have one for each address, so that a flood of strangers keeps no
        page of an admin from its data.
        """
        limiter, key = (self._rate, None) if is_admin else (self._strangers, request.remote)
        limiter.check(key)
        limiter.count(key)

    async def _asked(self, question: Question, credential: bytes) -> Answer:
        """Return the answer to a question, and remember whether its credential is that of an admin."""
        answer = await self._ask(question)
        if answer.status == 200:
            self._admins.put(credential, credential)
        elif answer.status == 401:
            self._admins.pop(credential, None)
        return answer

    async def _answer(self, request: web.BaseRequest, credential: bytes) -> web.StreamResponse:
        path = request.path.removeprefix(_API)
        if path == "sign-in":
            return _json(self._sign_in(request))
        question = _question(request, path)
        if isinstance(question, Answer):
            return _json(question)
        if path == "events":
            return await self._stream(request, question, credential)
        return _json(await self._asked(question, credential))

    async def _static(self, request: web.BaseRequest) -> web.Response:
        found = await self._file(request.path.removeprefix(f"{ROOT}/"))
        if found is None or request.method not in ("GET", "HEAD"):
            return _json(WRONG_METHOD if found else NOT_FOUND)
        if request.headers.get("If-None-Match") == found.tag:
            return web.Response(status=304, headers=found.headers)
        headers = {**found.headers, "Vary": "Accept-Encoding"}
        if accepts_gzip(request.headers.getall("Accept-Encoding", ())):
            return web.Response(body=found.zipped, headers={**headers, "Content-Encoding": "gzip"})
        return web.Response(body=found.body, headers=headers)

    async def _file(self, name: str) -> StaticFile | None:
        if self._open_id is not None and name in ("", "index.html"):
            return page(await self._open_id.describe())
        return static_file(name)

    def _sign_in(self, request: web.BaseRequest) -> Answer:
        """Return a token for the ticket of a link."""
        if request.method != "POST":
            return WRONG_METHOD
        given = request.headers.get("Authorization", "")
        ticket = given[len(_TICKET) :] if given.lower().startswith(_TICKET) else ""
        token = self._links.redeem(ticket) if self._links is not None else None
        return USED_LINK if token is None else document({"token": token})

    async def _stream(self, request: web.BaseRequest, question: Question, credential: bytes) -> web.StreamResponse:
        first = await self._asked(question._replace(what="session", arguments={}), credential)
        if first.status != 200:
            return _json(first)
        if self._pulse.open_pages >= self._limits.max_streams:
            return _json(TOO_MANY_PAGES)
        response = web.StreamResponse(
            headers={
                **SECURITY,
                "Content-Type": "application/x-ndjson; charset=utf-8",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
        )
        self._pulse.open_pages += 1
        try:
            await response.prepare(request)
            await self._streamer.send(response, question.what, question, first, lambda: _unread(request))
            await response.write_eof()
        except (ConnectionError, TimeoutError):
            cut_off(request)
        except Exception:
            cut_off(request)  # the response has begun, so there can be no other
            raise
        finally:
            self._pulse.open_pages -= 1
        return response


def _digest(authorization: Sequence[str]) -> bytes:
    return hashlib.sha256("\n".join(authorization).encode("utf-8", "surrogatepass")).digest()


def _question(request: web.BaseRequest, path: str) -> Question | Answer:
    """Return what the request asks, or the refusal of a path or method that is not there."""
    found = _what(request.method, path, request.query)
    if isinstance(found, Answer):
        return found
    what, arguments = found
    return Question(what, request.headers.getall("Authorization", ()), arguments, request.remote or "")


def _what(method: str, path: str, query: Mapping[str, str]) -> tuple[str, dict[str, Any]] | Answer:
    if path == "events" or path in _READS:
        if method != "GET":
            return WRONG_METHOD
        if path in _READS:
            return path, arguments_of(query, _READS[path], filters.MAX_CHARS)
        view = query.get("view", "now")
        return (
            (view, arguments_of(query, (*filters.NAMES, "job_id"), filters.MAX_CHARS)) if view in VIEWS else NOT_FOUND
        )
    kind, _, rest = path.partition("/")
    name, _, action = rest.partition("/")
    table, argument = {"jobs": (_OF_JOBS, "job_id"), "keys": (_OF_KEYS, "virtual_key_id")}.get(kind, ({}, ""))
    if not any(action == known for _, known in table):
        return NOT_FOUND
    what = table.get((method, action))
    return WRONG_METHOD if what is None else (what, {argument: name[: filters.MAX_CHARS]})


def _unread(request: web.BaseRequest) -> int:
    """Return how many bytes the client has still to read, as far as this process has them."""
    return 0 if request.transport is None else request.transport.get_write_buffer_size()


def _json(answer: Answer, headers: Mapping[str, str] | None = None) -> web.Response:
    extra = {"WWW-Authenticate": 'Bearer realm="jobstatus"'} if answer.status == 401 else {}
    return web.Response(
        status=answer.status,
        body=answer.body.encode("utf-8", "surrogatepass"),
        headers={
            **SECURITY,
            **extra,
            **(headers or {}),
            "Content-Type": "application/json; charset=utf-8",
            "Cache-Control": "no-store",
        },
    )
