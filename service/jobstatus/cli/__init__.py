"""The command `jobstatus`: run the service, and do from a shell what a worker, an operator or a client does.

This module needs only the standard library, because the package without its `server` extra has no command: `run` then
says in one sentence what to install.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

_NEEDS_SERVER = (
    "jobstatus: the command needs the service's packages: pip install '.[server]' in the checkout ({} is missing)"
)
_USAGE = 2


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        from jobstatus.cli.dispatch import dispatch  # noqa: PLC0415 (needs click, which a client alone does not have)

        return dispatch(arguments)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "jobstatus"):
            raise
        print(_NEEDS_SERVER.format(package), file=sys.stderr)  # noqa: T201 (the end of a command)
        return _USAGE


def main() -> NoReturn:
    """Run the console script."""
    sys.exit(run(sys.argv[1:]))
