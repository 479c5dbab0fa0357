"""What is remembered of recent polls."""

from jobstatus.rest.recent_polls import MAX_BYTES, RecentPolls


def looked_up(polls: RecentPolls[str], numbers: range) -> int:
    """Ask for polls that nobody has asked for, and return how many were looked up."""
    digests = [polls.digest(b"%d" % number) for number in numbers]
    for digest in filter(None, digests):
        assert polls.find(digest) is None
    return len(list(filter(None, digests)))


def remember(polls: RecentPolls[str], data: bytes) -> bytes:
    digest = polls.digest(data)
    assert digest is not None
    polls.put(digest, data.decode())
    return digest


def test_the_number_of_polls_is_bounded() -> None:
    """One that is repeated stays."""
    polls: RecentPolls[str] = RecentPolls(2)
    first, second = remember(polls, b"first"), remember(polls, b"second")
    assert polls.find(first) == "first"
    third = remember(polls, b"third")
    assert [polls.find(digest) for digest in (first, second, third)] == ["first", None, "third"]


def test_a_long_request_is_not_remembered() -> None:
    polls: RecentPolls[str] = RecentPolls(2)
    assert polls.digest(b"x" * MAX_BYTES) is not None
    assert polls.digest(b"x" * (MAX_BYTES + 1)) is None


def test_few_are_looked_up_while_none_is_repeated() -> None:
    """Until one is found again."""
    polls: RecentPolls[str] = RecentPolls(10)
    known = remember(polls, b"known")
    for number in range(1000):
        looked_up(polls, range(number, number + 1))
    assert sum(looked_up(polls, range(number, number + 1)) for number in range(800)) == 100
    assert polls.find(known) == "known"
    assert looked_up(polls, range(10)) == 10
