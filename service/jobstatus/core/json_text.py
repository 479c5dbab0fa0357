"""Strict JSON (RFC 8259): text that every parser reads the same way.

Stricter than `json.loads`, which guesses UTF-16 and UTF-32, accepts NaN and keeps the last of duplicate keys. What is
signed must have one meaning (RFC 8725, section 2.4; RFC 7515, section 4), and so must what clients are sent: where one
value of a result cannot be read, the whole answer cannot (RFC 7493 names the same pitfalls).

The hooks are Python functions even where a built-in would do: the interpreter can switch threads in them, so a thread
that checks a large result does not hold up the event loop. What the decoder does not check is searched for with
functions in C, and only where bytes show that it may be there. The exact place of a fault is found afterwards.
"""

import json
import math
import re
from array import array
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Final, NoReturn

from jobstatus.core.errors import ResultNotJson, ResultTooLarge

MAX_DEPTH: Final = 100
"""Arrays and objects inside each other. Parsers stop at 127 (serde_json, jq) or about 1,000 levels; the answer
around a result is one more."""
MAX_NUMBER_LENGTH: Final = 1000
"""Characters of a number. Jackson reads no longer ones."""

_SAFE_DIGITS: Final = 308
"""So many digits are less than the largest double, about 1.8e308."""
_SEARCHED_AT_ONCE: Final = 1 << 20
"""Bytes that a regular expression searches before threads may switch."""
_SUMMED_AT_ONCE: Final = 1 << 14
"""Brackets that are summed up before threads may switch."""


def parse_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object that the bytes encode in UTF-8.

    Raise ValueError for anything else, a byte order mark and duplicate keys included. Its text may quote the data, so
    it must not be logged.
    """
    try:
        value = _PARSER.decode(data.decode("utf-8", "strict"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - the bytes are wrong, not the caller's type
    return value


def check_result(result: bytes, max_bytes: int) -> None:
    """Raise ResultTooLarge, or ResultNotJson unless the bytes are one JSON value that every client reads the same way.

    The bytes are only checked: they are stored and served as they came. Refused are what RFC 8259 refuses, and what
    some parsers refuse or read differently: duplicate names, numbers beyond a double or longer than MAX_NUMBER_LENGTH,
    escapes of lone surrogates, and nesting beyond MAX_DEPTH. Integers beyond 2**53 are valid, because ids of 64 bits
    are common and no parser refuses them; JavaScript rounds them, as every parser rounds long fractions.
    """
    if len(result) > max_bytes:
        raise ResultTooLarge(f"The result has {len(result)} bytes; at most {max_bytes} are accepted.")
    try:
        text = result.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise ResultNotJson.at(error.start, "not UTF-8") from error
    try:
        _CHECKER.decode(text)
    except json.JSONDecodeError as error:
        problem = error.msg.removesuffix(" at").removesuffix(" starting").lower()
        raise ResultNotJson.at(len(text[: error.pos].encode()), problem) from error
    except (ValueError, RecursionError) as error:
        raise _fault(result) from error
    if (at := _lone_surrogate(result)) is not None:
        raise ResultNotJson.at(at, "half of a surrogate pair, which is no character")
    if _is_too_deep(result):
        raise _fault(result)


def members(document: bytes) -> dict[str, bytes]:
    """Return each member of a JSON object as it stands there, whatever numbers and nesting it contains.

    Raise ValueError when the bytes are no object. The values are separated, not checked.
    """
    found: dict[str, bytes] = {}
    if _empty.fullmatch(document):
        return found
    at, end = _after(_opening, document, 0), b","
    while end == b",":
        name = _match(_name, document, at)
        start = name.end()
        at = _after_nested(document, start) if document[start : start + 1] in (b"[", b"{") else 0
        at = at or _after(_scalar, document, start)
        found[json.loads(name[1])] = document[start:at]
        separator = _match(_separator, document, at)
        at, end = separator.end(), separator[1]
    if document[at:].strip():
        raise ValueError("more than one value")
    return found


def _match(pattern: re.Pattern[bytes], document: bytes, at: int) -> re.Match[bytes]:
    found = pattern.match(document, at)
    if found is None:
        raise ValueError("not an object")
    return found


def _after(pattern: re.Pattern[bytes], document: bytes, at: int) -> int:
    return _match(pattern, document, at).end()


def _after_nested(document: bytes, at: int) -> int:
    """Return the position after the array or object that begins here."""
    depth = 0
    for token in _string_or_bracket.finditer(document, at):
        if token[0] in b"[{":
            depth += 1
        elif token[0] in b"]}":
            depth -= 1
            if not depth:
                return token.end()
    raise ValueError("unterminated")


def _lone_surrogate(data: bytes) -> int | None:
    """Return the position of an escape that is half of a surrogate pair, without the other half beside it."""
    if b"\\ud" not in data and b"\\uD" not in data:
        return None
    escapes = data.replace(b"\\\\", b"__")  # so that each \u is an escape
    for start in range(0, len(escapes), _SEARCHED_AT_ONCE):
        end = start + _SEARCHED_AT_ONCE
        for found in _lone.finditer(escapes, start, end + len(rb"\ud83c\udfa7")):
            if found.start() < end:
                return found.start()
    return None


def _is_too_deep(data: bytes) -> bool:
    """Whether valid JSON is nested beyond MAX_DEPTH."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")  # so that each quote begins or ends a string
    kept = data.translate(None, _NO_BRACKET_OR_QUOTE).replace(b'""', b"")
    steps = array("b", _in_strings.sub(b"", kept).translate(_STEPS))
    depth = 0
    for start in range(0, len(steps), _SUMMED_AT_ONCE):
        depths = list(accumulate(steps[start : start + _SUMMED_AT_ONCE], initial=depth))
        if max(depths) > MAX_DEPTH:
            return True
        depth = depths[-1]
    return False


def _fault(data: bytes) -> ResultNotJson:
    """Return the first fault that the decoder's hooks or the depth have shown to be there, with its position."""
    return next(_faults(data), ResultNotJson())


def _faults(data: bytes) -> Iterator[ResultNotJson]:
    names: list[set[str]] = []
    for token in _token.finditer(data):
        text = token[0]
        if text in b"[{":
            names.append(set())
            if len(names) > MAX_DEPTH:
                yield ResultNotJson.at(token.start(), f"nested more than {MAX_DEPTH} levels deep")
        elif text in b"]}":
            names.pop()
        elif token[1] is not None:
            if (name := json.loads(token[1])) in names[-1]:
                yield ResultNotJson.at(token.start(), "a name that this object has already")
            names[-1].add(name)
        elif token[2] is not None and (problem := _number_problem(token[2].decode())):
            yield ResultNotJson.at(token.start(), problem)


def _number_problem(text: str) -> str:
    if len(text) > MAX_NUMBER_LENGTH:
        return f"a number of more than {MAX_NUMBER_LENGTH} characters"
    if text.endswith(("NaN", "Infinity")):
        return "no JSON number"
    return "" if math.isfinite(float(text)) else "a number beyond the range of a double"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        raise ValueError("duplicate key")
    return names


def _check_unique(pairs: list[tuple[str, Any]]) -> None:
    _unique(pairs)


def _check_number(text: str) -> None:
    if problem := _number_problem(text):
        raise ValueError(problem)


def _check_float(text: str) -> None:
    if not (len(text) <= MAX_NUMBER_LENGTH and math.isfinite(float(text))):
        _check_number(text)


def _check_integer(text: str) -> None:
    if len(text) > _SAFE_DIGITS:
        _check_number(text)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_PARSER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
_CHECKER: Final = json.JSONDecoder(
    object_pairs_hook=_check_unique, parse_float=_check_float, parse_int=_check_integer, parse_constant=_refuse
)
"""Keeps no values, so that a large result is not in memory a second time."""

_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_token: Final = re.compile(rb"(%b)\s*+:|%b|(-?(?:\d[\d.eE+-]*+|NaN|Infinity))|[\[\]{}]" % (_STRING, _STRING))
_string_or_bracket: Final = re.compile(rb"%b|[\[\]{}]" % _STRING)
_empty: Final = re.compile(rb"\s*+\{\s*+\}\s*+")
_opening: Final = re.compile(rb"\s*+\{")
_name: Final = re.compile(rb"\s*+(%b)\s*+:\s*+" % _STRING)
_scalar: Final = re.compile(rb'%b|[^\s"\[\]{},:]++' % _STRING)
_separator: Final = re.compile(rb"\s*+([,}])")
_lone: Final = re.compile(rb"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F])")
_in_strings: Final = re.compile(rb'"[^"]*+"')
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # 1 and -1 of an array("b")
_NO_BRACKET_OR_QUOTE: Final = bytes(set(range(256)) - set(b'[]{}"'))
