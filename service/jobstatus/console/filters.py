"""Read the filters and places that a page sends: whatever it sends is checked, and bounded in length."""

from collections.abc import Mapping
from typing import Any, Final

from jobstatus.core.commands import check_id, check_status_code, check_text
from jobstatus.core.errors import InvalidField
from jobstatus.core.job import Job, JobState, RequestType, is_valid_id
from jobstatus.core.store import Listing, Place

NAMES: Final = ("state", "type", "key", "worker", "error", "status", "after", "before", "page", "at")
"""The parameters that a page may send."""
MAX_CHARS: Final = 256
_MAX_MS: Final = 1 << 53
_LEAST_OF_IDS: Final = "-"
"""The least character of an id."""


def listing_of(arguments: Mapping[str, Any], limit: int) -> Listing:
    """Return the listing of these arguments. Raises InvalidField.

    `page` has the place of the last job of the page before, `at` that of the first job of this page.
    """
    before = place_in(arguments, "page")
    first = place_in(arguments, "at")
    if before is None and first is not None:
        before = first[0], first[1] + _LEAST_OF_IDS
    request_type = arguments.get("type") or None
    error_code = arguments.get("error") or None
    check_text("error", error_code, MAX_CHARS)
    status_code = _number_of(arguments, "status")
    if status_code is not None:
        check_status_code("status", status_code)
    return Listing(
        limit=limit,
        states=tuple(_one_of(JobState, name, "state") for name in (arguments.get("state") or "").split(",") if name),
        request_type=None if request_type is None else _one_of(RequestType, request_type, "type"),
        virtual_key_id=_id(arguments, "key"),
        worker_id=_id(arguments, "worker"),
        error_code=error_code,
        status_code=status_code,
        created_after_ms=_number_of(arguments, "after"),
        created_before_ms=_number_of(arguments, "before"),
        before=before,
    )


def id_in(arguments: Mapping[str, Any], name: str) -> str:
    """Return the id of this argument, empty where it is absent. Raises InvalidField."""
    return _id(arguments, name) or ""


def place_of(job: Job) -> str:
    """Return the place of a job in a listing as a text."""
    return f"{job.created_at_ms}.{job.job_id}"


def place_text(place: Place | None) -> str | None:
    """Return a place in a listing as a text."""
    return None if place is None else f"{place[0]}.{place[1]}"


def place_in(arguments: Mapping[str, Any], name: str) -> tuple[int, str] | None:
    """Return the place of this argument, None where it is absent or empty. Raises InvalidField."""
    text = arguments.get(name)
    if not text:
        return None
    created, _, job_id = str(text).partition(".")
    if not is_valid_id(job_id):
        raise InvalidField.of(name, "must be the place of a job")
    return _number(created, name), job_id


def named(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return the ids that a question names, as the audit log may have them."""
    given = {name: str(arguments[name]) for name in ("job_id", "virtual_key_id") if name in arguments}
    return {name: value if is_valid_id(value) else "(not an id)" for name, value in given.items()}


def _id(arguments: Mapping[str, Any], name: str) -> str | None:
    text = arguments.get(name) or None
    if text is not None:
        check_id(name, text)
    return text


def _number_of(arguments: Mapping[str, Any], name: str) -> int | None:
    text = arguments.get(name)
    return _number(str(text), name) if text else None


def _number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 16 and int(text) < _MAX_MS):
        raise InvalidField.of(name, "must be a whole number")
    return int(text)


def _one_of(kind: Any, name: str, field: str) -> Any:
    try:
        return kind(name)
    except ValueError:
        raise InvalidField.of(field, f"must be one of {', '.join(kind)}") from None
