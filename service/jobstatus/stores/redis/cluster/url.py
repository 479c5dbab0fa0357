"""What a `redis://` or `rediss://` URL says: where the servers are, who we are there, and how the store is to be kept.

    redis://user:password@host:6379,other-host:6379/0?prefix=jobstatus

Several hosts are for a cluster, of which any that answers names the others. Names in the query:

* `prefix`: what the names of all keys begin with, so that several services can share a server.
* `fsync=false`: do not wait until a write is on a disk, where the server could say so.
* `ephemeral=true`: jobs may be lost when the server ends; without it a server that writes nothing down is refused.
* `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`: files for TLS (rediss), else the machine's own authorities are trusted.
"""

import re
import ssl
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from jobstatus.stores import StoreConfigError

DEFAULT_PORT: Final = 6379
DEFAULT_PREFIX: Final = "jobstatus"

_KNOWN: Final = frozenset({"prefix", "fsync", "ephemeral", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_is_prefix: Final = re.compile(r"[A-Za-z0-9._:-]{1,100}").fullmatch
_TRUTH: Final = {"true": True, "false": False}


class NodeAddress(NamedTuple):
    """Where one server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisConfig:
    """The whole URL; `tls` None: in the clear. The password is in no representation."""

    addresses: tuple[NodeAddress, ...]
    login: tuple[str, ...]
    database: int
    tls: ssl.SSLContext | None
    prefix: str
    waits_for_fsync: bool
    is_ephemeral: bool

    def __repr__(self) -> str:
        return f"RedisConfig({', '.join(map(str, self.addresses))})"


def parse_url(url: str) -> RedisConfig:
    """What the URL says. Raises StoreConfigError, which repeats nothing of the URL but names."""
    scheme, _, rest = url.partition("://")  # urlsplit, in newer Pythons, lets no bracket stand behind a comma
    front, _, query = rest.partition("?")
    netloc, _, path = front.partition("/")
    who, _, where = netloc.rpartition("@")
    options = _options(query)
    return RedisConfig(
        addresses=tuple(_address(text) for text in where.split(",")),
        login=_login(who),
        database=_database(path),
        tls=_tls(options) if scheme == "rediss" else None,
        prefix=_prefix(options.get("prefix", DEFAULT_PREFIX)),
        waits_for_fsync=_truth(options, "fsync", default=True),
        is_ephemeral=_truth(options, "ephemeral", default=False),
    )


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(options.keys() - _KNOWN):
        raise StoreConfigError(f"the store URL has an unknown option {unknown[0]!r}; known are {_listed(_KNOWN)}")
    return options


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _address(text: str) -> NodeAddress:
    try:
        parts = urlsplit(f"//{text}")
        return NodeAddress(parts.hostname or "127.0.0.1", parts.port or DEFAULT_PORT)
    except ValueError as error:
        raise StoreConfigError("the store URL must name its servers as host:port, divided by commas") from error


def _login(who: str) -> tuple[str, ...]:
    """What AUTH is told, if it is asked at all."""
    user, _, password = (unquote(part) for part in who.partition(":"))
    if user and not password:
        raise StoreConfigError("the store URL has a user and no password; a password alone is written :password@")
    return (user, password) if user else (password,) if password else ()


def _database(path: str) -> int:
    name = path.strip("/")
    if not name.isdecimal() and name:
        raise StoreConfigError("the store URL must end with the number of a database, or with nothing, before its '?'")
    return int(name or 0)


def _prefix(text: str) -> str:
    if not _is_prefix(text):
        raise StoreConfigError("the store URL's prefix must be 1 to 100 letters, digits, or characters of . _ : -")
    return text


def _truth(options: dict[str, str], name: str, *, default: bool) -> bool:
    if name not in options:
        return default
    if options[name] not in _TRUTH:
        raise StoreConfigError(f"the store URL's {name} must be true or false")
    return _TRUTH[options[name]]


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except OSError as error:
        raise StoreConfigError(
            "the store URL's ssl_ca_certs, ssl_certfile and ssl_keyfile must name files in PEM"
        ) from error
    return context
