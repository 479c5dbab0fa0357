"""Strict JSON (RFC 8259): text that every parser reads the same way.

Stricter than `json.loads`, which guesses UTF-16 and UTF-32, accepts NaN and keeps the last of duplicate keys. What is
signed must have one meaning (RFC 8725, section 2.4; RFC 7515, section 4), and so must what clients are sent: where one
value of a result cannot be read, the whole answer cannot (RFC 7493 names the same pitfalls).

The decoder in C reads the text. What it does not check is noted by it and then checked, or searched for in the bytes,
with functions in C and only where it may be. The exact place of a fault is found afterwards.
"""

import json
import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Final, NoReturn, TypeAlias

MAX_DEPTH: Final = 100
"""Arrays and objects inside each other. Parsers stop at 127 (serde_json, jq) or about 1,000 levels; the answer
around a result is one more."""
MAX_NUMBER_LENGTH: Final = 1000
"""Characters of a number. Jackson reads no longer ones."""
MARK: Final = "\ud800"
"""Half of a surrogate pair. JSON that is accepted has no name that begins with it, so `json_slices` may use one."""

_SAFE_DIGITS: Final = 308
"""So many digits are less than the largest double, about 1.8e308."""

Members: TypeAlias = list[tuple[str, Any]]
"""The members of an object, with all names that it has. Values are left out where they are objects."""


class Fault(ValueError):
    """What is wrong with JSON, and the position of the byte where it is."""

    def __init__(self, at: int, problem: str) -> None:
        super().__init__(problem)
        self.at = at
        self.problem = problem


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


class Scanner:
    """A decoder that keeps no values, so that a large one is not in memory a second time. For one thread.

    It notes the members of objects and the texts of numbers. They are checked when the text has been read, because to
    call a function in Python for each would take most of the time.
    """

    def __init__(self) -> None:
        self._objects: list[Members] = []
        self._floats: list[str] = []
        self._integers: list[str] = []
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._objects.append,
            parse_float=self._floats.append,
            parse_int=self._integers.append,
            parse_constant=_refuse,
        )

    def scan(self, data: bytes, check_names: Callable[[Members], None]) -> int:
        """Return how many objects there are. Raise Fault unless the bytes are JSON whose numbers every client can read.

        `check_names` is called with each object in which a name repeats, in the order of their ends; it raises
        ValueError if that is a fault.
        """
        text = to_text(data)
        try:
            problem = None if self._reads(text) else self._problem(text)
            if self._floats or self._integers:
                self._check_numbers()
            objects = self._objects
            count = len(objects)
            if count > 1:
                objects = objects if sum(map(len, map(dict, objects))) < sum(map(len, objects)) else []
            for members in objects:
                if len(dict(members)) < len(members):
                    check_names(members)
        except (ValueError, RecursionError) as error:
            raise fault(data) from error
        finally:
            self._clear()
        if problem is not None:
            raise Fault(*problem)
        return count

    def _reads(self, text: str) -> bool:
        """Note what is in the text, and return whether it is JSON without space around it."""
        try:
            return self._decoder.raw_decode(text)[1] == len(text)
        except json.JSONDecodeError:
            return False

    def _problem(self, text: str) -> tuple[int, str] | None:
        """Note what is in the text. Return where it is no JSON, and what is wrong there."""
        self._clear()
        try:
            self._decoder.decode(text)
        except json.JSONDecodeError as error:
            return _syntax_problem(error, text)
        return None

    def _clear(self) -> None:
        self._objects.clear()
        self._floats.clear()
        self._integers.clear()

    def _check_numbers(self) -> None:
        floats, integers = "".join(self._floats), "".join(self._integers)
        if "e" in floats or "E" in floats or max(len(floats), len(integers)) > _SAFE_DIGITS:
            numbers = [*self._floats, *(text for text in self._integers if len(text) > _SAFE_DIGITS)]
            longest = max(map(len, numbers), default=0)
            if longest > MAX_NUMBER_LENGTH or not all(map(math.isfinite, map(float, numbers))):
                raise ValueError("a number out of range")


def check_json(data: bytes, scanner: Scanner | None = None) -> None:
    """Raise Fault unless the bytes are one JSON value that every client reads the same way.

    Refused are what RFC 8259 refuses, and what some parsers refuse or read differently: duplicate names, numbers beyond
    a double or longer than MAX_NUMBER_LENGTH, escapes of lone surrogates, and nesting beyond MAX_DEPTH. Integers beyond
    2**53 are valid, because ids of 64 bits are common and no parser refuses them; JavaScript rounds them, as every
    parser rounds long fractions.

    The event loop waits meanwhile, so `json_slices` checks large values in slices. A scanner may be used again and
    again, which saves making one.
    """
    objects = (scanner or Scanner()).scan(data, _refuse_names)
    if b"\\" in data:
        check_surrogates(data)
    opened = objects + data.count(b"[") if b"[" in data else objects
    if opened > MAX_DEPTH and max(levels(brackets(without_escapes(data)))) > MAX_DEPTH:
        raise fault(data)


def to_text(data: bytes) -> str:
    """Decode UTF-8. Raise Fault."""
    try:
        return data.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise Fault(error.start, "not UTF-8") from error


def read_string(data: bytes) -> str:
    """Return the string that the JSON is. Raise Fault for what is no JSON."""
    text = to_text(data)
    try:
        string: str = json.loads(text)
    except json.JSONDecodeError as error:
        raise Fault(*_syntax_problem(error, text)) from error
    return string


def _syntax_problem(error: json.JSONDecodeError, text: str) -> tuple[int, str]:
    problem = error.msg.removesuffix(" at").removesuffix(" starting").lower()
    return len(text[: error.pos].encode()), problem


def check_surrogates(data: bytes) -> None:
    """Raise Fault for an escape that is half of a surrogate pair, without the other half beside it."""
    if b"\\ud" not in data and b"\\uD" not in data:
        return
    escapes = data.replace(b"\\\\", b"__")  # so that each \\u is an escape
    if found := _lone.search(escapes):
        raise Fault(found.start(), "half of a surrogate pair, which is no character")


def without_escapes(data: bytes) -> bytes:
    """Return JSON of the same length in which each quote begins or ends a string."""
    return data.replace(b"\\\\", b"__").replace(b'\\"', b"__") if b"\\" in data else data


def brackets(data: bytes) -> bytes:
    """Return the brackets outside strings of JSON without escapes."""
    kept = data.translate(None, _NO_BRACKET_OR_QUOTE).replace(b'""', b"")
    return _in_strings.sub(b"", kept) if b'"' in kept else kept


def levels(brackets: bytes) -> list[int]:
    """Return how many brackets are open before each one, and at the end."""
    return list(accumulate(array("b", brackets.translate(_STEPS)), initial=0))


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


def fault(data: bytes, known: Iterable[set[str]] = ()) -> Fault:
    """Return the first fault that the decoder's hooks or the depth have shown to be there.

    The arrays and objects that begin first have the `known` names already.
    """
    return next(_faults(data, known), Fault(0, "no JSON"))


def _faults(data: bytes, known: Iterable[set[str]]) -> Iterator[Fault]:
    unused = iter(known)
    names: list[set[str]] = []
    for token in _token.finditer(data):
        text = token[0]
        if text in b"[{":
            names.append(next(unused, set()))
            if len(names) > MAX_DEPTH:
                yield Fault(token.start(), f"nested more than {MAX_DEPTH} levels deep")
        elif text in b"]}":
            names.pop()
        elif token[1] is not None:
            if (name := json.loads(token[1])).startswith(MARK):
                continue
            if name in names[-1]:
                yield Fault(token.start(), "a name that this object has already")
            names[-1].add(name)
        elif token[2] is not None and (problem := _number_problem(token[2].decode())):
            yield Fault(token.start(), problem)


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


def _refuse_names(_: Sequence[tuple[str, Any]]) -> NoReturn:
    raise ValueError("duplicate key")


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_PARSER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)

_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_NUMBER: Final = rb"-?(?:(?:0|[1-9]\d*+)(?:\.\d++)?(?:[eE][+-]?\d++)?|NaN|Infinity)"
_token: Final = re.compile(rb"(%b)\s*+:|%b|(%b)|[\[\]{}]" % (_STRING, _STRING, _NUMBER))
_string_or_bracket: Final = re.compile(rb"%b|[\[\]{}]" % _STRING)
_empty: Final = re.compile(rb"\s*+\{\s*+\}\s*+")
_opening: Final = re.compile(rb"\s*+\{")
_name: Final = re.compile(rb"\s*+(%b)\s*+:\s*+" % _STRING)
_scalar: Final = re.compile(rb'%b|[^\s"\[\]{},:]++' % _STRING)
_separator: Final = re.compile(rb"\s*+([,}])")
_lone: Final = re.compile(rb"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F])")
_in_strings: Final = re.compile(rb'"[^"]*+"')
_STEPS: Final = bytes.maketrans(b'[{]}"', b"\x01\x01\xff\xff\x00")  # 1, -1 and 0 of an array("b")
_NO_BRACKET_OR_QUOTE: Final = bytes(set(range(256)) - set(b'[]{}"'))
