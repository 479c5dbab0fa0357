"""Which results are JSON."""

import pytest
from jobstatus.core.errors import ResultNotJson, ResultTooLarge
from jobstatus.core.json_text import check_result


@pytest.mark.parametrize(
    "result",
    [
        b"null",
        b" {} ",
        b"[]",
        b'"\\u0000 \\ud800 \xe2\x80\xa8"',
        b"-0.0e-5",
        b"1" * 5000,
        b"1e308",
        b'{"a":{"b":1},"c":{"b":2}}',
        b'{"__proto__":"<script>"}',
        b"[" * 500 + b"]" * 500,
        '{"text":"Grüße 🎧"}'.encode(),
    ],
)
def test_json_is_accepted(result: bytes) -> None:
    """Any JSON value in UTF-8 is a result, long integers and escapes of lone surrogates included."""
    check_result(result, max_bytes=10_000)


@pytest.mark.parametrize(
    "result",
    [
        b"",
        b" ",
        b"{",
        b"{}x",
        b"{} {}",
        b"'a'",
        b'"\n"',
        b"\x00",
        b"{1:2}",
        b"[1,]",
        b"01",
        b"+1",
        b"NaN",
        b"-Infinity",
        b"[1e999]",
        b'{"a":1,"a":2}',
        b'[{"x":{"a":1,"a":1}}]',
        b'{"a":1,"\\u0061":2}',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'\xef\xbb\xbf"a"',
        '"a"'.encode("utf-16"),
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_anything_else_is_refused(result: bytes) -> None:
    """What some reader would take otherwise, or not at all, is no result."""
    with pytest.raises(ResultNotJson):
        check_result(result, max_bytes=1_000_000)


def test_a_result_has_a_greatest_size() -> None:
    """The bound itself is allowed; one byte more is refused before it is parsed."""
    check_result(b'"aa"', max_bytes=4)
    with pytest.raises(ResultTooLarge):
        check_result(b"not JSON", max_bytes=4)
