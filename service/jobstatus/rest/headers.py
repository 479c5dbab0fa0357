"""Read request headers and compute response headers: pure functions of their values."""

import ipaddress
import random
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from multidict import MultiMapping, istr

from jobstatus.auth.credential import KEY_HEADERS, may_be_credential

# The names that each poll looks up. Of this type, they are found in less than half the time.
ACCEPT: Final = istr("Accept")
AUTHORIZATION: Final = istr("Authorization")
HOST: Final = istr("Host")
IF_MATCH: Final = istr("If-Match")
IF_NONE_MATCH: Final = istr("If-None-Match")
PREFER: Final = istr("Prefer")
TRANSFER_ENCODING: Final = istr("Transfer-Encoding")
X_REQUEST_ID: Final = istr("X-Request-Id")
KEY_1, KEY_2, KEY_3 = map(istr, KEY_HEADERS)

MAX_RETRY_AFTER_SECONDS: Final = 30
MAX_SEARCHED_BYTES: Final = 8 * 1024
"""Of a request that is not parsed yet."""

EVENT_STREAM: Final = "text/event-stream"

_is_weight: Final = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?").fullmatch
_is_sane_request_id: Final = re.compile("[A-Za-z0-9._-]{1,128}").fullmatch
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"?'
_members: Final = re.compile(rf'(?:[^",]|{_QUOTED})+').findall
"""Members of a list, whose quoted strings may hold commas (RFC 9110, section 5.6)."""
_parameters: Final = re.compile(rf'(?:[^";]|{_QUOTED})+').findall
"""What precedes the parameters of a member, and each of them."""
_entity_tags: Final = re.compile(r'(?:W/)?"[^"]*"|\*').findall
"""Members of a list of entity tags, in which a backslash is a character like any other, and `*`."""
_wait: Final = re.compile(r'[ \t]*wait[ \t]*=[ \t]*("?)([0-9]{1,9})\1[ \t]*(?:;|$)', re.IGNORECASE).match
_credentials: Final = re.compile(
    rf"\n({'|'.join((AUTHORIZATION, *KEY_HEADERS))}):[ \t]*([^\r\n]*)".encode(), re.IGNORECASE
).findall
_host: Final = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?", re.ASCII
).fullmatch


def credentials_of(headers: MultiMapping[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Return the values of all Authorization headers, and of all headers that hold a virtual key."""
    keys: Sequence[str] = ()
    if KEY_1 in headers or KEY_2 in headers or KEY_3 in headers:  # spelt out because each poll pays for it
        keys = [value for name in (KEY_1, KEY_2, KEY_3) for value in headers.getall(name, ())]
    return headers.getall(AUTHORIZATION, ()), keys


def credentials_in(data: bytes) -> tuple[Sequence[str], Sequence[str]]:
    """Return what `credentials_of` returns, as far as it can be found in a request that is not parsed.

    It says whose turn a request is to wait for, and admits nobody. Others may follow the request at once, such as those
    of other clients of a proxy.
    """
    end = data.find(b"\r\n\r\n", 0, MAX_SEARCHED_BYTES)
    found = _credentials(data, 0, MAX_SEARCHED_BYTES if end < 0 else end)
    authorization = [value.decode("latin-1") for name, value in found if name[:1] in b"Aa"]
    return authorization, [value.decode("latin-1") for name, value in found if name[:1] not in b"Aa"]


def request_id_of(given: str | None) -> str:
    """Return the caller's request id if it is valid, else a new one of 32 hexadecimal digits.

    One that may be a credential, sent in the wrong header, is not valid, because answers and the log repeat it.
    """
    if given is not None and _is_sane_request_id(given) and not may_be_credential(given):
        return given
    return f"{random.getrandbits(128):032x}"  # it has to be unlikely twice, not secret


def retry_after_seconds(retry_after_ms: int, least_seconds: int) -> int:
    """Return the Retry-After in whole seconds for the core's recommendation, between `least_seconds` and 30 s."""
    return min(MAX_RETRY_AFTER_SECONDS, max(least_seconds, retry_after_ms // 1000))


def document_id(version: int, created_at_ms: int) -> str:
    """Return what tells a job's document from all others of the same job id: the `id` of its event."""
    return f"{created_at_ms:x}-{version}"


def entity_tag(version: int, created_at_ms: int) -> str:
    """Return the strong validator of a job's document (RFC 9110, section 8.8.3): its `document_id`, quoted."""
    return f'"{created_at_ms:x}-{version}"'


class Conditions(NamedTuple):
    """The preconditions of a request: the values of its `If-Match` and `If-None-Match` headers."""

    if_match: Sequence[str]
    if_none_match: Sequence[str]


def conditions_in(headers: MultiMapping[str]) -> Conditions | None:
    """Return the preconditions of a request, None if it has none."""
    if IF_NONE_MATCH in headers or IF_MATCH in headers:
        return Conditions(headers.getall(IF_MATCH, ()), headers.getall(IF_NONE_MATCH, ()))
    return None


def is_known(if_none_match: Sequence[str], tag: str) -> bool:
    """Return whether the client has this document already (RFC 9110, section 13.1.2: weak comparison)."""
    if tag in if_none_match or "*" in if_none_match:  # as nearly all clients send it
        return True
    tags = {known.removeprefix("W/") for line in if_none_match for known in _entity_tags(line)}
    return "*" in tags or tag in tags


def is_expected(if_match: Iterable[str], tag: str | None) -> bool:
    """Return whether the client accepts this document (RFC 9110, section 13.1.1: strong comparison).

    `tag` is None for a document without a tag, which only `*` matches.
    """
    tags = {expected for line in if_match for expected in _entity_tags(line)}
    return "*" in tags or tag in tags


@lru_cache(64)
def is_host(host: str) -> bool:
    """Return whether this is a host, with or without a port (RFC 9110, section 7.2). An empty one is allowed."""
    found = _host(host)
    return found is not None and (found["ipv6"] is None or _is_ipv6(found["ipv6"]))


def _is_ipv6(address: str) -> bool:
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return True


def ends_connection(headers: MultiMapping[str]) -> bool:
    """Return whether the connection must be closed after the answer: the request has a body.

    The service reads no body, so what a proxy takes for the next request could be a part of this one.
    """
    return TRANSFER_ENCODING in headers or headers.get("Content-Length", "0") != "0"


def wait_seconds(prefer: Iterable[str], most: int) -> int:
    """Return how many seconds of the `wait` preference (RFC 7240, section 4.3) are granted; 0 if there is none."""
    for line in prefer:
        for preference in _members(line):
            if wait := _wait(preference):
                return min(int(wait[2]), most)  # the first one counts (section 2)
    return 0


def progress(value: float) -> str:
    """Return a `Job-Progress` with four significant digits, and never with an exponent."""
    text = f"{value:.4g}"
    return text if "e" not in text else f"{value:.9f}".rstrip("0").rstrip(".")


def prefers_events(accept: Iterable[str]) -> bool:
    """Return whether a client prefers an event stream to JSON (RFC 9110, section 12.5.1).

    It must name the type: a client that accepts anything, or both types equally, gets JSON.
    """
    weights = _weights(accept)
    return weights.get(EVENT_STREAM, 0) > weights.get("application/json", 0)


def prefers_openmetrics(accept: Iterable[str]) -> bool:
    """Return whether a client prefers OpenMetrics to Prometheus' text format, in the same way."""
    weights = _weights(accept)
    return weights.get("application/openmetrics-text", 0) > weights.get("text/plain", 0)


def accepts_gzip(accept_encoding: Iterable[str]) -> bool:
    """Return whether a client accepts gzip (RFC 9110, section 12.5.3). It must name it."""
    return _weights(accept_encoding).get("gzip", 0) > 0


def _weights(values: Iterable[str]) -> dict[str, float]:
    """Return the `q` of each member of a list, by its name in lower case."""
    members = [_parameters(part) for line in values for part in _members(line.lower())]
    return {name.strip(): _weight(parameters) for name, *parameters in filter(None, members)}


def _weight(parameters: Iterable[str]) -> float:
    """Return the `q` of a media range; 1 where there is none, 0 where it is malformed."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            value = value.strip()
            return float(value) if _is_weight(value) else 0
    return 1
