"""What counts the answers on a connection finds each of them, however their bytes arrive."""

import pytest
from harness.answer_reader import AnswerReader

ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n\r\n\r\nabc"
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"
    b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n"
    b"HTTP/1.1 202 Accepted\r\nX: y\r\nContent-Length: 2\r\n\r\n{}"
)


@pytest.mark.parametrize("size", [1, 2, 7, 50, len(ANSWERS)])
def test_each_answer_is_found_once(size: int) -> None:
    reader = AnswerReader()
    parts = [ANSWERS[at : at + size] for at in range(0, len(ANSWERS), size)]
    assert [status for part in parts for status in reader.feed(part)] == [200, 304, 401, 202]


def test_an_answer_is_complete_with_its_last_byte() -> None:
    reader = AnswerReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab") == []
    assert reader.feed(b"c") == [200]


def test_an_answer_to_head_ends_with_its_head() -> None:
    reader = AnswerReader(head_only=True)
    assert reader.feed(2 * b"HTTP/1.1 200 OK\r\nContent-Length: 16777216\r\n\r\n") == [200, 200]
