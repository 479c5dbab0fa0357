"""How a process that makes load talks with the one that started it: lines of JSON on its standard streams."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self

_ROOT: Final = Path(__file__).resolve().parents[2]
_MANY_BYTES: Final = 64 * 1024 * 1024


def say(**facts: Any) -> None:
    """Print a line, in the process that makes load."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


async def told() -> Any:
    """Return what the next line says, in the process that makes load; None when there is none."""
    line = await asyncio.to_thread(sys.stdin.readline)
    return json.loads(line) if line else None


class Maker:
    """A process that makes load: `python -m module`. Leaving its context ends it.

    For each plan it says that it is ready, waits for a line, makes the load, says what came of it, and keeps what it
    holds until another line.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._child: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", self._module),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_MANY_BYTES,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (_ROOT, _ROOT / "tests")))},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._child is not None
        if self._child.returncode is None:
            self._child.kill()
            await self._child.wait()

    @asynccontextmanager
    async def ready(self, plan: Any) -> AsyncIterator[Callable[[], Awaitable[Mapping[str, Any]]]]:
        """Have it prepare a load of this plan, a dataclass; the block calls what makes the load, once.

        What the load holds is held until the end of the block.
        """
        self._tell(asdict(plan))
        await self._heard()
        yield self._run
        self._tell({})

    async def _run(self) -> Mapping[str, Any]:
        self._tell({})
        return await self._heard()

    def _tell(self, facts: Mapping[str, Any]) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(facts).encode() + b"\n")

    async def _heard(self) -> Mapping[str, Any]:
        """Return the next line that it says. Raises RuntimeError when it has ended."""
        assert self._child is not None
        assert self._child.stdout is not None
        line = await self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._module} has ended with {await self._child.wait()}")
        facts: Mapping[str, Any] = json.loads(line)
        return facts


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of the values that this share of them does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
