"""Headless Chromium, driven through ChromeDriver. No wheel brings them, so only scripts of tests/soak use them."""

import asyncio
import base64
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

START_SECONDS: Final = 20.0
ARGUMENTS: Final = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


def missing_programs() -> str:
    """Return a sentence about the programs that cannot be found; nothing where they are there."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(missing)} cannot be found: install Chromium and ChromeDriver first" if missing else ""


class Browser:
    """A session of WebDriver's (https://www.w3.org/TR/webdriver2/)."""

    def __init__(self, session: aiohttp.ClientSession, path: str, pid: int) -> None:
        """`pid` is the driver's process, whose children are the browser."""
        self._session = session
        self._path = path
        self.pid = pid

    async def open(self, url: str) -> None:
        await post(self._session, f"{self._path}/url", {"url": url})

    async def run(self, script: str, *arguments: str) -> Any:
        return await post(self._session, f"{self._path}/execute/sync", {"script": script, "args": arguments})

    async def command(self, name: str, **params: Any) -> Any:
        """Give a command of Chromium's own protocol (https://chromedevtools.github.io/devtools-protocol)."""
        return await post(self._session, f"{self._path}/goog/cdp/execute", {"cmd": name, "params": params})

    async def press(self, *keys: str) -> None:
        """Press keys one after the other."""
        steps = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        actions = [{"type": "key", "id": "keyboard", "actions": steps}]
        await post(self._session, f"{self._path}/actions", {"actions": actions})

    async def screenshot(self) -> bytes:
        """Return what is seen, as a PNG."""
        async with self._session.get(f"{self._path}/screenshot") as answer:
            return base64.b64decode((await answer.json())["value"])

    async def complaints(self) -> list[str]:
        """Return what the browser has logged since the last call: warnings and errors."""
        entries = await post(self._session, f"{self._path}/se/log", {"type": "browser"})
        return [str(entry["message"]) for entry in entries]


async def post(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> Any:
    async with session.post(path, json=body) as answer:
        value = (await answer.json())["value"]
        if answer.status != 200:
            raise RuntimeError(f"the browser says: {value['message']}")
        return value


@asynccontextmanager
async def browser(folder: Path, *more: str) -> AsyncIterator[Browser]:
    """Headless Chromium, driven; `more` are arguments of it."""
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
        options = {"args": [*ARGUMENTS, *more, f"--user-data-dir={folder}"]}
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
        async with aiohttp.ClientSession(base, timeout=aiohttp.ClientTimeout(total=60)) as session:
            path = f"/session/{(await post(session, '/session', wanted))['sessionId']}"
            yield Browser(session, path, driver.pid)
            async with session.delete(path):
                pass
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        await driver.wait()
