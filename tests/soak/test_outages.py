"""Stores that are full, take no writes, or are gone: `make outages`, with time for a slow machine."""

import pytest
from rich.console import Console
from rich.table import Table
from soak.outages import TRIALS, run, why_not


@pytest.mark.parametrize("name", [name for name in TRIALS if not why_not(name)])
async def test_polls_are_answered_while_they_can_be_and_probes_tell(name: str) -> None:
    """One line in the log for each change; balancers of polls and of writes are told what they need."""
    table = Table("store", "phase", "probes", "polls", "log")
    problems = await run(name, 16, table)
    Console().print(table)
    assert problems == []
