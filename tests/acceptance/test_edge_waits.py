"""Clients that wait and follow at `jobstatus edge` while the service inside it is killed and started again."""

import asyncio
import signal
from pathlib import Path
from typing import Any, Final

import pytest
from harness.events import events
from harness.fronts import poll_patiently, until_it_listens, waiting
from harness.jobs import complete, create, start
from harness.service import EdgeProcess, Process
from harness.tokens import bearer, virtual_key_token

OWNER: Final = bearer(virtual_key_token("vk-1"))
LONG: Final = "Prefer: wait=45"
HEAL_SECONDS: Final = 60.0


@pytest.mark.parametrize(
    ("number", "settings"),
    [(signal.SIGKILL, {}), (signal.SIGTERM, {"WORKERS": "2"})],
    ids=["killed", "stopped with its two workers"],
)
async def test_who_waits_learns_what_happened_while_the_service_was_away(
    tmp_path: Path, number: signal.Signals, settings: dict[str, Any]
) -> None:
    """However it ends, those who wait go on; the end of one job during, and of another after it, reaches them."""
    inside = Process(tmp_path, **settings)
    async with inside, inside.connected() as service, EdgeProcess(tmp_path, service) as outside:
        edge = service.behind(outside.port("HTTP"), outside.port("ADMIN"))
        await until_it_listens(edge)
        for name in ("j1", "j2"):
            await create(service, name)
        async with events(edge, "j1", OWNER) as stream:
            assert (await stream.event()).json["status"] == "pending"
            polls = [asyncio.create_task(poll_patiently(edge, name, OWNER, LONG)) for name in ("j1", "j2")]
            await waiting(edge, 3)
            inside.send(number)
            await inside.ended()
            async with Process(tmp_path) as beside, beside.connected() as other:
                await start(other, "j1")
                await complete(other, "j1")
            assert not any(poll.done() for poll in polls)
            async with inside, asyncio.timeout(HEAL_SECONDS):
                answer = await polls[0]
                assert (answer.status, answer.headers["preference-applied"]) == (200, "wait=45")
                assert [event.json["status"] for event in await stream.rest(HEAL_SECONDS)] == ["completed"]
                async with inside.connected() as again:
                    await complete(again, "j2")
                assert (await polls[1]).status == 200
