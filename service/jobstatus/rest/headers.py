"""Read request headers and compute response headers: pure functions of their values."""

import random
import re
from collections.abc import Iterable
from typing import Final

MAX_RETRY_AFTER_SECONDS: Final = 30
MAX_WAIT_SECONDS: Final = 60

EVENT_STREAM: Final = "text/event-stream"

_is_weight: Final = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?").fullmatch
_is_sane_request_id: Final = re.compile("[A-Za-z0-9._-]{1,128}").fullmatch


def request_id_of(given: str | None) -> str:
    """Return the caller's request id if it is valid, else a new one of 32 hexadecimal digits."""
    if given is not None and _is_sane_request_id(given):
        return given
    return f"{random.getrandbits(128):032x}"  # it has to be unlikely twice, not secret


def retry_after_seconds(retry_after_ms: int, least_seconds: int) -> int:
    """Return the Retry-After in whole seconds for the core's recommendation, between `least_seconds` and 30 s."""
    return min(MAX_RETRY_AFTER_SECONDS, max(least_seconds, retry_after_ms // 1000))


def entity_tag(version: int, created_at_ms: int) -> str:
    """Return the strong validator of a job's document (RFC 9110, section 8.8.3), unique among documents of one id."""
    return f'"{created_at_ms:x}-{version}"'


def is_known(if_none_match: Iterable[str], tag: str) -> bool:
    """Return whether the client has this document already (RFC 9110, section 13.1.2: weak comparison)."""
    tags = [known.strip() for line in if_none_match for known in line.split(",")]
    return "*" in tags or tag in (known.removeprefix("W/") for known in tags)


def wait_seconds(prefer: Iterable[str]) -> int:
    """Return the `wait` preference (RFC 7240, section 4.3) in seconds, at most MAX_WAIT_SECONDS; 0 if there is none."""
    for line in prefer:
        for preference in line.split(","):
            name, _, value = preference.partition(";")[0].partition("=")
            number = value.strip().strip('"')
            if name.strip().lower() == "wait" and number.isascii() and number.isdecimal() and len(number) < 10:
                return min(int(number), MAX_WAIT_SECONDS)  # the first one counts (section 2)
    return 0


def prefers_events(accept: Iterable[str]) -> bool:
    """Return whether a client prefers an event stream to JSON (RFC 9110, section 12.5.1).

    It must name the type: a client that accepts anything, or both types equally, gets JSON.
    """
    ranges = [part.partition(";") for line in accept for part in line.lower().split(",")]
    weights = {name.strip(): _weight(parameters) for name, _, parameters in ranges}
    return weights.get(EVENT_STREAM, 0) > weights.get("application/json", 0)


def _weight(parameters: str) -> float:
    """Return the `q` of a media range; 1 where there is none, 0 where it is malformed."""
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            value = value.strip()
            return float(value) if _is_weight(value) else 0
    return 1


def last_event_version(last_event_id: str | None) -> int | None:
    """Return the version that a client saw last; None where there is none, or it is malformed."""
    if last_event_id and last_event_id.isascii() and last_event_id.isdecimal() and len(last_event_id) < 20:
        return int(last_event_id)
    return None
