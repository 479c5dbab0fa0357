"""JSON objects, read so that no other parser can read them differently.

The standard parser guesses UTF-16 and UTF-32, keeps the last of two equal names and takes NaN. What is signed should
have one meaning (RFC 8725, section 2.4, and RFC 7515, section 4), so all of that is refused here.
"""

import json
from typing import Any, Final, NoReturn


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object that these bytes spell in UTF-8, without a byte order mark and without equal names.

    Raises ValueError, whose text may quote the data: it is not for logs.
    """
    try:
        value = _DECODER.decode(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - the bytes are wrong, not the caller's type
    return value


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        raise ValueError("two equal names")
    return names


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are no JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_make_object, parse_constant=_refuse_constant)
