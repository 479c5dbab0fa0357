"""The time of a service: whose clock counts, and what counts as a gap."""

import logging

import pytest
from jobstatus.core.timekeeper import MS_NS, Timekeeper

NOON_MS = 1_800_000_000_000
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS


class World:
    """A machine: its wall clock, its monotonic clock, and whether the process runs."""

    def __init__(self, *, follows_store: bool = True) -> None:
        self.wall_ms, self.monotonic_ms, self.pulse = NOON_MS, 1_000_000, 50.0
        self.offsets: list[float] = []
        self.time = Timekeeper(
            wall_ms=lambda: self.wall_ms,
            monotonic_ns=lambda: self.monotonic_ms * MS_NS,
            pulse=lambda: self.pulse,
            follows_store=follows_store,
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
        self.monotonic_ms += round(seconds * 1000)
        self.pulse += seconds

    def answer(self, store_ms: int | None, took: float = 0.0) -> None:
        """The store's time arrives, so many seconds after it was asked for."""
        asked_at_ns = self.monotonic_ms * MS_NS
        self.pass_by(took)
        self.time.observe_store(store_ms, asked_at_ns)


@pytest.fixture
def alone() -> World:
    """A machine whose store has no clock."""
    world = World()
    world.answer(None)
    return world


@pytest.fixture
def world() -> World:
    """A machine whose store has a clock, which has told nothing yet."""
    return World()


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [vars(record)["event"] for record in caplog.records]


def gaps(world: World) -> tuple[int, int]:
    """Since when leases count, and from when on timeouts."""
    return world.time.leases_count_from_ms(), world.time.timeouts_count_from_ms()


def test_time_passes(alone: World) -> None:
    """Without a store's clock it is this machine's, in both units."""
    alone.live(90, ticks=90)
    assert (alone.time.ms(), alone.time.seconds()) == (NOON_MS + 90_000, (NOON_MS + 90_000) / 1000)
    assert gaps(alone) == (NOON_MS, 0)


@pytest.mark.parametrize("step_ms", [HOUR_MS, -HOUR_MS])
def test_a_step_of_the_clock_is_a_gap(alone: World, caplog: pytest.LogCaptureFixture, step_ms: int) -> None:
    """The new time counts at once. Leases start anew; nothing is purged for some minutes; the log says so once."""
    caplog.set_level(logging.INFO)
    alone.wall_ms += step_ms
    alone.live(3, ticks=6)
    stepped_ms = NOON_MS + step_ms + 500
    assert alone.time.ms() == stepped_ms + 2500
    assert gaps(alone) == (stepped_ms, stepped_ms + 5 * MINUTE_MS)
    assert events(caplog) == ["clock_stepped"]
    assert vars(caplog.records[0])["seconds"] == step_ms / 1000


def test_nothing_expires_by_a_step_ahead_until_it_has_lasted(alone: World) -> None:
    """A result with a minute left is readable although the clock says an hour later; a clock that is set back too."""
    alone.wall_ms += HOUR_MS
    alone.live(200, ticks=400)
    assert alone.time.expiry_ms() == NOON_MS + 200_000
    assert alone.time.step_ms() == HOUR_MS
    alone.wall_ms -= HOUR_MS
    alone.live(200, ticks=400)
    assert alone.time.expiry_ms() == alone.time.ms() == NOON_MS + 400_000
    alone.wall_ms += HOUR_MS
    alone.live(301, ticks=602)
    assert alone.time.expiry_ms() == alone.time.ms() == NOON_MS + 701_000 + HOUR_MS


def test_nothing_outlives_a_clock_that_was_set_back(alone: World) -> None:
    """Jobs expire by the new time at once, which is earlier."""
    alone.wall_ms -= HOUR_MS
    alone.live(1, ticks=2)
    assert alone.time.expiry_ms() == alone.time.ms()


def test_a_clock_that_is_slewed_is_followed(alone: World, caplog: pytest.LogCaptureFixture) -> None:
    """Small corrections, as of NTP, are no gap."""
    for _ in range(100):
        alone.wall_ms += 20
        alone.live(1)
    assert alone.time.ms() == alone.wall_ms
    assert (gaps(alone), events(caplog)) == ((NOON_MS, 0), [])


def test_a_pause_is_a_gap_whoever_notices_it_first(alone: World, caplog: pytest.LogCaptureFixture) -> None:
    """A process that was stopped may have missed heartbeats, also when a write comes before the next tick."""
    alone.live(1, ticks=2)
    alone.pass_by(12)
    assert gaps(alone) == (NOON_MS + 13_000, 0)
    alone.live(1, ticks=2)
    assert gaps(alone) == (NOON_MS + 13_000, 0)
    assert events(caplog) == ["process_paused"]


def test_the_store_counts(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Its time is taken over with the first answer, whatever this machine does then; differences are told."""
    caplog.set_level(logging.INFO)
    world.answer(NOON_MS + 20_000)
    assert gaps(world) == (NOON_MS + 20_000, 0)
    world.wall_ms += HOUR_MS
    world.live(1, ticks=2)
    assert world.time.ms() == NOON_MS + 21_000
    world.answer(NOON_MS + 21_000)
    world.wall_ms = NOON_MS + 21_000
    world.answer(NOON_MS + 21_000)
    assert events(caplog) == ["clock_differs", "clock_agrees"]
    assert world.offsets == [20, 20 - 3600, 0]


def test_nothing_times_out_by_a_clock_that_may_be_wrong(world: World) -> None:
    """Before the store has told its time, nothing times out or is purged, however long that takes."""
    world.live(600, ticks=1200)
    world.wall_ms += HOUR_MS
    world.live(600, ticks=1200)
    assert world.time.timeouts_count_from_ms() == world.time.ms() + 5 * MINUTE_MS
    world.answer(NOON_MS)
    assert gaps(world) == (world.time.ms(), 0)
    assert world.time.ms() == pytest.approx(NOON_MS, abs=1)


def test_a_store_is_not_followed_where_it_is_not_wanted() -> None:
    """As in tests, which move the clock themselves."""
    world = World(follows_store=False)
    world.answer(NOON_MS + 20_000)
    assert (world.time.ms(), gaps(world), world.offsets) == (NOON_MS, (NOON_MS, 0), [])


def test_an_answer_proves_no_more_than_its_time_allows(world: World) -> None:
    """The store may have looked at its clock at any moment between question and answer."""
    world.answer(NOON_MS)
    for took in (0.0, 0.4, 5.0, 0.1, 1.0):
        world.answer(world.wall_ms, took=took)  # it looked right when it was asked
        assert world.time.ms() == world.wall_ms
    world.answer(world.wall_ms + 60_000, took=5.0)
    assert 55_000 <= world.time.ms() - world.wall_ms <= 60_000


def test_another_store_after_a_failover_is_a_gap(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A new primary with another clock: the time steps, and the log says whose clock it was."""
    world.answer(NOON_MS)
    world.answer(NOON_MS - 30_000)
    stepped_ms = world.time.ms()
    assert stepped_ms == pytest.approx(NOON_MS - 30_000, abs=1)
    assert gaps(world) == (stepped_ms, stepped_ms + 5 * MINUTE_MS)
    assert vars(caplog.records[0])["clock"] == "store"
