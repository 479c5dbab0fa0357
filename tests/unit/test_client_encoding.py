"""The client's JSON: what becomes a number, what becomes text, and where a fault stands."""

import inspect
import json
import math
import sys
from collections.abc import Callable, Hashable
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from jobstatus.client.encoding import json_bytes, mended, well_formed
from jobstatus.client.writes import complete_request, encoded_result
from jobstatus.core.commands import CompleteJob
from jobstatus.core.errors import ResultNotJson


class Whole:
    """A number of a library that registers nothing, such as a scalar on a graphics card."""

    def __index__(self) -> int:
        return 7


class Real:
    def __float__(self) -> float:
        return 0.25


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("\ud83d", "\ufffd"),
        ("\udc00\ud83d", "\ufffd\ufffd"),
        ("a\ud83d\ude00b", "a\U0001f600b"),
        ("\ud83d\ud83d\ude00 é", "\ufffd\U0001f600 é"),
        ("\udcff.wav", "\ufffd.wav"),
        ("é \U0001f600", "é \U0001f600"),
    ],
)
def test_half_a_character_is_replaced_and_two_halves_are_one(text: str, sent: str) -> None:
    """Alone, in a value, in a name, and in what `default` returns."""
    assert well_formed(text) == sent
    for value, plain in ({text: [text]}, {sent: [sent]}), ([{1: text}], [{"1": sent}]):
        assert json.loads(json_bytes(value)) == plain
    assert json.loads(json_bytes([{1}], default=lambda _: text)) == [sent]


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        (rb'"a \ud83d"', rb'"a \ufffd"'),
        (rb'{"\uDC00": "\ud83d\ud83d\ude00"}', rb'{"\ufffd": "\ufffd\ud83d\ude00"}'),
        (rb'"\ud83d\n\ude00"', rb'"\ufffd\n\ufffd"'),
        (rb'"\\ud83d \\\ud83d"', rb'"\\ud83d \\\ufffd"'),
        (rb' {"a" : "\uD83D\uDE00 \u00e9 \"\/"} ', rb' {"a" : "\uD83D\uDE00 \u00e9 \"\/"} '),
        (b'"\\ud8', b'"\\ud8'),
        (b'"\\', b'"\\'),
    ],
)
def test_in_text_only_escapes_that_would_be_refused_are_replaced(text: bytes, sent: bytes) -> None:
    """Text is sent byte for byte but for half a character, which would cost it all."""
    assert mended(text) == sent
    for result in (text, text.decode()):
        assert complete_request(CompleteJob(job_id="a", result=encoded_result(result))).result == sent


@pytest.mark.parametrize(
    ("number", "plain"),
    [
        (np.float32(0.5), 0.5),
        (np.float16(0.25), 0.25),
        (np.float64(0.1), 0.1),
        (np.longdouble(1.5), 1.5),
        (np.int64(-3), -3),
        (np.uint8(255), 255),
        (np.bool_(True), True),
        (np.array(4), 4),
        (np.array(0.5), 0.5),
        (Fraction(1, 4), 0.25),
        (Decimal("1.50"), 1.5),
        (Decimal("12E+3"), 12_000),
        (Whole(), 7),
        (Real(), 0.25),
    ],
)
def test_numbers_of_other_libraries_are_numbers(number: Any, plain: float) -> None:
    """As values and as names, without a `default` and with one that does not know them."""

    def knows_nothing(value: object) -> object:
        raise TypeError(f"Object of type {type(value).__name__}")

    for default in (None, knows_nothing):
        assert json_bytes([number], default=default) == json.dumps([plain]).encode()
        if isinstance(number, Hashable):  # arrays are not
            assert json_bytes({number: 1}, default=default) == json.dumps({plain: 1}).replace(" ", "").encode()


def test_default_is_asked_as_json_dumps_asks_it() -> None:
    """Once for each value that JSON does not know, numbers of other libraries among them, in the same order."""
    for default in (str, repr):
        value = {"on": date(2026, 1, 2), "p": np.float32(0.5), "d": [Decimal("0.10")], "n": None}
        assert json.loads(json_bytes(value, default=default)) == json.loads(json.dumps(value, default=default))


def test_what_can_be_read_once_is_read_once() -> None:
    """A second look for a fault, or for a name that is a number of another library, finds the same items."""
    value = {"words": (word for word in ("a", "b")), np.int64(3): "x"}
    assert json_bytes(value, default=list) == b'{"words":["a","b"],"3":"x"}'


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (math.nan, "$: JSON has no nan"),
        ({"segments": [{}, {"avg_logprob": -math.inf}]}, "$.segments[1].avg_logprob: JSON has no -inf"),
        ({"segments": [{"p": np.float32("nan")}]}, "$.segments[0].p: JSON has no nan"),
        ({"no speech": [math.inf]}, '$["no speech"][0]: JSON has no inf'),
        ({"d": Decimal("sNaN")}, "$.d: cannot convert signaling NaN"),
        ({"d": Decimal("1E+999")}, "$.d: JSON has no inf"),
        ({"n": 10**5000}, "$.n: the integer is beyond the largest double"),
        ({math.nan: 1}, "$: JSON has no nan"),
        ({"a": {(1, 2): 3}}, "$.a: a key is of the type tuple"),
        ({0.1: 1, Decimal("0.1"): 2}, "$: two members have the name '0.1'"),
        ({"a": [{1: "a", "1": "b"}]}, "$.a[0]: two members have the name '1'"),
        ([{"null": 1, None: 2}], "$[0]: two members have the name 'null'"),
        ([{True: 1, "true": 2}], "$[0]: two members have the name 'true'"),
        ({"a": dict.fromkeys(("\ud800", "\ud801"))}, "$.a: two members have the name '\ufffd'"),
        ({"at": [date(2026, 1, 2)]}, "$.at[0]: a value of the type date has no form in JSON"),
        ([np.ones(2)], "$[0]: a value of the type ndarray"),
        ([np.complex64(1)], "$[0]: a value of the type complex64"),
        ([np.datetime64("2026-01-02T00:00:00", "ns")], "$[0]: a value of the type datetime64"),
        ([np.timedelta64(5, "ns")], "$[0]: a value of the type timedelta64"),
    ],
)
def test_a_fault_is_named_with_its_place(value: object, place: str) -> None:
    """So that the author of a worker need not search a transcript for it."""
    with pytest.raises(ResultNotJson) as caught:
        json_bytes(value)
    assert place in caught.value.message


def test_a_value_that_contains_itself_is_a_fault() -> None:
    """As one that is nested beyond every parser; the place stays short enough to be read."""
    itself: list[object] = []
    itself.append(itself)
    deep: dict[str, Any] = {}
    inner = deep
    for _ in range(20_000):
        inner = inner.setdefault("a", {})
    for value in (itself, deep):
        with pytest.raises(ResultNotJson, match="contains itself") as caught:
            json_bytes(value)
        assert len(caught.value.message) < 400


def test_a_fault_in_what_default_returned_is_named_too() -> None:
    """Members of the same name, which `json.dumps` would write."""
    with pytest.raises(ResultNotJson, match=r"\$\.a: two members have the name '1'"):
        json_bytes({"a": {2}}, default=lambda _: {1: "a", "1": "b"})


def test_a_value_for_which_too_little_of_the_stack_is_left_is_a_fault() -> None:
    """Its worker may call from deep inside; RecursionError would say nothing of the result."""
    deep: list[object] = [math.nan]  # so that it is looked through, which takes the interpreter's own stack
    for _ in range(100):
        deep = [deep]

    def call_from(depth: int) -> bytes:
        return call_from(depth - 1) if depth else json_bytes(deep)

    free = sys.getrecursionlimit() - len(inspect.stack(0))
    with pytest.raises(ResultNotJson, match="recursion"):
        call_from(free - 60)


@pytest.mark.parametrize("default", [lambda value: value, lambda value: {}[value], lambda _: math.nan])
def test_a_default_that_cannot_help_is_a_fault(default: Callable[[Any], Any]) -> None:
    """Whether it returns the value itself, raises something else than TypeError, or returns what JSON has not."""
    with pytest.raises(ResultNotJson, match=r"\$\.a"):
        json_bytes({"a": frozenset()}, default=default)
