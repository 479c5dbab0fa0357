"""The columns of a batch as arrays in PostgreSQL's binary format.

psycopg encodes an array with a call in Python for each value, which took a third of the time of a batch. The values of
most columns are all the same, and encoded once here. The type is left to the statement, which casts each array.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg.adapt import AdaptersMap, Dumper
from psycopg.pq import Format


@dataclass(frozen=True, slots=True)
class BinaryArray:
    """An array as it is sent."""

    data: bytes


class _ArrayDumper(Dumper):
    format = Format.BINARY
    oid = 0
    """The server takes the type from the statement."""

    def dump(self, obj: BinaryArray) -> bytes:
        return obj.data


def register(adapters: AdaptersMap) -> None:
    """Have a connection send BinaryArray as it is."""
    adapters.register_dumper(BinaryArray, _ArrayDumper)


def array_of(values: Sequence[Any], type_name: str) -> BinaryArray:
    """Encode values of a SQL type, which may be None, as an array of one dimension. There is one value at least."""
    oid, encode = _ELEMENTS[type_name]
    head = _header(1, 1, oid, len(values), 1)
    if type_name == BYTES:
        return BinaryArray(b"".join((head, *_sized(values))))
    first = values[0]
    if values.count(first) == len(values):
        return BinaryArray(head + (_NULL if first is None else encode(first)) * len(values))
    return BinaryArray(b"".join([head, *(_NULL if value is None else encode(value) for value in values)]))


def _sized(values: Iterable[bytes | None]) -> Iterator[bytes]:
    """Yield each size and each value. The values may be large, and are copied once only."""
    for value in values:
        if value is None:
            yield _NULL
        else:
            yield _size(len(value))
            yield value


def _text(value: str) -> bytes:
    data = value.encode()
    return _size(len(data)) + data


def _fixed(form: str) -> Callable[[Any], bytes]:
    """Return what encodes a number of this form, with its size before it."""
    pack, size = struct.Struct(f">i{form}").pack, struct.calcsize(f">{form}")
    return lambda value: pack(size, value)


BYTES: Final = "bytea"
_header: Final = struct.Struct(">iiIii").pack
"""Dimensions, whether there may be nulls, the type of the elements, their number, and the first index."""
_size: Final = struct.Struct(">i").pack
_NULL: Final = _size(-1)
_ELEMENTS: Final[dict[str, tuple[int, Callable[[Any], bytes]]]] = {
    "text": (25, _text),
    "bigint": (20, _fixed("q")),
    "integer": (23, _fixed("i")),
    "double precision": (701, _fixed("d")),
    BYTES: (17, bytes),
    "boolean": (16, _fixed("?")),
}
"""The OIDs of these types, which are the same in every server (`pg_type.dat`), and what encodes a value."""
