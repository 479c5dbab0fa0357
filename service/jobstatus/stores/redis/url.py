"""What the store's URL says: the servers and the login (see `cluster.url`), and how the store is kept.

    redis://user:password@host:6379,other-host:6379/0?prefix=jobstatus

Options of the store:

* `prefix`: what the names of all keys begin with, so that several services can share a server.
* `fsync=false`: do not wait until a write is on a disk, where the server could confirm that.
* `ephemeral=true`: jobs may be lost when the server ends; without it a server without persistence is refused.
"""

import re
from dataclasses import dataclass
from typing import Final

from jobstatus.stores import StoreConfigError
from jobstatus.stores.redis.cluster.errors import UrlError
from jobstatus.stores.redis.cluster.url import TLS_OPTIONS, ClusterConfig
from jobstatus.stores.redis.cluster.url import parse_url as parse_cluster_url

DEFAULT_PREFIX: Final = "jobstatus"
CLIENT_NAME: Final = "jobstatus"

_OPTIONS: Final = frozenset({"prefix", "fsync", "ephemeral"})
_is_prefix: Final = re.compile(r"[A-Za-z0-9._:-]{1,100}").fullmatch
_BOOLEANS: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisConfig:
    """The whole URL."""

    cluster: ClusterConfig
    prefix: str
    waits_for_fsync: bool
    is_ephemeral: bool


def parse_url(url: str) -> RedisConfig:
    """Parse the URL. Raises StoreConfigError, which repeats nothing of the URL but names of options."""
    try:
        cluster, options = parse_cluster_url(url, client_name=CLIENT_NAME)
    except UrlError as error:
        raise StoreConfigError(f"the store URL {error}") from error
    if unknown := sorted(options.keys() - _OPTIONS):
        known = ", ".join(sorted(_OPTIONS | TLS_OPTIONS))
        raise StoreConfigError(f"the store URL has an unknown option {unknown[0]!r}; known are {known}")
    return RedisConfig(
        cluster=cluster,
        prefix=_prefix(options.get("prefix", DEFAULT_PREFIX)),
        waits_for_fsync=_boolean(options, "fsync", default=True),
        is_ephemeral=_boolean(options, "ephemeral", default=False),
    )


def _prefix(text: str) -> str:
    if not _is_prefix(text):
        raise StoreConfigError("the store URL's prefix must be 1 to 100 letters, digits, or characters of . _ : -")
    return text


def _boolean(options: dict[str, str], name: str, *, default: bool) -> bool:
    if name not in options:
        return default
    if options[name] not in _BOOLEANS:
        raise StoreConfigError(f"the store URL's {name} must be true or false")
    return _BOOLEANS[options[name]]
