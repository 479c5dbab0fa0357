"""A page of a listing in SQL, the same in every SQL store except for the placeholder of a value and one function.

There is one index for all listings, in their order and with every filter that is common. A rare filter would have to
walk all of it, so a page is read in windows: a first statement finds where the next so many entries end, a second one
the jobs among them. An index for each filter would make such a listing quicker and every write dearer.

The pages of a process take turns. The pauses between them keep the event loop, which turns rows into answers, and the
store free for polls most of the time, however many clients list.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from jobstatus.core.store import JobPage, Listing, Place
from jobstatus.stores.rows import COLUMNS_WITHOUT_RESULT, error_code_text, job_of
from jobstatus.stores.scan_turns import ScanTurns

MAX_SCANS: Final = 10_000
"""Entries of the index in a window: some milliseconds."""
_MAX_ROWS: Final = MAX_SCANS // 10
"""The same where each entry's row has to be read for the filter."""
_ORDER: Final = "ORDER BY created_at_ms DESC, job_id DESC"

Fetch = Callable[[str, Sequence[Any]], Awaitable[Sequence[Sequence[Any]]]]


def page_turns() -> ScanTurns:
    """Return the turns of the pages of one process."""
    return ScanTurns(pause_share=0, min_pause_seconds=0.002)


class Dialect(NamedTuple):
    """The table's name, the placeholder of a value, and the function that returns where a text has another, or 0."""

    table: str
    mark: str
    position: str


async def read_page(dialect: Dialect, listing: Listing, now_ms: int, fetch: Fetch, max_scans: int) -> JobPage:
    """Return what there is of the listing among the next `max_scans` jobs. `fetch` executes a statement."""
    end = await fetch(*window_end(dialect, listing, window_size(listing, max_scans)))
    until = (end[0][0], end[0][1]) if end else None
    rows = await fetch(*page(dialect, listing, now_ms, until))
    jobs = [job_of(row) for row in rows]
    if len(jobs) == listing.limit:
        return JobPage(jobs, (jobs[-1].created_at_ms, jobs[-1].job_id))
    return JobPage(jobs, until)


def window_size(listing: Listing, max_scans: int = MAX_SCANS) -> int:
    """Return how many entries one page looks at."""
    if listing.is_plain:
        return min(2 * listing.limit, max_scans)  # enough, unless many have expired
    return min(max_scans, _MAX_ROWS) if listing.needs_rows else max_scans


def window_end(dialect: Dialect, listing: Listing, size: int) -> tuple[str, list[Any]]:
    """Return the statement that finds the last of the next `size` jobs, or nothing where there are fewer."""
    where, values = _joined(_range(dialect, listing))
    return (
        f"SELECT created_at_ms, job_id FROM {dialect.table} WHERE {where}"  # noqa: S608  # fixed names
        f" {_ORDER} LIMIT 1 OFFSET {dialect.mark}"
    ), [*values, size - 1]


def page(dialect: Dialect, listing: Listing, now_ms: int, until: Place | None) -> tuple[str, list[Any]]:
    """Return the statement that finds the rows of a page, down to `until`, and its values."""
    mark = dialect.mark
    request_type = None if listing.request_type is None else listing.request_type.value
    code = None if listing.error_code is None else error_code_text(listing.error_code)
    optional = (
        (f"request_type = {mark}", request_type),
        (f"virtual_key_id = {mark}", listing.virtual_key_id),
        (f"worker_id = {mark}", listing.worker_id),
        (f"status_code = {mark}", listing.status_code),
        (f"{dialect.position}(error, {mark}) > 0", code),
    )
    filters = [*_range(dialect, listing), *((text, [value]) for text, value in optional if value is not None)]
    filters.append((f"(expires_at_ms IS NULL OR expires_at_ms > {mark})", [now_ms]))
    if listing.states:
        marks = ", ".join([mark] * len(listing.states))
        filters.append((f"state IN ({marks})", [state.value for state in listing.states]))
    if until is not None:
        filters.append(_place(dialect, ">=", until))
    where, values = _joined(filters)
    return (
        f"SELECT {COLUMNS_WITHOUT_RESULT} FROM {dialect.table} WHERE {where} {_ORDER} LIMIT {mark}"  # noqa: S608
    ), [*values, listing.limit]


_Filter = tuple[str, list[Any]]


def _range(dialect: Dialect, listing: Listing) -> list[_Filter]:
    """Return the bounds of a listing in its order."""
    mark = dialect.mark
    bounds: list[_Filter] = []
    if listing.created_after_ms is not None:
        bounds.append((f"created_at_ms >= {mark}", [listing.created_after_ms]))
    if listing.created_before_ms is not None:
        bounds.append((f"created_at_ms < {mark}", [listing.created_before_ms]))
    if listing.before is not None:
        bounds.append(_place(dialect, "<", listing.before))
    return bounds


def _place(dialect: Dialect, comparison: str, place: Place) -> _Filter:
    """Compare with a place. The time is compared once more by itself, for the sake of PostgreSQL's estimates.

    It knows a range of one column, but takes the two ends of a range of rows for independent. In the middle of a large
    table it would expect a quarter of the rows, and read all of them rather than a window of the index.
    """
    mark = dialect.mark
    text = f"(created_at_ms, job_id) {comparison} ({mark}, {mark}) AND created_at_ms {comparison[0]}= {mark}"
    return text, [*place, place[0]]


def _joined(filters: Sequence[_Filter]) -> tuple[str, list[Any]]:
    where = " AND ".join(text for text, _ in filters) or "true"
    return where, [value for _, values in filters for value in values]
