"""The limits of the REST port, and its kind of connection: values for `app` to set."""

from collections.abc import Callable
from dataclasses import dataclass

from jobstatus.rest.fast_path import FastPathProtocol
from jobstatus.rest.protocol import RestProtocol
from jobstatus.rest.send_limits import LargeResponses, ReadingPace
from jobstatus.rest.turns import TurnLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class RestLimits:
    """Times are in seconds."""

    request_seconds: float = 45.0
    """A connection on which a request, or the first one, is not complete after this long is closed."""
    quiet_seconds: float = 15.0
    """An event stream sends a comment after so long without an event, so that proxies keep the connection open."""
    send_seconds: float = 30.0
    """A client that reads nothing of a large answer for so long is disconnected."""
    least_bytes_per_second: int = 16 * 1024
    """A client that reads a large answer more slowly, and is `send_seconds` late by that, is disconnected."""
    vanished_seconds: float = 35.0
    """A client that acknowledges nothing for so long is disconnected; see `vanished_clients`. With the time until the
    next comment of an event stream it is less than a minute."""
    max_large_bytes: int = 256 * 1024 * 1024
    """How much memory the large answers being sent may use together, on all connections of this process."""
    documents_each: int = 10
    """How often one address gets the OpenAPI document in a second, where connections are limited for each address."""
    large_shares: int = 4
    """A virtual key, or all admins together, get no further large answer while they hold one of so many parts of it."""
    turns: TurnLimits = TurnLimits()  # noqa: RUF009  # a frozen value
    recent_polls: int = 10_000
    """Polls that are remembered so that their repetitions on any connection need not be parsed; about 1 kB each."""
    connection_type: type[RestProtocol] = FastPathProtocol
    """The class of connections. RestProtocol has no fast path."""

    def large_responses(self, on_refused: Callable[[], None] = lambda: None) -> LargeResponses:
        """Return a new account of the large answers of one process. `on_refused` is called for each one refused."""
        return LargeResponses(
            max_bytes=self.max_large_bytes,
            max_bytes_each=self.max_large_bytes // self.large_shares,
            pace=ReadingPace(stall_seconds=self.send_seconds, least_bytes_per_second=self.least_bytes_per_second),
            on_refused=on_refused,
        )
