"""The errors of the cluster client. Its user translates them into its own."""

from typing import Any, Final

import hiredis


class UrlError(ValueError):
    """The URL cannot be used; the message is a predicate whose subject is the URL."""


class Refused(Exception):
    """The server refused the user, the password or the database of a new connection."""


class NodeDown(OSError):
    """The server has not answered lately, so nothing is sent to it until a health check succeeds."""


class NotDurable(Exception):
    """Too few replicas or disks have confirmed a write."""


class CommandError(Exception):
    """A command has no reply. `__cause__` says why, where it is known; the command may have been executed."""


class Unavailable(CommandError):
    """The node does not answer, or cannot execute the command now."""


class NoSpace(CommandError):
    """The memory or the disk of the node is full."""


FAULTS: Final = (OSError, TimeoutError, hiredis.HiredisError, Refused)
"""How an exchange with a node fails."""


def is_error(reply: Any) -> bool:
    """Whether what `ClusterClient.execute` returned in a place is an error."""
    return isinstance(reply, CommandError)
