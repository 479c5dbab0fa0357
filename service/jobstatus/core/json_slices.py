"""Checks large JSON in slices, so that the event loop is held for a moment only, whatever the JSON looks like.

A slice ends after a comma or before an opening bracket. It is completed to a document: what is open where the slice
begins is opened in front of it, what is open where it ends is closed behind it. The decoder accepts that document
exactly if the slice continues what came before. So the decoder decides everything: a wrong place to cut, or wrong
brackets around a slice, could only make it refuse.

Two things are carried from slice to slice: the names of the objects that are open, and what stands for a string that
is longer than a slice, which is checked in slices of its own.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import count
from typing import Final, NamedTuple, TypeVar

from jobstatus.core.errors import ResultNotJson, ResultTooLarge
from jobstatus.core.json_text import (
    MARK,
    MAX_DEPTH,
    MAX_NUMBER_LENGTH,
    Fault,
    Members,
    Scanner,
    brackets,
    check_json,
    check_surrogates,
    fault,
    levels,
    read_string,
    without_escapes,
)

T = TypeVar("T")

SLICE_BYTES: Final = 16 * 1024
"""The check takes 0.02 to 2 ms for so much."""

_NAME_PARTS: Final = 512
_FREED_AT_ONCE: Final = 8
_BEGUN: Final = f"{MARK}begun"
_LEFT: Final = f"{MARK}left"
_IN_BEGUN: Final = b'{"\\ud800begun":0,"\\ud800begun":'
"""Reopens an object. Its name stands twice, so that the hook for names notices it where it looks for duplicates."""
_OUT_OF_LEFT: Final = b',"\\ud800left":0,"\\ud800left":0}'
_NAME_LEFT: Final = b'"\\ud800left":'
_VALUE: Final = b"0"
_QUOTES_OF_MEMBER: Final = 4
_SPACE: Final = b" \t\r\n"


def check_result(
    result: bytes, max_bytes: int, slice_bytes: int = SLICE_BYTES, scanner: Scanner | None = None
) -> Iterator[None]:
    """Check a result, and yield before each slice of a large one.

    Raise ResultTooLarge, or ResultNotJson unless the bytes are what `json_text.check_json` accepts. The bytes are only
    checked: they are stored and served as they came.
    """
    if len(result) <= slice_bytes:
        check_small_result(result, max_bytes, scanner)
        return
    _check_size(result, max_bytes)
    try:
        yield from _SlicedCheck(result, slice_bytes).run()
    except Fault as found:
        raise ResultNotJson.at(found.at, found.problem) from found


def check_small_result(result: bytes, max_bytes: int, scanner: Scanner | None = None) -> None:
    """As `check_result`, for a result of at most SLICE_BYTES, at once."""
    _check_size(result, max_bytes)
    try:
        check_json(result, scanner)
    except Fault as found:
        raise ResultNotJson.at(found.at, found.problem) from found


def _check_size(result: bytes, max_bytes: int) -> None:
    if len(result) > max_bytes:
        raise ResultTooLarge(f"The result has {len(result)} bytes; at most {max_bytes} are accepted.")


class _Part(NamedTuple):
    """Bytes of a slice, and where they are in the data. `stands_in`: they stand for a long string that begins there."""

    at: int
    text: bytes
    stands_in: bool = False


class _NameSet:
    """The names of one object, in many dicts: one of millions would hold the loop while it grows or is freed.

    They are dicts because the garbage collector goes through the members of sets.
    """

    def __init__(self) -> None:
        self._parts: defaultdict[int, dict[str, None]] = defaultdict(dict)

    def add(self, names: Iterable[str]) -> str | None:
        """Add the names; return one that was there already."""
        parts = self._parts
        for name in names:
            part = parts[hash(name) % _NAME_PARTS]
            if name in part:
                return name
            part[name] = None
        return None

    def free(self) -> Iterator[None]:
        """Free the names, and yield after some."""
        while self._parts:
            self._parts.popitem()
            if len(self._parts) % _FREED_AT_ONCE == 1:
                yield


class _SlicedCheck:
    """The state between two slices."""

    def __init__(self, data: bytes, slice_bytes: int) -> None:
        self._data = data
        self._slice_bytes = slice_bytes
        self._scanner = Scanner()
        self._open = b""
        """The brackets that are open."""
        self._names: list[_NameSet] = []
        """Of the objects that are open."""
        self._needs_name = False
        """Whether a comma of an object was the last byte."""
        self._marked: list[tuple[bool, bool, list[str]]] = []
        """Of the objects that a slice has but not as a whole, as they end: whether they began before, whether they end
        later, and their names in the slice."""
        self._done: list[_NameSet] = []

    def run(self) -> Iterator[None]:
        """Raise Fault. Yield before each slice."""
        try:
            yield from self._check_all()
        except Fault:
            self._done += self._names
            yield from self._free()
            raise
        yield from self._free()

    def _check_all(self) -> Iterator[None]:
        at, parts = 0, list[_Part]()
        while True:
            yield
            chunk = self._data[at : at + self._slice_bytes]
            plain = without_escapes(chunk)
            is_last = at + len(chunk) == len(self._data)
            if is_last:
                self._check([*parts, _Part(at, chunk)])
                return
            if cut := _last_cut(plain):
                parts.append(_Part(at, chunk[:cut]))
                self._check(parts, ends_in_comma=chunk[cut - 1 : cut] == b",", is_last=False)
                at, parts = at + cut, []
                yield from self._free()
            elif plain.count(b'"') % 2:
                start = plain.rfind(b'"')
                end, stand_in = yield from _check_string(self._data, at + start, self._slice_bytes)
                parts += (_Part(at, chunk[:start]), _Part(at + start, stand_in, stands_in=True))
                at = end
            else:
                if _cannot_go_on(plain):
                    raise Fault(at, "expecting ',' delimiter")
                text = chunk.rstrip(_SPACE)
                parts.append(_Part(at, text + chunk[len(text) :][:1]))
                at += len(chunk)

    def _check(self, parts: Sequence[_Part], *, is_last: bool = True, ends_in_comma: bool = False) -> None:
        """Check one slice, and keep what the next one needs to know."""
        body = b"".join(part.text for part in parts)
        all_brackets = self._open + brackets(without_escapes(body))
        open_before = levels(all_brackets)
        left = _unclosed(all_brackets, open_before)
        needs_name = ends_in_comma and left.endswith(b"{")
        prefix = b"".join(_IN_BEGUN if each == b"{" else b"[0," for each in _each(self._open))
        prefix += b"0," if self._needs_name else b""
        suffix = b"" if is_last else (_NAME_LEFT if needs_name else b"") + _VALUE + _closing(left)
        document = prefix + body + suffix
        for part in parts:
            if not part.stands_in:
                _moved(check_surrogates, part.text, by=part.at)
        try:
            self._scanner.scan(document, self._check_names)
            if max(open_before) > MAX_DEPTH:
                raise fault(document)
            self._keep_names(document)
        except Fault as found:
            raise Fault(_place(parts, found.at - len(prefix)), found.problem) from found
        self._open, self._needs_name = left, needs_name

    def _check_names(self, pairs: Members) -> None:
        """Note the names of an object that the slice has not as a whole. Raise ValueError where one repeats."""
        names = dict(pairs)
        marks = [name for name, _ in pairs if name in (_BEGUN, _LEFT)]
        if len(pairs) - len(marks) > len(names) - len(set(marks)):
            raise ValueError("duplicate key")
        own = [name for name in names if name not in (_BEGUN, _LEFT)]
        self._marked.append((_BEGUN in names, _LEFT in names, own))

    def _keep_names(self, document: bytes) -> None:
        """Add the names of the slice to those of the objects that it is a part of. Raise Fault for a duplicate."""
        marked, self._marked = self._marked, []
        begun, left = list(self._names), list[_NameSet]()
        for is_begun, is_left, names in marked:
            of_object = begun.pop() if is_begun else _NameSet()
            if (duplicate := of_object.add(names)) is not None:
                raise fault(document, self._known(len(begun), duplicate))
            if is_left:
                left.append(of_object)
            else:
                self._done.append(of_object)
        self._names = left[::-1]

    def _known(self, number: int, name: str) -> list[set[str]]:
        """Return the names of everything that is open: only this one, of the object with this number."""
        numbers = count()
        return [{name} if each == b"{" and next(numbers) == number else set() for each in _each(self._open)]

    def _free(self) -> Iterator[None]:
        while self._done:
            yield from self._done.pop().free()


def _check_string(data: bytes, start: int, slice_bytes: int) -> Generator[None, None, tuple[int, bytes]]:
    """Check the string that begins here. Return the position after it, and a short string that stands for it.

    Two strings have the same stand-in exactly if they are equal, wherever they are. The text itself is the stand-in of
    those that may stand within a slice, too.
    """
    part_of_string = re.compile(_CHARACTERS + b"{0,%d}+" % max(slice_bytes // 8, 1))
    digest, texts, size = sha256(), list[str](), 0
    at, is_end = start + 1, False
    while not is_end:
        yield
        end = part_of_string.match(data, at).end()  # type: ignore[union-attr]  # it matches nothing at least
        is_end = data[end : end + 1] == b'"'
        if end == at and not is_end:
            raise Fault(start, "unterminated string")
        part = data[at:end]
        _moved(check_surrogates, part, by=at)
        text = _moved(read_string, b'"%b"' % part, by=at - 1)
        encoded = text.encode()
        digest.update(encoded)
        size += len(encoded)
        texts = [*texts, text] if size <= slice_bytes else []
        at = end
    own = json.dumps("".join(texts), ensure_ascii=False).encode()
    return at + 1, own if size <= slice_bytes else b'"\\ud800%b"' % digest.hexdigest().encode()


def _moved(check: Callable[[bytes], T], data: bytes, *, by: int) -> T:
    try:
        return check(data)
    except Fault as found:
        raise Fault(found.at + by, found.problem) from found


def _last_cut(plain: bytes) -> int:
    """Return where the last slice of these bytes ends, or 0. There are no escapes in them."""
    end = plain.rfind(b'"') if plain.count(b'"') % 2 else len(plain)
    while end > 0:
        start = plain.rfind(b'"', 0, end) + 1  # what follows is outside strings
        comma, opening = (
            plain.rfind(b",", start, end),
            max(plain.rfind(b"[", start, end), plain.rfind(b"{", start, end)),
        )
        if (cut := max(comma + 1, opening)) > 0:
            return cut
        end = plain.rfind(b'"', 0, max(start - 1, 0))
    return 0


def _cannot_go_on(plain: bytes) -> bool:
    """Return whether there are too many characters or strings for a member that neither begins nor ends here."""
    ends_in_long_token = len(plain) > MAX_NUMBER_LENGTH and not _delimiter.search(plain, len(plain) - MAX_NUMBER_LENGTH)
    return ends_in_long_token or plain.count(b'"') > _QUOTES_OF_MEMBER


def _unclosed(brackets: bytes, levels: Sequence[int]) -> bytes:
    """Return the brackets that are open at the end."""
    backwards, at, opened = levels[::-1], 0, list[bytes]()
    for level in range(levels[-1], 0, -1):
        at = backwards.index(level - 1, at)  # what was opened here was not closed
        opening = len(brackets) - at
        opened.append(brackets[opening : opening + 1])
    return b"".join(reversed(opened))


def _each(brackets: bytes) -> Iterator[bytes]:
    return (brackets[at : at + 1] for at in range(len(brackets)))


def _closing(opened: bytes) -> bytes:
    return b"".join(_CLOSING.get(each, b"") for each in reversed(list(_each(opened))))


def _place(parts: Sequence[_Part], at: int) -> int:
    """Return where in the data the position in the parts is."""
    for part in parts:
        if at <= len(part.text):
            return part.at + (0 if part.stands_in else at)
        at -= len(part.text)
    return parts[-1].at + len(parts[-1].text)


_CLOSING: Final = {b"[": b"]", b"{": _OUT_OF_LEFT}
_CHARACTERS: Final = rb'(?s:[^"\\]{1,64}+[\x80-\xbf]*+|(?:\\[^u]){1,16}+|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u....)'
"""Some characters of a string; an escape, and a pair of surrogates, are not cut."""
_delimiter: Final = re.compile(rb'[\s"\[\]{},:]')
