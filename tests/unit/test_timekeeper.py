"""The time of a service: whose clock counts, and what counts as a gap."""

import logging

import pytest
from jobstatus.core.timekeeper import Timekeeper

NOON_MS = 1_800_000_000_000
MINUTE_MS = 60_000


class World:
    """A machine: its wall clock, its monotonic clock, and whether the process runs."""

    def __init__(self) -> None:
        self.wall_ms, self.monotonic, self.pulse = NOON_MS, 1000.0, 50.0
        self.offsets: list[float] = []
        self.time = Timekeeper(
            wall_ms=lambda: self.wall_ms,
            monotonic=lambda: self.monotonic,
            pulse=lambda: self.pulse,
            on_offset=self.offsets.append,
        )

    def live(self, seconds: float, ticks: int = 1) -> None:
        """Let time pass, with as many ticks."""
        for _ in range(ticks):
            self.pass_by(seconds / ticks)
            self.time.tick()

    def pass_by(self, seconds: float) -> None:
        """Let time pass without a tick."""
        self.wall_ms += round(seconds * 1000)
        self.monotonic += seconds
        self.pulse += seconds

    def answer(self, store_ms: int | None, took: float = 0.0) -> None:
        """The store's time arrives; the store looked at its clock at the last moment."""
        asked_at = self.monotonic
        self.pass_by(took)
        self.time.hear(store_ms, asked_at)


@pytest.fixture
def world() -> World:
    return World()


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [vars(record)["event"] for record in caplog.records]


def test_time_passes(world: World) -> None:
    """Without a store's clock it is this machine's, in both units."""
    world.live(90, ticks=90)
    assert (world.time.ms(), world.time.seconds()) == (NOON_MS + 90_000, (NOON_MS + 90_000) / 1000)
    assert (world.time.leases_from_ms, world.time.settled_from_ms) == (NOON_MS, 0)


@pytest.mark.parametrize("hours", [1, -1])
def test_a_step_of_the_clock_is_a_gap(world: World, caplog: pytest.LogCaptureFixture, hours: int) -> None:
    """The new time counts at once. Leases start anew; nothing is purged for some minutes; the log says so once."""
    caplog.set_level(logging.INFO)
    world.wall_ms += hours * 60 * MINUTE_MS
    world.live(3, ticks=6)
    stepped_ms = NOON_MS + hours * 60 * MINUTE_MS + 500
    assert world.time.ms() == stepped_ms + 2500
    assert (world.time.leases_from_ms, world.time.settled_from_ms) == (stepped_ms, stepped_ms + 5 * MINUTE_MS)
    assert events(caplog) == ["clock_stepped"]
    assert vars(caplog.records[0])["seconds"] == hours * 3600


def test_a_clock_that_is_slewed_is_followed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Small corrections, as of NTP, are no gap."""
    for _ in range(100):
        world.wall_ms += 20
        world.live(1)
    assert world.time.ms() == world.wall_ms
    assert (world.time.leases_from_ms, events(caplog)) == (NOON_MS, [])


def test_a_pause_is_a_gap_whoever_notices_it_first(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A process that was stopped may have missed heartbeats, also when a write comes before the next tick."""
    world.live(1, ticks=2)
    world.pass_by(12)
    assert world.time.leases_from_ms == NOON_MS + 13_000
    world.live(1, ticks=2)
    assert world.time.leases_from_ms == NOON_MS + 13_000
    assert events(caplog) == ["process_paused"]
    assert world.time.settled_from_ms == 0


def test_the_store_counts(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Its time is taken over from the first answer on, whatever this machine does then; differences are told."""
    caplog.set_level(logging.INFO)
    world.answer(NOON_MS + 20_000)
    world.wall_ms += 60 * MINUTE_MS
    world.live(1, ticks=2)
    assert world.time.ms() == NOON_MS + 21_000
    world.answer(NOON_MS + 21_000)
    world.wall_ms = NOON_MS + 21_000
    world.answer(NOON_MS + 21_000)
    assert events(caplog) == ["clock_stepped", "clock_differs", "clock_agrees"]
    assert world.offsets == [20, 20 - 3600, 0]


def test_a_store_without_a_clock_says_nothing(world: World) -> None:
    """This machine's clock goes on to count."""
    world.answer(None)
    world.wall_ms += 100
    world.live(1)
    assert world.time.ms() == NOON_MS + 1100
    assert world.offsets == []


def test_a_late_answer_is_not_believed(world: World) -> None:
    """It took longer than the time is to be right."""
    world.answer(NOON_MS + 20_000, took=0.6)
    assert world.time.ms() == NOON_MS + 600
    world.answer(NOON_MS + 20_000, took=0.4)
    assert NOON_MS + 20_000 <= world.time.ms() <= NOON_MS + 20_400


def test_answers_that_took_a_while_do_not_shake_the_time(world: World) -> None:
    """The store may have looked at its clock at any moment between question and answer."""
    for took in (0.0, 0.4, 0.1, 0.3, 0.0):
        world.answer(world.wall_ms, took=took)  # it looked right when it was asked
        assert world.time.ms() == world.wall_ms


def test_another_store_after_a_failover_is_a_gap(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A new primary with another clock: the time steps, and the log says whose clock it was."""
    world.answer(NOON_MS)
    world.answer(NOON_MS - 30_000)
    assert world.time.ms() == world.time.leases_from_ms == NOON_MS - 30_000
    assert vars(caplog.records[0])["clock"] == "store"
