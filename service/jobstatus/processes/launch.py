"""What every serving process does before it serves: settings, log, limits.

This module never loads gRPC, because a supervisor must not.
"""

import gc
import logging
import os
import pickle
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from jobstatus import __version__
from jobstatus.auth.minting import mint_token
from jobstatus.console.links import SignInLinks
from jobstatus.settings import (
    DEVELOPMENT_ISSUER,
    Address,
    IssuerSettings,
    Settings,
    development_issuer,
    load_settings,
    unknown_variables,
)
from jobstatus.telemetry import logs

RESERVED_FILES: Final = 200
SESSION_SECONDS: Final = 12 * 60 * 60
"""How long a page that a link has signed in may stay open."""

_log = logging.getLogger(__name__)

_DEVELOPMENT = """
JobStatus is up, for development: anybody on this machine may write, tokens come from a local issuer.

  {jobstatus} jobs create transcription --virtual-key-id vk-1 --job-id job-1 --grpc {grpc}
  TOKEN=$({jobstatus} token virtual-key vk-1)
  curl -i -H "Authorization: Bearer $TOKEN" http://{http}/v1/async/audio/transcriptions/job-1
  echo '{{"text": "hello"}}' | {jobstatus} jobs complete job-1 --grpc {grpc}

Health and metrics: http://{admin}/readyz  http://{admin}/metrics. Ctrl-C stops.
"""
_CONSOLE = """
The console of live jobs, signed in (the link works once):

  {link}
"""


Check = Callable[[Settings, tuple[IssuerSettings, ...]], None]
"""Raises SettingsError for settings that do not fit together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the settings of a process are read from, besides its environment: at the start, and again at a reload.

    `options` has the settings of the command line, which win. `check` refuses settings that do not fit together.
    """

    check: Check
    dev: bool = False
    options: Mapping[str, str] = field(default_factory=dict)

    def read(self, *, may_write: bool = True) -> tuple[Settings, tuple[IssuerSettings, ...]]:
        """Return the settings and the accepted issuers, checked. Raise SettingsError or OSError.

        With `dev` the secret of the development issuer is made if it is missing, unless `may_write` is False.
        """
        settings = load_settings(os.environ, self.options)
        issuers = settings.accepted_issuers()
        if self.dev:
            settings = settings.model_copy(update={"console": settings.console or "on"})
            issuers = (*issuers, development_issuer(settings, may_write=may_write))
        self.check(settings, issuers)
        return settings, issuers


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a process is to serve. `child` is its number when it has a supervisor."""

    source: Source
    settings: Settings
    issuers: tuple[IssuerSettings, ...]
    child: int | None = None

    @property
    def dev(self) -> bool:
        """Whether the service is for development."""
        return self.source.dev

    def announce(self, addresses: dict[str, Address], links: SignInLinks | None = None) -> None:
        """Log that the service is up, and where. Of the store log only the scheme, as its URL may hold a password.

        Print a link to the console where there are `links`, to standard error only: the log is kept.
        """
        store, _, _ = self.settings.store.partition("://")
        where = {name: str(address) for name, address in addresses.items()}
        facts: dict[str, object] = {"version": __version__, "issuers": [issuer.issuer for issuer in self.issuers]}
        if "grpc" not in where:
            facts["upstream"] = self.settings.upstream
        else:
            facts |= {"store": store} | ({"workers": self.settings.workers} if self.settings.workers > 1 else {})
        _log.info("The service is up.", extra={"event": "serving", **facts, **where})
        if self.dev and "grpc" in where:
            command = "jobstatus" if shutil.which("jobstatus") else sys.argv[0]
            print(_DEVELOPMENT.format(jobstatus=command, **where), file=sys.stderr)  # noqa: T201  # to paste
            if links is not None:
                link = f"http://{_reachable(addresses['admin'])}/console/#ticket={links.ticket()}"
                print(_CONSOLE.format(link=link), file=sys.stderr)  # noqa: T201  # as above


def sign_in_links(launch: Launch) -> SignInLinks | None:
    """Return links that sign in to the console, which there are for development only."""
    if not launch.dev or launch.settings.console != "on":
        return None
    issuer = next(issuer for issuer in launch.issuers if issuer.issuer == DEVELOPMENT_ISSUER)

    def mint() -> str:
        assert issuer.secret is not None  # noqa: S101  # for the type checker: the development issuer has one
        return mint_token(
            issuer=issuer.issuer,
            audience=issuer.audience,
            algorithm=issuer.algorithm,
            key=issuer.secret.get_secret_value(),
            key_id=issuer.key_id,
            claims={issuer.role_claim: issuer.admin_role, "sub": "console"},
            ttl_seconds=SESSION_SECONDS,
            now_seconds=time.time(),
        )

    return SignInLinks(mint, monotonic=time.monotonic)


def _reachable(address: Address) -> Address:
    """Return an address of this machine to connect to, also where all are listened on."""
    hosts = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # compared, not bound
    return address._replace(host=hosts.get(address.host, address.host))


def prepare(source: Source) -> Launch:
    """Read and check the settings, and set up the log. Raise SettingsError or OSError."""
    settings, issuers = source.read()
    logs.configure(level=settings.log_level, log_format=settings.log_format)
    warn_of_unknown_variables()
    fitting = fit_to_file_limit(settings)
    if fitting != settings:
        _log.warning(
            "REST connections are limited because this user may have few open files.",
            extra={
                "event": "connections_limited",
                "max_connections": fitting.max_connections,
                "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
            },
        )
    return Launch(source=source, settings=fitting, issuers=issuers)


def prepare_child(source: Source, child: int, first: bytes) -> Launch:
    """Set up the log of a child, which serves what its supervisor has sent, and reads the source at a reload only.

    So a child that replaces another one serves the same, whatever has become of the files meanwhile.
    """
    settings, issuers = pickle.loads(first)  # noqa: S301  # from the supervisor, over a socket that nobody else has
    logs.configure(level=settings.log_level, log_format=settings.log_format, child=child)
    return Launch(source=source, settings=fit_to_file_limit(settings), issuers=issuers, child=child)


def packed(settings: Settings, issuers: tuple[IssuerSettings, ...]) -> bytes:
    """Return what `prepare_child` takes. It holds secrets, which no variable and no file must."""
    return pickle.dumps((settings, issuers))


def warn_of_unknown_variables() -> None:
    """Log the variables of the environment that nothing reads."""
    for name, meant in unknown_variables(os.environ).items():
        _log.warning(
            "An environment variable is not a setting of JobStatus.",
            extra={"event": "variable_unknown", "variable": name, **({"did_you_mean": meant} if meant else {})},
        )


def end_start() -> None:
    """Switch on the garbage collector, which the commands switch off for the start.

    The objects of the start live until the end, so no collection visits them. Not even one now: it would find a few
    kilobytes, and hold up the first requests for the longest pause of the process's life.
    """
    gc.freeze()
    gc.enable()


def fit_to_file_limit(settings: Settings) -> Settings:
    """Raise the limit of open files, and lower `max_connections` to it, less RESERVED_FILES for gRPC and the store."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    possible = max(1, hard - RESERVED_FILES)
    if settings.max_connections <= possible:
        return settings
    return settings.model_copy(update={"max_connections": possible})
