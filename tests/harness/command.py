"""The command `jobstatus`: inside this process, where a sentence or an exit code is tested, or as it is installed."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from click.testing import CliRunner
from jobstatus import cli

LIMIT_SECONDS: Final = 60
COMMAND: Final = Path(sys.executable).with_name("jobstatus")
BARE: Final = {name: value for name, value in os.environ.items() if not name.startswith("JOBSTATUS_")}
"""The environment without any setting of ours."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def run(
    *arguments: str, env: Mapping[str, str | None] | None = None, stdin: bytes = b"", cwd: Path | None = None
) -> Ended:
    """Run one command line inside this process, with `env` in place of all settings of ours (None: not set)."""
    absent = dict.fromkeys(name for name in os.environ if name not in BARE)
    with (
        contextlib.chdir(cwd or Path.cwd()),
        CliRunner().isolation(stdin, {**absent, **(env or {})}) as (out, err, _),
    ):
        code = cli.run(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    return Ended(code, out.getvalue().decode(), err.getvalue().decode())


def run_in_time(*arguments: str, env: Mapping[str, str], cwd: Path) -> Ended:
    """Run a command that would go on forever if it did not end as it should."""
    with _alarm():
        return run(*arguments, env=env, cwd=cwd)


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError("the command goes on")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def start(*arguments: str, env: Mapping[str, str], **streams: Any) -> "subprocess.Popen[bytes]":
    """Start the installed command."""
    return subprocess.Popen((COMMAND, *arguments), env={**BARE, **env}, **streams)


def run_installed(*arguments: str, env: Mapping[str, str] | None = None, stdin: bytes = b"") -> Ended:
    """Run one command line of the installed command."""
    ended = subprocess.run(
        (COMMAND, *arguments),
        env={**BARE, **(env or {})},
        input=stdin,
        capture_output=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def assert_sentence(ended: Ended, code: int, *words: str) -> None:
    """Fail unless it ended with this code and one sentence on standard error that has these words."""
    assert ended.code == code, ended
    assert ended.out == ""
    assert ended.err.startswith("jobstatus: ")
    assert ended.err.count("\n") == 1
    assert all(word in ended.err for word in words), ended.err
