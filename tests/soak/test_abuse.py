"""Every load of `make abuse`, short and small: what is judged here does not depend on how fast the machine is."""

from pathlib import Path

import pytest
from rich.console import Console
from soak.abuse import KINDS, Scale, asking, run, serving, table_of
from soak.loads import MANY_WAITS, MIB, ROWS

SHORT = Scale(
    seconds=1.0,
    crowd=0.1,
    result_bytes=4 * MIB,
    p99_times=float("inf"),
    p99_ms=10_000,
    stall_ms=10_000,
    judges_costs=False,
    gone_seconds=0,
    installed=False,
)
"""A busy machine lets a good client wait for long; a service that has locked it out never answers."""
ELSEWHERE = ("invented-keys", "large-head", "waits")
"""Loads that meet other code on another store, or at an edge."""


@pytest.mark.parametrize("kind", KINDS)
async def test_who_abuses_the_service_is_answered_as_asked_and_locks_nobody_out(kind: str, tmp_path: Path) -> None:
    """Each load gets the answers that it should, the good client gets its own, and the memory is bounded."""
    all_found = []
    async with asking() as makers, serving(kind, tmp_path, SHORT, **MANY_WAITS) as running:
        for load in ROWS if kind == "sqlite" else ELSEWHERE:
            found, _ = await run(makers, running, load, SHORT)
            all_found.append(found)
    Console(width=200).print(table_of(kind, all_found))
    assert [problem for found in all_found for problem in found.problems] == []
