"""Strict JSON (RFC 8259): text that every parser reads the same way.

Stricter than `json.loads`, which guesses UTF-16 and UTF-32, accepts NaN and keeps the last of duplicate keys. What is
signed must have one meaning (RFC 8725, section 2.4; RFC 7515, section 4), and so must what clients are sent.

The hooks are Python functions even where a built-in would do: the interpreter can switch threads in them, so a thread
that checks a large result does not hold up the event loop.
"""

import json
import math
from typing import Any, Final, NoReturn

from jobstatus.core.errors import ResultNotJson, ResultTooLarge


def parse_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object that the bytes encode in UTF-8.

    Raise ValueError for anything else, a byte order mark and duplicate keys included. Its text may quote the data, so
    it must not be logged.
    """
    value = _decode(_PARSER, data)
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - the bytes are wrong, not the caller's type
    return value


def check_result(result: bytes, max_bytes: int) -> None:
    """Raise ResultTooLarge, or ResultNotJson unless the bytes are one JSON value in UTF-8.

    The bytes are only checked: they are stored and served as they came. Numbers that overflow a double are refused, and
    so is nesting beyond the interpreter's recursion limit (about a thousand levels). Integers of any length are valid.
    """
    if len(result) > max_bytes:
        raise ResultTooLarge(f"The result has {len(result)} bytes; at most {max_bytes} are accepted.")
    try:
        _decode(_CHECKER, result)
    except ValueError as error:
        raise ResultNotJson from error


def _decode(decoder: json.JSONDecoder, data: bytes) -> object:
    """Return the decoded value; raise ValueError."""
    try:
        return decoder.decode(data.decode("utf-8", "strict"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        raise ValueError("duplicate key")
    return names


def _check_unique(pairs: list[tuple[str, Any]]) -> None:
    _unique(pairs)


def _check_finite(text: str) -> None:
    if not math.isfinite(float(text)):
        raise ValueError("number out of range")


def _ignore(_: str) -> None:
    return None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_PARSER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
_CHECKER: Final = json.JSONDecoder(
    object_pairs_hook=_check_unique, parse_float=_check_finite, parse_int=_ignore, parse_constant=_refuse
)
"""Keeps no values, so that a large result is not in memory a second time."""
