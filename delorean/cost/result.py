"""What experiments cost: amounts, and their sums by day, owner, name space and experiment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Literal, TypeAlias

from schemas.plain_text import plain_text
from snapshotter.selection.declarations import namespace_of

Grouping: TypeAlias = Literal["day", "owner", "namespace", "experiment"]
GROUPINGS: tuple[Grouping, ...] = ("day", "owner", "namespace", "experiment")


@dataclass(frozen=True)
class Amounts:
    """What something took.

    calls: keys that services were asked for; a part of one where a capture is shared
    captured_bytes: of the files of captures and of versions of global elements
    stored_bytes: of the files of label data and feature sets
    read_bytes: of the files that generations read, at most: of the label data, and of all runs and versions that its
        times could see; and of the feature sets that were trained on
    core_seconds: of generations, the seconds of all tasks; of other steps, the seconds of one process
    """

    calls: float = 0.0
    captured_bytes: float = 0.0
    stored_bytes: int = 0
    read_bytes: int = 0
    core_seconds: float = 0.0

    def __add__(self, other: Amounts) -> Amounts:
        """Return the sum."""
        return Amounts(*(mine + theirs for mine, theirs in zip(self._values, other._values, strict=True)))  # type: ignore[arg-type]  # in the fields' order

    @property
    def _values(self) -> tuple[float, ...]:
        return tuple(vars(self).values())


@dataclass(frozen=True)
class CostEntry:
    """What one thing took.

    day: UTC, on which a capture was published or a run started
    experiment, owner: empty for costs without one
    """

    day: date
    experiment: str
    owner: str
    amounts: Amounts

    @property
    def namespace(self) -> str:
        """The name space of the experiment; empty if it has none."""
        return namespace_of(self.experiment)


@dataclass(frozen=True)
class CostRow:
    """The sum of a group; None in fields that are not grouped by."""

    day: date | None
    owner: str | None
    namespace: str | None
    experiment: str | None
    amounts: Amounts


@dataclass(frozen=True, repr=False)
class Cost:
    """What experiments captured, stored, read and computed on some days.

    since, until: the first day and the last
    rows: sums by `by`, in the order of its values
    """

    since: date
    until: date
    by: tuple[Grouping, ...]
    rows: tuple[CostRow, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def total(self) -> Amounts:
        """The sum of all rows."""
        return sum((row.amounts for row in self.rows), Amounts())

    def __repr__(self) -> str:
        """One line for people."""
        total = self.total
        return plain_text(
            f"cost of {self.since} to {self.until}: {total.calls:,.0f} keys asked, "
            f"{total.captured_bytes + total.stored_bytes:,.0f} bytes stored, {total.core_seconds:,.1f} core seconds"
        )


def summed(entries: Iterable[CostEntry], by: Sequence[Grouping]) -> tuple[CostRow, ...]:
    """Add up entries by some of their fields."""
    sums: dict[tuple[date | str | None, ...], Amounts] = {}
    for entry in entries:
        key = tuple(getattr(entry, name) if name in by else None for name in GROUPINGS)
        sums[key] = sums.get(key, Amounts()) + entry.amounts
    order = sorted(sums, key=lambda key: tuple("" if value is None else str(value) for value in key))
    return tuple(CostRow(**dict(zip(GROUPINGS, key, strict=True)), amounts=sums[key]) for key in order)  # type: ignore[arg-type]  # each of its own type
