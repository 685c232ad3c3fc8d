"""The result of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from delorean.evaluation.estimate import Estimate
from schemas.plain_text import plain_text

if TYPE_CHECKING:
    from delorean.comparison.counterfactual.result import CounterfactualEstimates

OVERLAP_BINS = 20


class Verdict(StrEnum):
    """What a comparison concludes."""

    IDENTICAL = "identical"
    BETTER = "better"
    BETTER_BUT_ALIKE = "better, but too alike"
    NOT_WORSE = "not worse"
    UNCLEAR = "unclear"
    REGRESSES = "regresses"


@dataclass(frozen=True)
class MetricDifference:
    """One metric of both sides on the same contexts. difference: candidate − production, paired by context."""

    metric: str
    candidate: Estimate
    production: Estimate
    difference: Estimate

    @property
    def row(self) -> dict[str, Any]:
        """Its fields by name."""
        return {
            "metric": self.metric,
            "candidate": self.candidate.value,
            "production": self.production.value,
            "difference": self.difference.value,
            "low": self.difference.low,
            "high": self.difference.high,
            "contexts": self.difference.contexts,
        }


@dataclass(frozen=True)
class GroupDifference:
    """The differences among the contexts that have one value of a column.

    by, group: the column and the value
    simultaneous: of the metric that decides, with an interval that holds for all groups of the comparison together
    """

    by: str
    group: str
    contexts: int
    metrics: tuple[MetricDifference, ...]
    simultaneous: Estimate


@dataclass(frozen=True)
class Agreement:
    """How alike the rankings are, weighted by the contexts' weights.

    overlap: mean rank-biased overlap; overlap_counts: contexts in twenty equal parts of [0, 1]
    tau: mean Kendall's τ-b of the contexts where both sides tell items apart
    changed: mean share of changed first places; changed_contexts, first_changed: shares of contexts where any of the
        first places, or the first one, has another item
    same: share of contexts whose items have the same order
    """

    places: int
    overlap: Estimate
    tau: Estimate
    changed: Estimate
    changed_contexts: float
    first_changed: float
    same: float
    overlap_counts: tuple[int, ...]


@dataclass(frozen=True)
class RankedItem:
    """An item among the first places of one side. label: None where the data has none."""

    item: Mapping[str, Any]
    score: float
    label: float


@dataclass(frozen=True)
class ContextDifference:
    """A context that the sides rank differently.

    overlap: rank-biased overlap; difference: of the metric that decides, None where it cannot be measured
    candidate, production: the first items of each side
    """

    context: Mapping[str, Any]
    overlap: float
    difference: float | None
    candidate: tuple[RankedItem, ...]
    production: tuple[RankedItem, ...]


@dataclass(frozen=True, repr=False)
class Comparison:
    """A candidate beside production, on the same contexts.

    data: what they were compared on; contexts, items: how many of it
    verdict: what follows, and `reasons` why, in sentences
    metrics: of all contexts; groups: of the values of the columns that were chosen
    most_different: the contexts with the least overlap; largest_losses: those where the candidate loses most
    counterfactual: what each would have earned online, None where no exposures were given
    notes: what limits the comparison
    """

    candidate: str
    production: str
    data: str
    contexts: int
    items: int
    metric: str
    level: float
    verdict: Verdict
    reasons: tuple[str, ...]
    metrics: tuple[MetricDifference, ...]
    groups: tuple[GroupDifference, ...]
    agreement: Agreement
    most_different: tuple[ContextDifference, ...]
    largest_losses: tuple[ContextDifference, ...]
    counterfactual: CounterfactualEstimates | None = None
    notes: tuple[str, ...] = ()

    @property
    def regresses(self) -> bool:
        """Whether the candidate is worse than tolerated, with confidence."""
        return self.verdict is Verdict.REGRESSES

    @property
    def worth_testing(self) -> bool:
        """Whether the candidate is better, and different enough to test online."""
        return self.verdict is Verdict.BETTER

    def __getitem__(self, metric: str) -> MetricDifference:
        """Return one metric of all contexts. Raises KeyError for an unknown metric."""
        return {each.metric: each for each in self.metrics}[metric]

    def __repr__(self) -> str:
        """One line for people."""
        change = self[self.metric].difference
        measured = "" if change.value is None else f", {self.metric} {change.value:+.4f}"
        interval = "" if change.low is None else f" [{change.low:+.4f}, {change.high:+.4f}]"
        return plain_text(
            f"{self.candidate} against {self.production}: {self.verdict.value}{measured}{interval}, "
            f"{self.contexts:,} contexts"
        )
