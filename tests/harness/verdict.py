"""How a torture tells a person what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console, RenderableType

SHOWN: Final = 20


@dataclass(slots=True, kw_only=True)
class Found:
    """What one run found: a cell for each column of the report, and what is not as it should be."""

    name: str
    cells: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def note(self, column: str, cell: str, *, wrong: bool = False, why: str = "") -> None:
        """Fill a cell; one that is wrong is a problem as well."""
        self.cells[column] = f"[red]{cell}[/]" if wrong else cell
        if wrong:
            self.problems.append(f"{self.name}: {column}: {cell}{why and f' ({why})'}")


def verdict(console: Console, table: RenderableType, problems: Sequence[str]) -> int:
    """Print the report and the first problems; the exit code, 0 where there is none."""
    console.print(table)
    for problem in problems[:SHOWN]:
        console.print(problem, style="red", markup=False)
    return 1 if problems else 0
