"""Every kind of fault of a server: each call fails in time, no answer is false, and the store recovers by itself."""

import asyncio
import random
import re
import signal
import time
from collections.abc import Sequence
from typing import Any

import pytest
from harness import valkey
from harness.stores import change, deletion, job
from harness.waiting import until
from jobstatus.core.errors import StoreFull, StoreUnavailable
from jobstatus.core.job import Job, JobState
from jobstatus.core.store import Answer, Change, Listing, Store
from jobstatus.core.virtual_keys import VirtualKey
from jobstatus.stores import open_store
from jobstatus.stores.redis.cluster.durability import MISSED_MS
from jobstatus.stores.redis.cluster.limits import ClusterLimits

IN_TIME_SECONDS = 25.0
"""Within what time every operation ends, whatever happens."""
KEY = VirtualKey(virtual_key_id="vk-1", key_sha256=(), created_at_ms=1, updated_at_ms=1)
MIB = 1024 * 1024


def completed(job_id: str, result: bytes, **fields: object) -> Change:
    """The step to the end of a new job."""
    return change(job(job_id, state=JobState.COMPLETED, result=result, due_at_ms=None, expires_at_ms=10**13, **fields))


async def works(store: Store) -> bool:
    """Whether the store writes and reads."""
    (found,) = await store.read_jobs(["again"], with_results=False)
    if isinstance(found, StoreUnavailable):
        return False
    version = found.version if isinstance(found, Job) else 0
    return await store.commit([change(job("again", version=version + 1), replaces=version)]) == {}


async def all_fail(store: Store) -> None:
    """Every operation says in time that the store does not answer, where its port wants it said."""
    began = time.monotonic()
    (answer,) = await store.read_answers(["job-1"])
    assert isinstance(answer, StoreUnavailable)
    (found,) = await store.read_jobs(["job-1"], with_results=True)
    assert isinstance(found, StoreUnavailable)
    not_done = await store.commit([change(job("new"))])
    assert isinstance(not_done["new"], StoreUnavailable)
    assert isinstance((await store.confirm(["job-1"]))["job-1"], StoreUnavailable)
    assert await store.changed({"job-1": 7}) == {}
    for operation in (
        store.try_lead("me", 1000),
        store.due(0, 10),
        store.purge(0, 10),
        store.list_page(Listing(limit=10), 0),
        store.count_jobs(),
        store.probe(),
        store.read_virtual_keys(["vk-1"]),
        store.find_virtual_keys([b""]),
        store.put_virtual_key(KEY),
        store.disable_virtual_key("vk-1", 2),
        store.delete_virtual_key("vk-1"),
        store.list_virtual_keys("", 10),
        store.virtual_keys_version(),
    ):
        with pytest.raises(StoreUnavailable):
            await operation
    assert time.monotonic() - began < IN_TIME_SECONDS


async def test_a_server_that_was_killed_is_missed_at_once_and_found_again(server: valkey.Server, store: Store) -> None:
    """Without a server every operation fails in time; with it, all that was acknowledged is there."""
    assert await store.commit([change(job())]) == {}
    server.kill()
    await all_fail(store)
    server.start()
    await until(lambda: works(store))
    assert await store.read_jobs(["job-1"], with_results=True) == [job()]


async def test_a_server_that_is_frozen_holds_up_nobody_for_long(server: valkey.Server, store: Store) -> None:
    """Its silence is waited for once; it is served again soon after it has woken up."""
    assert await store.commit([change(job())]) == {}
    server.send(signal.SIGSTOP)
    began = time.monotonic()
    (answer,) = await store.read_answers(["job-1"])
    assert isinstance(answer, StoreUnavailable)
    assert time.monotonic() - began < IN_TIME_SECONDS
    for _ in range(20):  # they fail at once: the server is known not to answer
        await all_fail(store)
    assert time.monotonic() - began < 2 * IN_TIME_SECONDS
    server.send(signal.SIGCONT)
    await until(lambda: works(store), IN_TIME_SECONDS)


async def test_many_callers_wait_for_a_frozen_server_no_longer_than_one(server: valkey.Server, store: Store) -> None:
    """With more callers than connections every call still fails in time."""
    server.send(signal.SIGSTOP)
    began = time.monotonic()
    answers = await asyncio.gather(*(store.read_answers([f"job-{number}"]) for number in range(200)))
    assert all(isinstance(answer, StoreUnavailable) for (answer,) in answers)
    assert time.monotonic() - began < IN_TIME_SECONDS
    server.send(signal.SIGCONT)
    await until(lambda: works(store), IN_TIME_SECONDS)


async def test_connections_that_the_server_has_closed_are_not_used(server: valkey.Server, store: Store) -> None:
    """A server that closes idle connections causes no error."""
    for number in range(5):
        assert await store.commit([change(job(f"job-{number}"))]) == {}
        server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until(lambda: all(not connection.is_open for connection in idle_connections(store)))
        assert await store.read_jobs([f"job-{number}"], with_results=False) == [job(f"job-{number}")]


def idle_connections(store: Any) -> list[Any]:
    return [connection for node in store._nodes.primaries() for connection in node._idle]


async def test_a_full_server_says_so_and_can_be_emptied(server: valkey.Server, store: Store) -> None:
    """Without room a write is refused as StoreFull and leaves nothing; reads, deletions and purges go on."""
    big = b"x" * (2 * MIB)
    kept = [completed(f"kept-{number}", big) for number in range(4)]
    assert await store.commit(kept) == {}
    expired = change(job("expired", state=JobState.FAILED, due_at_ms=None, expires_at_ms=5))
    assert await store.commit([expired]) == {}
    server.command("CONFIG", "SET", "maxmemory", int(server.info("used_memory")) - MIB)
    refused = await store.commit([completed("new", big), change(job("also-new"))])
    assert {type(error) for error in refused.values()} == {StoreFull}
    with pytest.raises(StoreFull):
        await store.put_virtual_key(KEY)
    with pytest.raises(StoreFull):
        await store.probe()
    assert await store.read_jobs(["new", "also-new"], with_results=False) == [None, None]
    assert isinstance((await store.read_answers(["kept-1"]))[0], Answer)
    assert await store.purge(10, 10) == 1
    assert await store.commit([deletion("kept-1", replaces=1), deletion("kept-2", replaces=1)]) == {}
    await until(lambda: works(store))
    assert (await store.count_jobs()).by_state == {
        JobState.PENDING: 1,
        JobState.PROCESSING: 0,
        JobState.COMPLETED: 2,
        JobState.FAILED: 0,
    }


async def test_a_server_that_must_not_write_is_one_that_does_not_answer_writes(
    server: valkey.Server, store: Store
) -> None:
    """A primary that was made a replica, or has too few replicas: writes fail, reads go on, and the store recovers."""
    await store.commit([change(job())])
    nobody = valkey.Server().start()
    for wrong, right in (
        (("REPLICAOF", "127.0.0.1", nobody.port), ("REPLICAOF", "NO", "ONE")),
        (("CONFIG", "SET", "min-replicas-to-write", 1), ("CONFIG", "SET", "min-replicas-to-write", 0)),
    ):
        server.command(*wrong)
        not_done = await store.commit([change(job("new"))])
        assert isinstance(not_done["new"], StoreUnavailable)
        with pytest.raises(StoreUnavailable):
            await store.put_virtual_key(KEY)
        server.command(*right)
        await until(lambda: works(store))
    nobody.remove()


async def test_scripts_that_a_server_forgets_are_taught_anew(server: valkey.Server, store: Store) -> None:
    """After SCRIPT FLUSH the next write is as good as any, also when many come at once."""
    server.command("SCRIPT", "FLUSH")
    assert await store.commit([change(job(f"job-{number}")) for number in range(200)]) == {}
    server.command("SCRIPT", "FLUSH")
    together = [store.commit([change(job(f"more-{number}"))]) for number in range(50)]
    assert await asyncio.gather(*together) == [{}] * 50


async def test_a_write_that_too_few_replicas_have_is_not_acknowledged(server: valkey.Server) -> None:
    """Where a replica is required and there is none, no write is acknowledged, nor one that repeats it; reads go on."""
    async with open_store(server.url(), redis_replicas=1) as store:
        began = time.monotonic()
        not_done = await store.commit([change(job("one")), change(job("two"))])
        assert [type(error) for error in not_done.values()] == [StoreUnavailable] * 2
        assert (await store.read_jobs(["one"], with_results=False)) == [job("one")]  # it happened, for all we know
        assert isinstance((await store.confirm(["one"]))["one"], StoreUnavailable)
        with pytest.raises(StoreUnavailable):
            await store.probe()
        with pytest.raises(StoreUnavailable):
            await store.put_virtual_key(KEY)
        assert time.monotonic() - began < IN_TIME_SECONDS
        replica = valkey.Server().start()
        try:
            replica.command("REPLICAOF", "127.0.0.1", server.port)
            await until(lambda: works(store))
            assert await store.confirm(["one"]) == {}
        finally:
            replica.remove()


async def test_reads_do_not_prolong_the_wait_for_replicas_that_were_missed(server: valkey.Server) -> None:
    """After a write that no replica has confirmed the next ones wait for less, also when jobs are read in between."""
    async with open_store(server.url(), redis_replicas=1) as store:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"MONITOR\r\n")
        assert await reader.readline() == b"+OK\r\n"
        for name in ("one", "two", "three"):
            assert (await store.commit([change(job(name))])).keys() == {name}
            await store.read_jobs([name], with_results=False)
        server.command("ECHO", "the end")
        seen = await reader.readuntil(b"the end")
        writer.close()
        await writer.wait_closed()
    waits = [int(ms) for ms in re.findall(rb'"WAIT" "1" "(\d+)"', seen)]
    assert waits[0] == ClusterLimits().durable_ms
    assert waits[-3:] == [MISSED_MS] * 3  # the first write is sent again, with its script


async def test_what_was_read_from_a_server_that_was_started_anew_is_not_confirmed(
    server: valkey.Server, store: Store
) -> None:
    """What was read from a server that ended may be lost with it, so nothing is confirmed for a while."""
    await store.commit([change(job())])
    assert await store.confirm(["job-1"]) == {}
    server.kill()
    server.start()
    await until(lambda: works(store))
    assert isinstance((await store.confirm(["job-1"]))["job-1"], StoreUnavailable)
    await until(lambda: is_confirmed(store, "job-1"))


async def is_confirmed(store: Store, job_id: str) -> bool:
    return not await store.confirm([job_id])


async def test_a_log_that_is_switched_off_is_noticed_at_the_next_write(server: valkey.Server, store: Store) -> None:
    """A write whose sync cannot be waited for any more is not acknowledged, until the server's INFO was read again."""
    assert await store.commit([change(job("before"))]) == {}
    server.command("CONFIG", "SET", "appendonly", "no")
    not_done = await store.commit([change(job("during"))])
    assert isinstance(not_done["during"], StoreUnavailable)
    server.command("CONFIG", "SET", "appendonly", "yes")
    await until(lambda: works(store))


async def test_no_answer_goes_to_another_caller_when_callers_are_cancelled(store: Store) -> None:
    """Of thousands of reads and writes cancelled at any moment, none is answered with what another had asked for."""
    chance = random.Random(3)
    names = [f"job-{number}" for number in range(300)]
    await store.commit([completed(name, name.encode() * chance.choice([1, 50, 3000])) for name in names])

    async def read(wanted: Sequence[str]) -> int:
        for name, answer in zip(wanted, await store.read_answers(wanted), strict=True):
            assert isinstance(answer, Answer)
            assert name.encode() in answer.body
        jobs = await store.read_jobs(wanted, with_results=True)
        assert [found.job_id for found in jobs if isinstance(found, Job)] == list(wanted)
        assert all(isinstance(found, Job) and (found.result or b"").startswith(found.job_id.encode()) for found in jobs)
        return len(wanted)

    async def write(number: int) -> int:
        await store.commit([change(job(f"written-{number}"))])
        return 0

    answered = 0
    for number in range(200):
        tasks = [asyncio.create_task(read(chance.sample(names, chance.randrange(1, 20)))) for _ in range(15)]
        tasks.append(asyncio.create_task(write(number)))
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
        for task in chance.sample(tasks, 8):
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(item, int | asyncio.CancelledError) for item in outcomes), outcomes
        answered += sum(item for item in outcomes if isinstance(item, int))
    assert answered > 1000


async def test_large_results_take_the_time_they_need(store: Store) -> None:
    """A batch of the largest results is written and read back whole."""
    large = {f"large-{number}": random.Random(number).randbytes(16 * MIB) for number in range(2)}
    assert await store.commit([completed(name, result) for name, result in large.items()]) == {}
    found = await store.read_jobs(list(large), with_results=True)
    assert [isinstance(item, Job) and item.result for item in found] == list(large.values())
    (answer, _) = await store.read_answers(list(large))
    assert isinstance(answer, Answer)
    assert (answer.result_size, answer.result) == (16 * MIB, None)
