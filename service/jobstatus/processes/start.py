"""From the command line to what serves, and how it is said that it cannot."""

import sys
from collections.abc import Callable
from typing import Final

from jobstatus.auth.errors import KeyConfigError
from jobstatus.processes import process
from jobstatus.processes.launch import ChildRole, prepare
from jobstatus.processes.supervisor import supervise
from jobstatus.settings import SettingsError, check_edge, check_servable
from jobstatus.stores import StoreConfigError

WRONG_SETTINGS: Final = 2


def run(*, dev: bool, workers: int | None = None, child: ChildRole | None = None) -> int:
    """Serve until a signal; the exit code: 0, or 2 with one sentence on standard error for what cannot be served.

    `workers`, where it is given, takes the place of the setting. `child`: this process is one of them.
    """

    def serve() -> int:
        launch = prepare(dev=dev, check=check_servable, given={"workers": workers}, child=child)
        if child is None and launch.settings.workers > 1:
            return supervise(launch)
        return process.serve(launch)

    return _ended(serve)


def run_edge(*, dev: bool, upstream: str | None) -> int:
    """The same for an edge of its own. `upstream`, where it is given, takes the place of the setting."""

    def serve() -> int:
        return process.serve_edge(prepare(dev=dev, check=check_edge, given={"upstream": upstream}))

    return _ended(serve)


def _ended(serve: Callable[[], int]) -> int:
    try:
        return serve()
    except (SettingsError, KeyConfigError, StoreConfigError, OSError) as error:
        print(f"jobstatus: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201  # the end of a command
        return WRONG_SETTINGS
