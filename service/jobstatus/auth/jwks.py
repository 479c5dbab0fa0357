"""Read a JWK Set (RFC 7517) for one algorithm.

Others publish the sets and add keys that this service cannot use. Such a key is skipped and logged, because the other
keys must keep working. A set without a usable key, or with two keys of one id, is refused as a whole.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from jobstatus.auth.keys import ALGORITHMS, Key, KeyRefused, KeySet, check_key, is_name_of
from jobstatus.core.json_text import parse_object

logger: Final = logging.getLogger(__name__)


class _Entry(NamedTuple):
    number: int
    key_id: str | None
    key: Key


def parse_jwks(algorithm: str, data: bytes, *, issuer: str) -> KeySet:
    """Return the keys of a set that may verify this algorithm; raise KeyRefused. `issuer` is for the log only."""
    usable: list[_Entry] = []
    problems: list[str] = []
    for number, entry in enumerate(_read_entries(data), start=1):
        try:
            usable.append(_Entry(number, *_parse_entry(algorithm, entry)))
        except KeyRefused as refused:
            problems.append(f"key {number} of the JWKS is of no use, {refused}")
    if len(usable) > 1:
        nameless = [entry for entry in usable if entry.key_id is None]
        problems += [f"key {entry.number} of the JWKS is of no use, it has no kid" for entry in nameless]
        usable = [entry for entry in usable if entry.key_id is not None]
    keys = _make_key_set(usable, problems)
    for problem in problems:
        logger.warning(
            "A key of the JWKS is not used.",
            extra={"event": "jwks_key_skipped", "issuer": issuer, "problem": problem},
        )
    return keys


def _read_entries(data: bytes) -> list[Any]:
    try:
        entries = parse_object(data).get("keys")
    except ValueError:
        raise KeyRefused("the JWKS is not a JSON object in UTF-8 with unique names") from None
    if not isinstance(entries, list) or not entries:
        raise KeyRefused("the JWKS has no keys")
    return entries


def _parse_entry(algorithm: str, entry: object) -> tuple[str | None, Key]:
    if not isinstance(entry, dict):
        raise KeyRefused("it is not an object")
    key_id = entry.get("kid")
    if key_id is not None and not isinstance(key_id, str):
        raise KeyRefused("its kid is not a string")
    _check_purpose(algorithm, entry)
    try:
        key = ALGORITHMS[algorithm].signature.from_jwk(entry)
    except Exception:  # noqa: BLE001 - malformed members raise whatever; the text may quote the key
        raise KeyRefused("it is malformed") from None
    return key_id, check_key(entry.get("alg", algorithm), check_key(algorithm, key))


def _check_purpose(algorithm: str, entry: Mapping[str, Any]) -> None:
    """Raise KeyRefused unless the key is a public one (or a secret), for this algorithm, and for signatures."""
    operations = entry.get("key_ops")
    if entry.get("kty") != ALGORITHMS[algorithm].key_type:
        raise KeyRefused(f"its kty does not fit {algorithm}")
    if not is_name_of(entry.get("alg", algorithm), algorithm):
        raise KeyRefused(f"its alg is not {algorithm}")
    if entry.get("use", "sig") != "sig":
        raise KeyRefused("its use is not sig")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        raise KeyRefused("its key_ops do not include verify")
    if "d" in entry:
        raise KeyRefused("it is a private key, where only the public one belongs")


def _make_key_set(entries: list[_Entry], problems: list[str]) -> KeySet:
    """Return the set of these keys; raise KeyRefused if there is none, or a kid is ambiguous."""
    if not entries:
        raise KeyRefused(problems[0])
    by_id = {entry.key_id: entry.key for entry in entries if entry.key_id is not None}
    if len(entries) > 1 and len(by_id) < len(entries):
        raise KeyRefused("two keys of the JWKS have the same kid")
    return KeySet(by_id, entries[0].key if len(entries) == 1 else None)
