"""What is remembered of recent polls."""

from hashlib import sha256

import pytest
from jobstatus.rest.recent_polls import MAX_BYTES, Key, RecentPolls, key_of


def looked_up(polls: RecentPolls[str], numbers: range) -> int:
    """Ask for polls that nobody has asked for, and return how many were looked up."""
    keys = [polls.key(b"%d" % number) for number in numbers]
    for key in filter(None, keys):
        assert polls.find(key) is None
    return len(list(filter(None, keys)))


def remember(polls: RecentPolls[str], data: bytes) -> Key:
    key = polls.key(data)
    assert key is not None
    polls.put(key, data.decode())
    return key


def test_the_number_of_polls_is_bounded() -> None:
    """One that is repeated stays."""
    polls: RecentPolls[str] = RecentPolls(2)
    first, second = remember(polls, b"first"), remember(polls, b"second")
    assert polls.find(first) == "first"
    third = remember(polls, b"third")
    assert [polls.find(key) for key in (first, second, third)] == ["first", None, "third"]


def test_a_long_request_is_not_remembered() -> None:
    polls: RecentPolls[str] = RecentPolls(2)
    assert polls.key(b"x" * MAX_BYTES) is not None
    assert polls.key(b"x" * (MAX_BYTES + 1)) is None


def test_few_are_looked_up_while_none_is_repeated() -> None:
    """Until one is found again."""
    polls: RecentPolls[str] = RecentPolls(10)
    known = remember(polls, b"known")
    for number in range(1000):
        looked_up(polls, range(number, number + 1))
    assert sum(looked_up(polls, range(number, number + 1)) for number in range(800)) == 100
    assert polls.find(known) == "known"
    assert looked_up(polls, range(10)) == 10


def with_id(line: str, at: int = 2) -> bytes:
    lines = ["GET /v1/async/ocr/job HTTP/1.1", "Host: test", "x-bf-vk: sk-bf-key", "Accept: */*"]
    lines[at:at] = [line]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["X-Request-Id", "X-Request-ID", "x-request-id"])
def test_a_request_is_the_same_with_another_request_id(name: str, at: int) -> None:
    first, second = (key_of(with_id(f"{name}: {given}", at)) for given in ("0af7-1", "b" * 128))
    assert (first.request_id, second.request_id) == ("0af7-1", "b" * 128)
    assert first.digest == second.digest
    assert first.digest != key_of(with_id("DNT: 1", at)).digest
    assert first.digest != key_of(with_id(f"{name}: 1", at).replace(b"job", b"jib")).digest


@pytest.mark.parametrize(
    "data",
    [
        with_id("X-Request-Id: "),
        with_id("X-Request-Id: not sane"),
        with_id("X-Request-Id: " + "a" * 129),
        with_id("X-Request-Id: a\r\n b"),
        with_id("X-Request-Id:  a"),
        with_id("X-Request-Id : a"),
        with_id("X-Request-Id: a\tb"),
        with_id("AX-Request-Id: a"),
        with_id("Accept: a X-Request-Id: a"),
        with_id("DNT: 1\nX-Request-Id: a"),
        with_id("Access-Control-Request-Method: GET\r\nX-Request-Id: a"),
        with_id("X-Request-Id: a", 0),
        b"\r\n" + with_id("X-Request-Id: a"),
        b"PUT" + with_id("X-Request-Id: a")[3:],
        with_id("DNT: 1") + b"X-Request-Id: a\r\n",
        with_id("X-Request-Id: a")[:-2],
        b"equest-",
        b"",
    ],
)
def test_what_is_not_such_a_line_is_a_part_of_the_request(data: bytes) -> None:
    assert key_of(data).request_id is None
    assert key_of(data).digest == sha256(data).digest()
