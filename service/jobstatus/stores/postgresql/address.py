"""From the store URL to the conninfo of libpq."""

from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from jobstatus.stores import StoreConfigError

_DEFAULTS: Final[dict[str, Any]] = {
    "target_session_attrs": "primary",  # also one that takes no writes at present, as a full managed server
    "application_name": "jobstatus",
    "client_encoding": "utf8",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""Parameters that the URL may override."""


def conninfo_of(url: str, connect_seconds: int) -> str:
    """Return the conninfo. Raises StoreConfigError, which does not repeat the URL, because it may hold a password."""
    try:
        given = conninfo_to_dict(url)
        conninfo = make_conninfo("", **(_DEFAULTS | {"connect_timeout": connect_seconds} | given))
    except psycopg.Error:
        raise StoreConfigError("the store URL (JOBSTATUS_STORE) is not a valid PostgreSQL URL") from None
    ports = str(given.get("port", "")).split(",")
    names = (str(given.get(part, "")) for part in ("host", "dbname"))
    # A password with one of these characters unescaped ends up in the parts behind it, which libpq's errors repeat.
    if not all(port.isdecimal() or not port for port in ports) or any("@" in name for name in names):
        raise StoreConfigError(
            "the store URL (JOBSTATUS_STORE) is ambiguous: in a password write : / ? # @ as %3A %2F %3F %23 %40"
        )
    return conninfo


def host_count(conninfo: str) -> int:
    """Return how many hosts are tried, one after the other, to open a connection."""
    return max(str(conninfo_to_dict(conninfo).get(name) or "").count(",") + 1 for name in ("host", "hostaddr"))


def conninfo_of_host(conninfo: str, connected: psycopg.ConnectionInfo) -> str:
    """Return the conninfo of the one host that this connection is to."""
    return make_conninfo(conninfo, host=connected.host, hostaddr=connected.hostaddr, port=connected.port)
