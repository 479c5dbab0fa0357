"""A page of a listing in SQL, the same in every SQL store except for the placeholder of a value and one function."""

from typing import Any

from jobstatus.core.store import Listing
from jobstatus.stores.rows import COLUMNS_WITHOUT_RESULT, error_code_text


def page(table: str, listing: Listing, now_ms: int, *, mark: str, position: str) -> tuple[str, list[Any]]:
    """Return the statement that finds the rows of a page, and its values.

    `mark` is the placeholder, `position` the function that returns where a text stands in another, or 0.
    """
    request_type = None if listing.request_type is None else listing.request_type.value
    optional = (
        (f"request_type = {mark}", request_type),
        (f"virtual_key_id = {mark}", listing.virtual_key_id),
        (f"created_at_ms >= {mark}", listing.created_after_ms),
        (f"created_at_ms < {mark}", listing.created_before_ms),
        (f"worker_id = {mark}", listing.worker_id),
        (f"status_code = {mark}", listing.status_code),
        (f"{position}(error, {mark}) > 0", None if listing.error_code is None else error_code_text(listing.error_code)),
    )
    filters: list[tuple[str, list[Any]]] = [(text, [value]) for text, value in optional if value is not None]
    filters.append((f"(expires_at_ms IS NULL OR expires_at_ms > {mark})", [now_ms]))
    if listing.states:
        marks = ", ".join([mark] * len(listing.states))
        filters.append((f"state IN ({marks})", [state.value for state in listing.states]))
    if listing.before is not None:
        filters.append((f"(created_at_ms, job_id) < ({mark}, {mark})", [*listing.before]))
    where = " AND ".join(text for text, _ in filters)
    values = [value for _, values in filters for value in values]
    return (
        f"SELECT {COLUMNS_WITHOUT_RESULT} FROM {table} WHERE {where}"  # noqa: S608  # fixed names
        f" ORDER BY created_at_ms DESC, job_id DESC LIMIT {mark}"
    ), [*values, listing.limit]
