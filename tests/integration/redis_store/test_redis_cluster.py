"""A cluster loses, freezes and moves parts of itself: the other parts never notice, and nothing old is ever read."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from harness import valkey
from harness.logged import events_logged
from harness.stores import change, job
from harness.tracking import creation, tracker_on
from harness.waiting import until
from jobstatus.core.errors import StoreUnavailable
from jobstatus.core.job import Job, JobState
from jobstatus.core.store import Answer, Listing, Store
from jobstatus.stores import open_store
from jobstatus.stores.redis.keys import BUCKETS, Keys, bucket_of

NAMES = [f"job-{number}" for number in range(300)]
HEALED_SECONDS = 60.0
IN_TIME_SECONDS = 20.0
"""Within what time every operation ends, whatever happens."""


@pytest.fixture(scope="module")
def whole() -> Iterator[valkey.Cluster]:
    """A cluster that the tests here break and repair. Its own failover is slow, so that they can observe it."""
    cluster = valkey.Cluster(node_timeout_ms=4000).start()
    yield cluster
    cluster.remove()


@pytest.fixture
async def store(whole: valkey.Cluster, request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """A store of the test's own on it, with some jobs."""
    whole.wait()
    async with open_store(whole.url(f"prefix={request.node.name}")) as opened:
        assert await opened.commit([change(job(name)) for name in NAMES]) == {}
        yield opened


def slot_of(name: str) -> int:
    return Keys("any").buckets[bucket_of(name.encode())].slot


def names_on(cluster: valkey.Cluster, server: valkey.Server) -> set[str]:
    """The jobs that this server has."""
    slots = {bucket.slot for bucket in Keys("any").buckets if cluster.owner(bucket.slot) is server}
    return {name for name in NAMES if slot_of(name) in slots}


async def failing(store: Store) -> set[str]:
    """The jobs that cannot be read; the others are all there."""
    answers = dict(zip(NAMES, await store.read_answers(NAMES), strict=True))
    failed = {name for name, answer in answers.items() if isinstance(answer, StoreUnavailable)}
    assert all(isinstance(answer, Answer) for name, answer in answers.items() if name not in failed)
    return failed


async def versions(store: Store) -> set[int]:
    found = await store.read_jobs(NAMES, with_results=False)
    return {item.version for item in found if isinstance(item, Job)}


async def test_jobs_lie_evenly_on_the_primaries(whole: valkey.Cluster, store: Store) -> None:
    """No primary has many more buckets than another, and together they have them all."""
    shares = [sum(whole.owner(bucket.slot) is server for bucket in Keys("any").buckets) for server in whole.primaries()]
    assert sum(shares) == BUCKETS
    assert max(shares) - min(shares) <= 1
    assert await failing(store) == set()


async def test_a_primary_that_dies_is_missed_by_its_own_jobs_only(
    whole: valkey.Cluster, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Its jobs have the error in their places, all others are answered as usual; its replica takes over.

    With a replica required, the jobs of that part are written again once there is a replica again.
    """
    victim = whole.primaries()[0]
    lost, others = names_on(whole, victim), set(NAMES) - names_on(whole, victim)
    victim.kill()
    began = time.monotonic()
    assert await failing(store) <= lost
    for _ in range(20):
        assert await failing(store) == lost
    not_done = await store.commit([change(job(name, version=2), replaces=1) for name in NAMES])
    assert not_done.keys() == lost
    assert all(isinstance(error, StoreUnavailable) for error in not_done.values())
    assert (await store.confirm(NAMES)).keys() == lost
    await store.probe()
    refusals = [record for record in caplog.records if vars(record).get("event") == "primaries_refuse_writes"]
    assert [(vars(record)["refusing"], vars(record)["primaries"]) for record in refusals] == [(1, 3)]
    assert time.monotonic() - began < 3.0
    with pytest.raises(StoreUnavailable):
        await store.list_page(Listing(limit=10), 0)

    await until(lambda: is_whole(store), HEALED_SECONDS - (time.monotonic() - began))
    now = dict(zip(NAMES, await store.read_jobs(NAMES, with_results=False), strict=True))
    assert {name for name in NAMES if now[name] == job(name, version=2)} >= others
    not_done = await store.commit([change(job(name, version=3), replaces=2) for name in others])
    assert not_done == {}
    victim.start()
    whole.wait()
    await until(lambda: takes_writes(store, lost))


async def test_a_store_opens_while_a_primary_is_down(
    whole: valkey.Cluster, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """What the others have is served; the one that could not be checked is warned of; a replica is still required."""
    victim = whole.primaries()[0]
    lost = names_on(whole, victim)
    victim.kill()
    async with open_store(whole.url(f"prefix={prefix_of(store)}")) as other:
        assert "store_config_unchecked" in events_logged(caplog)
        assert await failing(other) <= lost
        assert other._client.durability.replicas == 1  # type: ignore[attr-defined]
        await until(lambda: is_whole(other), HEALED_SECONDS)
    victim.start()


async def test_a_share_without_its_replica_delays_no_write_of_another(whole: valkey.Cluster, store: Store) -> None:
    """Its own writes wait for the replica that has gone; those of the others are acknowledged meanwhile."""
    victim = whole.primaries()[0]
    new = [f"new-{number}" for number in range(50)]
    lame = [name for name in new if whole.owner(slot_of(name)) is victim]
    well = [name for name in new if name not in lame]
    replica = whole.replica_of(victim)
    replica.kill()
    tracker = tracker_on(store)
    waiting = asyncio.ensure_future(tracker.apply(creation(lame[0])))
    for name in well[:3]:
        assert (await tracker.apply(creation(name))).version == 1
    assert not waiting.done()
    with pytest.raises(StoreUnavailable):
        await waiting
    replica.start()
    whole.wait()


def prefix_of(store: Any) -> str:
    return str(store._keys[0]).partition(":")[0]


async def test_a_slot_that_nobody_has_fails_alone(whole: valkey.Cluster, store: Store) -> None:
    """Its jobs have the error until a node owns it again; other jobs are not affected."""
    slot = slot_of(NAMES[2])
    gone = {name for name in NAMES if slot_of(name) == slot}
    owner = whole.owner(slot)
    for server in whole.primaries():
        server.command("CLUSTER", "DELSLOTS", slot)
    assert await failing(store) == gone
    assert (await store.commit([change(job(name, version=2), replaces=1) for name in NAMES])).keys() == gone
    owner.command("CLUSTER", "ADDSLOTS", slot)
    await until(lambda: is_whole(store), HEALED_SECONDS)


async def is_whole(store: Store) -> bool:
    return not await failing(store)


async def takes_writes(store: Store, names: set[str]) -> bool:
    """Write the next version of each of these; whether all were acknowledged."""
    found = await store.read_jobs(sorted(names), with_results=False)
    jobs = [item for item in found if isinstance(item, Job)]
    steps = [change(job(item.job_id, version=item.version + 1), replaces=item.version) for item in jobs]
    return len(jobs) == len(names) and await store.commit(steps) == {}


async def test_a_primary_that_freezes_is_overruled_when_it_wakes(whole: valkey.Cluster, store: Store) -> None:
    """Its silence is waited for once; after another has taken over, it is not believed that it still has its jobs."""
    frozen = whole.primaries()[1]
    names = names_on(whole, frozen)
    replica = whole.replica_of(frozen)
    frozen.send(signal.SIGSTOP)
    try:
        await failing(store)
        began = time.monotonic()
        for _ in range(50):
            await failing(store)
        assert time.monotonic() - began < 3.0
        await until(lambda: is_whole(store), HEALED_SECONDS)
        # Without its replica's replica a write is not acknowledged, but it happens.
        await store.commit([change(job(name, version=2), replaces=1) for name in names])
        assert replica.info("role") == "master"
    finally:
        frozen.send(signal.SIGCONT)
    for _ in range(200):
        found = await store.read_jobs(sorted(names), with_results=False)
        assert {item.version for item in found if isinstance(item, Job)} <= {2}
    whole.wait()
    await until(lambda: takes_writes(store, names))


async def test_what_was_read_before_another_took_over_is_not_confirmed(whole: valkey.Cluster, store: Store) -> None:
    """The new primary may have less than was read, so nothing is confirmed for a while."""
    victim = whole.primaries()[2]
    name = min(names_on(whole, victim))
    assert await store.confirm([name]) == {}
    victim.kill()
    await until(lambda: is_whole(store), HEALED_SECONDS)
    victim.start()
    assert isinstance((await store.confirm([name]))[name], StoreUnavailable)
    await until(lambda: is_confirmed(store, name), HEALED_SECONDS)


async def is_confirmed(store: Store, name: str) -> bool:
    return not await store.confirm([name])


async def test_only_a_write_that_a_replica_has_survives_its_primary(whole: valkey.Cluster, store: Store) -> None:
    """Without its replica a primary's write is not acknowledged; where no replica is required it is, and is lost.

    The second half is what makes the first one worth its price, and shows that this test can tell them apart.
    """
    primary = whole.owner(slot_of(NAMES[0]))
    name, other = sorted(names_on(whole, primary))[:2]
    replica = whole.replica_of(primary)
    async with open_store(whole.url(f"prefix={prefix_of(store)}"), redis_replicas=0) as careless:
        replica.kill()
        assert (await store.commit([change(job(name, version=2), replaces=1)])).keys() == {name}
        assert await careless.commit([change(job(other, version=2), replaces=1)]) == {}
        primary.kill()
        replica.start()
        await until(lambda: replica.command("CLUSTER", "FAILOVER", "TAKEOVER") == b"OK")  # as an operator would
        await until(lambda: is_whole(store), HEALED_SECONDS)
        await until(lambda: is_whole(careless))
        assert await careless.read_jobs([name, other], with_results=False) == [job(name), job(other)]
    primary.start()


async def test_a_slot_moves_key_by_key(whole: valkey.Cluster, store: Store) -> None:
    """Reads never fail on the way; writes are refused as uncertain until it is over. Nothing is taken for gone."""
    slot = slot_of(NAMES[0])
    moving = {name for name in NAMES if slot_of(name) == slot}
    source = whole.owner(slot)
    target = next(server for server in whole.primaries() if server is not source)
    ids = {server: server.command("CLUSTER", "MYID") for server in (source, target)}
    target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
    source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])

    jobs_first = sorted(source.command("CLUSTER", "GETKEYSINSLOT", slot, 1000), key=lambda key: b":job:" not in key)
    migrate(source, target, jobs_first[:2])
    began = time.monotonic()
    assert not await takes_writes(store, moving)
    assert time.monotonic() - began < IN_TIME_SECONDS
    assert await failing(store) == set()
    assert moving.isdisjoint(await store.due(10**13, 1000))  # left out, and not dropped either, see below
    migrate(source, target, jobs_first[2:])
    assert await failing(store) == set()  # the one sends us to the other, which does not have the slot yet

    for server in (target, source, *whole.primaries()):
        server.command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
    assert whole.owner(slot) is target
    assert await failing(store) == set()
    await until(lambda: takes_writes(store, moving))
    await all_is_indexed(store)


async def all_is_indexed(store: Store) -> None:
    assert sorted(await store.due(10**13, 1000)) == sorted(NAMES)
    assert len((await store.list_page(Listing(limit=1000), 0)).jobs) == len(NAMES)
    assert (await store.count_jobs()).by_state[JobState.PENDING] == len(NAMES)


async def test_a_slot_moves_at_once(whole: valkey.Cluster, store: Store) -> None:
    """Where servers can hand a slot over in one step, reads and writes follow it and hardly any write is uncertain."""
    slot = slot_of(NAMES[1])
    moving = {name for name in NAMES if slot_of(name) == slot}
    source = whole.owner(slot)
    target = next(server for server in whole.primaries() if server is not source)
    identity = target.command("CLUSTER", "MYID")
    assert source.command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", identity) == b"OK"
    async with asyncio.timeout(60):
        while whole.owner(slot) is not target or not await takes_writes(store, moving):
            await takes_writes(store, moving)
            assert await failing(store) == set()
    await all_is_indexed(store)


def migrate(source: valkey.Server, target: valkey.Server, keys: Sequence[bytes]) -> None:
    """As an operator's tools do it."""
    assert source.command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys) == b"OK"


async def test_any_server_of_the_url_leads_to_all(whole: valkey.Cluster, store: Store) -> None:
    """One server that answers is enough to find the others, also a replica, and one that does not answer is no harm."""
    replica = next(server for server in whole.servers if server not in whole.primaries())
    nobody = valkey.Server()
    hosts = f"127.0.0.1:{nobody.port},127.0.0.1:{replica.port}"
    async with open_store(f"redis://{hosts}?prefix={prefix_of(store)}") as other:
        assert await versions(other) == {1}
    nobody.remove()
