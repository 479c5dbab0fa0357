"""The SQLite store while disk, file or neighbours fail: what was acknowledged stays, and the store recovers."""

import asyncio
import os
import random
import shutil
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import apsw
import grpc
import pytest
from harness.faulty_vfs import Disk, Operation, faulty_disk
from harness.http import request
from harness.jobs import complete, create
from harness.logged import events_logged
from harness.service import Service, service_here
from harness.sqlite_files import (
    BATCHES,
    damaged,
    hooked,
    opened,
    own_file,
    still_open,
    strangers_file,
    strangers_file_with_a_log,
    tell_writers,
    truncated,
)
from harness.stores import change, job
from harness.tokens import admin_token, bearer
from harness.tracking import Clock, Ledger, completion, creation, integrity, missing, torn, tracker_on
from harness.waiting import until
from harness.wire import Refusal, refused
from jobstatus.core.errors import StoreFull, StoreUnavailable
from jobstatus.core.job import Job
from jobstatus.core.store import Listing
from jobstatus.core.tracker import JobTracker
from jobstatus.stores import StoreConfigError
from jobstatus.stores.sqlite import SQLiteJobStore
from jobstatus.stores.sqlite.limits import SQLiteLimits

UNAVAILABLE = Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
FULL = 2
CHECKPOINT_PAGES = 12
"""The log is moved into the file so early in these tests that every one of them goes through it several times."""


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A disk that fails when the test says so."""
    with faulty_disk() as faulty:
        yield faulty


@pytest.fixture
def connections() -> Iterator[list[apsw.Connection]]:
    """Every connection that is opened during the test."""
    every: list[apsw.Connection] = []
    with hooked(every.append):
        yield every


@pytest.fixture
def early_checkpoints() -> Iterator[None]:
    """Every connection of the test moves the log into the file long before it would by itself."""
    with hooked(lambda connection: connection.wal_autocheckpoint(CHECKPOINT_PAGES)):
        yield


def written(folder: Path, files: dict[str, bytes]) -> Path:
    """A new folder with these files; the path of the store in it."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder / "jobs.db"


async def lost_after(files: dict[str, bytes], acknowledged: dict[str, Job], folder: Path) -> list[str]:
    """What is missing when a service starts upon these files; whatever is there has to be whole."""
    path = written(folder, files)
    async with SQLiteJobStore(str(path)) as store:
        lost = await missing(store, acknowledged)
        assert not await torn(store, range(len(acknowledged)))
    assert integrity(path) == "ok"
    shutil.rmtree(folder)
    return lost


# --- a sync, a write, an open that fails ---


@pytest.mark.parametrize("nth", range(1, BATCHES))
async def test_a_commit_whose_sync_fails_is_not_acknowledged(tmp_path: Path, disk: Disk, nth: int) -> None:
    """A failed sync is StoreUnavailable for that commit alone; no power cut afterwards takes an acknowledged one."""
    ledger = Ledger()
    async with opened(tmp_path / "jobs.db") as (store, tracker):
        await tracker.apply(creation("first"))  # the first commit upon an empty log syncs its header as well
        disk.fail("sync", nth, file="-wal")
        told = [await ledger.write(tracker, number) for number in range(nth)]
        assert [type(error) for error in told] == [type(None)] * (nth - 1) + [StoreUnavailable]
        assert await missing(store, ledger.copy()) == []
        assert not await torn(store, range(nth))
        for number in range(nth - 1, BATCHES):  # beginning with the failed one, which may be repeated
            assert await ledger.write(tracker, number) is None
        chances = [None, *map(random.Random, range(10))]
        left = [disk.after_power_loss(chance) for chance in chances]
        assert await missing(store, ledger.copy()) == []
    for number, files in enumerate(left):
        assert await lost_after(files, ledger.copy(), tmp_path / f"{number}") == []
    assert integrity(tmp_path / "jobs.db") == "ok"


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_nothing_is_written_behind_what_a_failed_sync_has_lost(tmp_path: Path, disk: Disk, times: int) -> None:
    """Also when the log is created again, because only the writer had it open, and even closing it failed."""
    async with SQLiteJobStore(str(tmp_path / "jobs.db")) as store:
        jobs = [job(f"job-{number}") for number in range(5)]
        await store.commit([change(jobs[0])])
        disk.fail("sync", times=times, file="-wal")
        with pytest.raises(StoreUnavailable):
            await store.commit([change(jobs[1])])
        disk.heal()
        assert not any([await store.commit([change(job)]) for job in jobs[2:]])
        left = [disk.after_power_loss(chance) for chance in (None, *map(random.Random, range(10)))]
    acknowledged = {one.job_id: one for one in (jobs[0], *jobs[2:])}
    for number, files in enumerate(left):
        assert await lost_after(files, acknowledged, tmp_path / f"{number}") == []


async def test_a_restart_after_a_failed_sync_loses_nothing_either(tmp_path: Path) -> None:
    """Killed after a sync had failed, and started again on a disk that works: what is acknowledged then is kept."""
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    jobs = [job(f"job-{number}") for number in range(5)]
    with faulty_disk() as disk:
        async with SQLiteJobStore(str(tmp_path / "jobs.db")) as store:
            await store.commit([change(jobs[0])])
            disk.fail("sync", times=2, file="-wal")
            with pytest.raises(StoreUnavailable):
                await store.commit([change(jobs[1])])
            on_disk = disk.remember(crashed)
    with faulty_disk() as disk:
        disk.adopt(crashed, on_disk, rest_is_lost=True)
        async with SQLiteJobStore(str(crashed / "jobs.db")) as store:
            assert not any([await store.commit([change(job)]) for job in jobs[2:]])
            left = disk.after_power_loss()
    acknowledged = {one.job_id: one for one in (jobs[0], *jobs[2:])}
    assert await lost_after(left, acknowledged, tmp_path / "cut") == []


async def use(path: Path, ledger: Ledger, attempts: int) -> None:
    """Open the store, write, read, close and do it again, repeating what fails as its callers would."""
    for first in (0, BATCHES // 2):
        async with opened_at_last(path, attempts) as (store, tracker):
            for number in range(first, first + BATCHES // 2):
                await written_at_last(tracker, ledger, number, attempts)
                await read_at_last(store, ledger, number, attempts)


@asynccontextmanager
async def opened_at_last(path: Path, attempts: int) -> AsyncIterator[tuple[SQLiteJobStore, JobTracker]]:
    for _ in range(attempts):
        store = SQLiteJobStore(str(path))
        try:
            await store.__aenter__()
        except StoreConfigError:
            continue
        try:
            yield store, tracker_on(store)
        finally:
            await store.__aexit__()
        return
    raise AssertionError("the store did not open though nothing fails any more")


async def written_at_last(tracker: JobTracker, ledger: Ledger, number: int, attempts: int) -> None:
    for _ in range(attempts):
        if await ledger.write(tracker, number) is None:
            return
    raise AssertionError("the store did not heal")


async def read_at_last(store: SQLiteJobStore, ledger: Ledger, number: int, attempts: int) -> None:
    for _ in range(attempts):
        try:
            assert await missing(store, ledger.copy()) == []
            assert not await torn(store, range(number + 1))
            await store.count_jobs()
        except StoreUnavailable:
            continue
        return
    raise AssertionError("the store did not heal")


RUNS = 30


@pytest.mark.usefixtures("early_checkpoints")
@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("operation", ["open", "write", "sync", "read", "truncate", "delete"])
async def test_whatever_fails_first_nothing_acknowledged_is_lost(
    tmp_path: Path, operation: Operation, times: int
) -> None:
    """Whichever operation of the disk fails, the store reports it and recovers; a power cut then loses nothing."""
    with faulty_disk() as disk:
        await use(tmp_path / "jobs.db", Ledger(), attempts=1)
    total = disk.counts[operation]
    assert total
    fired = 0
    for nth in range(1, total + 1, max(1, total // RUNS)):
        folder, ledger = tmp_path / f"{nth}", Ledger()
        with faulty_disk() as disk:
            disk.fail(operation, nth, times=times)
            await use(folder / "jobs.db", ledger, attempts=times + 2)
            left = disk.after_power_loss()
            fired += bool(disk.failed[operation])
        assert await lost_after(left, ledger.copy(), tmp_path / f"{nth}-cut") == []
        assert integrity(folder / "jobs.db") == "ok"
    assert fired


# --- power ---


async def lost_by_power_cuts(folder: Path, connections: list[apsw.Connection], synchronous: str) -> list[str]:
    """What acknowledged jobs are missing after power cuts at many moments of a run with this setting."""
    chance, ledger = random.Random(7), Ledger()
    cuts: list[tuple[dict[str, Job], dict[str, bytes]]] = []

    def cut(_: Operation) -> None:
        if chance.random() < 0.15:
            cuts.extend((ledger.copy(), faulty.after_power_loss(how)) for how in (None, chance))

    with faulty_disk() as faulty:
        async with opened(folder / "jobs.db") as (_, tracker):
            tell_writers(connections, f"PRAGMA synchronous={synchronous}")
            faulty.on_operation = cut
            for number in range(2 * BATCHES):
                assert await ledger.write(tracker, number) is None
                cuts.append((ledger.copy(), faulty.after_power_loss()))
            faulty.on_operation = None
    assert len(cuts) > 50
    lost = [await lost_after(files, told, folder / f"cut-{number}") for number, (told, files) in enumerate(cuts)]
    return [job_id for job_ids in lost for job_id in job_ids]


@pytest.mark.usefixtures("early_checkpoints")
async def test_a_power_cut_loses_nothing_acknowledged(tmp_path: Path, connections: list[apsw.Connection]) -> None:
    """Whenever the power goes, and whatever of the unsynced bytes is lost, every acknowledged write is there."""
    assert await lost_by_power_cuts(tmp_path, connections, "FULL") == []


@pytest.mark.usefixtures("early_checkpoints")
async def test_a_power_cut_without_full_synchronous_would_lose_writes(
    tmp_path: Path, connections: list[apsw.Connection]
) -> None:
    """The same with synchronous=NORMAL loses acknowledged writes: the test above can fail."""
    assert await lost_by_power_cuts(tmp_path, connections, "NORMAL")


async def test_what_a_restarted_service_shows_survives_a_power_cut(tmp_path: Path) -> None:
    """A crash between write and sync, a restart, a power cut: a job that was shown in between is still there."""
    crashes: list[tuple[Path, dict[str, bytes]]] = []

    def crash(_: Operation) -> None:
        folder = tmp_path / f"crash-{len(crashes)}"
        folder.mkdir()
        crashes.append((folder, faulty.remember(folder)))

    with faulty_disk() as faulty:
        async with opened(tmp_path / "jobs.db") as (_, tracker):
            faulty.on_operation = crash
            for number in range(3):
                assert await Ledger().write(tracker, number) is None
            faulty.on_operation = None
    for number, (folder, on_disk) in enumerate(crashes):
        with faulty_disk() as disk:
            disk.adopt(folder, on_disk)
            async with opened(folder / "jobs.db") as (store, _):
                job_ids = [f"job-{number}-{letter}" for number in range(3) for letter in "ab"]
                jobs = await store.read_jobs(job_ids, with_results=True)
                shown = {job.job_id: job for job in jobs if isinstance(job, Job)}
                left = disk.after_power_loss()
        assert await lost_after(left, shown, tmp_path / f"cut-{number}") == []


# --- no room ---


async def filled(tracker: JobTracker) -> tuple[dict[str, Job], StoreFull]:
    """Complete jobs until there is no room; what was acknowledged, and the refusal."""
    told: dict[str, Job] = {}
    for number in range(500):
        (created, ended) = await tracker.write([creation(f"job-{number}"), completion(f"job-{number}", 20_000)])
        if isinstance(ended, StoreFull):
            assert created is ended
            return told, ended
        assert isinstance(ended, Job)
        told[ended.job_id] = ended
    raise AssertionError("there was room for everything")


async def test_a_full_disk_refuses_writes_and_serves_reads(tmp_path: Path, disk: Disk) -> None:
    """gRPC says STORE_FULL, polls go on, readiness says degraded; once there is room everything works again."""
    admin = bearer(admin_token())
    async with service_here(f"sqlite:///{tmp_path / 'jobs.db'}") as service:
        await create(service, "job-a")
        await create(service, "job-b")
        await complete(service, "job-b")
        disk.capacity = disk.used() + 100_000
        refusal = await until_refused(service)
        assert refusal == Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")
        await until(lambda: is_degraded(service))
        assert (await service.poll("job-a", admin)).status == 202
        assert (await service.poll("job-b", admin)).status == 200
        disk.heal()
        await create(service, "job-c")
        assert (await service.poll("job-c", admin)).status == 202
        await until(lambda: is_ready(service))
    assert integrity(tmp_path / "jobs.db") == "ok"


async def test_a_start_on_a_full_disk_serves_reads(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """The log and its index are left by the last stop, so nothing needs room; writes begin when there is some."""
    admin, store = bearer(admin_token()), f"sqlite:///{tmp_path / 'jobs.db'}"
    async with service_here(store) as service:
        await create(service, "job-a")
        await complete(service, "job-a")
    assert size(tmp_path / "jobs.db-wal") == 0, "all is in the file"
    assert size(tmp_path / "jobs.db-shm") > 0
    disk.capacity = disk.used()
    async with service_here(store) as service:
        assert "started_without_room" in events_logged(caplog)
        assert (await service.poll("job-a", admin)).status == 200
        assert await refused(create(service, "job-b")) == Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")
        assert await is_degraded(service)
        disk.heal()
        await create(service, "job-b")
        assert (await service.poll("job-b", admin)).status == 202
        await until(lambda: is_ready(service))
    assert integrity(tmp_path / "jobs.db") == "ok"


def size(path: Path) -> int:
    return path.stat().st_size


def test_a_new_file_needs_room(tmp_path: Path, disk: Disk) -> None:
    """There is nothing to serve, so the start fails, with a sentence."""
    disk.capacity = 0
    with pytest.raises(StoreConfigError, match="the disk is full"):
        asyncio.run(open_and_close(tmp_path / "jobs.db"))


async def until_refused(service: Service) -> Refusal:
    """Create and complete jobs until that is refused; how."""
    for number in range(200):
        try:
            await create(service, f"filler-{number}")
            await complete(service, f"filler-{number}", completion("x", 20_000).result)
        except grpc.aio.AioRpcError:
            return await refused(create(service, f"filler-{number}-again"))
    raise AssertionError("there was room for everything")


async def test_a_full_file_has_room_again_after_a_purge(tmp_path: Path, connections: list[apsw.Connection]) -> None:
    """Where SQLite itself bounds the file, expired jobs make room for new ones."""
    clock = Clock()
    async with opened(tmp_path / "jobs.db", clock) as (store, tracker):
        tell_writers(connections, "PRAGMA max_page_count=200")
        told, _ = await filled(tracker)
        assert told
        assert await missing(store, told) == []
        clock.move(3600)
        assert await store.purge(clock(), 500) == len(told)
        await tracker.apply(creation("afterwards"))
    assert integrity(tmp_path / "jobs.db") == "ok"


# --- a disk that stays broken, a neighbour that holds the file ---


async def readiness(service: Service) -> str:
    """What the admin port says: polls are answered all the time, so it is never 503."""
    answer = await request(service.admin_port, "/readyz")
    assert answer.status == 200
    return str(answer.json["status"])


async def is_ready(service: Service) -> bool:
    return await readiness(service) == "ready"


async def is_degraded(service: Service) -> bool:
    return await readiness(service) == "degraded"


async def test_a_broken_disk_is_told_and_healed_without_a_restart(tmp_path: Path, disk: Disk) -> None:
    """While no sync succeeds writes are UNAVAILABLE, polls go on, readiness says degraded; then all is well again."""
    admin = bearer(admin_token())
    async with service_here(f"sqlite:///{tmp_path / 'jobs.db'}") as service:
        await create(service, "job-a")
        disk.fail("sync", times=1_000_000)
        assert await refused(create(service, "job-b")) == UNAVAILABLE
        assert (await service.poll("job-a", admin)).status == 202
        await until(lambda: is_degraded(service))
        disk.heal()
        await create(service, "job-b")
        assert (await service.poll("job-b", admin)).status == 202
        await until(lambda: is_ready(service))


async def test_a_file_that_another_program_locks(tmp_path: Path) -> None:
    """Writes end UNAVAILABLE after the busy timeout, polls are answered meanwhile, and writes work once it lets go."""
    path, admin = tmp_path / "jobs.db", bearer(admin_token())
    async with service_here(f"sqlite:///{path}") as service:
        await create(service, "job-a")
        with closing(apsw.Connection(str(path))) as other:
            other.execute("BEGIN IMMEDIATE")
            writing, polls = asyncio.ensure_future(create(service, "job-b")), 0
            while not writing.done():
                assert (await service.poll("job-a", admin)).status == 202
                polls += 1
            assert polls > 1
            assert await refused(writing) == UNAVAILABLE
            other.execute("ROLLBACK")
        await create(service, "job-b")
        assert (await service.poll("job-b", admin)).status == 202


async def test_a_write_waits_for_a_lock_that_is_let_go_in_time(tmp_path: Path) -> None:
    """Another program's short transaction delays a write, and no more."""
    path = tmp_path / "jobs.db"
    async with opened(path) as (store, tracker):
        with closing(apsw.Connection(str(path))) as other:
            other.execute("BEGIN IMMEDIATE")
            writing = asyncio.ensure_future(tracker.apply(creation("job-a")))
            await asyncio.sleep(0)  # lets the write begin
            other.execute("ROLLBACK")
            assert await store.read_jobs(["job-a"], with_results=True) in ([None], [await writing])
        assert await store.read_jobs(["job-a"], with_results=True) == [await writing]


# --- files that are refused ---


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("not a database"), "damaged or no SQLite file"),
    "junk": (lambda path: path.write_bytes(random.Random(1).randbytes(16384)), "damaged or no SQLite file"),
    "zeros at the start": (lambda path: damaged(path, 0, bytes(100)), "damaged or no SQLite file"),
    "a page of junk": (lambda path: damaged(path, 4 * 4096, b"\xaa" * 4096), "damaged or no SQLite file"),
    "truncated": (truncated, "damaged or no SQLite file"),
    "another program's": (strangers_file, "a database of another program"),
    "another program's, with a log": (strangers_file_with_a_log, "a database of another program"),
    "of a newer version": (lambda path: own_file(path, user_version=99), "a newer JobStatus (schema 99"),
    "of no version": (lambda path: own_file(path, user_version=0), "cannot open"),
    "a folder": (Path.mkdir, "cannot"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_must_not_be_used_is_refused_and_left_as_it_is(tmp_path: Path, kind: str) -> None:
    """The start is refused in one sentence that names the file, whose bytes and whose log stay what they are."""
    path = tmp_path / "jobs.db"
    make, sentence = REFUSED[kind]
    make(path)
    before = contents(tmp_path)
    with pytest.raises(StoreConfigError) as refusal:
        asyncio.run(open_and_close(path))
    assert str(path) in str(refusal.value)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert contents(tmp_path) == before


async def open_and_close(path: Path, limits: SQLiteLimits | None = None) -> None:
    async with SQLiteJobStore(str(path), limits or SQLiteLimits()):
        pass


def contents(folder: Path) -> dict[str, bytes]:
    """What all files of the folder hold, but for the shared memory, which holds nothing of its own."""
    held = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.suffix != ".db-shm"}
    return {name: content for name, content in held.items() if content}


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A path below something that is no folder is refused in one sentence, and nothing is made."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreConfigError, match=r"^cannot use .*/file/jobs\.db: .+$"):
        await open_and_close(tmp_path / "file" / "jobs.db")
    assert contents(tmp_path) == {"file": b"in the way"}


async def test_a_file_that_is_locked_at_the_start_is_named(tmp_path: Path) -> None:
    """A start that cannot lock the file says that another program has it."""
    path = tmp_path / "jobs.db"
    await open_and_close(path)
    with closing(apsw.Connection(str(path))) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreConfigError, match=r"jobs\.db is locked by another program$"):
            await open_and_close(path, SQLiteLimits(busy_timeout_ms=50))


async def test_an_empty_file_becomes_a_new_store(tmp_path: Path) -> None:
    """An empty file belongs to no other program."""
    (tmp_path / "jobs.db").touch()
    async with opened(tmp_path / "jobs.db") as (store, tracker):
        created = await tracker.apply(creation("job-a"))
        assert await store.read_jobs(["job-a"], with_results=True) == [created]


# --- a file that goes away ---


def move(source: Path, target: Path) -> None:
    """The file, its log and its shared memory, as a person would move them."""
    target.mkdir(exist_ok=True)
    for path in source.glob("jobs.db*"):
        path.rename(target / path.name)


async def test_a_file_that_is_moved_away_gets_no_write(tmp_path: Path) -> None:
    """Writes are StoreUnavailable, and nothing is made in its place; it is used again as soon as it is back."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    async with opened(here / "jobs.db") as (store, tracker):
        first = await tracker.apply(creation("job-a"))
        move(here, elsewhere)
        with pytest.raises(StoreUnavailable):
            await tracker.apply(creation("job-b"))
        assert list(here.iterdir()) == []
        move(elsewhere, here)
        third = await tracker.apply(creation("job-c"))
        assert await store.read_jobs(["job-a", "job-b", "job-c"], with_results=True) == [first, None, third]
    assert integrity(here / "jobs.db") == "ok"


async def test_a_file_that_is_replaced_gets_no_write(tmp_path: Path) -> None:
    """While another file of ours stands in its place writes are StoreUnavailable, and that one stays what it is."""
    here, backup, elsewhere = tmp_path / "here", tmp_path / "backup", tmp_path / "elsewhere"
    await open_and_close(backup / "jobs.db")
    async with opened(here / "jobs.db") as (store, tracker):
        first = await tracker.apply(creation("job-a"))
        move(here, elsewhere)
        move(backup, here)
        before = contents(here)
        for number in range(2):
            with pytest.raises(StoreUnavailable):
                await tracker.apply(creation(f"job-{number}"))
        assert contents(here) == before
        move(here, backup)
        move(elsewhere, here)
        last = await tracker.apply(creation("job-z"))
        found = await store.read_jobs(["job-a", "job-0", "job-1", "job-z"], with_results=True)
        assert found == [first, None, None, last]
    assert integrity(here / "jobs.db") == "ok"


async def test_a_file_that_is_replaced_is_not_read(tmp_path: Path) -> None:
    """Nor later: once the file is back all is read from it, and what another process writes there is seen."""
    here, backup, elsewhere = tmp_path / "here", tmp_path / "backup", tmp_path / "elsewhere"
    async with opened(backup / "jobs.db") as (_, tracker):
        await tracker.apply(creation("job-old"))
    async with opened(here / "jobs.db") as (store, _):
        await store.commit([change(job())])
        move(here, elsewhere)
        move(backup, here)
        for read in (store.read_jobs(["job-old"], with_results=True), store.list_page(Listing(limit=9), 0)):
            with pytest.raises(StoreUnavailable):
                await read
        move(here, backup)
        move(elsewhere, here)
        await store.commit([change(job(version=2), replaces=1)])
        async with opened(here / "jobs.db") as (other, _):
            await other.commit([change(job(version=3), replaces=2)])
        assert await store.read_jobs(["job-1", "job-old"], with_results=True) == [job(version=3), None]
        assert (await store.list_page(Listing(limit=9), 0)).jobs == [job(version=3)]


async def test_a_file_behind_a_symbolic_link(tmp_path: Path) -> None:
    """It may be made through the link or be there. Everything is beside the file, and nothing beside the link."""
    link, disk = tmp_path / "jobs.db", tmp_path / "disk"
    disk.mkdir()
    link.symlink_to(disk / "data.db")
    for _ in range(2):
        async with opened(link) as (store, tracker), opened(disk / "data.db") as (other, _):
            job_ids = [f"job-{number}" for number in range(2)]
            stored = [await tracker.apply(creation(job_id)) for job_id in job_ids]
            assert await store.read_jobs(job_ids, with_results=True) == stored
            assert await other.read_jobs(job_ids, with_results=True) == stored
            assert [(await each.try_lead("me", 1000)).leads for each in (store, other)] == [True, False]
            assert {path.name for path in disk.iterdir()} == {f"data.db{end}" for end in ("", "-wal", "-shm", "-sweep")}
    assert set(contents(tmp_path)) == {"jobs.db"}


async def test_a_link_that_leads_elsewhere_gets_no_write(tmp_path: Path) -> None:
    """A restart would use the other file, so what is written to this one would be lost then."""
    link, first, second = tmp_path / "jobs.db", tmp_path / "first.db", tmp_path / "second.db"
    await open_and_close(second)
    link.symlink_to(first)
    async with opened(link) as (_, tracker):
        await tracker.apply(creation("job-a"))
        link.unlink()
        link.symlink_to(second)
        with pytest.raises(StoreUnavailable):
            await tracker.apply(creation("job-b"))
        link.unlink()
        link.symlink_to(first)
        await tracker.apply(creation("job-c"))


async def test_links_in_a_circle_are_named(tmp_path: Path) -> None:
    """They lead to no file."""
    link = tmp_path / "jobs.db"
    link.symlink_to(link)
    with pytest.raises(StoreConfigError, match=r"^cannot write .*/jobs\.db: .+$"):
        await open_and_close(link)


# --- what durability and secrecy rest on ---


async def test_every_connection_is_durable(tmp_path: Path, disk: Disk, connections: list[apsw.Connection]) -> None:
    """All connections, those opened after a fault included, keep a log (WAL) and sync it at each commit (FULL)."""
    async with opened(tmp_path / "jobs.db") as (store, tracker):
        for number in range(2):
            already = len(connections)
            await tracker.apply(creation(f"job-{number}"))
            await store.count_jobs()
            assert len(connections) > already or not number
            for connection in still_open(connections):
                assert connection.execute("PRAGMA journal_mode").get == "wal"
                assert connection.execute("PRAGMA synchronous").get == FULL
            disk.fail("sync", file="-wal")
            with pytest.raises(StoreUnavailable):
                await tracker.apply(creation(f"job-{number}-again"))


LOCK_THAT_ALL_SHARE = 128
"""The byte of the `-shm` file on which everybody who has it open keeps a shared lock (os_unix.c, UNIX_SHM_DMS)."""

OTHER_PROCESS = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(sys.argv[2]))
    except OSError:
        print("held", end="")
    else:
        print("free", end="")
"""


async def locks_seen_by_another_process(path: Path) -> str:
    """Whether the lock is held that keeps others from taking the wal-index for abandoned, and emptying it."""
    command = (sys.executable, "-c", OTHER_PROCESS, f"{path}-shm", str(LOCK_THAT_ALL_SHARE))
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    return out.decode()


async def test_other_processes_see_that_the_file_is_in_use(tmp_path: Path, disk: Disk) -> None:
    """No read, write or fault gives up the locks by which processes that share a file keep out of each other's way."""
    path = tmp_path / "jobs.db"
    async with opened(path) as (store, tracker):
        assert await locks_seen_by_another_process(path) == "held"
        await tracker.apply(creation("job-a"))
        await store.count_jobs()
        assert await locks_seen_by_another_process(path) == "held"
        disk.fail("sync", file="-wal")
        with pytest.raises(StoreUnavailable):
            await tracker.apply(creation("job-b"))
        await tracker.apply(creation("job-b"))
        assert await store.read_jobs(["job-b"], with_results=True)
        assert await locks_seen_by_another_process(path) == "held"


@contextmanager
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def modes_in(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def test_nobody_else_may_read_the_files(tmp_path: Path) -> None:
    """The file, its log and its shared memory are made for their owner alone, whatever the umask."""
    with open_umask():
        async with opened(tmp_path / "jobs.db") as (_, tracker):
            await tracker.apply(creation("job-a"))
            modes = modes_in(tmp_path)
    assert modes == dict.fromkeys(("jobs.db", "jobs.db-wal", "jobs.db-shm"), 0o600)
