"""Clocks that differ, clocks that step, and processes that stand still, each as one short run of `make clocks`."""

from pathlib import Path

import pytest
from rich.console import Console
from soak.clocks import Found, Scale, pause, skew, step, table_of

SHORT = Scale(lease_seconds=4, lives_each=3, slack_seconds=8, stop_seconds=8, paused_lease_seconds=4)
"""The slack is for a machine that does other things as well; a clock is wrong by much more, or a job is lost."""


def judge(found: Found) -> None:
    Console().print(table_of(found.name, [found]))
    assert found.problems == []


@pytest.mark.parametrize("store", ["postgresql", "valkey"])
async def test_a_replica_with_a_wrong_clock_that_sweeps_fails_no_live_job(store: str, tmp_path: Path) -> None:
    """Live jobs live through either replica, lost workers are found, results stay, and polls are the same."""
    judge(await skew(store, "+5 min", "B", tmp_path, SHORT))


async def test_a_replica_with_a_slow_clock_beside_one_that_sweeps_fails_no_live_job(tmp_path: Path) -> None:
    judge(await skew("postgresql", "-5 min", "A", tmp_path, SHORT))


async def test_a_clock_that_steps_fails_no_live_job_and_loses_no_result(tmp_path: Path) -> None:
    """One hour ahead and back, on SQLite, which has no clock of its own."""
    judge(await step("sqlite", tmp_path, SHORT))


@pytest.mark.parametrize("name", ["one process, SQLite", "one of two replicas, PostgreSQL"])
async def test_a_process_that_stood_still_fails_no_live_job(name: str, tmp_path: Path) -> None:
    """It stood still for two leases, and its workers went on asking."""
    judge(await pause(name, tmp_path, SHORT))
