"""`jobstatus migrate`: jobs and virtual keys from one store to another."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Final

import click

from jobstatus.cli.errors import EPILOG, CommandError, ExitCode
from jobstatus.cli.output import emit_json, emit_line, note
from jobstatus.cli.params import json_option
from jobstatus.core.migration import Report, migrate
from jobstatus.stores import StoreConfigError, open_store

_NAMED: Final = 20
"""At most this many of the jobs that did not arrive are named."""


@click.command(name="migrate", epilog=EPILOG)
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option(
    "--redis-replicas",
    type=click.IntRange(0, 5),
    envvar="JOBSTATUS_REDIS_REPLICAS",
    show_envvar=True,
    help="With redis://: on how many replicas a job must be before it counts as copied.",
)
@click.option("--quiet", is_flag=True, help="Show no progress.")
@json_option
def command(*, source: str, target: str, redis_replicas: int | None, quiet: bool, as_json: bool) -> int:
    """Copy the jobs that have not expired, and all virtual keys, from one store to another.

    FROM and TO are URLs as in JOBSTATUS_STORE. Jobs keep their versions and times, so every poll gets the same bytes.
    Everything that was copied is read back and compared. A job that TO already has at the same or a newer version is
    not changed, so the command may be interrupted and run again at any time.

    \b
    To move a service:
      1. run this while the service runs on FROM; it does most of the work
      2. stop the service, or all writers
      3. run this again; it compares all jobs and copies the rest
      4. start the service on TO
    A job that is deleted from FROM between 1 and 3 stays in TO until it expires. To avoid that, begin with 2.

    \b
    Example:
      jobstatus migrate sqlite:///var/jobstatus.db postgresql://jobstatus@db.internal/jobstatus
    """
    if source == target:
        raise click.UsageError("FROM and TO are the same store")
    report, seconds = asyncio.run(_migrate(source, target, redis_replicas, is_quiet=quiet or as_json))
    if as_json:
        emit_json(asdict(report) | {"seconds": round(seconds, 3)})
    else:
        emit_line(
            f"{report.jobs} jobs in {seconds:.1f} s: {report.copied} copied, {report.replaced} brought up to date,"
            f" {report.unchanged} there already, {report.newer} newer in the target; {report.virtual_keys} virtual keys"
        )
    for name in report.wrong[:_NAMED]:
        note(f"not in the target as it should be: {name}")
    if report.wrong:
        raise CommandError(f"{len(report.wrong)} did not arrive as they are in the source", ExitCode.REFUSED)
    return ExitCode.FINE


async def _migrate(source: str, target: str, redis_replicas: int | None, *, is_quiet: bool) -> tuple[Report, float]:
    began = time.monotonic()
    try:
        async with (
            open_store(source, redis_replicas=redis_replicas, must_exist=True) as here,
            open_store(target, redis_replicas=redis_replicas) as there,
        ):
            total = sum((await here.count_jobs()).by_state.values())
            with _progress(total, is_quiet=is_quiet) as show:
                report = await migrate(here, there, time.time_ns() // 1_000_000, show)
    except StoreConfigError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    return report, time.monotonic() - began


@contextmanager
def _progress(total: int, *, is_quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal, else a line for each tenth."""
    if is_quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        from rich.console import Console  # noqa: PLC0415 (slow to import, and only here)
        from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn, TimeRemainingColumn  # noqa: PLC0415

        columns = (SpinnerColumn(), *Progress.get_default_columns()[:-1], TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("copying jobs", total=total)
            yield lambda done: bar.update(task, completed=done, total=max(done, total))
    else:
        yield _Lines(total).show


class _Lines:
    """Prints a line for each tenth of the jobs."""

    def __init__(self, total: int) -> None:
        self._total = max(total, 1)
        self._said = 0

    def show(self, done: int) -> None:
        tenths = min(10, done * 10 // self._total)
        if tenths > self._said:
            self._said = tenths
            note(f"{done} of {self._total} jobs")
