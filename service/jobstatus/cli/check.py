"""`serve --check` and `edge --check`: what would be served, or one sentence that says what is wrong."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from jobstatus.auth.errors import KeyConfigError
from jobstatus.cli.errors import CommandError, ExitCode
from jobstatus.cli.output import emit_line
from jobstatus.processes.launch import Source, warn_of_unknown_variables
from jobstatus.settings import IssuerSettings, Settings, SettingsError, has_development_issuer
from jobstatus.stores import StoreConfigError
from jobstatus.telemetry import logs


def check(
    source: Source,
    describe: Callable[[Settings, tuple[IssuerSettings, ...]], Coroutine[Any, Any, list[str]]],
) -> int:
    """Print what would be served, and return the exit code. Raise CommandError for what a start would refuse."""
    try:
        settings, issuers = source.read(may_write=False)
        logs.configure(level=settings.log_level, log_format=settings.log_format)
        warn_of_unknown_variables()
        lines = asyncio.run(describe(settings, issuers))
    except (SettingsError, KeyConfigError, StoreConfigError, OSError) as error:
        raise CommandError(" ".join(str(error).split()), ExitCode.USAGE) from error
    emit_line("Nothing is wrong. This would be served:")
    for line in lines:
        emit_line(line)
    if source.dev and not has_development_issuer(settings):
        emit_line(f"The secret of --dev would be created in {settings.state_dir}/.")
    return ExitCode.FINE
