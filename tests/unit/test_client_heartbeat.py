"""How long a worker believes that a job is its own: never when another one may have it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest
from harness.skipping_loop import run_without_waiting
from jobstatus.client.errors import ServiceUnreachable
from jobstatus.client.heartbeat import BEATS_PER_LEASE, LIMIT_AFTER_LEASE_SECONDS, Heartbeat, shared_instant
from jobstatus.core.commands import HeartbeatJob
from jobstatus.core.errors import LeaseLost

LEASE = 10.0


class Service:
    """Takes `answer_seconds` to answer the first so many heartbeats, and never answers the others."""

    def __init__(self, *, answered: int, answer_seconds: float = 0.0) -> None:
        self._answered, self._answer_seconds = answered, answer_seconds
        self.sent_at: list[float] = []

    async def send(self, _: HeartbeatJob, *, limit_seconds: float) -> None:
        self.sent_at.append(asyncio.get_running_loop().time())
        is_answered = len(self.sent_at) <= self._answered and self._answer_seconds < limit_seconds
        await asyncio.sleep(self._answer_seconds if is_answered else limit_seconds)
        if not is_answered:
            raise ServiceUnreachable("no answer")


async def lost_at(
    send: Callable[..., Awaitable[object]], started_at: float = 0.0, *, is_last_attempt: bool = False
) -> float:
    """When the worker gives the job up."""
    lost: list[Exception] = []
    heartbeat = Heartbeat(
        send,
        job_id="j1",
        attempt=1,
        lease_seconds=LEASE,
        started_at=started_at,
        is_last_attempt=is_last_attempt,
        on_lost=lost.append,
    )
    await heartbeat.run()
    assert len(lost) == 1
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("answer_seconds", [0.0, 2.5, 4.0])
@pytest.mark.parametrize("answered", [1, 5])
def test_a_lease_counts_from_when_its_heartbeat_was_sent(answer_seconds: float, answered: int) -> None:
    """However long the answer is held back: the service may have counted from the moment of the question."""
    service = Service(answered=answered, answer_seconds=answer_seconds)
    ended_at = run_without_waiting(lost_at(service.send))
    assert ended_at == pytest.approx(service.sent_at[answered - 1] + LEASE)


def test_a_first_lease_counts_from_when_it_was_requested() -> None:
    """The start may have been answered late as well."""
    service = Service(answered=0)
    assert run_without_waiting(lost_at(service.send, started_at=-7.5)) == pytest.approx(LEASE - 7.5)


def test_a_slow_answer_does_not_make_heartbeats_rarer() -> None:
    """The next one is due a third of the lease after the last was sent."""
    service = Service(answered=5, answer_seconds=2.5)
    run_without_waiting(lost_at(service.send))
    gaps = [later - sooner for sooner, later in zip(service.sent_at[:5], service.sent_at[1:6], strict=True)]
    assert max(gaps) <= LEASE / BEATS_PER_LEASE


def test_a_worker_that_slept_through_its_lease_asks_once() -> None:
    """Where the answer is that the job is still its own it goes on, else it stops within a second."""
    service = Service(answered=1)
    ended_at = run_without_waiting(lost_at(service.send, started_at=-60))
    assert service.sent_at[0] == 0
    assert ended_at == pytest.approx(LEASE)
    assert run_without_waiting(lost_at(Service(answered=0).send, started_at=-60)) == LIMIT_AFTER_LEASE_SECONDS


def test_what_the_service_says_counts_at_once() -> None:
    """It knows better than any clock."""

    async def refuse(*_: object, **__: object) -> None:
        raise LeaseLost

    assert run_without_waiting(lost_at(refuse)) < LEASE / 2


def test_the_last_attempt_outlives_a_silent_service(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody else can start the job, so the worker asks until it is answered; the log says so once."""
    caplog.set_level(logging.WARNING)
    answers: list[float] = []

    async def send(_: HeartbeatJob, *, limit_seconds: float) -> None:
        at = asyncio.get_running_loop().time()
        if at < 10 * LEASE:
            await asyncio.sleep(limit_seconds)
            raise ServiceUnreachable("no answer")
        answers.append(at)
        if at > 11 * LEASE:
            raise LeaseLost

    ended_at = run_without_waiting(lost_at(send, is_last_attempt=True))
    assert ended_at == answers[-1] > 11 * LEASE
    assert len(answers) > BEATS_PER_LEASE
    assert [vars(record)["event"] for record in caplog.records] == ["heartbeat_failed"]


def test_runs_that_began_at_different_times_send_at_the_same_instants() -> None:
    """So that one batch carries the heartbeats of many; those of longer leases are sent at the same ones."""

    async def beat_all() -> set[float]:
        services = [Service(answered=10) for _ in range(50)]
        starts = [number / 10 for number in range(50)]
        await asyncio.gather(
            *(lost_at(service.send, started_at=start) for service, start in zip(services, starts, strict=True))
        )
        return {at for service in services for at in service.sent_at[1:6]}

    instants = run_without_waiting(beat_all())
    assert {at * 4 % 1 for at in instants} == {0}
    assert shared_instant(29.9, 30) == 29
    assert shared_instant(29.9, 300) == 24
    assert shared_instant(29.9, 1) == 29.875
