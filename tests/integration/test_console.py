"""The console of live jobs: who gets data, what the page is told and when, and what is recorded of what it does."""

import asyncio
import hashlib
import html
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from google.protobuf.duration_pb2 import Duration
from harness.faults import Clock, MeddledStore
from harness.forging import segment
from harness.http import Answer, request
from harness.identity_provider import Provider, provider
from harness.jobs import complete, create, fail, job_error, start
from harness.service import AT_ONCE, Service, service_here
from harness.tokens import AUDIENCE, ISSUER, SECRET, admin_token, bearer, virtual_key_token
from harness.waiting import LIMIT_SECONDS, until
from jobstatus.auth.issuer_config import Kind
from jobstatus.console.limits import ConsoleLimits
from jobstatus.core.errors import StoreUnavailable
from jobstatus.core.virtual_keys import hash_key
from jobstatus.settings import IssuerSettings, Settings, SettingsError, check_servable
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1 import virtual_keys_pb2 as vk_pb
from pydantic import SecretStr
from yarl import URL

FAST: Final = replace(
    AT_ONCE,
    console=ConsoleLimits(
        tick_seconds=0.02,
        keep_seconds=0,
        pulse_seconds=0.02,
        sample_seconds=0.02,
        requests_per_second=1000,
        page_jobs=3,
        result_bytes=100,
    ),
)
"""A console that looks often."""
ADMIN: Final = bearer(admin_token())
PATHS: Final = (
    ("GET", "session"),
    ("GET", "jobs"),
    ("GET", "jobs/secret"),
    ("GET", "jobs/secret/result"),
    ("GET", "workers"),
    ("GET", "keys"),
    ("GET", "failures"),
    ("GET", "events?view=jobs"),
    ("POST", "jobs/secret/cancel"),
    ("POST", "jobs/secret/delete"),
    ("POST", "keys/vk-1/disable"),
)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with service_here(console="on", limits=FAST) as running:
        yield running


async def ask(service: Service, path: str, *headers: str, method: str = "GET", token: str | None = None) -> Answer:
    """A request to the console's API, of an admin unless another token is given."""
    credential = bearer(admin_token() if token is None else token)
    return await request(service.admin_port, f"/console/api/{path}", credential, *headers, method=method)


class Stream:
    """An open event stream of the console."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._until = asyncio.get_running_loop().time() + LIMIT_SECONDS
        self.told: dict[str, Any] = {}
        """The newest value of each part."""

    async def line(self) -> dict[str, Any] | None:
        """The next line, None at the end."""
        async with asyncio.timeout_at(self._until):
            size = int(await self._reader.readline(), 16)
            data = await self._reader.readexactly(size)
            await self._reader.readline()
        line: dict[str, Any] = json.loads(data) if size else {}
        self.told |= line
        return line if size else None

    async def until_told(self, part: str, condition: Any = lambda _: True) -> Any:
        """The part of the first line that has it and fulfils the condition."""
        while (line := await self.line()) is not None:
            if part in line and condition(line[part]):
                return line[part]
        raise AssertionError(f"the stream ended without {part}: {self.told}")


@asynccontextmanager
async def stream(service: Service, query: str, token: str | None = None) -> AsyncIterator[Stream]:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.admin_port)
    credential = bearer(admin_token() if token is None else token)
    writer.write(f"GET /console/api/events?{query} HTTP/1.1\r\nHost: test\r\n{credential}\r\n\r\n".encode())
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 OK" in head, head
        assert b"Transfer-Encoding: chunked" in head
        yield Stream(reader)
    finally:
        writer.close()


async def test_the_console_is_off_by_default() -> None:
    """Neither the page nor its data is there."""
    async with service_here() as service:
        for path in ("/console", "/console/", "/console/api/session"):
            assert (await request(service.admin_port, path, bearer(admin_token()))).status == 404


@pytest.mark.parametrize(
    ("headers", "status", "sentence"),
    [
        ((), 401, "Sign in with an admin's token."),
        (("Authorization: Basic YTpi",), 401, "Sign in with an admin's token."),
        ((bearer("nonsense"),), 401, "This token is not valid here; sign in with another one."),
        (
            (bearer(virtual_key_token("vk-1")),),
            403,
            "This is the credential of a virtual key; the console needs an admin's token.",
        ),
        (
            (bearer("sk-bf-made-up"),),
            403,
            "This is the credential of a virtual key; the console needs an admin's token.",
        ),
        (
            (bearer(admin_token(exp=int(time.time()) - 60)),),
            401,
            "The token has expired; sign in with a new one.",
        ),
        (("x-bf-vk: sk-bf-key",), 401, "Sign in with an admin's token."),
        ((bearer(admin_token()), "Sec-Fetch-Site: cross-site"), 403, "The console answers its own page only."),
    ],
)
async def test_only_an_admin_gets_data(service: Service, headers: tuple[str, ...], status: int, sentence: str) -> None:
    """All others get one sentence, whatever they ask for."""
    await create(service, "secret")
    for method, path in PATHS:
        answer = await request(service.admin_port, f"/console/api/{path}", *headers, method=method)
        assert (answer.status, answer.json) == (status, {"message": sentence})


async def test_every_answer_is_closed_to_other_pages(service: Service) -> None:
    """Its headers forbid frames, scripts of others, and guesses at its type; data is not kept by any cache."""
    for path in ("/console/", "/console/api/session", "/console/api/jobs", "/console/nothing"):
        answer = await request(service.admin_port, path, bearer(admin_token()))
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        if "/api/" in path:
            assert answer.headers["cache-control"] == "no-store"


async def test_the_page_and_its_parts_are_served(service: Service) -> None:
    """Compressed for those who accept it, and not again to those who have them; nothing outside of its folder is."""
    page = await request(service.admin_port, "/console/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert (await request(service.admin_port, "/console")).headers["location"] == "/console/"
    again = await request(service.admin_port, "/console/", f"If-None-Match: {page.headers['etag']}", method="HEAD")
    assert again.status == 304
    script = await request(service.admin_port, "/console/vendor/uPlot.iife.min.js", "Accept-Encoding: gzip")
    assert (script.headers["content-encoding"], script.headers["content-type"]) == (
        "gzip",
        "text/javascript; charset=utf-8",
    )
    for path in ("../limits.py", "vendor/../../limits.py", "vendor/%2e%2e/%2e%2e/limits.py", "vendor", "vendor/"):
        assert (await request(service.admin_port, f"/console/{path}")).status == 404
    assert (await request(service.admin_port, "/console/", method="POST")).status == 405


async def test_a_table_has_pages_and_filters(service: Service) -> None:
    """Newest first, page by page; each filter is applied, and a wrong one is told in a sentence."""
    for name in "abcd":
        await create(service, name, virtual_key_id=f"vk-{name}")
    await start(service, "a")
    first = (await ask(service, "jobs")).json
    assert [job["id"] for job in first["jobs"]] == ["d", "c", "b"]
    rest = (await ask(service, f"jobs?page={first['next']}")).json
    assert ([job["id"] for job in rest["jobs"]], rest["next"]) == (["a"], None)
    again = (await ask(service, f"jobs?at={first['top']}")).json
    assert again == first
    for query in ("state=processing", "key=vk-a", "worker=worker-1", f"page={first['next']}"):
        assert [job["id"] for job in (await ask(service, f"jobs?{query}")).json["jobs"]] == ["a"]
    for query in ("type=speech", "error=nothing", "status=500", "worker=nobody"):
        assert (await ask(service, f"jobs?{query}")).json["jobs"] == []
    wrong = (
        "state=x",
        "type=x",
        "key=%20",
        "error=%00",
        "status=99",
        "after=x",
        "page=x",
        "at=1.%00",
        f"after={'9' * 20}",
    )
    for path in (*(f"jobs?{query}" for query in wrong), "keys?page=%00"):
        answer = await ask(service, path)
        assert (answer.status, list(answer.json)) == (400, ["message"])


async def test_a_stream_tells_each_step_of_a_job(service: Service) -> None:
    """In the table that the page shows, and above it how many jobs are new; a reload of the page has them."""
    await create(service, "old")
    async with stream(service, "view=jobs") as told:
        assert [job["id"] for job in (await told.until_told("jobs"))["jobs"]] == ["old"]
        await create(service, "new")
        await told.until_told("rows", lambda part: part["new"] == 1)
        await start(service, "old", lease=Duration(seconds=30))
        rows = (await told.until_told("rows", lambda part: part["rows"]))["rows"]
        assert (rows[0]["state"], rows[0]["worker"], rows[0]["lease"]) == ("processing", "worker-1", 30_000)
        await complete(service, "old", attempt=1)
        rows = (await told.until_told("rows", lambda part: part["rows"]))["rows"]
        assert (rows[0]["state"], rows[0]["outcome"]) == ("completed", "completed")
        await delete(service, "old")
        assert (await told.until_told("rows", lambda part: part["gone"]))["gone"] == ["old"]


async def test_the_first_jobs_of_an_empty_table_are_told_at_once(service: Service) -> None:
    """Instead of their number: there is nothing that they could push away."""
    async with stream(service, "view=jobs") as told:
        assert (await told.until_told("jobs"))["jobs"] == []
        await create(service, "first")
        assert [job["id"] for job in (await told.until_told("jobs"))["jobs"]] == ["first"]
        await delete(service, "first")
        await told.until_told("rows", lambda part: part["gone"])
        await create(service, "second")
        assert [job["id"] for job in (await told.until_told("jobs", lambda part: part["jobs"]))["jobs"]] == ["second"]


async def test_a_stream_tells_what_happens_now(service: Service) -> None:
    """Counts by state and type, rates, times and the curves; those are there for who comes later."""
    await create(service, "waits")
    await create(service, "ends")
    async with stream(service, "view=now") as told:
        await start(service, "ends")
        await complete(service, "ends")
        now = await told.until_told("now", lambda now: now["ended"] == {"completed": 1})
        now = await told.until_told("now", lambda now: now["count"]["by_state"]["completed"] == 1)
        assert now["count"]["by_state"] == {"pending": 1, "processing": 0, "completed": 1, "failed": 0}
        await told.until_told("now", lambda now: ["completed", "transcription", 1] in now["types"]["counts"])
        assert now["run"]["jobs"] == now["queued"]["jobs"] == 1
        assert (now["failures"], now["processes"]) == (0, 1)
    async with stream(service, "view=now") as told:
        assert sum(point[5] for point in await told.until_told("points")) > 0 or told.told["now"]["ended"]


async def test_a_stream_ends_with_its_token() -> None:
    """The last line says so; nothing comes after it."""
    clock = Clock()
    async with service_here(console="on", limits=FAST, clock=clock) as service:
        token = admin_token(exp=int(clock.time()) + 30)
        async with stream(service, "view=now", token) as told:
            await told.until_told("now")
            clock.move(seconds=90)
            assert await told.until_told("end") == "The token has expired; sign in with a new one."
            assert await told.line() is None


async def test_the_number_of_streams_is_bounded() -> None:
    """One more is refused with a sentence; there is room again once a page is closed."""
    limits = replace(FAST, console=replace(FAST.console, max_streams=1))
    async with service_here(console="on", limits=limits) as service:
        async with stream(service, "view=now") as told:
            await told.until_told("session")
            answer = await ask(service, "events")
            assert (answer.status, answer.json) == (503, {"message": "Too many pages are open; close one of them."})

        async def has_room() -> bool:
            async with asyncio.timeout(LIMIT_SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", service.admin_port)
                writer.write(f"GET /console/api/events HTTP/1.1\r\nHost: x\r\n{ADMIN}\r\n\r\n".encode())
                status = await reader.readline()
                writer.close()
            return b" 200 " in status

        await until(has_room)


async def test_the_rate_of_requests_is_bounded() -> None:
    """Also of those without a token, so that nobody can guess quickly."""
    limits = replace(FAST, console=replace(FAST.console, requests_per_second=1, burst=3))
    async with service_here(console="on", limits=limits, clock=Clock()) as service:
        answers = [await request(service.admin_port, "/console/api/session") for _ in range(4)]
    assert [answer.status for answer in answers] == [401, 401, 401, 429]
    assert "retry-after" in answers[-1].headers


async def test_strangers_do_not_use_up_the_rate_of_admins() -> None:
    """A page that is signed in goes on, on the same machine, while others guess; its own requests are bounded, too."""
    limits = replace(FAST, console=replace(FAST.console, requests_per_second=1, burst=3))
    async with service_here(console="on", limits=limits, clock=Clock()) as service:
        assert (await ask(service, "session")).status == 200
        guesses = [(await ask(service, "session", token="guess")).status for _ in range(4)]
        assert guesses == [401, 401, 429, 429]
        assert [(await ask(service, "session")).status for _ in range(4)] == [200, 200, 200, 429]


async def test_a_result_is_shown_on_request_in_part_and_as_text(service: Service) -> None:
    """A job says how large its result is, and no more; what is shown of it is bounded."""
    script = b'"<script>alert(1)</script>' + b"x" * 200 + b'"'
    await create(service, "job-1")
    assert (await ask(service, "jobs/job-1/result")).status == 404
    await start(service, "job-1")
    await complete(service, "job-1", script)
    job = (await ask(service, "jobs/job-1")).json
    assert (job["result_bytes"], job["readers"], job["path"]) == (227, "key", "/v1/async/audio/transcriptions/job-1")
    assert "alert" not in json.dumps(job)
    answer = await ask(service, "jobs/job-1/result")
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.json == {"text": script[:100].decode(), "bytes": 227, "cut": True}


async def test_failures_are_grouped_by_error(service: Service) -> None:
    """The largest group first, with its newest job."""
    for name, code in (("a", "bad_audio"), ("b", "bad_audio"), ("c", "quota")):
        await create(service, name)
        await start(service, name)
        error = job_error("The recording is empty.")
        error.error.code = code
        await fail(service, name, error)
    found = (await ask(service, "failures")).json["groups"]
    assert [(group["error"], group["jobs"], group["latest"]["id"]) for group in found] == [
        ("bad_audio", 2, "b"),
        ("quota", 1, "c"),
    ]


async def test_workers_and_virtual_keys_are_told(service: Service) -> None:
    """Who holds what and has ended what; the state of each key and when it was used, and no hash."""
    for name in "ab":
        await create(service, name, virtual_key_id="team")
        await start(service, name, lease=Duration(seconds=30))
    await complete(service, "a", attempt=1)
    (worker,) = (await ask(service, "workers")).json["workers"]
    assert (worker["id"], [job["id"] for job in worker["jobs"]], worker["completed"]) == ("worker-1", ["b"], 1)
    await put_key(service, "team")
    await put_key(service, "unused", disabled=True)
    team, unused = (await ask(service, "keys")).json["keys"]
    assert (team["state"], team["keys"], team["used"] is not None) == ("active", 1, True)
    assert (unused["state"], unused["used"]) == ("disabled", None)
    assert team.keys() == {"id", "state", "keys", "expires", "created", "updated", "used"}


async def test_actions_are_off_unless_they_are_allowed(service: Service) -> None:
    """The page is told so, and a request is refused with a sentence."""
    await create(service, "job-1")
    assert (await ask(service, "session")).json["actions"] is False
    for path in ("jobs/job-1/cancel", "jobs/job-1/delete", "keys/vk-1/disable"):
        assert (await ask(service, path, method="POST")).status == 403
        assert (await ask(service, path)).status == 405
    assert (await ask(service, "jobs/job-1")).json["state"] == "pending"


async def test_actions_are_done_and_recorded(tmp_path: Path) -> None:
    """With the admin's name and the outcome, those that fail included; so is each result that was read."""
    log = tmp_path / "audit.log"
    async with service_here(console="on", console_actions="on", audit_log=log, limits=FAST) as service:
        for name in ("a", "b"):
            await create(service, name)
        await put_key(service, "team")
        expected = [
            ("jobs/a/cancel", 200, "CancelJob", "OK"),
            ("jobs/b/delete", 200, "DeleteJob", "OK"),
            ("jobs/b/delete", 404, "DeleteJob", "JOB_NOT_FOUND"),
            ("keys/team/disable", 200, "DisableVirtualKey", "OK"),
            ("keys/nobody/disable", 404, "DisableVirtualKey", "NOT_FOUND"),
            ("jobs/%20/cancel", 400, "CancelJob", "INVALID_FIELD"),
        ]
        for path, status, *_ in expected:
            assert (await ask(service, path, method="POST", token=admin_token(sub="ada"))).status == status
        assert (await ask(service, "jobs/a/result", token=admin_token(sub="ada"))).status == 404
        assert (await ask(service, "jobs/a")).json["outcome"] == "cancelled"
        assert (await ask(service, "keys")).json["keys"][0]["state"] == "disabled"
        kept = (await service.virtual_keys.GetVirtualKey(vk_pb.GetVirtualKeyRequest(virtual_key_id="team"))).virtual_key
        assert len(kept.key_sha256) == 1
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    mine = [line for line in lines if line.get("method") == "console"]
    assert [(line["action"], line["outcome"]) for line in mine] == [
        *((action, outcome) for _, _, action, outcome in expected),
        ("ReadResult", "NOT_FOUND"),
    ]
    assert {(line["subject"], line["peer"]) for line in mine} == {("ada", "127.0.0.1")}
    assert [line.get("job_id") or line.get("virtual_key_id") for line in mine] == [
        "a",
        "b",
        "b",
        "team",
        "nobody",
        "(not an id)",
        "a",
    ]


async def test_actions_need_an_audit_log() -> None:
    """Otherwise the service does not start."""
    with pytest.raises(SettingsError, match="JOBSTATUS_CONSOLE_ACTIONS needs JOBSTATUS_AUDIT_LOG"):
        check_servable(Settings(console_actions="on", jwt="off"), ())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"console_oidc_issuer": "https://a.test"}, "CONSOLE_OIDC_ISSUER and _OIDC_CLIENT_ID belong together"),
        ({"console_oidc_client_id": "console"}, "CONSOLE_OIDC_ISSUER and _OIDC_CLIENT_ID belong together"),
        ({"console_oidc_issuer": "http://a.test", "console_oidc_client_id": "x"}, "must be a URL with https"),
        ({"console_oidc_issuer": "https://b.test", "console_oidc_client_id": "x"}, "b.test is no issuer whose tokens"),
        ({"console_oidc_issuer": "https://c.test", "console_oidc_client_id": "x"}, "c.test is no issuer whose tokens"),
        ({"console_oidc_issuer": "https://a.test", "console_oidc_client_id": "x"}, ""),
    ],
)
def test_the_console_signs_in_with_an_issuer_of_admins(given: dict[str, Any], sentence: str) -> None:
    """Whose tokens the service accepts; otherwise it does not start."""
    issuers = [
        IssuerSettings(
            issuer=f"https://{name}.test", audience="x", algorithm="RS256", discovery=True, kinds=frozenset({kind})
        )
        for name, kind in (("a", Kind.ADMIN), ("c", Kind.VIRTUAL_KEY))
    ]
    settings = Settings(**given)
    if sentence:
        with pytest.raises(SettingsError, match=sentence):
            check_servable(settings, tuple(issuers))
    else:
        check_servable(settings, tuple(issuers))


async def test_a_store_that_fails_is_told_and_the_stream_goes_on() -> None:
    """The page shows what it has, with a sentence, and goes on once the store answers."""
    store = MeddledStore()
    async with service_here(store, console="on", limits=FAST) as service:
        await create(service, "job-1")
        async with stream(service, "view=jobs") as told:
            await told.until_told("jobs")
            store.failures["read_jobs"] = StoreUnavailable()
            assert (await told.until_told("problem"))["status"] == 503
            store.fail_all(None)
            await start(service, "job-1")
            await told.until_told("rows", lambda part: part["rows"])


async def test_a_fleet_that_is_gone_is_told() -> None:
    """Within a few seconds after its last heartbeat was due, while the jobs that it holds still have a lease."""
    clock = Clock()
    async with service_here(console="on", limits=FAST, clock=clock) as service:
        for name in "ab":
            await create(service, name)
        await start(service, "a", lease=Duration(seconds=30))
        async with stream(service, "view=now") as told:
            await told.until_told("now", lambda now: now["heard_ms"] and now["count"])
            clock.move(seconds=9)
            now = await told.until_told("now", lambda now: now["at_ms"] >= clock.ms - 1)
            assert now["cause"] is None
            clock.move(seconds=5)
            now = await told.until_told("now", lambda now: now["cause"])
            assert (now["cause"], now["count"]["by_state"]["pending"]) == ("nothing_runs", 1)
            assert clock.ms - now["heard_ms"] >= 13_000
            await start(service, "b")
            await told.until_told("now", lambda now: now["cause"] is None)


async def test_an_admin_signs_in_with_openid_connect() -> None:
    """The page says where; the access token that the issuer gives for code and verifier is that of an admin.

    Its ID token is not, because that is meant for the client.
    """
    clock = Clock()
    async with provider(clock=clock) as issuer:
        settings = oidc_settings(issuer)
        async with service_here(console="on", limits=FAST, clock=clock, **settings) as service:
            page = await request(service.admin_port, "/console/")
            (said,) = re.findall(r'<meta name="sign-in" content="([^"]*)" />', page.body.decode())
            known = json.loads(html.unescape(said))
            assert f"connect-src 'self' {issuer.url};" in page.headers["content-security-policy"]
            tokens = await signed_in(issuer, known, verifier="v" * 43)
            assert (await ask(service, "session", token=tokens["access_token"])).status == 200
            assert (await ask(service, "session", token=tokens["id_token"])).status == 401
            assert await signed_in(issuer, known, verifier="w" * 43) == {"error": "invalid_grant"}
            again = await request(
                service.admin_port, "/console/", f"If-None-Match: {page.headers['etag']}", method="HEAD"
            )
            assert (again.status, issuer.described) == (304, 2)  # for the keys, and for the page


async def test_nobody_signs_in_with_an_issuer_that_is_away() -> None:
    """The page has no endpoint, and its policy no origin; pasted tokens work."""
    async with provider() as issuer:
        issuer.is_away = True
        async with service_here(console="on", limits=FAST, **oidc_settings(issuer)) as service:
            page = await request(service.admin_port, "/console/")
            assert page.status == 200
            assert "connect-src 'self';" in page.headers["content-security-policy"]
            assert "&quot;token_endpoint&quot;: &quot;&quot;" in page.body.decode()
            assert (await ask(service, "session")).status == 200


def oidc_settings(issuer: Provider) -> dict[str, Any]:
    """The tests' issuer, and the provider with whom the console signs in."""
    own = IssuerSettings(issuer=ISSUER, audience=AUDIENCE, algorithm="HS256", secret=SecretStr(SECRET))
    its = IssuerSettings(issuer=issuer.issuer, audience=AUDIENCE, algorithm="RS256", discovery=True)
    issuer.clients = {"console": "https://console.test/console/signed-in.html"}
    return {"issuers": (own, its), "console_oidc_issuer": issuer.issuer, "console_oidc_client_id": "console"}


async def signed_in(issuer: Provider, known: dict[str, Any], *, verifier: str) -> dict[str, Any]:
    """What the page gets for a code, with this verifier."""
    redirect = issuer.clients[known["client_id"]]
    asked = {"response_type": "code", "state": "s", "scope": known["scope"], "code_challenge_method": "S256"}
    challenge = segment(hashlib.sha256(b"v" * 43).digest())
    of_client = {"client_id": known["client_id"], "redirect_uri": redirect}
    async with aiohttp.ClientSession() as session:
        query = {**asked, **of_client, "code_challenge": challenge}
        async with session.get(known["authorization_endpoint"], params=query, allow_redirects=False) as answer:
            code = URL(answer.headers["Location"]).query["code"]
        form = {"grant_type": "authorization_code", "code": code, "code_verifier": verifier, **of_client}
        async with session.post(known["token_endpoint"], data=form) as answer:
            tokens: dict[str, Any] = await answer.json()
            return tokens


async def delete(service: Service, job_id: str) -> None:
    await service.jobs.DeleteJob(pb.DeleteJobRequest(job_id=job_id))


async def put_key(service: Service, virtual_key_id: str, *, disabled: bool = False) -> None:
    digest = hash_key(f"sk-bf-{virtual_key_id}")
    await service.virtual_keys.PutVirtualKey(
        vk_pb.PutVirtualKeyRequest(virtual_key_id=virtual_key_id, key_sha256=[digest], disabled=disabled)
    )
