"""The trace of one job, as `make trace` prints it."""

from pathlib import Path

from soak.trace import run


async def test_one_job_is_one_trace(tmp_path: Path) -> None:
    """From its submission to its delivery through an edge, with the installed commands."""
    tree, missing = await run("sqlite", tmp_path)
    assert missing == [], tree
