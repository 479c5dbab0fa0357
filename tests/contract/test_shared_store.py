"""What `core.store.JobStore` promises to several processes upon one store: each opens it for itself."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from harness.stores import SHARED, change, deletion, job, store_in
from harness.waiting import until
from jobstatus.core.store import Store
from jobstatus.core.virtual_keys import VirtualKey, hash_key

Pair = tuple[Store, Store]


@pytest.fixture(params=SHARED)
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    """The same store, opened twice."""
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(store_in(request.param, tmp_path)) for _ in range(2)]
        yield one, two


async def test_a_commit_is_read_at_once_by_another(stores: Pair) -> None:
    """After a commit has returned, the other reads it, answers and versions alike, also a deletion."""
    one, two = stores
    for version in range(1, 6):
        following = job(version=version, provider=str(version))
        assert await one.commit([change(following, replaces=version - 1)]) == {}
        assert await two.read_jobs(["job-1"], with_results=True) == [following]
        one, two = two, one
    assert await one.commit([deletion("job-1", replaces=5)]) == {}
    assert await two.read_answers(["job-1"]) == [None]


async def test_a_change_upon_what_another_has_replaced_is_lost(stores: Pair) -> None:
    """Compare-and-set holds between processes."""
    one, two = stores
    await one.commit([change(job())])
    await one.commit([change(job(version=2, provider="one"), replaces=1)])
    assert await two.commit([change(job(version=2, provider="two"), replaces=1)]) == {"job-1": None}
    assert await two.read_jobs(["job-1"], with_results=True) == [job(version=2, provider="one")]


async def test_changes_of_another_are_found(stores: Pair) -> None:
    """Created, changed and deleted jobs are returned with their versions, each time until the caller gives those."""
    one, two = stores
    await one.commit([change(job("kept")), change(job("changed")), change(job("deleted"))])
    seen = {"kept": 1, "changed": 1, "deleted": 1, "created": 0}
    assert await two.changed(seen) == {}
    await one.commit(
        [change(job("changed", version=2), replaces=1), deletion("deleted", replaces=1), change(job("created"))]
    )
    found = await two.changed(seen)
    assert found == {"changed": 2, "deleted": 0, "created": 1}
    assert await two.changed(seen | found) == {}


async def test_a_job_that_is_watched_only_now_is_looked_at_though_nothing_happens(stores: Pair) -> None:
    """A call that found no change does not hide earlier changes from later calls."""
    one, two = stores
    await one.commit([change(job("old")), change(job("new"))])
    assert await two.changed({"old": 1}) == {}
    await one.commit([change(job("new", version=2), replaces=1)])
    assert await two.changed({"old": 1}) == {}
    assert await two.changed({"old": 1, "new": 1}) == {"new": 2}


async def test_one_of_two_processes_sweeps(stores: Pair) -> None:
    """The claim holds between processes, and ends when it is given back or is not renewed."""
    one, two = stores
    assert (await one.try_lead("one", 60_000)).leads
    assert not (await two.try_lead("two", 60_000)).leads
    await one.try_lead("one", 0)
    assert (await two.try_lead("two", 60_000)).leads
    assert not (await one.try_lead("one", 60_000)).leads


async def test_virtual_keys_are_shared(stores: Pair) -> None:
    """What one process registers the other finds, and the version tells it to read again."""
    one, two = stores
    before = await two.virtual_keys_version()
    put = VirtualKey(virtual_key_id="vk-1", key_sha256=(hash_key("sk-bf-1"),), created_at_ms=5, updated_at_ms=5)
    await one.put_virtual_key(put)
    assert await two.find_virtual_keys([hash_key("sk-bf-1")]) == [put]
    assert await two.virtual_keys_version() != before


@pytest.mark.parametrize("kind", SHARED)
async def test_a_claim_that_is_not_renewed_ends(kind: str, tmp_path: Path) -> None:
    """A leader that disappears without resigning is replaced in time."""
    async with store_in(kind, tmp_path) as two:
        async with store_in(kind, tmp_path) as one:
            assert (await one.try_lead("one", 3000)).leads
            assert not (await two.try_lead("two", 3000)).leads

        async def leads() -> bool:
            return (await two.try_lead("two", 3000)).leads

        await until(leads)
