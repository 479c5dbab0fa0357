"""Start what the command line asks for, and turn an error of the start into one sentence and an exit code."""

import sys
from collections.abc import Callable, Mapping
from typing import Final

from jobstatus.auth.errors import KeyConfigError
from jobstatus.processes import process
from jobstatus.processes.child_channel import read_first
from jobstatus.processes.launch import Source, prepare, prepare_child
from jobstatus.settings import SettingsError, check_edge, check_servable
from jobstatus.stores import StoreConfigError

WRONG_SETTINGS: Final = 2


def run(*, dev: bool, options: Mapping[str, str], child: int | None = None) -> int:
    """Serve until a signal and return the exit code: 2 after a sentence on standard error when the start fails.

    `options` are settings that override the others. `child` is the number of this process when it has a supervisor.
    """

    def serve() -> int:
        source = Source(check=check_servable, dev=dev, options=options)
        if child is not None:
            return process.serve(prepare_child(source, child, read_first()))
        launch = prepare(source)
        if launch.settings.workers > 1:
            from jobstatus.processes.supervisor import supervise  # noqa: PLC0415  # most have one process

            return supervise(launch)
        return process.serve(launch)

    return _ended(serve)


def run_edge(*, dev: bool, options: Mapping[str, str]) -> int:
    """Serve an edge in the same way."""
    return _ended(lambda: process.serve_edge(prepare(Source(check=check_edge, dev=dev, options=options))))


def _ended(serve: Callable[[], int]) -> int:
    try:
        return serve()
    except (SettingsError, KeyConfigError, StoreConfigError, OSError, EOFError) as error:
        print(f"jobstatus: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201  # the end of a command
        return WRONG_SETTINGS
