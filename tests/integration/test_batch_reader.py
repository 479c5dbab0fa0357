"""Point reads that come together cost the store one read, and yet each caller has the result it would have alone."""

import asyncio
from collections.abc import Sequence

from harness.stores import job
from harness.waiting import until
from jobstatus.core.batch_reader import BatchReader, BatchReaderLimits
from jobstatus.core.errors import InvalidField, Overloaded, StoreUnavailable
from jobstatus.core.store import Answer, StoreError


class SlowReads:
    """Reads that end when they are let; `begun` lists the ids of each."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun: list[list[str]] = []
        self.failure: Exception | None = None
        self.failing: dict[str, StoreError] = {}

    async def read(self, job_ids: Sequence[str]) -> list[Answer | StoreError | None]:
        self.begun.append(list(job_ids))
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return [self.failing.get(job_id, answer(job_id)) for job_id in job_ids]


def answer(job_id: str) -> Answer:
    """An answer that tells whose it is."""
    return Answer(job(job_id).request_type, None, 0, None, None, 1, None, job_id.encode(), None, None)


def ask(
    reader: BatchReader[str, Answer | StoreError | None], *job_ids: str
) -> list[asyncio.Task[Answer | StoreError | None]]:
    return [asyncio.create_task(reader.read(job_id)) for job_id in job_ids]


async def test_reads_that_come_together_are_one() -> None:
    """A hundred askers in one turn of the loop make one read, and each gets the answer about its own job."""
    slow = SlowReads()
    slow.gate.set()
    names = [f"job-{number % 70}" for number in range(100)]
    assert await asyncio.gather(*ask(BatchReader(slow.read), *names)) == [answer(name) for name in names]
    assert slow.begun == [names]


async def test_a_read_begins_after_it_was_asked_for() -> None:
    """What is asked while as many reads as there may be are under way waits for the next, and joins none of them."""
    slow = SlowReads()
    reader = BatchReader(slow.read, BatchReaderLimits(max_under_way=1))
    first = ask(reader, "a")
    await until(lambda: slow.begun == [["a"]])
    later = ask(reader, "a", "b")
    await asyncio.sleep(0)
    assert slow.begun == [["a"]]
    slow.gate.set()
    assert await asyncio.gather(*first, *later) == [answer("a"), answer("a"), answer("b")]
    assert slow.begun == [["a"], ["a", "b"]]


async def test_those_behind_a_read_stay_together_unless_they_fill_one() -> None:
    """With a pause, who comes during a read is in the next one, after it; a full one begins at once; a late one too."""
    slow = SlowReads()
    reader = BatchReader(slow.read, BatchReaderLimits(max_batch=3, late_seconds=60))
    first = ask(reader, "a")
    await until(lambda: slow.begun == [["a"]])
    second = ask(reader, "b", "c")
    for _ in range(10):
        await asyncio.sleep(0)
    assert slow.begun == [["a"]]
    third = ask(reader, "d", "e")
    await until(lambda: slow.begun == [["a"], ["b", "c", "d"]])
    slow.gate.set()
    found = await asyncio.gather(*first, *second, *third)
    assert found == [answer(name) for name in "abcde"]
    assert slow.begun == [["a"], ["b", "c", "d"], ["e"]]
    slow.gate.clear()
    hasty = BatchReader(slow.read, BatchReaderLimits(late_seconds=0.001))
    asked = ask(hasty, "x")
    await until(lambda: slow.begun[3:] == [["x"]])
    asked += ask(hasty, "y")
    await until(lambda: slow.begun[3:] == [["x"], ["y"]])
    slow.gate.set()
    assert await asyncio.gather(*asked) == [answer("x"), answer("y")]


async def test_a_read_is_bounded() -> None:
    """More callers than one read may have are spread over several; one more than may wait is Overloaded at once."""
    slow = SlowReads()
    reader = BatchReader(slow.read, BatchReaderLimits(max_batch=2, max_under_way=1, max_waiting=3))
    first = ask(reader, "a")
    await until(lambda: slow.begun == [["a"]])
    rest = ask(reader, "b", "c", "d", "e")
    await until(rest[3].done)
    assert isinstance(rest[3].exception(), Overloaded)
    slow.gate.set()
    await asyncio.gather(*first, *rest[:3])
    assert slow.begun == [["a"], ["b", "c"], ["d"]]


async def test_a_caller_that_goes_takes_nobody_along() -> None:
    """Those who asked together are answered though one of them is cancelled, before the read has begun or during it."""
    slow = SlowReads()
    reader = BatchReader(slow.read)
    tasks = ask(reader, "a", "b", "c")
    await asyncio.sleep(0)
    tasks[0].cancel()
    await until(lambda: len(slow.begun) == 1)
    tasks[1].cancel()
    slow.gate.set()
    gone, also_gone, stayed = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(gone, asyncio.CancelledError)
    assert isinstance(also_gone, asyncio.CancelledError)
    assert stayed == answer("c")
    assert "c" in slow.begun[0]


async def test_what_fails_is_told_to_those_who_asked_and_the_next_read_is_sound() -> None:
    """A read that fails raises an error of its own for each caller; an error in one place concerns one caller."""
    slow = SlowReads()
    slow.gate.set()
    reader = BatchReader(slow.read)
    slow.failure = StoreUnavailable()
    one, two = await asyncio.gather(*ask(reader, "a", "b"), return_exceptions=True)
    assert isinstance(one, StoreUnavailable)
    assert isinstance(two, StoreUnavailable)
    assert one is not two
    slow.failure = None
    slow.failing = {"a": StoreUnavailable()}
    assert await asyncio.gather(*ask(reader, "a", "b")) == [slow.failing["a"], answer("b")]


async def test_nobody_waits_long_for_a_turn() -> None:
    """While reads hang, those behind them raise StoreUnavailable; reads that have begun are still awaited."""
    slow = SlowReads()
    reader = BatchReader(slow.read, BatchReaderLimits(max_under_way=1, wait_seconds=0.05))
    first = ask(reader, "a")
    await until(lambda: slow.begun == [["a"]])
    for names in (("b", "c"), ("d",)):  # the second time shows that the timer is set again
        tasks = ask(reader, *names)
        await until(lambda tasks=tasks: all(task.done() for task in tasks), 1)  # type: ignore[misc]  # a lambda's default
        assert all(isinstance(task.exception(), StoreUnavailable) for task in tasks)
    later = ask(reader, "e")
    slow.gate.set()
    assert await asyncio.gather(*first, *later) == [answer("a"), answer("e")]
    assert slow.begun == [["a"], ["e"]]


async def test_an_error_that_says_more_is_told_to_all_of_a_read() -> None:
    """Whatever the error is made of, each caller has it with all that it says, and none is left waiting."""
    slow = SlowReads()
    slow.gate.set()
    slow.failure = InvalidField.of("state", "must be a job state with a name")
    one, two = await asyncio.gather(*ask(BatchReader(slow.read), "a", "b"), return_exceptions=True)
    assert isinstance(one, InvalidField)
    assert isinstance(two, InvalidField)
    assert one is not two
    assert (one.message, one.metadata) == (two.message, two.metadata) == (slow.failure.message, {"field": "state"})
