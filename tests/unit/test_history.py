"""Whoever judges a history of calls would notice if a service had not kept its word."""

from collections.abc import Callable

import pytest
from harness.history import ENDED, GONE, PENDING, PROCESSING, Call, Ending, History, Seen


class Story:
    """A history that is told call by call, each made after the one before was answered unless it `overlaps` it."""

    def __init__(self) -> None:
        self.history = History()

    def call(self, kind: str, rank: int = GONE, wanted: str = "") -> Call:
        return self.history.begin(kind, "job", rank, wanted)

    def tell(self, kind: str, seen: Seen | None, rank: int = GONE, wanted: str = "", ending: Ending = "ok") -> "Story":
        self.history.end(self.call(kind, rank, wanted), ending, seen)
        return self


def ended(outcome: str = "completed a", version: int = 3, **fields: str) -> Seen:
    return Seen(rank=ENDED, version=version, outcome=outcome, **fields)


def honest() -> Story:
    """A job that is created, started and completed, with a refused rival and a lost answer."""
    story = Story().tell("create", None, PENDING, ending="unknown")
    story.tell("create", Seen(rank=PENDING, version=1, snapshot="one"), PENDING)
    story.tell("start", Seen(rank=PROCESSING, version=2, snapshot="two"), PROCESSING)
    story.tell("complete", ended(), ENDED, "completed a").tell("fail", Seen(rank=ENDED), ENDED, "failed b", "refused")
    return story.tell("get", ended()).tell("poll", ended(version=0, body="bytes"))


def overlapping() -> Story:
    """A read that overlaps the end may show either."""
    story = honest_start()
    ending, early, late = story.call("complete", ENDED, "completed a"), story.call("get"), story.call("poll")
    story.history.end(late, "ok", ended(version=0))
    story.history.end(early, "ok", Seen(rank=PENDING, version=1))
    story.history.end(ending, "ok", ended(version=2))
    return story.tell("get", ended(version=2))


def honest_start() -> Story:
    return Story().tell("create", Seen(rank=PENDING, version=1), PENDING)


def unknown_that_happened() -> Story:
    """A write without an answer may have happened."""
    return honest_start().tell("fail", None, ENDED, "failed b", "unknown").tell("get", ended("failed b", 2))


def unknown_that_did_not() -> Story:
    """A write without an answer may not have happened."""
    story = honest_start().tell("fail", None, ENDED, "failed b", "unknown")
    return story.tell("complete", ended(version=2), ENDED, "completed a").tell("get", ended(version=2))


@pytest.mark.parametrize("story", [honest, overlapping, unknown_that_happened, unknown_that_did_not])
def test_the_judge_believes_what_can_be_true(story: Callable[[], Story]) -> None:
    """A history that one service could have made has nothing wrong in it."""
    assert story().history.violations() == []


LIES: dict[str, tuple[Story, str]] = {
    "an acknowledged creation is gone": (honest().tell("get", Seen(rank=GONE)), "went back"),
    "an end is undone": (honest().tell("poll", Seen(rank=PROCESSING)), "went back"),
    "an older version": (honest().tell("get", ended(version=2)), "went back"),
    "the bytes of the end change": (honest().tell("poll", ended(version=0, body="others")), "2 bodies"),
    "the end changes": (honest().tell("get", ended("failed b")), "2 outcomes"),
    "both of two rivals are acknowledged": (
        honest().tell("fail", ended("failed c", 4), ENDED, "failed c"),
        "2 outcomes",
    ),
    "one version shows two jobs": (
        honest_start()
        .tell("get", Seen(rank=PENDING, version=1, snapshot="x"))
        .tell("get", Seen(rank=PENDING, version=1, snapshot="y")),
        "two jobs of version 1",
    ),
    "an acknowledged end is lost": (
        honest_start().tell("complete", None, ENDED, "completed a").tell("fail", ended("failed b"), ENDED, "failed b"),
        "lost: complete",
    ),
    "what was refused has happened": (
        honest_start().tell("fail", None, ENDED, "failed b", "refused").tell("get", ended("failed b", 2)),
        "refused and done",
    ),
    "an end that nobody wanted": (honest_start().tell("get", ended("completed z")), "from nowhere"),
    "a start that nobody made": (honest_start().tell("get", Seen(rank=PROCESSING, version=2)), "from nowhere"),
    "an end that never comes": (honest_start(), "never seen to have ended"),
    "a refusal that comes too early": (
        honest_start()
        .tell("fail", Seen(rank=ENDED), ENDED, "failed b", "refused")
        .tell("get", Seen(rank=PENDING, version=1)),
        "went back",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_the_judge_notices(lie: str) -> None:
    """Whatever the service promises, a history that breaks it is found out."""
    story, words = LIES[lie]
    assert any(words in wrong for wrong in story.history.violations()), story.history.violations()
