"""How a torture tells a person what came of it."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console, RenderableType

SHOWN: Final = 20


def verdict(console: Console, table: RenderableType, problems: Sequence[str]) -> int:
    """Print the report and the first problems; the exit code, 0 where there is none."""
    console.print(table)
    for problem in problems[:SHOWN]:
        console.print(problem, style="red", markup=False)
    return 1 if problems else 0
