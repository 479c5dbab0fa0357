"""News of changes that another process makes, on the stores that pass them on."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.fronts import poll_patiently
from harness.jobs import complete, create
from harness.postgresql import server
from harness.service import service_here
from harness.stores import STORES
from harness.tokens import bearer, virtual_key_token
from harness.waiting import until
from jobstatus.core.errors import StoreUnavailable
from jobstatus.core.store import NoticeChannel, Store
from jobstatus.stores import open_store

OWNER = bearer(virtual_key_token("vk-1"))
PUSHING = ["postgresql", "valkey", "cluster"]


async def listening(channel: NoticeChannel, heard: Callable[[str], None]) -> "asyncio.Task[str]":
    """A task that hears, once it does."""
    heard_here = list[str]()

    def note(text: str) -> None:
        heard_here.append(text)
        if text != "ready":
            heard(text)

    task = asyncio.create_task(channel.hear(note))

    async def is_ready() -> bool:
        assert not task.done(), task.result()
        await channel.publish("ready")
        return "ready" in heard_here

    await until(is_ready)
    return task


@pytest.mark.parametrize("kind", PUSHING)
async def test_every_process_hears_what_one_publishes(kind: str, tmp_path: Path) -> None:
    """The publisher too; each text as it was sent, in order, up to the greatest length."""
    url = STORES[kind](tmp_path)
    async with open_store(url) as one, open_store(url) as other:
        heard: list[list[str]] = [[], []]
        tasks = []
        for store, texts in zip((one, other), heard, strict=True):
            assert store.notices is not None
            tasks.append(await listening(store.notices, texts.append))
        sent = ["a b,c", "x" * 7000, "last"]
        for text in sent:
            await channel_of(one).publish(text)
        await until(lambda: all(texts == sent for texts in heard))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def channel_of(store: Store) -> NoticeChannel:
    assert store.notices is not None
    return store.notices


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_other_stores_pass_nothing_on(kind: str, tmp_path: Path) -> None:
    """There is one process, or asking costs next to nothing."""
    async with open_store(STORES[kind](tmp_path)) as store:
        assert store.notices is None


@pytest.mark.parametrize("settings", [{}, {"change_notices": False}])
@pytest.mark.parametrize("kind", ["postgresql", "valkey"])
async def test_a_poll_that_waits_hears_of_another_process(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """With notices and without."""
    url = STORES[kind](tmp_path)
    async with service_here(url, **settings) as one, service_here(url, **settings) as other:
        await create(one, "job-1")
        poll = asyncio.create_task(poll_patiently(other, "job-1", OWNER, "Prefer: wait=45"))
        await complete(one, "job-1")
        assert (await poll).status == 200


async def test_what_another_program_publishes_ends_no_listening(tmp_path: Path) -> None:
    """Nor do bytes that are no text."""
    async with open_store(STORES["valkey"](tmp_path)) as store:
        heard = list[str]()
        task = await listening(channel_of(store), heard.append)
        no_text: Any = b"\xff"
        await channel_of(store).publish(no_text)
        await channel_of(store).publish("last")
        await until(lambda: task.done() or "last" in heard)
        assert not task.done(), task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_lost_connection_ends_the_listening(tmp_path: Path) -> None:
    """So that it begins anew: the server that ends the session is noticed at once."""
    url = STORES["postgresql"](tmp_path)
    async with open_store(url) as store:
        task = await listening(channel_of(store), lambda _: None)
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
        server().execute(ended, url.rpartition("/")[2])
        with pytest.raises(StoreUnavailable):
            await task
