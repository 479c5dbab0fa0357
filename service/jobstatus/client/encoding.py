"""What a worker hands over, as text and JSON that every client can read.

A result is often the work of hours, so it is not lost for one character or one number of another library: lone
surrogates become U+FFFD, as in the encoders of other languages, and numbers become numbers. What has no meaning in
JSON is refused, with the place where it stands.
"""

import json
import math
import numbers
import operator
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from jobstatus.core.errors import ResultNotJson
from jobstatus.core.json_text import MAX_DEPTH

Default = Callable[[Any], Any]
"""As the argument of the same name of `json.dumps`: from a value that JSON cannot express to one that it can."""

MAX_PATH_CHARS: Final = 200
_MAX_STEPS: Final = 2 * MAX_DEPTH
"""Into arrays, objects and what `default` returned. A value that contains itself has no end."""
_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}(?:\\u[dD][c-fC-F][0-9a-fA-F]{2})?|u[dD][c-fC-F][0-9a-fA-F]{2}|.)", re.DOTALL
)
"""A pair of surrogates, a lone one, or the first two characters of any other escape."""
_ESCAPE_LENGTH: Final = 6
_LARGEST_EXPONENT: Final = 308
"""Of a power of ten in a double."""
_DATES_AND_SPANS: Final = frozenset("mM")
"""Kinds of numpy's types that convert to numbers without being any."""


def well_formed(text: str) -> str:
    """Return the text with U+FFFD in place of each lone surrogate. The two halves of a pair become its character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def mended(text: bytes) -> bytes:
    """Return JSON text with U+FFFD in place of each escape of a lone surrogate; other text comes back as it is.

    The service would refuse such an escape, so no text changes that it would accept.
    """
    if not _SURROGATE_ESCAPE.search(text):
        return text
    return _ESCAPE.sub(lambda match: rb"\ufffd" if len(match[0]) == _ESCAPE_LENGTH else match[0], text)


def json_bytes(value: object, *, default: Default | None = None) -> bytes:
    """Return the value as compact JSON in UTF-8.

    `default` is called for what `json.dumps` would call it for. Numbers of other libraries become numbers where it is
    absent or raises TypeError. Raises ResultNotJson, which names the place ("$.segments[3].start"), for everything
    else, for NaN and for the infinities.
    """
    conversion = _Conversion(default)
    try:
        text = _dumps(value, conversion.convert)
    except Exception:  # noqa: BLE001 (the walk finds the same fault again, and where it stands)
        text = _written(conversion.plain(value, "$"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return well_formed(text).encode()


def number_of(value: Any) -> bool | float | None:
    """Return a number of another library as one of Python's, None for anything else.

    It is asked as duck types are, because no such library is imported here: numpy's scalars, arrays without dimensions
    (of torch, too), fractions, decimals, and whatever else has `__index__` or `__float__`. A decimal becomes a double,
    to which every parser would round it.
    """
    is_complex = isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real)
    is_date = getattr(getattr(value, "dtype", None), "kind", None) in _DATES_AND_SPANS
    if is_complex or is_date or getattr(value, "shape", ()) != ():
        return None
    if isinstance(value, Decimal):
        exponent = value.as_tuple().exponent
        is_whole = isinstance(exponent, int) and exponent >= 0 and value.adjusted() <= _LARGEST_EXPONENT
        return int(value) if is_whole else float(value)
    plain = value.item() if hasattr(value, "shape") and hasattr(value, "item") else None
    if isinstance(plain, bool | int | float):
        return plain
    if hasattr(type(value), "__index__"):
        return operator.index(value)
    return float(value) if hasattr(type(value), "__float__") else None


class _Conversion:
    """Converts what JSON cannot express.

    What `default` made of an object in a first walk serves the second, because it may have used the object up.
    """

    def __init__(self, default: Default | None) -> None:
        self._default = default
        self._converted: dict[int, tuple[object, object]] = {}
        """What `default` made of an object, by its id; the object is kept, so that no other one gets this id."""

    def convert(self, value: Any) -> Any:
        """Return what stands for the value. Raises TypeError if nothing does, and what `default` raises."""
        if self._default is None:
            return _number(value)
        try:
            converted = self._default(value)
        except TypeError as error:
            if (number := number_of(value)) is None:
                raise error from None
            return number
        self._converted.setdefault(id(value), (value, converted))
        return converted

    def plain(self, value: Any, path: str, steps: int = 0) -> Any:
        """Return the value in types that JSON has. Raises ResultNotJson with the place of what cannot be converted."""
        if steps > _MAX_STEPS:
            raise _fault(path, "too many arrays and objects stand inside each other, or one contains itself")
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, int | float):
            return _finite(value, path)
        if isinstance(value, dict):
            return self._object(value, path, steps)
        if isinstance(value, list | tuple):
            return [self.plain(item, f"{path}[{index}]", steps + 1) for index, item in enumerate(value)]
        return self.plain(self._converted_at(value, path), path, steps + 1)

    def _object(self, value: dict[Any, Any], path: str, steps: int) -> dict[Any, Any]:
        members = {}
        for key, item in value.items():
            name = _name(key, path)
            if name in members:
                raise _fault(path, f"two members have the name {name!r}")
            members[name] = self.plain(item, _member(path, name), steps + 1)
        return members

    def _converted_at(self, value: Any, path: str) -> Any:
        if id(value) in self._converted:
            return self._converted[id(value)][1]
        try:
            return self.convert(value)
        except Exception as error:
            raise _fault(path, str(error) or type(error).__name__) from error


def _number(value: Any) -> bool | float:
    number = number_of(value)
    if number is None:
        raise TypeError(f"a value of the type {type(value).__name__} has no form in JSON; `default` can give it one")
    return number


def _finite(value: float, path: str) -> float:
    try:
        is_finite = math.isfinite(value)
    except OverflowError:
        raise _fault(path, "the integer is beyond the largest double, so most parsers cannot read it") from None
    if not is_finite:
        raise _fault(path, f"JSON has no {float(value)!r}")
    return value


def _name(key: Any, path: str) -> Any:
    """Return a member's name as a key that `json.dumps` takes."""
    if key is None or isinstance(key, str):
        return key
    try:
        number = key if isinstance(key, int | float) else number_of(key)
    except Exception as error:
        raise _fault(path, f"a key of the type {type(key).__name__} cannot be converted: {error}") from error
    if number is None:
        raise _fault(path, f"a key is of the type {type(key).__name__}; names are strings")
    return _finite(number, path)


def _member(path: str, name: Any) -> str:
    return f"{path}.{name}" if isinstance(name, str) and name.isidentifier() else f"{path}[{json.dumps(name)}]"


def _dumps(value: object, default: Default | None = None) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=default)


def _written(plain: object) -> str:
    try:
        return _dumps(plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise ResultNotJson(f"The result cannot be written as JSON: {error}") from error


def _fault(path: str, problem: str) -> ResultNotJson:
    place = path if len(path) <= MAX_PATH_CHARS else f"{path[:MAX_PATH_CHARS]}…"
    return ResultNotJson(f"The result cannot be written as JSON. {place}: {problem}.")
