"""Networks that fall silent under load, each cut as one short run of `make partitions`."""

from pathlib import Path

import pytest
from harness import hosts
from rich.console import Console
from soak.partitions import DROPPING, RUNS, Scale, table_of

SHORT = Scale(seconds=9, slack_seconds=8, middle_slack_seconds=0.7, vanished=200)
"""The slack is for a machine that does other things as well; what waits for a silent peer each time takes longer."""
POSSIBLE = [name for name in RUNS if name not in DROPPING or not hosts.why_not()]
"""All that this machine can do: packets are dropped in namespaces, which need root."""


@pytest.mark.parametrize("name", POSSIBLE)
async def test_nothing_is_lost_nobody_waits_and_all_heals(name: str, tmp_path: Path) -> None:
    """No acknowledged write is lost, no poll is older than acknowledged, and what is silent costs little."""
    found = await RUNS[name](tmp_path, SHORT)
    Console().print(table_of([found]))
    assert found.problems == []
