"""What a `redis://` or `rediss://` URL says of the servers and of the login.

    redis://user:password@host:6379,other-host:6379/0?ssl_ca_certs=ca.pem

Several hosts are seeds of a cluster; any that answers names the others. The options `ssl_ca_certs`, `ssl_certfile` and
`ssl_keyfile` are files for TLS (rediss); without `ssl_ca_certs` the authorities of the machine are trusted.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from jobstatus.stores.redis.cluster.errors import UrlError

DEFAULT_PORT: Final = 6379
TLS_OPTIONS: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})


class NodeAddress(NamedTuple):
    """Where one server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """Where the servers are and how to log in; `tls` None: without encryption. The repr holds no password."""

    addresses: tuple[NodeAddress, ...]
    login: tuple[str, ...]
    """The arguments of AUTH; none without a password."""
    database: int
    tls: ssl.SSLContext | None
    client_name: str = ""
    """What CLIENT LIST shows."""

    def __repr__(self) -> str:
        return f"ClusterConfig({', '.join(map(str, self.addresses))})"


def parse_url(url: str, *, client_name: str = "") -> tuple[ClusterConfig, dict[str, str]]:
    """Parse the URL. Return the options that are not in TLS_OPTIONS, too: they are the caller's.

    Raises UrlError, which repeats no part of the URL.
    """
    scheme, _, rest = url.partition("://")  # not urlsplit: newer Pythons allow no bracket behind a comma
    front, _, query = rest.partition("?")
    netloc, _, path = front.partition("/")
    who, _, where = netloc.rpartition("@")
    options = dict(parse_qsl(query, keep_blank_values=True))
    config = ClusterConfig(
        addresses=tuple(_address(text) for text in where.split(",")),
        login=_login(who),
        database=_database(path),
        tls=_tls(options) if scheme == "rediss" else None,
        client_name=client_name,
    )
    return config, {name: value for name, value in options.items() if name not in TLS_OPTIONS}


def _address(text: str) -> NodeAddress:
    try:
        parts = urlsplit(f"//{text}")
        return NodeAddress(parts.hostname or "127.0.0.1", parts.port or DEFAULT_PORT)
    except ValueError as error:
        raise UrlError("must name its servers as host:port, separated by commas") from error


def _login(who: str) -> tuple[str, ...]:
    user, _, password = (unquote(part) for part in who.partition(":"))
    if user and not password:
        raise UrlError("has a user and no password; a password alone is written :password@")
    return (user, password) if user else (password,) if password else ()


def _database(path: str) -> int:
    name = path.strip("/")
    if not name.isdecimal() and name:
        raise UrlError("must have the number of a database, or nothing, as its path")
    return int(name or 0)


def _tls(options: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except OSError as error:
        raise UrlError("must name files in PEM as ssl_ca_certs, ssl_certfile and ssl_keyfile") from error
    return context
