"""Jobs in a real browser: what do pages of the service's own origin, and of others, see of them?

Needs Chromium and ChromeDriver, which no wheel brings; the script says so where they are missing.

* The page of examples/browser, behind its own proxy: a job goes through its life while headless Chromium follows it,
  with heartbeats in between, the service stopped and started again, and a result with line breaks.
* The same page where something else than the service answers with a 404: it says so, and does not ask again.
* Pages of two other origins, which ask the service itself: one that JOBSTATUS_CORS_ORIGINS names polls, waits and
  follows, and reads errors; the other one is refused, as both are by a service without that setting.

Prints what the pages saw; exits with an error when it is not that.
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import aiohttp
from aiohttp import web
from browser.page import FOLDER, application
from harness.chromium import Browser, browser, missing_programs
from harness.jobs import complete, create, start
from harness.service import Process, Service
from harness.tokens import virtual_key_token
from harness.waiting import until
from jobstatus.v1 import job_status_pb2 as pb

STEP_SECONDS: Final = 15.0
RESULT: Final = b'{\n  "text": "hello"\n}'
FOLLOW: Final = """
    const [path, token] = arguments, form = document.querySelector("form");
    form.path.value = path; form.token.value = token; form.requestSubmit();"""
FETCH: Final = """
    const [url, ...lines] = arguments;
    const names = ["Retry-After", "ETag", "Job-Progress", "X-Request-Id", "Preference-Applied"];
    const asking = fetch(url, { headers: lines.map((line) => line.split(": ")), cache: "no-store" });
    return asking.then(
      async (answer) => [answer.status, await answer.text(), names.filter((name) => answer.headers.has(name))],
      (error) => [0, error.name, []],
    );"""
REFUSED: Final[tuple[int, str, list[str]]] = (0, "TypeError", [])
"""What `fetch` says of an answer that the page must not read."""
SHOWN: Final = """
    const states = [...document.querySelectorAll("li")].map((item) => item.textContent);
    return [states, document.querySelector("pre").textContent];"""


@asynccontextmanager
async def served(pages: web.Application) -> AsyncIterator[str]:
    """Their origin."""
    runner = web.AppRunner(pages)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{site.port}"
    finally:
        await runner.cleanup()


async def follow(process: Process, chromium: Browser) -> list[str]:
    """One job's life; what the page showed of it."""
    async with (
        process.connected() as service,
        served(application(f"http://127.0.0.1:{service.http_port}")) as origin,
    ):
        await chromium.open(f"{origin}/")
        await create(service, "demo")
        await chromium.run(FOLLOW, "/v1/async/audio/transcriptions/demo", virtual_key_token("vk-1"))
        await shows(chromium, "pending")
        await start(service, "demo")
        await shows(chromium, "pending", "processing")
        for progress in (0.1, 0.5, 0.9):
            await service.jobs.HeartbeatJob(pb.HeartbeatJobRequest(job_id="demo", attempt=1, progress=progress))
        process.send(signal.SIGTERM)
        await process.ended()
        await process.start()
        await complete(service, "demo", RESULT)
        states = await shows(chromium, "pending", "processing", "completed")
        await until(lambda: is_ended(chromium), STEP_SECONDS)
    return states


async def shows(chromium: Browser, *states: str) -> list[str]:
    """Return once the page shows these states; RuntimeError when it does not, or shows others."""
    seen: list[str] = []

    async def does() -> bool:
        seen[:] = (await chromium.run(SHOWN))[0]
        return len(seen) >= len(states)

    await until(does, STEP_SECONDS)
    if seen != list(states):
        raise RuntimeError(f"the page shows {seen}, not {list(states)}")
    return seen


async def is_ended(chromium: Browser) -> bool:
    states, end = await chromium.run(SHOWN)
    return bool(end) and states == ["pending", "processing", "completed"] and json.loads(end) == json.loads(RESULT)


async def refused_without_json(chromium: Browser) -> str:
    """The page asks something that is not the service; what it showed."""
    async with served(of_another_origin()) as origin:
        await chromium.open(f"{origin}/index.html")
        await chromium.run(FOLLOW, "/nothing", "token")
        await until(lambda: says_something(chromium), STEP_SECONDS)
        said = str((await chromium.run(SHOWN))[1])
    if said != "The server answered with 404":
        raise RuntimeError(f"the page shows {said!r} for a 404 without JSON")
    return said


async def says_something(chromium: Browser) -> bool:
    return bool((await chromium.run(SHOWN))[1])


def of_another_origin() -> web.Application:
    """The example's page, with nothing behind it."""
    pages = web.Application()
    pages.router.add_static("/", FOLDER)
    return pages


async def across_origins(folder: Path, chromium: Browser) -> list[str]:
    """Two pages ask two services, of which one names one of the pages; what they saw."""
    for name in ("naming", "default"):
        (folder / name).mkdir()
    async with (
        served(of_another_origin()) as named,
        served(of_another_origin()) as stranger,
        Process(folder / "naming", STOP_DELAY_SECONDS="0", CORS_ORIGINS=named) as naming,
        Process(folder / "default", STOP_DELAY_SECONDS="0") as default,
        naming.connected() as service,
    ):
        await create(service, "j1")
        await chromium.open(f"{stranger}/index.html")
        await expect(chromium, naming, REFUSED)
        await chromium.open(f"{named}/index.html")
        await expect(chromium, default, REFUSED)
        await polls(chromium, naming, service)
        await waits(chromium, naming, service)
        return await follows(chromium, naming, service)


async def expect(
    chromium: Browser,
    process: Process,
    expected: tuple[int, str, list[str]],
    *headers: str,
    job_id: str = "j1",
    token: str = "",
) -> None:
    """Let the page ask, and raise RuntimeError unless it sees this status, text (in part) and names of headers."""
    credential = f"Authorization: Bearer {token or virtual_key_token('vk-1')}"
    status, text, names = await chromium.run(FETCH, address(process, job_id), credential, *headers)
    if status != expected[0] or expected[1] not in text or names != expected[2]:
        raise RuntimeError(f"the page saw {status} {text!r} with {names}, not {expected}")


def address(process: Process, job_id: str) -> str:
    return f"http://127.0.0.1:{process.port('HTTP')}/v1/async/audio/transcriptions/{job_id}"


async def polls(chromium: Browser, process: Process, service: Service) -> None:
    """The page sees each state and each error, with the headers that say what to do next."""
    await expect(chromium, process, (202, '"pending"', ["Retry-After", "X-Request-Id"]), "X-Request-Id: mine")
    await start(service, "j1")
    await service.jobs.HeartbeatJob(pb.HeartbeatJobRequest(job_id="j1", attempt=1, progress=0.5))
    await expect(chromium, process, (202, '"processing"', ["Retry-After", "Job-Progress", "X-Request-Id"]))
    await expect(chromium, process, (401, "invalid_credentials", ["X-Request-Id"]), token="x")
    await expect(chromium, process, (404, "job_not_found", ["X-Request-Id"]), job_id="j2")


async def waits(chromium: Browser, process: Process, service: Service) -> None:
    """The page waits for the end, and need not load it again."""
    ended = (200, '"completed"', ["ETag", "X-Request-Id", "Preference-Applied"])
    waiting = asyncio.ensure_future(expect(chromium, process, ended, "Prefer: wait=30"))
    metrics = f"http://127.0.0.1:{process.port('ADMIN')}/metrics"

    async def waits_there() -> bool:
        async with aiohttp.ClientSession() as session, session.get(metrics) as answer:
            return "\njobstatus_waiting_polls 1.0\n" in await answer.text()

    await until(waits_there, STEP_SECONDS)
    await complete(service, "j1", RESULT)
    await waiting
    await expect(chromium, process, (304, "", ["ETag", "X-Request-Id"]), "If-None-Match: *")


async def follows(chromium: Browser, process: Process, service: Service) -> list[str]:
    """The example's page follows a job of the service itself; what it showed."""
    await create(service, "demo")
    await chromium.run(FOLLOW, address(process, "demo"), virtual_key_token("vk-1"))
    await shows(chromium, "pending")
    await start(service, "demo")
    await shows(chromium, "pending", "processing")
    await complete(service, "demo", RESULT)
    return await shows(chromium, "pending", "processing", "completed")


async def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if missing := missing_programs():
        print(missing, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        async with Process(place, STOP_DELAY_SECONDS="0") as process, browser(place / "profile") as chromium:
            states = await follow(process, chromium)
            print(f"the page showed {', '.join(states)}, each once, and ended with the result")
            print(f"it says of a 404 without JSON: {await refused_without_json(chromium)}")
            states = await across_origins(place, chromium)
    print(f"a page of a named origin polled, waited and followed: {', '.join(states)}; other origins were refused")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
