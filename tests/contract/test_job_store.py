"""What `core.store.JobStore` promises, on every store."""

import asyncio
import time
from collections import Counter
from typing import Any

import pytest
from harness.stores import change, deletion, job
from jobstatus.core.job import ErrorExtraFields, ErrorField, JobError, JobState, RequestType
from jobstatus.core.store import SMALL_RESULT_BYTES, Answer, Listing, Store, WorkerSigns

EVERY_FIELD = job(
    state=JobState.FAILED,
    version=7,
    virtual_key_id="vk-1",
    provider="openai",
    model_requested="whisper-1 ü \u2028",
    started_at_ms=1001,
    completed_at_ms=1002,
    expires_at_ms=9_999_999_999_999,
    due_at_ms=None,
    status_code=504,
    attempt=3,
    max_attempts=5,
    worker_id="worker-1",
    lease_ms=2000,
    lease_expires_at_ms=3001,
    progress=0.1,
    message="almost",
    last_writer="gateway ü",
    traceparent=f"00-{'a' * 32}-{'b' * 16}-01",
    error=JobError(
        event_id="e",
        type="t",
        is_bifrost_error=True,
        status_code=400,
        error=ErrorField(message="m 🎧", type="a", code="b", param="c", event_id="d", error="e"),
        extra_fields=ErrorExtraFields(
            provider="p", model_requested="m", request_type="r", original_model_requested="o", resolved_model_used="u"
        ),
    ),
)


async def test_a_job_comes_back_as_it_went_in(store: Store) -> None:
    """Every field of a job, set or absent, survives the store."""
    plain = job("job-2")
    assert await store.commit([change(EVERY_FIELD), change(plain)]) == {}
    assert await store.read_jobs(["job-2", "job-1"], with_results=True) == [plain, EVERY_FIELD]


async def test_the_last_writer_is_that_of_the_version(store: Store) -> None:
    """A version without one has none, whoever wrote those before it; the trace stays if the rules keep it."""
    first = job(last_writer="one", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
    second = first._replace(version=2, last_writer=None)
    third = second._replace(version=3, last_writer="two", traceparent=None)
    fourth = third._replace(version=4, last_writer=None)
    for replaced, following in enumerate((first, second, third, fourth)):
        assert await store.commit([change(following, replaced)]) == {}
        for with_results in (True, False):
            assert await store.read_jobs(["job-1"], with_results=with_results) == [following]


@pytest.mark.parametrize("result", [b"{}", bytes(range(256)), b"\0", b"x" * 2_000_000])
async def test_result_bytes_come_back_exactly(store: Store, result: bytes) -> None:
    """A result is bytes to a store, whatever they are; it is left out on request."""
    completed = job(state=JobState.COMPLETED, result=result, expires_at_ms=10**13, due_at_ms=None)
    await store.commit([change(completed)])
    assert await store.read_jobs(["job-1"], with_results=True) == [completed]
    assert await store.read_jobs(["job-1"], with_results=False) == [completed._replace(result=None)]


async def test_unknown_ids_read_as_none_in_their_places(store: Store) -> None:
    """Reads answer in the order asked for, None for what is not there, for any string and for an id asked twice."""
    await store.commit([change(job())])
    asked = ["", "nobody", "job-1", "'; DROP TABLE jobs; --", "*", "{x}", "job-1"]
    found = [None, None, job(), None, None, None, job()]
    assert await store.read_jobs(asked, with_results=True) == found
    assert [answer is not None for answer in await store.read_answers(asked)] == [item is not None for item in found]


@pytest.mark.parametrize("size", [0, 1, SMALL_RESULT_BYTES, SMALL_RESULT_BYTES + 1])
async def test_an_answer_has_what_a_poll_needs(store: Store, size: int) -> None:
    """An answer has owner, type, times and the rendered bytes; the result comes along while it is small."""
    completed = job(
        state=JobState.COMPLETED,
        virtual_key_id="vk-1",
        result=b"r" * size,
        completed_at_ms=2000,
        status_code=200,
        expires_at_ms=10**13,
        due_at_ms=None,
    )
    await store.commit([change(completed)])
    (answer,) = await store.read_answers(["job-1"])
    assert answer is not None
    assert answer == (
        "transcription",
        "vk-1",
        1000,
        10**13,
        2000,
        1,
        None,
        change(completed).answer,
        size,
        completed.result if size <= SMALL_RESULT_BYTES else None,
    )


@pytest.mark.parametrize(("status_code", "ended_at_ms"), [(500, 2000), (504, None), (499, None)])
async def test_an_answer_tells_when_the_worker_ended_the_job(
    store: Store, status_code: int, ended_at_ms: int | None
) -> None:
    """And nothing of a job that the service gave up or a client cancelled."""
    await store.commit([change(job(state=JobState.FAILED, status_code=status_code, completed_at_ms=2000))])
    (answer,) = await store.read_answers(["job-1"])
    assert isinstance(answer, Answer)
    assert answer.ended_at_ms == ended_at_ms


@pytest.mark.parametrize("progress", [0.0, 0.1, 1.0])
async def test_an_answer_tells_version_and_progress(store: Store, progress: float) -> None:
    """Progress comes back as the number that it was."""
    await store.commit([change(job(state=JobState.PROCESSING, version=12, progress=progress))])
    (answer,) = await store.read_answers(["job-1"])
    assert isinstance(answer, Answer)
    assert (answer.version, answer.progress) == (12, progress)


async def test_an_answer_of_a_job_without_result_says_so(store: Store) -> None:
    """A pending job's answer has no result and does not expire."""
    await store.commit([change(job())])
    (answer,) = await store.read_answers(["job-1"])
    assert isinstance(answer, Answer)
    assert (answer.expires_at_ms, answer.result_size, answer.result) == (None, None, None)


@pytest.mark.parametrize(
    ("stored", "attempted"),
    [
        (None, change(job(version=2), replaces=1)),
        (None, deletion("job-1", replaces=1)),
        (job(), change(job(provider="other"))),
        (job(version=2), change(job(version=2, provider="other"), replaces=1)),
        (job(version=2), change(job(version=4), replaces=3)),
        (job(version=2), deletion("job-1", replaces=1)),
    ],
)
async def test_a_change_of_another_version_is_lost_and_changes_nothing(
    store: Store, stored: Any, attempted: Any
) -> None:
    """A change that replaces a version other than the stored one is named as lost; the job stays as it was."""
    if stored is not None:
        await store.commit([change(stored)])
    assert await store.commit([attempted]) == {"job-1": None}
    assert await store.read_jobs(["job-1"], with_results=True) == [stored]


async def test_the_fitting_changes_of_a_batch_happen_though_others_are_lost(store: Store) -> None:
    """One commit inserts, updates and deletes what fits, and says which changes did not."""
    await store.commit([change(job(name)) for name in ("update", "late", "delete", "late-delete", "there")])
    lost = await store.commit(
        [
            change(job("insert")),
            change(job("there", provider="other")),
            change(job("update", version=2), replaces=1),
            change(job("late", version=3), replaces=2),
            deletion("delete", replaces=1),
            deletion("late-delete", replaces=2),
        ]
    )
    assert lost == dict.fromkeys(("there", "late", "late-delete"))
    names = ["insert", "there", "update", "late", "delete", "late-delete"]
    found = await store.read_jobs(names, with_results=True)
    assert found == [job("insert"), job("there"), job("update", version=2), job("late"), None, job("late-delete")]


async def test_of_many_who_replace_one_version_exactly_one_wins(store: Store) -> None:
    """Compare-and-set holds under concurrency: of fifty commits upon one version forty-nine are lost."""
    await store.commit([change(job())])
    rivals = [change(job(version=2, provider=str(number)), replaces=1) for number in range(50)]
    lost = await asyncio.gather(*(store.commit([rival]) for rival in rivals))
    (winner,) = [rival for rival, names in zip(rivals, lost, strict=True) if not names]
    assert await store.read_jobs(["job-1"], with_results=True) == [winner.job]


async def test_due_jobs_come_longest_due_first(store: Store) -> None:
    """`due` names jobs whose time has come, in its order, at most as many as asked for; terminal ones never."""
    jobs = [job(f"job-{at}", due_at_ms=at) for at in (40, 10, 30, 20)]
    ended = job("ended", state=JobState.FAILED, due_at_ms=None, expires_at_ms=5)
    await store.commit([change(item) for item in (*jobs, ended)])
    assert await store.due(9, 10) == []
    assert await store.due(30, 10) == ["job-10", "job-20", "job-30"]
    assert await store.due(30, 2) == ["job-10", "job-20"]


async def test_purge_frees_only_what_has_expired(store: Store) -> None:
    """`purge` removes jobs from the moment they expire, at most as many as asked for, and counts them."""
    ended = [job(f"job-{at}", state=JobState.FAILED, due_at_ms=None, expires_at_ms=at) for at in (10, 20, 30, 40)]
    await store.commit([change(item) for item in (*ended, job("running"))])
    assert await store.purge(9, 10) == 0
    assert await store.purge(30, 2) == 2
    assert await store.purge(30, 2) == 1
    left = await store.read_jobs(["job-10", "job-20", "job-30", "job-40", "running"], with_results=True)
    assert [item is not None for item in left] == [False, False, False, True, True]


_IN_WORDS = '"code":"lease_lost","worker_id":"w-2","status_code":500,"error":"x"'
LISTED = [
    job("a", created_at_ms=10),
    job("b", created_at_ms=20, virtual_key_id="vk-1", state=JobState.PROCESSING, worker_id="w-1", message=_IN_WORDS),
    job("c", created_at_ms=20, virtual_key_id="vk-1", request_type=RequestType.OCR),
    job(
        "d",
        created_at_ms=30,
        state=JobState.FAILED,
        due_at_ms=None,
        expires_at_ms=100,
        worker_id="w-10",
        status_code=422,
        error=JobError(
            error=ErrorField(message=_IN_WORDS, code='too "short" \\ ü', type="lease_lost"), status_code=502
        ),
    ),
    job("e", created_at_ms=40, state=JobState.COMPLETED, due_at_ms=None, expires_at_ms=200, result=b"1"),
]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, "edcba"),
        ({"now_ms": 99}, "edcba"),
        ({"now_ms": 100}, "ecba"),
        ({"now_ms": 200}, "cba"),
        ({"limit": 2}, "ed"),
        ({"states": {JobState.PENDING}}, "ca"),
        ({"states": {JobState.PENDING, JobState.FAILED}}, "dca"),
        ({"request_type": RequestType.OCR}, "c"),
        ({"virtual_key_id": "vk-1"}, "cb"),
        ({"virtual_key_id": "vk-2"}, ""),
        ({"created_after_ms": 20}, "edcb"),
        ({"created_before_ms": 20}, "a"),
        ({"created_after_ms": 20, "created_before_ms": 30}, "cb"),
        ({"worker_id": "w-1"}, "b"),
        ({"worker_id": "w-2"}, ""),
        ({"error_code": 'too "short" \\ ü'}, "d"),
        ({"error_code": "lease_lost"}, ""),
        ({"status_code": 422}, "d"),
        ({"status_code": 502}, ""),
        ({"status_code": 422, "worker_id": "w-10", "error_code": 'too "short" \\ ü'}, "d"),
        ({"before": (20, "c")}, "ba"),
        ({"before": (20, "b")}, "a"),
        ({"before": (30, "0")}, "cba"),
        ({"virtual_key_id": "vk-1", "states": {JobState.PROCESSING}, "before": (20, "c")}, "b"),
    ],
)
async def test_a_listing_has_what_it_asks_for_newest_first(store: Store, wanted: dict[str, Any], found: str) -> None:
    """Filters hold together, order is by time and id, and results are left out."""
    await store.commit([change(item) for item in LISTED])
    filters = {name: value for name, value in wanted.items() if name != "now_ms"}
    jobs, next_before = await store.list_page(Listing(**({"limit": 10} | filters)), wanted.get("now_ms", 0))
    expected = [item._replace(result=None) for name in found for item in LISTED if item.job_id == name]
    assert jobs == expected
    assert next_before == ((30, "d") if wanted == {"limit": 2} else None)


async def test_jobs_are_counted_by_state(store: Store) -> None:
    """Every state is counted, also one that no job has."""
    await store.commit([change(item) for item in LISTED])
    assert (await store.count_jobs()).by_state == {
        JobState.PENDING: 2,
        JobState.PROCESSING: 1,
        JobState.COMPLETED: 1,
        JobState.FAILED: 1,
    }


async def test_a_count_tells_how_long_jobs_wait(store: Store) -> None:
    """The oldest pending job, whatever its timeout, and the lease that ended first; a job without one is its start."""
    empty = await store.count_jobs()
    assert (empty.oldest_created_ms, empty.leased_until_ms) == (None, None)
    ended = job("ended", created_at_ms=1, started_at_ms=2, due_at_ms=None, expires_at_ms=9000, state=JobState.COMPLETED)
    await store.commit([change(ended)])
    assert (await store.count_jobs())[1:] == (None, None)
    await store.commit([change(job("young", created_at_ms=3000, due_at_ms=4000)), change(job("old", due_at_ms=50_000))])
    leased = {"state": JobState.PROCESSING, "created_at_ms": 10, "started_at_ms": 20, "lease_ms": 500}
    await store.commit([change(job("early", lease_expires_at_ms=7000, **leased))])
    await store.commit([change(job("late", lease_expires_at_ms=8000, due_at_ms=60, **leased))])
    assert (await store.count_jobs())[1:] == (1000, 7000)
    assert (await store.count_jobs(leases_count_from_ms=6400))[1:] == (1000, 7000)
    assert (await store.count_jobs(leases_count_from_ms=7100))[1:] == (1000, 7600)
    await store.commit([change(job("unleased", state=JobState.PROCESSING, created_at_ms=10, started_at_ms=6000))])
    assert (await store.count_jobs(leases_count_from_ms=7100))[1:] == (1000, 6000)
    await store.commit([deletion("unleased", 1), deletion("early", 1), deletion("old", 1)])
    assert (await store.count_jobs())[1:] == (3000, 8000)


async def test_jobs_are_counted_by_state_and_type(store: Store) -> None:
    """Each pair that has jobs is there with their number."""
    assert await store.count_types() == {}
    await store.commit([change(item) for item in LISTED])
    assert await store.count_types() == Counter((item.state, item.request_type) for item in LISTED)


async def test_the_signs_of_workers_are_those_of_the_latest_lease(store: Store) -> None:
    """When one was heard last, until when one is on time, and how many jobs have no lease; ended jobs do not count."""
    assert await store.worker_signs() == WorkerSigns(None, None, 0)
    running = {"state": JobState.PROCESSING, "created_at_ms": 10, "started_at_ms": 20}
    jobs = (
        job("short", lease_ms=1000, lease_expires_at_ms=9000, due_at_ms=9000, **running),
        job("long", lease_ms=10_000, lease_expires_at_ms=17_000, due_at_ms=17_000, **running),
        job("unleased", due_at_ms=90_000, **running),
        job("waiting", due_at_ms=99_000),
    )
    await store.commit([change(each) for each in jobs])
    assert await store.worker_signs() == WorkerSigns(8000, 11_000, 1)


async def test_a_cancelled_commit_happens_wholly_or_not_at_all(store: Store) -> None:
    """A caller that goes away while a commit is under way neither tears it nor harms the next one."""
    for number in range(20):
        batch = [change(job(f"{number}-{name}")) for name in "abc"]
        task = asyncio.create_task(store.commit(batch))
        for _ in range(number % 4):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.commit([change(job(f"{number}-after"))])
        found = await store.read_jobs([item.job_id for item in batch], with_results=True)
        assert len({item is None for item in found}) == 1
        assert await store.read_jobs([f"{number}-after"], with_results=True) != [None]


async def test_a_probe_of_a_sound_store_says_nothing(store: Store) -> None:
    """A store that can write can be probed again and again, and keeps its jobs."""
    await store.commit([change(job())])
    await store.probe()
    await store.probe()
    assert await store.read_jobs(["job-1"], with_results=True) == [job()]


async def test_what_was_read_can_be_confirmed(store: Store) -> None:
    """On a sound store all that was read is certain, jobs that are not there included."""
    await store.commit([change(job())])
    assert await store.confirm(["job-1", "nobody"]) == {}


async def test_a_look_for_changes_tells_versions_and_nothing_that_is_as_it_was(store: Store) -> None:
    """Jobs at the given version are left out, and no versions may be given."""
    await store.commit([change(job(version=3))])
    assert await store.changed({}) == {}
    assert await store.changed({"job-1": 3, "nobody": 0}) == {}


async def test_a_claim_tells_the_time_of_the_store(store: Store, request: pytest.FixtureRequest) -> None:
    """Whether the caller leads, does not, or resigns. A file and this process's memory have no clock of their own."""
    has_clock = request.node.callspec.params["store"] not in ("memory", "sqlite")
    for holder, for_ms in (("one", 60_000), ("two", 60_000), ("one", 0)):
        told_ms = (await store.try_lead(holder, for_ms)).now_ms
        assert (told_ms is not None) is has_clock
        assert told_ms is None or abs(told_ms / 1000 - time.time()) < 60  # the server is on this machine


async def test_one_holder_sweeps_until_it_gives_up(store: Store) -> None:
    """Of two who claim the sweep the first has it, again and again, and the second once it was given back."""
    assert (await store.try_lead("one", 60_000)).leads
    assert not (await store.try_lead("two", 60_000)).leads
    assert (await store.try_lead("one", 60_000)).leads
    await store.try_lead("one", 0)
    assert (await store.try_lead("two", 60_000)).leads
