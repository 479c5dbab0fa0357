"""When a poller is asked to come back: what is learned from how long jobs took, and the bounds of it."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobstatus.core.commands import CompleteJob, CreateJob, FailJob, StartJob
from jobstatus.core.job import ErrorField, Job, JobError, RequestType
from jobstatus.core.retry_after import (
    FIRST_PAUSE_MS,
    LATENESS_MS,
    LEARNED_TOGETHER,
    MAX_KNOWN,
    MAX_SEEN,
    MIN_ALIVE,
    MIN_KNOWN,
    RetryAfterEstimator,
    ages_to_poll_at,
    unlearned_retry_after_ms,
)
from jobstatus.core.rules import Policy, decide
from jobstatus.core.store import ended_at_ms
from jobstatus.rest.headers import MAX_RETRY_AFTER_SECONDS, retry_after_seconds

DAY_MS = 24 * 60 * 60 * 1000
MINUTE_MS = 60_000
NOW_MS = 1_700_000_000_123
TYPE = RequestType.TRANSCRIPTION

durations = st.integers(0, DAY_MS)
histories = st.lists(durations | st.integers(0, MINUTE_MS), max_size=2 * MAX_KNOWN)
some_durations = st.lists(durations, min_size=1, max_size=MAX_KNOWN).map(sorted)
ages = st.integers(-DAY_MS, 2 * DAY_MS)


def having_learned(history: Sequence[int], request_type: RequestType = TYPE) -> RetryAfterEstimator:
    expected = RetryAfterEstimator()
    for duration_ms in history:
        expected.learn(request_type, duration_ms)
    return expected


def retry_after_ms(expected: RetryAfterEstimator, age_ms: int, request_type: RequestType = TYPE) -> int:
    return expected.retry_after_ms("job", request_type, age_ms)


def lateness_ms(alive: Sequence[int], age_ms: int) -> float:
    """Return how late, on average, the ends of jobs with these durations are seen by a poll at this age."""
    return sum(max(0, age_ms - duration_ms) for duration_ms in alive) / len(alive)


# --- bounds ---


@given(history=histories, age_ms=ages, least=st.integers(1, MAX_RETRY_AFTER_SECONDS))
def test_retry_after_is_within_its_bounds(history: list[int], age_ms: int, least: int) -> None:
    """Whatever was learned: no less than the setting, no more than 30, and whole seconds."""
    seconds = retry_after_seconds(retry_after_ms(having_learned(history), age_ms), least)
    assert least <= seconds <= MAX_RETRY_AFTER_SECONDS
    assert isinstance(seconds, int)


@given(history=histories, age_ms=st.integers(0, DAY_MS))
def test_the_news_is_never_later_than_half_of_the_time_that_the_job_took(history: list[int], age_ms: int) -> None:
    """And five seconds. A job that ends at this age or later is asked for again within half of that age, and those."""
    assert 0 <= retry_after_ms(having_learned(history), age_ms) <= FIRST_PAUSE_MS + age_ms / 2


@pytest.mark.parametrize(
    ("age_ms", "least", "expected"),
    [
        (-3_600_000, 2, 2),
        (0, 1, 1),
        (0, 2, 2),
        (29_900, 2, 2),
        (30_000, 2, 3),
        (100_000, 2, 10),
        (299_000, 2, 29),
        (10**12, 2, 30),
        (0, 30, 30),
    ],
)
def test_without_knowledge_retry_after_grows_with_age(age_ms: int, least: int, expected: int) -> None:
    """The poller of a young job is asked to come back soon, that of an old one later, never later than in 30 s."""
    assert retry_after_seconds(unlearned_retry_after_ms(age_ms), least) == expected


@given(history=st.lists(durations, max_size=MIN_KNOWN - 1), age_ms=ages)
def test_a_few_jobs_say_nothing(history: list[int], age_ms: int) -> None:
    """Until enough have ended the age alone decides."""
    assert retry_after_ms(having_learned(history), age_ms) == unlearned_retry_after_ms(age_ms)


@given(history=st.lists(durations, min_size=MAX_KNOWN, max_size=MAX_KNOWN), beyond_ms=st.integers(0, DAY_MS))
def test_of_jobs_older_than_almost_all_nothing_is_known(history: list[int], beyond_ms: int) -> None:
    """One that has outlived all but a few is asked for by its age."""
    age_ms = sorted(history)[-MIN_ALIVE] + beyond_ms
    assert retry_after_ms(having_learned(history), age_ms) == unlearned_retry_after_ms(age_ms)


# --- the rule ---


@given(some_durations)
def test_the_average_lateness_is_the_one_that_is_allowed(known: list[int]) -> None:
    """Over all jobs that have lived as long: no more at the age that is named, and more a moment later."""
    for outlived, age_ms in enumerate(ages_to_poll_at(known)):
        alive = known[outlived:]
        assert lateness_ms(alive, age_ms) <= LATENESS_MS
        assert lateness_ms(alive, age_ms + 1) > LATENESS_MS


@given(some_durations)
def test_who_asks_later_is_never_sent_to_an_earlier_time(known: list[int]) -> None:
    """The age at which to ask grows with the age, and always lies ahead."""
    found = ages_to_poll_at(known)
    assert found == sorted(found)
    assert all(age_ms > duration_ms for age_ms, duration_ms in zip(found, known, strict=True))


@given(history=st.lists(durations, min_size=MAX_KNOWN, max_size=MAX_KNOWN), age_ms=ages, data=st.data())
def test_the_order_of_ends_does_not_matter(history: list[int], age_ms: int, data: st.DataObject) -> None:
    """The same jobs teach the same, however they come."""
    shuffled = data.draw(st.permutations(history))
    assert retry_after_ms(having_learned(history), age_ms) == retry_after_ms(having_learned(shuffled), age_ms)


def test_it_is_rarely_at_first_and_often_when_the_end_is_near() -> None:
    """Of jobs that take 55 to 65 s: as the bound has it, then up to the first ends, then every few seconds."""
    expected = having_learned([55_000 + 50 * number for number in range(MAX_KNOWN)])
    asked = [0]
    while asked[-1] < 62_000:
        asked.append(asked[-1] + 1000 * retry_after_seconds(retry_after_ms(expected, asked[-1]), 1))
    assert asked[:5] == [0, 5_000, 12_000, 23_000, 39_000]
    assert asked[5] in range(55_000, 59_000)
    assert all(later - earlier <= 3_000 for earlier, later in itertools.pairwise(asked[5:]))


def test_two_kinds_of_jobs_are_both_awaited() -> None:
    """Half takes 10 s, half two minutes: asked for at 10 s, and then not before the second kind's time."""
    expected = having_learned([10_000 + number for number in range(100)] + [120_000 + number for number in range(100)])
    assert 5_000 + retry_after_ms(expected, 5_000) in range(10_000, 12_000)
    assert 40_000 + retry_after_ms(expected, 40_000) == 65_000  # as far as the bound lets us
    assert 100_000 + retry_after_ms(expected, 100_000) in range(120_000, 121_000)


def test_outliers_hardly_matter() -> None:
    """A few jobs that hung for a day, and a few that failed at once, move the answer by less than a second."""
    usual = [60_000 + 10 * number for number in range(MAX_KNOWN - 10)]
    odd = [DAY_MS] * 5 + [100] * 5
    with_them, without = having_learned([*odd, *usual]), having_learned([*usual[:10], *usual])
    for age_ms in (0, 20_000, 50_000, 60_000):
        assert abs(retry_after_ms(with_them, age_ms) - retry_after_ms(without, age_ms)) < 1_000


def test_what_was_long_ago_is_forgotten() -> None:
    """Only the latest jobs count; nothing is left of others once as many have followed."""
    now = [10_000 + number for number in range(MAX_KNOWN)]
    assert MAX_KNOWN % LEARNED_TOGETHER == 0
    changed = having_learned([*(DAY_MS - number for number in range(1_000)), *now])
    for age_ms in range(0, 20_000, 500):
        assert retry_after_ms(changed, age_ms) == retry_after_ms(having_learned(now), age_ms)


def test_each_type_is_learned_for_itself() -> None:
    """What takes long in one says nothing of another."""
    expected = having_learned([10 * MINUTE_MS] * MAX_KNOWN, RequestType.SPEECH)
    assert retry_after_ms(expected, 0, RequestType.SPEECH) == FIRST_PAUSE_MS
    assert retry_after_ms(expected, 0, RequestType.OCR) == unlearned_retry_after_ms(0)


# --- what is learned from ---


def test_an_end_is_news_once() -> None:
    """Of a job that was asked for before it ended; asking for the ended one again and again teaches nothing more."""
    expected = RetryAfterEstimator()
    assert not expected.first_seen_ended("job")
    for _ in range(3):
        retry_after_ms(expected, 0)
    assert [expected.first_seen_ended("job") for _ in range(3)] == [True, False, False]


def test_the_jobs_asked_for_are_forgotten_in_time() -> None:
    """The last MAX_SEEN are kept, including those polled again, and never more than twice as many."""
    expected = RetryAfterEstimator()
    names = [f"job-{number}" for number in range(3 * MAX_SEEN)]
    for name in names:
        expected.retry_after_ms(name, TYPE, 0)
        expected.retry_after_ms("asked again", TYPE, 0)
    found = [name for name in names if expected.first_seen_ended(name)]
    assert names[-MAX_SEEN + 1 :] == found[-MAX_SEEN + 1 :]
    assert len(found) <= 2 * MAX_SEEN
    assert expected.first_seen_ended("asked again")


def after(*commands: CreateJob | StartJob | CompleteJob | FailJob) -> Job:
    """The job as these leave it, a second apart."""
    job = None
    for number, command in enumerate(commands):
        job, refusal = decide(job, command, NOW_MS + 1000 * number, Policy())
        assert refusal is None
    assert job is not None
    return job


CREATED = CreateJob(job_id="job", request_type=TYPE)
STARTED = StartJob(job_id="job", worker_id="worker")
ERROR = JobError(error=ErrorField(message="no"))


@pytest.mark.parametrize(
    ("job", "at_ms"),
    [
        (after(CREATED, STARTED), None),
        (after(CREATED, CompleteJob(job_id="job", result=b"{}")), NOW_MS + 1000),
        (after(CREATED, STARTED, FailJob(job_id="job", error=ERROR)), NOW_MS + 2000),
        (after(CREATED, FailJob(job_id="job", error=ERROR, status_code=504)), None),
    ],
)
def test_an_answer_says_when_the_job_was_reported_to_have_ended(job: Job, at_ms: int | None) -> None:
    """There is nothing to learn from a job that was given up, or has not ended."""
    assert ended_at_ms(job) == at_ms
