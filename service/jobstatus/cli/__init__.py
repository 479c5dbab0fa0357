"""The command `jobstatus`: run the service, and do from a shell what a worker, an operator or a client does.

This module needs only the standard library, because the package without its `server` extra has no command: `run` then
says in one sentence what to install.
"""

import gc
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

_NEEDS_SERVER = (
    "jobstatus: the command needs the service's packages: pip install '.[server]' in the checkout ({} is missing)"
)
_USAGE = 2
_STANDARD_ERROR = 2


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
    gc.disable()  # until the command is imported (see `garbage`)
    _occupy_standard_descriptors()
    sys.exit(run(sys.argv[1:]))


def _occupy_standard_descriptors() -> None:
    """Open the null device for standard streams that are closed, before a socket or a database gets their numbers.

    Libraries that print to descriptor 1 or 2 would write into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        pass
    os.close(descriptor)
