"""Which results are JSON that every client reads the same way."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobstatus.core.errors import ResultNotJson, ResultTooLarge
from jobstatus.core.json_slices import SLICE_BYTES
from jobstatus.core.json_slices import check_result as check_in_slices
from jobstatus.core.json_text import members

LARGEST_DOUBLE = str(int(1.7976931348623157e308)).encode()
PAIR = b"\\ud83c\\uDFA7"


SIZES = [SLICE_BYTES, 100, 16]
"""Of slices. The first one is larger than most of what is checked here."""


def check_result(result: bytes, max_bytes: int, slice_bytes: int = SLICE_BYTES) -> int:
    """Check it to the end, and return the number of pauses."""
    return sum(1 for _ in check_in_slices(result, max_bytes, slice_bytes))


def nested(levels: int, inner: bytes = b"") -> bytes:
    """Arrays and objects in turn, inside each other."""
    opening = [(b"[", b'{"a":')[level % 2] for level in range(levels)]
    closing = [(b"]", b"}")[level % 2] for level in reversed(range(levels))]
    return b"".join(opening) + (inner or b"1") + b"".join(closing)


@pytest.mark.parametrize("slice_bytes", SIZES)
@pytest.mark.parametrize(
    "result",
    [
        b"null",
        b" {} ",
        b"[]",
        b'"\\u0000 \xe2\x80\xa8 \\uffff"',
        b"-0.0e-5",
        b"[9007199254740993,-9223372036854775808,18446744073709551615,18446744073709551616]",
        LARGEST_DOUBLE,
        b"1e308",
        b"[1e-400,0e999,0." + b"1" * 998 + b"]",
        b'{"a":{"b":1},"c":{"b":2}}',
        b'{"__proto__":"<script>"}',
        nested(100),
        b"[" + b"[]," * 500 + nested(99) + b"]",
        b"[" + b'"[{",' * 200 + b'"\\"[","\\\\"]',
        b'"' + PAIR + b'"',
        b'"\\\\ud800 ' + PAIR * 2 + b'\\\\udfff"',
        '{"text":"Grüße 🎧"}'.encode(),
    ],
)
def test_json_is_accepted(result: bytes, slice_bytes: int) -> None:
    """Any JSON value in UTF-8 is a result: ids of 64 bits, 100 levels and escaped pairs of surrogates included."""
    check_result(result, 10_000, slice_bytes)


@pytest.mark.parametrize("slice_bytes", SIZES)
@pytest.mark.parametrize(
    ("result", "byte", "problem"),
    [
        (b"", 0, "expecting value"),
        (b" ", 1, "expecting value"),
        (b"{", 1, "expecting property name"),
        (b"{}x", 2, "extra data"),
        (b"{} {}", 3, "extra data"),
        (b"'a'", 0, "expecting value"),
        ('["é\n"]'.encode(), 4, "invalid control character"),
        (b"\x00", 0, "expecting value"),
        (b"{1:2}", 1, "expecting property name"),
        (b"[1,,2]", 3, "expecting value"),
        (b"01", 1, "extra data"),
        (b"+1", 0, "expecting value"),
        (b"NaN", 0, "no JSON number"),
        (b'["NaN",-Infinity]', 7, "no JSON number"),
        (b'{"a":1e9,"b":[1e999]}', 14, "a number beyond the range of a double"),
        (b"[-1.7976931348623159e308]", 1, "a number beyond the range of a double"),
        (b"[2," + b"1" * 310 + b"]", 3, "a number beyond the range of a double"),
        (b"[1e999.5]", 1, "a number beyond the range of a double"),
        (b"1" * 1001, 0, "a number of more than 1000 characters"),
        (b"[0." + b"1" * 999 + b"]", 1, "a number of more than 1000 characters"),
        (b'{"a":1,"a":2}', 7, "a name that this object has already"),
        (b'[{"x":{"a":1,"a":1}}]', 13, "a name that this object has already"),
        (b'{"a":[{"a":1},"a"],"\\u0061" :2}', 19, "a name that this object has already"),
        (b'"\xff"', 1, "not UTF-8"),
        (b'"\xed\xa0\x80"', 1, "not UTF-8"),
        (b'\xef\xbb\xbf"a"', 0, "expecting value"),
        ('"a"'.encode("utf-16"), 0, "not UTF-8"),
        (b'"\\ud800"', 1, "half of a surrogate pair"),
        (b'"\\uDFFFx"', 1, "half of a surrogate pair"),
        (b'"' + PAIR + b'\\udfa7"', 13, "half of a surrogate pair"),
        (b'"\\\\\\ud83c"', 3, "half of a surrogate pair"),
        (b'"\\ud83c\\\\udfa7"', 1, "half of a surrogate pair"),
        (b'"\\\\ud83c\\udfa7"', 8, "half of a surrogate pair"),
        (b'{"\\udfa7\\ud83c":1}', 2, "half of a surrogate pair"),
        (nested(101), 50 * 6, "nested more than 100 levels deep"),
        (b"[" + b"[]," * 500 + nested(100) + b"]", 1 + 500 * 3 + 50 * 6 - 5, "nested more than 100 levels deep"),
        (b"[" * 100_000, 100, "nested more than 100 levels deep"),
        (b'{"a":' * 100_000, 500, "nested more than 100 levels deep"),
    ],
)
def test_anything_else_is_refused(result: bytes, byte: int, problem: str, slice_bytes: int) -> None:
    """What some reader would take otherwise, or not at all, is no result. The error says what it is, and where."""
    with pytest.raises(ResultNotJson) as refused:
        check_result(result, 1_000_000, slice_bytes)
    assert f" Byte {byte}: {problem}" in refused.value.message


@pytest.mark.parametrize("result", [b"[1,]", b'{"a":1,}'])
def test_a_comma_at_the_end_is_refused(result: bytes) -> None:
    """The interpreter's parser names the comma, or what is missing after it, as its version does."""
    with pytest.raises(ResultNotJson, match=r"Byte \d: (expecting|illegal trailing comma)"):
        check_result(result, 1000)


@pytest.mark.parametrize("size", [0, (1 << 20) - 7, (1 << 20) - 1, 1 << 20, 3 << 20])
def test_the_size_makes_no_difference(size: int) -> None:
    """Wherever a large result is searched in parts, pairs are pairs and halves are halves."""
    text = b'["' + b"x" * size
    check_result(text + PAIR + b'"]', max_bytes=1 << 24)
    with pytest.raises(ResultNotJson) as refused:
        check_result(text + PAIR[:6] + b'"]', max_bytes=1 << 24)
    assert f" Byte {len(text)}: half" in refused.value.message


SCALARS = (
    st.none()
    | st.integers(-(10**320), 10**320)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(blacklist_categories=()) | st.sampled_from('[]{}"\\\ud800\udfa7'), max_size=12)
)


@pytest.mark.hypothesis
@given(
    st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner)),
    st.integers(80, 105),
)
def test_a_value_is_accepted_exactly_if_every_part_is_readable(value: Any, levels: int) -> None:
    """Whatever stands around it, and however it is escaped."""
    for _ in range(levels):
        value = [value]
    for document in (json.dumps(value), json.dumps(value, indent=1, ensure_ascii=False)):
        utf_16 = document.encode("utf-16", "surrogatepass")  # in which two halves beside each other are a pair
        try:
            check_result(utf_16.decode("utf-16", "surrogatepass").encode("utf-8", "surrogatepass"), max_bytes=1 << 24)
        except ResultNotJson:
            assert not is_readable(value)
        else:
            assert is_readable(value)


def is_readable(value: Any, depth: int = 0) -> bool:
    """Say it of each part on its own."""
    if isinstance(value, list):
        return depth < 100 and all(is_readable(part, depth + 1) for part in value)
    if isinstance(value, dict):
        return depth < 100 and all(is_readable(name) and is_readable(part, depth + 1) for name, part in value.items())
    if isinstance(value, str):
        try:
            value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            return False
        return True
    return not isinstance(value, int) or abs(value) <= int(LARGEST_DOUBLE)


def test_a_result_has_a_greatest_size() -> None:
    """The bound itself is allowed; one byte more is refused before it is parsed."""
    check_result(b'"aa"', max_bytes=4)
    with pytest.raises(ResultTooLarge):
        check_result(b"not JSON", max_bytes=4)


def test_members_are_taken_from_an_object_as_they_stand() -> None:
    """Numbers and nesting that this interpreter cannot read are handed on like everything else."""
    long, deep = b"1" * 5000, nested(5000)
    document = b' {"a": %b ,"\\u0062":%b, "c" :"}\\\\", "d":{} ,"e":[ ] }\n' % (long, deep)
    assert members(document) == {"a": long, "b": deep, "c": b'"}\\\\"', "d": b"{}", "e": b"[ ]"}
    assert members(b" { } ") == {}


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"1",
        b"[]",
        b"<html>",
        b"{",
        b'{"a"}',
        b'{"a":}',
        b'{"a":1',
        b'{"a":[1}',
        b'{"a":1}x',
        b'{"a":1,}',
        b"{a:1}",
    ],
)
def test_what_is_no_object_has_no_members(document: bytes) -> None:
    """ValueError, wherever it ends."""
    with pytest.raises(ValueError, match=r"object|unterminated|more than one"):
        members(document)
