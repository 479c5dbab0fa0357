"""A load generator in a process of its own, which says lines of JSON and waits to be told to go on."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from benchmarks.servers import ROOT

_STEP_SECONDS: Final = 180.0


class Generator:
    """One that runs. What it says on standard error stands in the terminal."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    async def said(self) -> dict[str, Any]:
        """Its next line. Raises RuntimeError when it has ended instead, TimeoutError when there is none in time."""
        assert self._child.stdout is not None
        async with asyncio.timeout(_STEP_SECONDS):
            line = await self._child.stdout.readline()
        if not line:
            raise RuntimeError("the load generator failed; what it had to say stands above")
        return dict(json.loads(line))

    async def go_on(self) -> None:
        """Tell it to do the next step."""
        assert self._child.stdin is not None
        self._child.stdin.write(b"\n")
        await self._child.stdin.drain()


@asynccontextmanager
async def generating(module: str, *words: str, python: str = sys.executable) -> AsyncIterator[Generator]:
    """A module of `benchmarks`, in a session of its own, so that Ctrl-C reaches this process alone.

    `python` is that of the environment in which it runs.
    """
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        *(python, "-m", f"benchmarks.{module}", *words),
        cwd=ROOT,
        stdin=pipe,
        stdout=pipe,
        start_new_session=True,
    )
    try:
        yield Generator(child)
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
