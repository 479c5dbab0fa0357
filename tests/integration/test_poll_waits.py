"""`jobstatus poll` waits where the service lets it, polls politely where not, and comes through whatever happens."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from harness.http import request
from harness.jobs import complete, create
from harness.service import Process, Service, service_here
from harness.tokens import virtual_key_token
from harness.waiting import LIMIT_SECONDS, until
from jobstatus.cli.errors import CommandError
from jobstatus.cli.polling import JITTER, SHORTEST_PAUSE_SECONDS, PollLoop, PollResponse, applied_wait_seconds
from yarl import URL

PATH = "/v1/async/audio/transcriptions/job"


@dataclass(slots=True)
class Shown:
    """A display that remembers."""

    wait_seconds: int = 30
    status: str = ""
    pauses: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def show(self, status: str, progress: str | None, pause_seconds: float) -> None:  # noqa: ARG002 (as the protocol)
        self.status = status
        self.pauses.append(pause_seconds)

    def show_problem(self, problem: str, pause_seconds: float) -> None:
        self.problems.append(problem)
        self.pauses.append(pause_seconds)


async def polled(port: int, shown: Shown) -> PollResponse:
    """The last answer about the job at this port."""
    headers = {"Authorization": f"Bearer {virtual_key_token('vk-1')}"}
    async with aiohttp.ClientSession(headers=headers) as session, asyncio.timeout(3 * LIMIT_SECONDS):
        return await PollLoop(session, URL(f"http://127.0.0.1:{port}{PATH}"), shown).poll_until_end()


async def count(service: Service, metric: str) -> float:
    """What the service counts under this name and labels; 0 when it is not there."""
    metrics = (await request(service.admin_port, "/metrics")).body.decode()
    found = re.search(rf"^{re.escape(metric)} (\S+)$", metrics, re.MULTILINE)
    return float(found[1]) if found else 0


def answered(route: str, code: int) -> str:
    return f'jobstatus_http_request_seconds_count{{code="{code}",route="{route}"}}'


@asynccontextmanager
async def standing_in(*answers: tuple[int, dict[str, str]]) -> AsyncIterator[tuple[int, list[str | None]]]:
    """The port of a server that gives these answers, then a 200; and what each request's Prefer said."""
    left, seen = list(answers), []

    async def answer(poll: web.BaseRequest) -> web.Response:
        seen.append(poll.headers.get("Prefer"))
        code, headers = left.pop(0) if left else (200, {})
        status = "pending" if code == 202 else "completed"
        return web.json_response({"status": status}, status=code, headers={"Retry-After": "0"} | headers)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1], seen
    finally:
        await runner.cleanup()


def assert_polite(pause_seconds: float) -> None:
    """As long as Retry-After says, which is less than the least, and a little more."""
    assert SHORTEST_PAUSE_SECONDS <= pause_seconds <= SHORTEST_PAUSE_SECONDS * (1 + JITTER)


async def test_two_polls_follow_a_job_to_its_end(service: Service) -> None:
    """A plain one that tells its state, and one that waits, answered when the job ends."""
    await create(service, "job")
    shown = Shown()
    polling = asyncio.create_task(polled(service.http_port, shown))

    async def waits() -> bool:
        return await count(service, "jobstatus_waiting_polls") == 1

    await until(waits)
    assert shown.status == "pending"
    await complete(service, "job")
    answer = await polling
    assert (answer.code, answer.document["status"]) == (200, "completed")
    assert await count(service, answered("transcription", 202)) == 1
    assert await count(service, answered("waiting", 200)) == 1
    assert shown.pauses == [0]


async def test_a_poll_that_has_waited_is_followed_by_the_next(service: Service) -> None:
    """When the wait was too short for the job there is no pause before the next one."""
    await create(service, "job")
    shown = Shown(wait_seconds=1)
    polling = asyncio.create_task(polled(service.http_port, shown))

    async def has_waited_twice() -> bool:
        return await count(service, answered("waiting", 202)) >= 2

    await until(has_waited_twice)
    await complete(service, "job")
    assert (await polling).code == 200
    assert len(shown.pauses) >= 3
    assert all(pause_seconds < 0.1 for pause_seconds in shown.pauses)


async def test_where_nobody_may_wait_it_is_as_late_as_retry_after_says() -> None:
    """Over the limits, the service answers at once: it is asked again, politely, and each poll would rather wait."""
    async with service_here(max_waiting_polls=0, retry_after_seconds=1) as service:
        await create(service, "job")
        shown = Shown()
        polling = asyncio.create_task(polled(service.http_port, shown))

        async def has_been_asked() -> bool:
            return await count(service, answered("waiting", 202)) >= 2

        await until(has_been_asked)
        await complete(service, "job")
        assert (await polling).code == 200
    first, *others = shown.pauses
    assert first == 0
    assert all(1 <= pause_seconds <= 1 + JITTER for pause_seconds in others)


async def test_a_service_that_knows_no_waiting_is_polled_politely() -> None:
    """One poll more than without, in all."""
    async with standing_in((202, {}), (202, {}), (202, {})) as (port, seen):
        shown = Shown()
        await polled(port, shown)
    assert seen == [None, "wait=30", "wait=30", "wait=30"]
    assert shown.pauses[0] == 0
    for pause_seconds in shown.pauses[1:]:
        assert_polite(pause_seconds)


@pytest.mark.parametrize("applied", ["wait=30", "wait=1", "wait=0", "wait=99999", "respond-async"])
async def test_a_service_that_only_claims_to_wait_is_not_asked_in_a_loop(applied: str) -> None:
    """One that answers early, as when it stops, is asked again after Retry-After."""
    async with standing_in(*[(202, {"Preference-Applied": applied})] * 4) as (port, seen):
        shown = Shown()
        await polled(port, shown)
    assert len(seen) == 5
    assert shown.pauses[0] == 0
    for pause_seconds in shown.pauses[1:]:
        assert_polite(pause_seconds)


async def test_after_trouble_the_first_poll_is_a_plain_one() -> None:
    """It tells how things are; the next one waits again, for a shorter time; pauses grow while the trouble lasts."""
    trouble: list[tuple[int, dict[str, str]]] = [(503, {}), (429, {}), (502, {}), (504, {})]
    async with standing_in((202, {}), *trouble, (202, {})) as (port, seen):
        shown = Shown()
        await polled(port, shown)
    assert seen == [None, "wait=30", None, None, None, None, "wait=15"]
    assert shown.pauses[1:5] == sorted(shown.pauses[1:5])
    assert shown.pauses[4] <= 2 * (1 + JITTER)


async def test_who_has_never_been_answered_gives_up_at_once() -> None:
    """There is no service there, as far as anybody knows."""
    async with standing_in() as (port, _):
        pass
    with pytest.raises(CommandError, match="nothing answers"):
        await polled(port, Shown())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restart_while_a_poll_waits_is_survived(number: signal.Signals, tmp_path: Path) -> None:
    """Whether the service stops in good order or is killed: the poll goes on with the next one."""
    shown = Shown()
    async with Process(tmp_path) as process:
        async with process.connected() as service:
            await create(service, "job")
            polling = asyncio.create_task(polled(service.http_port, shown))

            async def waits() -> bool:
                return await count(service, "jobstatus_waiting_polls") == 1

            await until(waits)
        process.send(number)
        await process.ended()
        await until(lambda: bool(shown.problems))
        await process.start()
        async with process.connected() as service:
            await complete(service, "job")
        assert (await polling).document["status"] == "completed"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=30", 30),
        ("Wait = 30", 30),
        ('respond-async, wait="30"', 30),
        ("wait=30; strict", 30),
        ("await=30", 0),
        ("wait", 0),
        ("wait=", 0),
        ("wait=-3", 0),
        ("wait=3e9", 0),
        ("wait=٣", 0),
        ("", 0),
    ],
)
def test_what_the_service_says_of_its_wait_is_read(header: str, seconds: int) -> None:
    """What cannot be read is no wait."""
    assert applied_wait_seconds(header) == seconds
