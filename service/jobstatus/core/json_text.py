"""Whether a worker's result is JSON (RFC 8259) that every client will read the same way.

Stricter than `json.loads`, which guesses encodings, takes NaN, keeps the last of duplicate keys and refuses long
integers. The bytes are only looked at: they are stored and served as they came.

The hooks are Python functions even where a built-in would do: it is in them that a thread which checks a large result
lets the event loop's thread run.
"""

import json
import math
from typing import Final, NoReturn

from jobstatus.core.errors import ResultNotJson, ResultTooLarge


def _object(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("duplicate key")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("number out of range")
    return number


def _int(_: str) -> int:
    return 0


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_int=_int, parse_constant=_constant
)


def check_result(result: bytes, max_bytes: int) -> None:
    """Raise ResultTooLarge, or ResultNotJson unless the bytes are one JSON value in UTF-8.

    Refused besides: a byte order mark, duplicate keys, NaN and infinities, numbers that overflow a double, and nesting
    beyond what the interpreter's recursion limit allows (about a thousand levels).
    """
    if len(result) > max_bytes:
        raise ResultTooLarge(f"The result has {len(result)} bytes; at most {max_bytes} are accepted.")
    try:
        _DECODER.decode(result.decode("utf-8", "strict"))
    except (ValueError, RecursionError) as error:
        raise ResultNotJson from error
