"""The life of one serving process: settings, log, event loop, signals, exit code."""

import asyncio
import logging
import os
import resource
import shutil
import signal
import sys
from typing import Final

import uvloop

from jobstatus import __version__, logs
from jobstatus.app import Listening, serving
from jobstatus.auth.errors import KeyConfigError
from jobstatus.settings import (
    IssuerSettings,
    Settings,
    SettingsError,
    check_servable,
    development_issuer,
    load_settings,
    unknown_variables,
)
from jobstatus.stores import StoreConfigError

WRONG_SETTINGS: Final = 2
RESERVED_FILES: Final = 200

_log = logging.getLogger(__name__)

_DEVELOPMENT = """
JobStatus is up, for development: anybody on this machine may write, tokens come from a local issuer.

  {jobstatus} jobs create transcription --virtual-key-id vk-1 --job-id job-1 --grpc {grpc}
  TOKEN=$({jobstatus} token virtual-key vk-1)
  curl -i -H "Authorization: Bearer $TOKEN" http://{http}/v1/async/audio/transcriptions/job-1
  echo '{{"text": "hello"}}' | {jobstatus} jobs complete job-1 --grpc {grpc}

Health and metrics: http://{admin}/readyz  http://{admin}/metrics. Ctrl-C stops.
"""


def run(*, dev: bool) -> int:
    """Serve until a signal; the exit code: 0, or 2 with one sentence on standard error for what cannot be served."""
    try:
        settings = load_settings()
        issuers = settings.accepted_issuers()
        if dev:
            issuers = (*issuers, development_issuer(settings))
        check_servable(settings, issuers)
        logs.configure(level=settings.log_level, log_format=settings.log_format)
        for name, meant in unknown_variables(os.environ).items():
            _log.warning("the variable %s is not known%s", name, f"; did you mean {meant}?" if meant else "")
        settings = _fit_to_file_limit(settings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve_until_signal(settings, issuers, dev=dev))
    except (SettingsError, KeyConfigError, StoreConfigError, OSError) as error:
        print(f"jobstatus: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201  # the end of a command
        return WRONG_SETTINGS
    return 0


async def _serve_until_signal(settings: Settings, issuers: tuple[IssuerSettings, ...], *, dev: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _on_signal, number, stop)
    async with serving(settings, issuers, with_reflection=dev or settings.grpc_reflection) as listening:
        _log.info("serving", extra=_facts(settings, issuers, listening))
        if dev:
            command = "jobstatus" if shutil.which("jobstatus") else sys.argv[0]
            print(_DEVELOPMENT.format(jobstatus=command, **_addresses(listening)), file=sys.stderr)  # noqa: T201  # to paste
        await stop.wait()
        _log.info("stopping")
    _log.info("stopped")


def _on_signal(number: signal.Signals, stop: asyncio.Event) -> None:
    """The first signal asks for a graceful stop; a second ends the process at once."""
    if stop.is_set():
        os._exit(128 + number)
    stop.set()


def _addresses(listening: Listening) -> dict[str, str]:
    return {"http": str(listening.http), "grpc": str(listening.grpc), "admin": str(listening.admin)}


def _facts(settings: Settings, issuers: tuple[IssuerSettings, ...], listening: Listening) -> dict[str, object]:
    """What the first log line tells; a store's URL may hold a password, so of it only the scheme."""
    store, _, _ = settings.store.partition("://")
    names = [issuer.issuer for issuer in issuers]
    return {"version": __version__, "store": store, "issuers": names, **_addresses(listening)}


def _fit_to_file_limit(settings: Settings) -> Settings:
    """Allow as many connections as this user may have files, and keep some of those for workers and the store."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    possible = max(1, hard - RESERVED_FILES)
    if settings.max_connections <= possible:
        return settings
    _log.warning("at most %s REST connections: this user may have %s open files", possible, hard)
    return settings.model_copy(update={"max_connections": possible})
