"""The options of `serve` and `edge` that stand for settings. They win over variables and the file.

Their values are checked as settings, not by click, so that a wrong one is told in the same words wherever it stands.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import click

_SETTINGS: Final[Mapping[str, tuple[str, str, str]]] = {
    "http": ("HOST:PORT", "JOBSTATUS_HTTP, or 127.0.0.1:8080", "Where to listen for REST."),
    "grpc": ("HOST:PORT", "JOBSTATUS_GRPC, or 127.0.0.1:50051", "Where to listen for gRPC."),
    "admin": ("HOST:PORT", "JOBSTATUS_ADMIN, or 127.0.0.1:9090", "Where to listen for health and metrics."),
    "store": ("URL", "JOBSTATUS_STORE, or sqlite:///var/jobstatus.db", "Where jobs are kept."),
    "upstream": ("HOST:PORT", "JOBSTATUS_UPSTREAM", "The address of the service behind the edge, for gRPC."),
    "workers": (
        "N",
        "JOBSTATUS_WORKERS, or 1",
        "The number of serving processes (1 to 64), which share the ports and the store.",
    ),
    "config": ("FILE", "JOBSTATUS_CONFIG", "A TOML file with settings."),
}
"""By name: what the value is, where it comes from otherwise, and the help."""


def setting_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds the options of these settings, and collects those given in `options`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        def callback(**arguments: Any) -> Any:
            given = {name: value for name in names if (value := arguments.pop(name)) is not None}
            return command(options=given, **arguments)

        callback.__doc__ = command.__doc__
        callback.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
        for name in reversed(names):
            metavar, default, help_text = _SETTINGS[name]
            callback = click.option(f"--{name}", metavar=metavar, show_default=default, help=help_text)(callback)
        return callback

    return decorate


check_option = click.option(
    "--check",
    is_flag=True,
    help="Read the settings, keys and certificates, look into the store without changing it, say what would be served,"
    " and end.",
)
