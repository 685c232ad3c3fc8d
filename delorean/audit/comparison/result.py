"""The result of a comparison of features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import pyarrow as pa

from delorean.frames import Readable
from schemas.plain_text import plain_text


class ChangeStatus(StrEnum):
    """How a feature changed. equal: every bit of every item that both sides have."""

    EQUAL = "equal"
    CHANGED = "changed"
    NEW = "new"
    GONE = "gone"


@dataclass(frozen=True)
class FeatureChange:
    """How a feature differs over the items that both sides have.

    rows, items: the numbers with another value, of rows in at least one item
    became_known, became_unknown: of these items, those unknown (NaN or null) on one side only
    unknown_otherwise: of these items, those unknown on both sides with other bits: null for NaN, or another NaN
    mean_difference, max_difference, p50, p90, p99: of |after − before| over changed items known on both sides, None
        without any; the quantiles are at most 0.8 % too large
    correlation: Pearson's, over items finite on both sides, changed or not; None where a side does not vary
    """

    feature: str
    status: ChangeStatus
    rows: int = 0
    items: int = 0
    became_known: int = 0
    became_unknown: int = 0
    unknown_otherwise: int = 0
    mean_difference: float | None = None
    max_difference: float | None = None
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    correlation: float | None = None


_SCHEMA = pa.schema(
    [
        pa.field("feature", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        *(
            pa.field(name, pa.int64(), nullable=False)
            for name in ("rows", "items", "became_known", "became_unknown", "unknown_otherwise")
        ),
        *((name, pa.float64()) for name in ("mean_difference", "max_difference", "p50", "p90", "p99", "correlation")),
    ]
)


@dataclass(frozen=True, repr=False)
class FeatureComparison(Readable):
    """Two sets of features, compared feature by feature.

    before, after: names of the two sides
    features: those of after in their order, then those that it lacks
    compared_rows, compared_items: that both sides have
    rows_only_before, rows_only_after: whose context and time the other side lacks
    items_only_before, items_only_after: that the other side's row lacks, of rows that both have
    reordered_rows: with the same items in another order, which is no difference
    changed_labels: labels of items that differ; changed_outcomes: rows whose `outcome_at` does
    """

    before: str
    after: str
    features: tuple[FeatureChange, ...]
    compared_rows: int
    compared_items: int
    rows_only_before: int
    rows_only_after: int
    items_only_before: int
    items_only_after: int
    reordered_rows: int
    changed_labels: int
    changed_outcomes: int

    @property
    def equal(self) -> bool:
        """Whether both sides have the same rows, items, labels and features, in whatever order."""
        return not any(self._apart.values()) and all(change.status is ChangeStatus.EQUAL for change in self.features)

    @property
    def summary(self) -> dict[str, Any]:
        """Everything but the features, as plain fields."""
        return {"equal": self.equal, **{name: value for name, value in vars(self).items() if name != "features"}}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One mapping for each feature, for tables."""
        return [asdict(change) for change in self.features]

    def __getitem__(self, feature: str) -> FeatureChange:
        """Return the change of a feature. Raises KeyError for one that neither side has."""
        return {change.feature: change for change in self.features}[feature]

    def to_arrow(self) -> pa.Table:
        """Return one row for each feature."""
        return pa.Table.from_pylist(self.rows, schema=_SCHEMA)

    def __repr__(self) -> str:
        """One line for people."""
        return plain_text(f"comparison {self.verdict}")

    @property
    def verdict(self) -> str:
        """The outcome in one line."""
        counts = {status: sum(change.status is status for change in self.features) for status in ChangeStatus}
        return (
            f"{self.before} → {self.after}: "
            + ", ".join(f"{count} {status}" for status, count in counts.items() if count)
            + f" over {self.compared_rows:,} rows, {self.compared_items:,} items"
            + "".join(f"; {count:,} {what}" for what, count in self._apart.items() if count)
        )

    @property
    def _apart(self) -> dict[str, int]:
        """What only one side has, or has otherwise, features aside → how many."""
        return {
            "rows only before": self.rows_only_before,
            "rows only after": self.rows_only_after,
            "items only before": self.items_only_before,
            "items only after": self.items_only_after,
            "labels changed": self.changed_labels,
            "outcome times changed": self.changed_outcomes,
        }


def by_feature(
    rows: Mapping[str, FeatureChange], before: tuple[str, ...], after: tuple[str, ...]
) -> list[FeatureChange]:
    """Order the changes for a table: features of after, then those that it lacks."""
    return [
        *(rows.get(name) or FeatureChange(name, ChangeStatus.NEW) for name in after),
        *(FeatureChange(name, ChangeStatus.GONE) for name in before if name not in after),
    ]
