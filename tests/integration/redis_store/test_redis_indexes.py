"""What lies in the keyspace: everything of a job together, memory that comes back by itself, indexes that mend."""

from typing import Any

import pytest
from harness import valkey
from harness.stores import change, deletion, job
from harness.waiting import until
from jobstatus.core.job import Job, JobState, RequestType
from jobstatus.core.store import SMALL_RESULT_BYTES, Change, Listing, Place, Store, answer_of
from jobstatus.stores import open_store
from jobstatus.stores.redis.encoding import TTL_SLACK_MS
from jobstatus.stores.redis.keys import BUCKETS, SLOTS, Keys, bucket_of, slot_of_tag
from jobstatus.stores.redis.listing import ListingLimits
from jobstatus.stores.redis.store import RedisJobStore, RedisLimits

NOW = 10**13


def key_of(job_id: str) -> bytes:
    return Keys("jobstatus").buckets[bucket_of(job_id.encode())].job_prefix + job_id.encode()


def ended(job_id: str, *, expires_at_ms: int = NOW, **fields: Any) -> Change:
    """The step to the failure of a new job."""
    return change(job(job_id, state=JobState.FAILED, due_at_ms=None, expires_at_ms=expires_at_ms, **fields))


async def count(store: Store) -> int:
    return sum((await store.count_jobs()).by_state.values())


async def listed(store: Store) -> list[str]:
    return [found.job_id for found in (await store.list_page(Listing(limit=1000), 0)).jobs]


def test_buckets_lie_evenly_over_all_slots() -> None:
    """Each of the 64 has a share of the slots to itself, so any number of primaries gets as many as the others."""
    buckets = Keys("p").buckets
    assert [bucket.slot * BUCKETS // SLOTS for bucket in buckets] == list(range(BUCKETS))
    assert slot_of_tag("123456789") == 0x31C3 % SLOTS  # the check value of this CRC
    spread = [bucket_of(f"job-{number}".encode()) for number in range(64_000)]
    assert max(spread.count(bucket) for bucket in range(BUCKETS)) < 1200


async def test_all_keys_of_a_job_are_in_one_slot() -> None:
    """Also for ids that look like hash tags: the server agrees with us on where each key is."""
    server = valkey.cluster().servers[0]
    keys = Keys("jobstatus")
    for bucket in keys.buckets:
        slots = {
            *(server.command("CLUSTER", "KEYSLOT", key) for key in (*bucket.indexes, bucket.confirmed, bucket.sweeper)),
            *(server.command("CLUSTER", "KEYSLOT", bucket.job_prefix + job_id) for job_id in (b"job", b"{x}")),
        }
        assert slots == {bucket.slot}
    assert server.command("CLUSTER", "KEYSLOT", keys.of_virtual_keys + "ids") == keys.slot_of_virtual_keys


async def test_a_job_that_has_ended_has_a_ttl_and_no_other_has(server: valkey.Server, store: Store) -> None:
    """The server drops a job a day after its time, whatever our clock says, and never one that has not ended."""
    await store.commit([change(job("a")), change(job("b"))])
    assert server.command("PTTL", key_of("a")) == -1
    finished = job("a", version=2, state=JobState.FAILED, due_at_ms=None, expires_at_ms=5, result_ttl_ms=100_000)
    await store.commit([change(finished, replaces=1)])
    assert TTL_SLACK_MS + 90_000 < server.command("PTTL", key_of("a")) <= TTL_SLACK_MS + 100_000
    assert server.command("PTTL", key_of("b")) == -1


async def test_a_large_result_is_not_read_along(server: valkey.Server, store: Store) -> None:
    """It lies in a field of its own, and a poll asks for the other one."""
    for name, size in (("small", SMALL_RESULT_BYTES), ("large", SMALL_RESULT_BYTES + 1)):
        done = job(name, state=JobState.COMPLETED, result=b"x" * size, due_at_ms=None, expires_at_ms=NOW)
        await store.commit([change(done)])
        assert server.command("HEXISTS", key_of(name), f"{name}_result") == 1
    before = int(server.info("total_net_output_bytes"))
    await store.read_answers(["large"] * 50)
    assert int(server.info("total_net_output_bytes")) - before < 50 * SMALL_RESULT_BYTES


async def test_what_the_server_dropped_is_purged_from_the_indexes(server: valkey.Server, store: Store) -> None:
    """A job whose TTL came first is counted until the sweep, is in no listing, and leaves nothing behind."""
    await store.commit([ended("gone"), ended("kept"), change(job("running"))])
    server.command("PEXPIRE", key_of("gone"), 1)
    await until(lambda: server.command("EXISTS", key_of("gone")) == 0)
    assert await listed(store) == ["running", "kept"]
    assert await store.purge(NOW, 10) == 2
    assert await count(store) == 1
    await store.commit([deletion("running", replaces=1)])
    assert left_over(server) == set()


def left_over(server: valkey.Server) -> set[bytes]:
    """All keys but those that are written to see whether writes work."""
    return {key for key in server.command("KEYS", "*") if not key.endswith((b":confirmed", b":sweeper"))}


async def test_a_new_job_in_the_place_of_one_that_the_server_dropped_is_counted_once(
    server: valkey.Server, store: Store
) -> None:
    """The entries of the old one do not lead to the new one, which is not purged at the old one's time."""
    await store.commit([ended("again")])
    server.command("PEXPIRE", key_of("again"), 1)
    await until(lambda: server.command("EXISTS", key_of("again")) == 0)
    assert await store.commit([change(job("again", created_at_ms=2000))]) == {}
    assert (await store.count_jobs()).by_state == dict.fromkeys(JobState, 0) | {JobState.PENDING: 1}
    assert await store.purge(NOW, 10) == 0
    assert await listed(store) == ["again"]


async def test_a_job_that_somebody_deleted_by_hand_is_dropped_from_the_indexes(
    server: valkey.Server, store: Store
) -> None:
    """It is neither listed nor due, and no longer counted once the sweep has come by."""
    await store.commit([change(job("gone", due_at_ms=5)), change(job("kept", due_at_ms=6))])
    server.command("DEL", key_of("gone"))
    assert await listed(store) == ["kept"]
    assert await store.due(10, 10) == ["kept"]
    assert await count(store) == 1


async def test_indexes_follow_every_step_of_a_job(server: valkey.Server, store: Store) -> None:
    """From creation to deletion a job is in the one index of its state; then nothing of it is left."""
    steps = [
        job(due_at_ms=10),
        job(version=2, due_at_ms=20),
        job(version=3, due_at_ms=30, state=JobState.PROCESSING),
        job(version=4, due_at_ms=None, expires_at_ms=40, state=JobState.COMPLETED, result=b"{}"),
    ]
    for version, step in enumerate(steps):
        assert await store.commit([change(step, replaces=version)]) == {}
        assert (await store.count_jobs()).by_state == dict.fromkeys(JobState, 0) | {step.state: 1}
        assert await store.due((step.due_at_ms or 10**6) - 1, 10) == []
        assert await store.due(10**6, 10) == ([] if step.is_terminal else ["job-1"])
    assert await store.commit([deletion("job-1", replaces=4)]) == {}
    assert left_over(server) == set()


async def test_a_job_that_is_created_again_during_a_listing_is_not_at_its_place_of_before(
    server: valkey.Server, store: Store
) -> None:
    """The page stays in order. Here the index has the place that a listing has read a moment ago."""
    await store.commit([change(job(name, created_at_ms=number)) for number, name in enumerate("abc", start=1)])
    server.command("ZADD", Keys("jobstatus").buckets[bucket_of(b"c")].indexes[0], 1, "c")
    assert await listed(store) == ["b", "a"]


async def test_pages_without_a_filter_are_whole_where_many_jobs_have_one_time(store: Store) -> None:
    """Each job is listed once, in order, also where a bucket has more jobs of a moment than a page looks at."""
    jobs = [job(f"job-{number:04}", created_at_ms=1000 + number // 800) for number in range(1000)]
    gone = [ended(f"gone-{number:04}", expires_at_ms=5, created_at_ms=1000 + number % 2) for number in range(100)]
    await store.commit([*map(change, jobs), *gone])
    for after, until_ms in ((None, None), (None, 1001), (1001, None)):
        found, before = list[Job](), None
        while True:
            wanted = Listing(limit=10, before=before, created_after_ms=after, created_before_ms=until_ms)
            page = await store.list_page(wanted, 10)
            assert len(page.jobs) <= 10
            found += page.jobs
            if page.next_before is None:
                break
            assert before is None or page.next_before < before
            before = page.next_before
        newest_first = sorted(jobs, key=lambda item: (item.created_at_ms, item.job_id), reverse=True)
        assert found == [item for item in newest_first if (after or 0) <= item.created_at_ms < (until_ms or 2000)]


async def test_a_job_without_a_time_is_never_due_nor_purged(store: Store) -> None:
    """What has no time to wake at stays until it is changed."""
    await store.commit([change(job("a", due_at_ms=None)), change(job("b", state=JobState.FAILED, due_at_ms=None))])
    assert await store.due(10**15, 10) == []
    assert await store.purge(10**15, 10) == 0
    assert await count(store) == 2


async def test_purge_takes_no_more_than_it_may_over_all_buckets(store: Store) -> None:
    """Many expired jobs go in portions of the size asked for, until none is left."""
    await store.commit([ended(f"job-{number}", expires_at_ms=number) for number in range(1000)])
    portions = [await store.purge(899, 250) for _ in range(5)]
    assert portions == [250, 250, 250, 150, 0]
    assert await count(store) == 100


async def test_due_jobs_of_all_buckets_come_in_one_order(store: Store) -> None:
    """The longest due first, wherever they lie."""
    await store.commit([change(job(f"job-{at}", due_at_ms=at)) for at in range(1000)])
    assert await store.due(499, 300) == [f"job-{at}" for at in range(300)]


@pytest.mark.parametrize(("scans", "seconds"), [(100, 60), (3, 60), (3, 0), (100, 0)])
async def test_pages_of_a_listing_have_every_job_once(server: valkey.Server, scans: int, seconds: float) -> None:
    """Page by page, with many jobs of one moment, filters that pass few, and a few jobs scanned at a time.

    Also where a page ends as soon as each bucket was read once.
    """
    async with RedisJobStore(
        server.url(), limits=RedisLimits(listings=ListingLimits(max_scans=scans, page_seconds=seconds))
    ) as store:
        await assert_pages_have_every_job_once(store)


async def test_types_are_counted_part_by_part(server: valkey.Server) -> None:
    """Whatever the number of jobs in a bucket, which may be a multiple of those that are read at a time."""
    jobs = [job(f"job-{number}", request_type=list(RequestType)[number % 3]) for number in range(600)]
    async with RedisJobStore(server.url(), limits=RedisLimits(types_at_once=3)) as store:
        await store.commit([change(each) for each in jobs])
        expected = {(JobState.PENDING, request_type): 200 for request_type in list(RequestType)[:3]}
        assert await store.count_types() == expected


async def assert_pages_have_every_job_once(store: Store) -> None:
    jobs = [
        job(f"job-{number}", created_at_ms=number // 400, virtual_key_id=f"vk-{number % 97}") for number in range(1500)
    ]
    failed = [job(f"job-{number}", created_at_ms=2, state=JobState.FAILED, due_at_ms=None) for number in (3000, 2000)]
    jobs += failed
    await store.commit([change(item) for item in jobs])
    newest_first = sorted(jobs, key=lambda item: (item.created_at_ms, item.job_id), reverse=True)
    assert await all_pages(store, limit=170) == newest_first
    for wanted in ("vk-3", "vk-nobody"):
        expected = [item for item in newest_first if item.virtual_key_id == wanted]
        assert await all_pages(store, limit=5, virtual_key_id=wanted) == expected
    assert await all_pages(store, limit=5, states={JobState.FAILED}) == failed
    between = [item for item in newest_first if 1 <= item.created_at_ms < 3]
    assert await all_pages(store, limit=300, created_after_ms=1, created_before_ms=3) == between


async def all_pages(store: Store, **wanted: Any) -> list[Job]:
    """Return the pages one after the other, as a client reads them."""
    found: list[Job] = []
    before: Place | None = None
    while True:
        page = await store.list_page(Listing(before=before, **wanted), 0)
        assert len(page.jobs) <= wanted["limit"]
        found += page.jobs
        if page.next_before is None:
            return found
        assert before is None or page.next_before < before
        before = page.next_before


async def test_a_look_at_a_listing_is_short(server: valkey.Server, store: Store) -> None:
    """A filter that no job passes is applied in many short steps, none of which blocks the server."""
    await store.commit([change(job(f"job-{number}", created_at_ms=number)) for number in range(5000)])
    server.command("CONFIG", "RESETSTAT")
    assert await all_pages(store, limit=10, virtual_key_id="nobody") == []
    statistics = server.command("INFO", "commandstats").decode()
    calls = next(line for line in statistics.splitlines() if line.startswith("cmdstat_evalsha:"))
    facts = dict(part.split("=") for part in calls.partition(":")[2].split(","))
    assert int(facts["calls"]) >= BUCKETS
    assert float(facts["usec_per_call"]) < 10_000


async def test_a_job_of_an_earlier_version_is_answered(server: valkey.Server, store: Store) -> None:
    """Its hash does not say when the job ended; all else is there."""
    step = ended("job-1", status_code=500, completed_at_ms=2000)
    await store.commit([step])
    assert server.command("HDEL", key_of("job-1"), "ended_at_ms") == 1
    assert step.job is not None
    assert step.answer is not None
    assert await store.read_answers(["job-1"]) == [answer_of(step.job, step.answer)._replace(ended_at_ms=None)]


async def test_a_store_that_is_opened_again_has_what_it_had(server: valkey.Server) -> None:
    """Also after the server was killed: what was acknowledged was on its disk."""
    names = [f"job-{number}" for number in range(200)]
    async with open_store(server.url()) as store:
        assert await store.commit([change(job(name)) for name in names]) == {}
    server.kill()
    server.start()
    async with open_store(server.url()) as store:
        assert await store.read_jobs(names, with_results=True) == [job(name) for name in names]
        assert await count(store) == len(names)
