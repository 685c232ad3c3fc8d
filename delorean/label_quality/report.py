"""What was measured of label data, and which limits it breaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from delorean.label_quality.limits import LabelQualityLimits
from delorean.labels.merge_report import StratumCounts, merge_rows
from schemas.plain_text import plain_text

DAY = "day"


@dataclass(frozen=True)
class LabelCounts:
    """The values of one label, in all contexts or in those of one group.

    label: its name
    by, group: a column and its value, or "day" and a date; empty for all contexts
    items: all items; known: those that have this label; positives: those with a value above 0
    mean: of the known values
    without_positives, all_positive: contexts with known values of which none, or all, are positive
    """

    label: str
    by: str
    group: str
    contexts: int
    items: int
    known: int
    positives: int
    mean: float | None
    without_positives: int
    all_positive: int

    @property
    def share(self) -> float | None:
        """The share of positives among the known values."""
        return self.positives / self.known if self.known else None

    def row(self) -> dict[str, Any]:
        """Return the fields and the share of positives."""
        return {**asdict(self), "share": self.share}


@dataclass(frozen=True)
class Change:
    """How much a distribution differs from that of earlier label data.

    index: population stability index, Σ (p − q) ln(p / q) over bins; 0: no difference
    largest: the bin or value whose share has changed most; before, now: its shares
    """

    what: str
    index: float
    largest: str
    before: float
    now: float


@dataclass(frozen=True, repr=False)
class LabelQuality:
    """The quality of label data at rest.

    counts: of each label in all contexts, then by group and by day
    items_per_context, delay_seconds: share of contexts → the value that this share does not exceed; empty where there
        is none
    duplicates: items that the context had at most `near` before, with equal labels
    contradictions: label → items that the context had at most `near` before, with another value
    against: the id of the label data that the changes are measured against, None: none
    merged: what the merge took of each task and stratum; empty for label data of one use
    """

    labels_id: str
    contexts: int
    items: int
    earliest: datetime
    latest: datetime
    counts: tuple[LabelCounts, ...]
    items_per_context: Mapping[str, float]
    delay_seconds: Mapping[str, float]
    duplicates: int
    contradictions: Mapping[str, int]
    limits: LabelQualityLimits
    changes: tuple[Change, ...] = ()
    against: str | None = None
    merged: tuple[StratumCounts, ...] = ()

    @property
    def overall(self) -> tuple[LabelCounts, ...]:
        """The counts of each label in all contexts."""
        return tuple(each for each in self.counts if not each.by)

    @property
    def violations(self) -> tuple[str, ...]:
        """The limits that are broken, each with what was measured."""
        return tuple(self._violations())

    @property
    def failed(self) -> bool:
        """Whether a limit is broken and the policy is to fail."""
        return self.limits.policy == "fail" and bool(self.violations)

    def _violations(self) -> Iterator[str]:
        limits, items = self.limits, max(self.items, 1)
        yield from _above("duplicates", self.duplicates / items, limits.max_duplicates)
        for name, count in self.contradictions.items():
            yield from _above(f"contradictions of '{name}'", count / items, limits.max_contradictions)
        for each in self.overall:
            known = max(each.contexts, 1)
            yield from _above(f"items without '{each.label}'", 1 - each.known / items, limits.max_unknown)
            if each.share is not None:
                yield from _above(f"positives of '{each.label}'", each.share, limits.max_positives)
                yield from _below(f"positives of '{each.label}'", each.share, limits.min_positives)
            yield from _above(
                f"contexts without a positive '{each.label}'",
                each.without_positives / known,
                limits.max_without_positives,
            )
            yield from _above(
                f"contexts whose '{each.label}' is always positive",
                each.all_positive / known,
                limits.max_all_positive,
            )
        delay = self.delay_seconds.get("0.99")
        if limits.max_delay is not None and delay is not None and delay > limits.max_delay.total_seconds():
            yield f"outcomes: 1 % of contexts wait longer than {timedelta(seconds=delay)}, limit {limits.max_delay}"
        for change in self.changes:
            if limits.max_change is not None and change.index > limits.max_change:
                yield (
                    f"{change.what} changed: stability index {change.index:.3g}, limit {limits.max_change:g}; "
                    f"{change.largest} from {change.before:.2%} to {change.now:.2%}"
                )

    def to_json(self) -> dict[str, Any]:
        """Write it as plain fields."""
        return {
            "labels": self.labels_id,
            "contexts": self.contexts,
            "items": self.items,
            "earliest": self.earliest.isoformat(),
            "latest": self.latest.isoformat(),
            "violations": list(self.violations),
            "failed": self.failed,
            "counts": [each.row() for each in self.counts],
            "items_per_context": dict(self.items_per_context),
            "delay_seconds": dict(self.delay_seconds),
            "duplicates": self.duplicates,
            "contradictions": dict(self.contradictions),
            "near_seconds": self.limits.near.total_seconds(),
            "against": self.against,
            "changes": [asdict(each) for each in self.changes],
            **({"merged": merge_rows(self.merged)} if self.merged else {}),
        }

    def __repr__(self) -> str:
        """One line for people."""
        verdict = "; ".join(self.violations) or ("no limit is broken" if self.limits.limits else "no limits")
        return plain_text(f"quality of label data {self.labels_id}: {self.contexts:,} contexts: {verdict}")


def _above(what: str, value: float, limit: float | None) -> Iterator[str]:
    if limit is not None and value > limit:
        yield f"{what}: {value:.4g}, at most {limit:g} allowed"


def _below(what: str, value: float, limit: float | None) -> Iterator[str]:
    if limit is not None and value < limit:
        yield f"{what}: {value:.4g}, at least {limit:g} expected"
