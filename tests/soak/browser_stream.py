"""An event stream in a real browser: does the page of examples/browser show each state once, and end?

Needs Chromium and ChromeDriver, which no wheel brings; whoever has not installed them is told so. A job goes through
its life while headless Chromium follows it: heartbeats in between, the service stopped and started again, and a result
with line breaks. Prints what the page shows.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import aiohttp
from aiohttp import web
from browser.page import application
from harness.jobs import complete, create, start
from harness.service import Process, Service
from harness.tokens import virtual_key_token
from harness.waiting import until
from jobstatus.v1 import job_status_pb2 as pb

START_SECONDS: Final = 20.0
STEP_SECONDS: Final = 15.0
ARGUMENTS: Final = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
RESULT: Final = b'{\n  "text": "hello"\n}'
FOLLOW: Final = """
    const [path, token] = arguments, form = document.querySelector("form");
    form.path.value = path; form.token.value = token; form.requestSubmit();"""
SHOWN: Final = """
    const states = [...document.querySelectorAll("li")].map((item) => item.textContent);
    return [states, document.querySelector("pre").textContent];"""


class Browser:
    """A session of WebDriver's (https://www.w3.org/TR/webdriver2/)."""

    def __init__(self, session: aiohttp.ClientSession, path: str) -> None:
        self._session = session
        self._path = path

    async def open(self, url: str) -> None:
        await post(self._session, f"{self._path}/url", {"url": url})

    async def run(self, script: str, *arguments: str) -> Any:
        return await post(self._session, f"{self._path}/execute/sync", {"script": script, "args": arguments})


async def post(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> Any:
    async with session.post(path, json=body) as answer:
        value = (await answer.json())["value"]
        if answer.status != 200:
            raise RuntimeError(f"the browser says: {value['message']}")
        return value


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Browser]:
    """Headless Chromium, driven."""
    driver = await asyncio.create_subprocess_exec(
        "chromedriver", "--port=0", stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert driver.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            while b"started successfully on port" not in (line := await driver.stdout.readline()):
                if not line:
                    raise RuntimeError("ChromeDriver did not start")
        base = f"http://127.0.0.1:{int(line.rstrip().rstrip(b'.').rpartition(b' ')[2])}"
        options = {"args": [*ARGUMENTS, f"--user-data-dir={folder}"]}
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
        async with aiohttp.ClientSession(base, timeout=aiohttp.ClientTimeout(total=60)) as session:
            path = f"/session/{(await post(session, '/session', wanted))['sessionId']}"
            yield Browser(session, path)
            async with session.delete(path):
                pass
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        await driver.wait()


@asynccontextmanager
async def page(service: Service) -> AsyncIterator[str]:
    """The address of the example's page."""
    runner = web.AppRunner(application(f"http://127.0.0.1:{service.http_port}"))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{site.port}/"
    finally:
        await runner.cleanup()


async def follow(process: Process, chromium: Browser) -> list[str]:
    """One job's life; what the page showed of it."""
    async with process.connected() as service, page(service) as address:
        await chromium.open(address)
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


async def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing:
        print(f"{' and '.join(missing)} cannot be found: install Chromium and ChromeDriver first", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        async with Process(place, STOP_DELAY_SECONDS="0") as process, browser(place / "profile") as chromium:
            states = await follow(process, chromium)
    print(f"the page showed {', '.join(states)}, each once, and ended with the result")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
