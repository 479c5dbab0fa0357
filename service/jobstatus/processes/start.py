"""Start what the command line asks for, and turn an error of the start into one sentence and an exit code."""

import sys
from collections.abc import Callable
from typing import Final

from jobstatus.auth.errors import KeyConfigError
from jobstatus.processes import process
from jobstatus.processes.launch import prepare
from jobstatus.settings import SettingsError, check_edge, check_servable
from jobstatus.stores import StoreConfigError

WRONG_SETTINGS: Final = 2


def run(*, dev: bool, workers: int | None = None, child: int | None = None) -> int:
    """Serve until a signal and return the exit code: 2 after a sentence on standard error when the start fails.

    `workers` overrides the setting unless it is None. `child` is the number of this process when it has a supervisor.
    """

    def serve() -> int:
        launch = prepare(dev=dev, check=check_servable, given={"workers": workers}, child=child)
        if child is None and launch.settings.workers > 1:
            from jobstatus.processes.supervisor import supervise  # noqa: PLC0415  # most have one process

            return supervise(launch)
        return process.serve(launch)

    return _ended(serve)


def run_edge(*, dev: bool, upstream: str | None) -> int:
    """Serve an edge in the same way. `upstream` overrides the setting unless it is None."""

    def serve() -> int:
        return process.serve_edge(prepare(dev=dev, check=check_edge, given={"upstream": upstream}))

    return _ended(serve)


def _ended(serve: Callable[[], int]) -> int:
    try:
        return serve()
    except (SettingsError, KeyConfigError, StoreConfigError, OSError) as error:
        print(f"jobstatus: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201  # the end of a command
        return WRONG_SETTINGS
