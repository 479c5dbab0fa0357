"""How often a stream of the console looks at what it shows."""

import pytest
from jobstatus.console.limits import ConsoleLimits
from jobstatus.console.looks import UsualSeconds
from jobstatus.console.stream import pause_seconds


@pytest.mark.parametrize(
    ("view", "seconds", "expected"),
    [
        ("jobs", 0.001, 0.4),
        ("jobs", 0.2, 1.0),
        ("jobs", 9.0, 2.0),
        ("failures", 0.001, 5.0),
        ("keys", 9.0, 5.0),
        ("workers", 0.001, 2.0),
    ],
)
def test_a_look_that_costs_more_is_rarer(view: str, seconds: float, expected: float) -> None:
    """By what it took, up to a bound; views of many jobs have a pause of their own."""
    assert pause_seconds(view, seconds, ConsoleLimits()) == expected


def test_a_look_that_was_held_up_does_not_make_the_next_ones_rare() -> None:
    """What takes long each time does, from the third time on; it is forgotten as soon as one look is quick again."""
    usual = UsualSeconds()
    looks = [0.5, 0.01, 0.01, 0.6, 0.02, 0.6, 0.7, 0.8, 0.9, 0.01]
    assert [usual.after(seconds) for seconds in looks] == [0, 0, 0.01, 0.01, 0.01, 0.02, 0.02, 0.6, 0.7, 0.01]
