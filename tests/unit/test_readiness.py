"""What a process can do, judged by two probes, and the lines that say when that changes."""

import logging

import pytest
from harness.logged import events_logged
from jobstatus.core.errors import JobStatusError, StoreFull, StoreUnavailable
from jobstatus.core.readiness import READY, Health, Readiness, Status, worst

FULL = Health(Status.DEGRADED, "store_full")
READ_ONLY = Health(Status.DEGRADED, "store_takes_no_writes")
AWAY = Health(Status.NOT_READY, "store_unavailable")
STOPPING = Health(Status.NOT_READY, "stopping")


class World:
    """A store that writes and reads as told, and a clock that moves with each check."""

    def __init__(self, *, reads_are_asked: bool = True) -> None:
        self.writing: JobStatusError | None = None
        self.reading: JobStatusError | None = None
        self.probes = 0
        self.seconds = 0.0
        reads = self.read if reads_are_asked else None
        self.readiness = Readiness(self.write, reads, lambda: self.seconds)

    async def write(self) -> None:
        self.probes += 1
        if self.writing is not None:
            raise self.writing

    async def read(self) -> None:
        if self.reading is not None:
            raise self.reading

    async def check(self, writing: JobStatusError | None = None, reading: JobStatusError | None = None) -> Health:
        """The health a second later, with this store."""
        self.writing, self.reading, self.seconds = writing, reading, self.seconds + 1
        return await self.readiness.check()


@pytest.mark.parametrize(
    ("writing", "reading", "health"),
    [
        (None, None, READY),
        (StoreFull(), None, FULL),
        (StoreUnavailable(), None, READ_ONLY),
        (StoreUnavailable(), StoreUnavailable(), AWAY),
        (StoreFull(), StoreUnavailable(), AWAY),
    ],
)
async def test_a_store_that_is_read_is_enough_for_polls(
    writing: JobStatusError | None, reading: JobStatusError | None, health: Health
) -> None:
    """A process is not ready only where polls fail as well."""
    found = await World().check(writing, reading)
    assert found == health
    assert found.serves_polls is (reading is None)


async def test_an_edge_has_one_probe() -> None:
    """What it cannot ask it cannot serve."""
    assert await World(reads_are_asked=False).check(StoreUnavailable()) == AWAY


async def test_each_change_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line when it degrades, one when it recovers, none in between; none at a start that goes well."""
    caplog.set_level(logging.INFO)
    world = World()
    for _ in range(3):
        await world.check()
    for _ in range(3):
        await world.check(StoreFull())
    for _ in range(3):
        await world.check(StoreFull(), StoreUnavailable())
    for _ in range(3):
        await world.check()
    assert events_logged(caplog) == ["degraded", "not_ready", "ready_again"]
    assert [getattr(record, "reason", "") for record in caplog.records] == ["store_full", "store_unavailable", ""]


async def test_another_reason_is_no_other_line(caplog: pytest.LogCaptureFixture) -> None:
    """What fails on a full disk differs from write to write."""
    world = World()
    found = [await world.check(StoreFull() if second % 2 else StoreUnavailable()) for second in range(6)]
    assert set(found) == {FULL, READ_ONLY}
    assert events_logged(caplog) == ["degraded"]


async def test_the_line_names_the_error_behind_it(caplog: pytest.LogCaptureFixture) -> None:
    """That is the driver's, or ours where the store was not even asked."""
    world, behind = World(), StoreUnavailable()
    behind.__cause__ = TimeoutError()
    await world.check(behind)
    await world.check(StoreUnavailable(), StoreUnavailable())
    assert [vars(record)["cause"] for record in caplog.records] == ["TimeoutError", "StoreUnavailable"]


async def test_the_store_is_probed_once_a_second_however_often_it_is_asked() -> None:
    world = World()
    for _ in range(4):
        await world.readiness.check()
        world.seconds += 0.5
    assert world.probes == 2


async def test_who_stops_is_not_ready_whatever_the_store_says() -> None:
    world = World()
    world.readiness.stop()
    assert await world.check() == STOPPING


@pytest.mark.parametrize("health", [READY, FULL, AWAY])
def test_a_supervisor_understands_its_children(health: Health) -> None:
    assert Health.from_text(health.to_text()) == health


def test_the_worst_counts() -> None:
    """One child that polls fail at is a reason to send none to the port that all share."""
    assert worst([READY, FULL, AWAY, STOPPING]) == AWAY
    assert worst([READY, FULL, READY]) == FULL
    assert worst([READY, READY]) == READY
