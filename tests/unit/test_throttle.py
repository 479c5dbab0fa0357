"""A log line about what happens too often: said at once, then throttle, and nothing is left uncounted."""

from jobstatus.telemetry.throttle import EVERY_SECONDS, LogThrottle


def test_the_first_is_said_and_the_rest_are_counted_in_the_next() -> None:
    """One line at once, one after the pause with all that happened meanwhile, one at once after quiet."""
    now = [0.0]
    throttle = LogThrottle(lambda: now[0])
    assert [throttle.should_log() for _ in range(4)] == [1, 0, 0, 0]
    now[0] += EVERY_SECONDS
    assert [throttle.should_log() for _ in range(3)] == [4, 0, 0]
    now[0] += 2 * EVERY_SECONDS
    assert throttle.should_log() == 3
