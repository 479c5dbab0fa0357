"""What is wrong with a setting, in one sentence that names it and never repeats its value, which may be a secret.

The sentences are ours, because those of pydantic speak of Python's types.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_NUMBER: Final = "must be a number"
_WHOLE_NUMBER: Final = "must be a whole number"
_TEXT: Final = "must be text"
_SWITCH: Final = "must be true or false"
_LIST: Final = "must be a list"
_PATH: Final = "must be the path of a file"
_TABLE: Final = "must be a table of keys and values"
_NOT_EMPTY: Final = "must not be empty"
_OTHER: Final = "has a value that cannot be used"

_WORDS: Final[Mapping[str, str]] = {
    "int_parsing": _WHOLE_NUMBER,
    "int_parsing_size": _WHOLE_NUMBER,
    "int_type": _WHOLE_NUMBER,
    "int_from_float": _WHOLE_NUMBER,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "finite_number": _NUMBER,
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:.12g}",
    "bool_parsing": _SWITCH,
    "bool_type": _SWITCH,
    "string_type": _TEXT,
    "string_sub_type": _TEXT,
    "string_unicode": _TEXT,
    "string_too_short": _NOT_EMPTY,
    "too_short": _NOT_EMPTY,
    "frozen_set_type": _LIST,
    "set_type": _LIST,
    "tuple_type": _LIST,
    "list_type": _LIST,
    "path_type": _PATH,
    "dict_type": _TABLE,
    "model_type": _TABLE,
    "model_attributes_type": _TABLE,
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "missing": "is missing",
}
"""By pydantic's name of the error. `value_error` is not here, because its words are ours already."""


class SettingsError(ValueError):
    """A setting is wrong; the message is one sentence that names it."""


def settings_error(error: ValidationError, name_of: Callable[[str], str]) -> SettingsError:
    """Return our error for the first of pydantic's. `name_of` turns a field's name into what an operator knows."""
    first = error.errors(include_input=False, include_url=False)[0]
    field, *inner = (str(part) for part in first["loc"]) if first["loc"] else ("",)
    if first["type"] == "extra_forbidden":
        return SettingsError(f"the settings have no {'.'.join((field, *inner))}: is it misspelt?")
    if not field:
        return SettingsError(_problem(first))
    return SettingsError(f"{'.'.join((name_of(field), *inner))} {_problem(first)}")


def _problem(error: "ErrorDetails") -> str:
    context: dict[str, Any] = error.get("ctx", {})
    if error["type"] == "value_error":
        return str(context["error"])
    return _WORDS.get(error["type"], _OTHER).format(**context)
