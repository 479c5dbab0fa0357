"""Large JSON is checked in slices, with the verdict that it has as a whole."""

import gc
import json
import sys
import tracemalloc
from contextlib import suppress
from itertools import islice
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jobstatus.core.errors import ResultNotJson
from jobstatus.core.json_slices import SLICE_BYTES, check_result
from jobstatus.core.json_text import Fault, check_json

ANY_SIZE = 1 << 30
PIECES = (
    *(b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"0", b" ", b"\n", b"1.5e3", b"e999", b"true", b"{},", b"[1],"),
    *(b'"a":1,', b'"a":[', b'"b":{', b'"\\u0061":', b"\\ud83c", b"\\udfa7", b'\\"', b"\xff", b"\xc3\xa9", b"\xe2\x80"),
    *(b" " * 40, b'"' + b"x" * 40 + b'"', b'"' + b"\\n" * 20 + b'":', b"1" * 40, b"[" * 60, b"]" * 60),
)
NAMES = st.sampled_from(["a", "b", "c", "\n", '"', "\\", "é", "🎧", "[{,", "x" * 40, "\\" * 20])
VALUES = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('ab"\\[]{},:\n é🎧\ud800\udfa7'), max_size=50),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=20,
)


def is_accepted(data: bytes) -> bool:
    """Say what `check_json` makes of it as a whole."""
    try:
        check_json(data)
    except Fault:
        return False
    return True


def is_accepted_in_slices(data: bytes, slice_bytes: int) -> bool:
    try:
        for _ in check_result(data, ANY_SIZE, slice_bytes):
            pass
    except ResultNotJson:
        return False
    return True


@pytest.mark.hypothesis
@given(VALUES, st.booleans(), st.sampled_from([None, 1]), st.data())
def test_slices_have_the_verdict_of_the_whole(
    value: Any, ascii_only: bool, indent: int | None, data: st.DataObject
) -> None:
    """Whatever is changed in valid JSON, and wherever it is cut."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    for _ in range(data.draw(st.integers(0, 3))):
        begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        kept = data.draw(st.sampled_from([begin, begin, min(begin + 1, len(text)), end]))
        text = text[:begin] + data.draw(st.sampled_from((*PIECES, text[begin:end]))) + text[kept:]
    whole = is_accepted(text)
    for slice_bytes in (1, 2, 7, 16, 50):
        assert is_accepted_in_slices(text, slice_bytes) == whole, slice_bytes


@pytest.mark.hypothesis
@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join), st.integers(1, 60))
@example(b"[,1]", 2)
@example(b"[1,]", 3)
@example(b'{"a":1,{}}', 7)
@example(b'{"a":1, {}}', 8)
@example(b'{"a" {}}', 5)
@example(b"[1 [2]]", 3)
@example(b"[1] [2]", 4)
@example(b" [1]", 1)
@example(b'{"a":[1],"a":2}', 9)
@example(b'{"' + b"\\u0061" * 9 + b'":1,"' + b"a" * 9 + b'":2}', 10)
@example(b'{"' + b"a" * 99 + b'":1,"' + b"a" * 98 + b'\\u0061":2}', 10)
@example(b"[12" + b" " * 9 + b"34]", 4)
def test_text_of_any_kind_has_the_verdict_of_the_whole(text: bytes, slice_bytes: int) -> None:
    """What is hardly JSON at all is refused in slices as well; what each slice allows must fit to the one before."""
    assert is_accepted_in_slices(text, slice_bytes) == is_accepted(text)


def filled(begin: bytes, item: bytes, end: bytes) -> bytes:
    """Many items, in three dozen slices or so."""
    return begin + b",".join([item] * (36 * SLICE_BYTES // len(item))) + end


def with_names(count: int, last: bytes = b'"last"') -> bytes:
    return b"{" + b"".join(b'"%d":1,' % number for number in range(count)) + last + b":1}"


SHAPES = {
    "arrays": filled(b"[", b"[]", b"]"),
    "deep arrays": filled(b"[", b"[" * 99 + b"]" * 99, b"]"),
    "deep objects": filled(b"[", b'{"a":' * 99 + b"1" + b"}" * 99, b"]"),
    "objects": filled(b"[", b'{"a":1,"b":"c"}', b"]"),
    "numbers": filled(b"[", b"1", b"]"),
    "strings": filled(b"[", b'""', b"]"),
    "brackets in strings": filled(b"[", b'"[[["', b"]"),
    "names": with_names(36 * SLICE_BYTES // 9),
    "one string": b'"' + b"a" * (36 * 2 * SLICE_BYTES) + b'"',
    "escapes": b'"' + b"\\n" * (36 * SLICE_BYTES) + b'"',
    "pairs": b'"' + b"\\ud83c\\udfa7" * (9 * SLICE_BYTES) + b'"',
    "a long name": b'{"' + b"\\n" * (36 * SLICE_BYTES) + b'":1}',
    "spaces": b"[" + b" " * (36 * SLICE_BYTES) + b"]",
    "characters of four bytes": b'"' + "🎧".encode() * (36 * SLICE_BYTES // 2) + b'"',
}


@pytest.mark.parametrize("data", SHAPES.values(), ids=SHAPES)
def test_every_shape_is_checked_in_slices(data: bytes) -> None:
    """Others have the event loop at least once for every few slices' length of bytes, whatever the bytes are."""
    pauses = sum(1 for _ in check_result(data, ANY_SIZE))
    assert pauses >= len(data) / (9 * SLICE_BYTES)


INVALID = {
    "bracket": (filled(b"[", b"[]", b"}"), -1, "expecting ',' delimiter"),
    "name": (with_names(36 * SLICE_BYTES // 9, b'"7"'), -6, "a name that this object has already"),
    "byte": (filled(b"[", b'"x"', b',"\xff"]'), -3, "not UTF-8"),
    "surrogate": (filled(b"[", b'"x"', b',"\\ud800"]'), -8, "half of a surrogate pair"),
    "depth": (
        filled(b"[", b"[" * 99 + b"]" * 99, b"," + b"[" * 100 + b"]" * 101),
        -102,
        "nested more than 100 levels deep",
    ),
    "number": (filled(b"[", b"1", b",1e999]"), -6, "a number beyond the range of a double"),
    "end of a long string": (b'"' + b"\\n" * (36 * SLICE_BYTES), None, "unterminated string"),
    "many strings": (b'""' * (2 * SLICE_BYTES), None, "expecting ',' delimiter"),
    "a long number": (b"[" + b"1" * (2 * SLICE_BYTES) + b"]", None, "expecting ',' delimiter"),
}


@pytest.mark.parametrize(("data", "at", "problem"), INVALID.values(), ids=INVALID)
def test_a_fault_is_found_wherever_it_is(data: bytes, at: int | None, problem: str) -> None:
    """The error names the byte of the whole; where nothing ends, the slice where the fault begins."""
    with pytest.raises(ResultNotJson) as refused:
        for _ in check_result(data, ANY_SIZE):
            pass
    assert f" Byte {at % len(data) if at else 0}: {problem}" in refused.value.message


def test_values_are_not_kept() -> None:
    """The check holds a slice, not a second copy of a result in Python's objects."""
    data = b"[" + b"[]," * (4 * SLICE_BYTES) + b"1]"
    tracemalloc.start()
    try:
        for _ in check_result(data, ANY_SIZE):
            pass
        assert tracemalloc.get_traced_memory()[1] < 64 * SLICE_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [1, SLICE_BYTES])
def test_small_results_are_checked_at_once(size: int) -> None:
    """A slice or less is checked without a pause."""
    assert list(check_result(b"1".ljust(size), ANY_SIZE)) == []


@pytest.mark.parametrize("slices", [1, 3, 1000])
@pytest.mark.parametrize("end", [b'{"a": 1}]', b"]]"])
def test_a_result_is_let_go_of_with_its_check(slices: int, end: bytes) -> None:
    """However the check ends, nothing keeps the data until a collection of cycles, which may be a long time."""
    data = b"[" + b'{"a": 1}, ' * 100 + end
    gc.disable()
    try:
        before = sys.getrefcount(data)
        steps = check_result(data, ANY_SIZE, 64)
        with suppress(ResultNotJson):
            for _ in islice(steps, slices):
                pass
        del steps
        assert sys.getrefcount(data) == before
    finally:
        gc.enable()
