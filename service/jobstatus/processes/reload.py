"""SIGHUP: read the settings again, and take into use what can be changed without dropping a connection.

What is wrong is refused whole: then everything is as before. The other settings that have changed are named in the log,
because only a restart applies them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias

from jobstatus.app.clocks import Clocks
from jobstatus.app.issuers import AcceptedIssuers
from jobstatus.auth.errors import KeyConfigError
from jobstatus.auth.remote_keys import JwksLimits
from jobstatus.auth.tls_files import Pem
from jobstatus.processes.launch import Launch, Source, fit_to_file_limit
from jobstatus.processes.service_manager import NOBODY, ServiceManager
from jobstatus.settings import IssuerSettings, Settings, SettingsError
from jobstatus.telemetry import logs
from jobstatus.telemetry.metrics import Metrics

Apply: TypeAlias = Callable[[Settings, tuple[IssuerSettings, ...]], Awaitable[list[str]]]
"""Takes the reloadable part into use, or raises KeyConfigError or OSError and changes nothing. Returns the names of
settings whose files have other content than before."""

_ALWAYS: Final = frozenset(
    {"issuers", "log_level", *(name for name in Settings.model_fields if name == "jwt" or name.startswith("jwt_"))}
)
_TLS: Final = (
    frozenset({"grpc_tls_cert", "grpc_tls_key", "grpc_tls_client_ca", "grpc_allowed_clients", "grpc_edge_clients"}),
    frozenset({"upstream_tls_ca", "upstream_tls_cert", "upstream_tls_key"}),
)
"""Reloadable where there is TLS before and after."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The settings that differ: those that a reload applies, and those that need a restart; both by name."""

    reloaded: tuple[str, ...]
    needs_restart: tuple[str, ...]


def changes_between(old: Settings, new: Settings) -> Changes:
    """Return what differs between two settings."""
    reloadable = set(_ALWAYS)
    for names in _TLS:
        if all(_has_any(settings, names) for settings in (old, new)):
            reloadable |= names
    differing = sorted(name for name in Settings.model_fields if getattr(old, name) != getattr(new, name))
    return Changes(
        reloaded=tuple(name for name in differing if name in reloadable),
        needs_restart=tuple(name for name in differing if name not in reloadable),
    )


def check_files(settings: Settings, issuers: tuple[IssuerSettings, ...]) -> Pem | None:
    """Return the certificates of a service with these settings, None without TLS. Blocks.

    Raise KeyConfigError or OSError if it could not use the files that they name.
    """
    AcceptedIssuers(JwksLimits(), Clocks(), Metrics()).prepare(issuers)
    return None if settings.grpc_tls is None else settings.grpc_tls.read("gRPC")


class Reloader:
    """Reloads the settings of one process, one reload after the other."""

    def __init__(self, launch: Launch, apply: Apply, manager: ServiceManager = NOBODY) -> None:
        """`manager` is told when a reload that was requested begins and ends."""
        self._manager = manager
        self._source: Source = launch.source
        self._in_use = launch.settings
        self._apply = apply
        self._is_child = launch.child is not None
        self._requested = asyncio.Event()
        self._reloading = asyncio.Lock()

    def request(self) -> None:
        """Have `run` reload soon: what is read then is newer than this call."""
        self._requested.set()

    async def run(self) -> NoReturn:
        """Reload at each request, forever."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            self._manager.reloading()
            try:
                await self.reload()
            except Exception:  # noqa: BLE001  # the service goes on, and so must later reloads
                _log.exception(
                    "The settings could not be reloaded because of a bug of this program.",
                    extra={"event": "reload_crashed"},
                )
            self._manager.ready()

    async def reload(self) -> str:
        """Reload once no other reload is under way. Return what is wrong, an empty string if nothing is.

        Log one line, unless this is a child: then the supervisor does. A new level of the log applies from the line on
        or after it, whichever lets the line be seen.
        """
        async with self._reloading:
            return await self._reload()

    async def _reload(self) -> str:
        try:
            read, issuers = await asyncio.to_thread(self._source.read)
            read = fit_to_file_limit(read)
            changes = changes_between(self._in_use, read)
            chosen = self._in_use.model_copy(update={name: getattr(read, name) for name in changes.reloaded})
            files = await self._apply(chosen, issuers)
        except (SettingsError, KeyConfigError, OSError) as error:
            problem = " ".join(str(error).split())
            if not self._is_child:
                log_refusal(problem)
            return problem
        levels = (self._in_use.log_level, chosen.log_level)
        self._in_use = chosen
        logs.set_level(min(levels, key=lambda level: logging.getLevelNamesMapping()[level.upper()]))
        if not self._is_child:
            _log.info(
                "The settings were read again.",
                extra={
                    "event": "reloaded",
                    "changed": sorted({*changes.reloaded, *files}),
                    "needs_restart": list(changes.needs_restart),
                },
            )
        logs.set_level(chosen.log_level)
        return ""


def log_refusal(problem: str) -> None:
    """Log that nothing was reloaded, and why."""
    _log.error(
        "The settings cannot be reloaded, so those from before stay in use.",
        extra={"event": "reload_refused", "problem": problem},
    )


def _has_any(settings: Settings, names: frozenset[str]) -> bool:
    return any(getattr(settings, name) for name in names)
