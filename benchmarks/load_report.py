"""The final report of the snapshot benchmark: targets, measurements and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

CONSOLE = Console(width=120)
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Verdict:
    """One target, the measurement, and whether it was met."""

    target: str
    measured: str
    met: bool


def show(verdicts: Sequence[Verdict]) -> None:
    """Print all verdicts."""
    table = Table(title="Targets")
    for column in ("target", "measured", ""):
        table.add_column(column)
    for verdict in verdicts:
        table.add_row(verdict.target, verdict.measured, "[green]PASS" if verdict.met else "[bold red]FAIL")
    CONSOLE.print(table)


def show_rows(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print figures, one a line."""
    table = Table(title=title, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for row in rows:
        table.add_row(*row)
    CONSOLE.print(table)


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """Draw values as a line of bars.

    >>> sparkline([1, 2, 3])
    '▁▄█'
    """
    step = max(1, len(values) // width)
    shown = [max(values[at : at + step]) for at in range(0, len(values), step)]
    low, high = min(shown), max(shown)
    return "".join(_BARS[int((value - low) / (high - low or 1) * (len(_BARS) - 1))] for value in shown)
