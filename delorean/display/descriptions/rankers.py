"""Describes comparisons of a candidate with production."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from delorean.comparison.counterfactual.result import CounterfactualEstimates
from delorean.comparison.result import Comparison, ContextDifference, MetricDifference, RankedItem
from delorean.display.description import describes
from delorean.display.formats import data_row, share_text
from delorean.display.parts import Facts, Headline, Histogram, IntervalMark, Note, Part, Table
from delorean.evaluation.estimate import Estimate

_SHOWN_ITEMS = 5


def _document(comparison: Comparison) -> dict[str, Any]:
    """The comparison's fields."""
    return {
        "verdict": comparison.verdict.value,
        "regresses": comparison.regresses,
        "worth_testing": comparison.worth_testing,
        "reasons": list(comparison.reasons),
        "candidate": comparison.candidate,
        "production": comparison.production,
        "data": comparison.data,
        "contexts": comparison.contexts,
        "items": comparison.items,
        "metric": comparison.metric,
        "level": comparison.level,
        "metrics": [each.row for each in comparison.metrics],
        "groups": [
            {
                "by": group.by,
                "group": group.group,
                "contexts": group.contexts,
                "simultaneous": msgspec.to_builtins(group.simultaneous),
                "metrics": [each.row for each in group.metrics],
            }
            for group in comparison.groups
        ],
        "agreement": msgspec.to_builtins(comparison.agreement),
        "most_different": [asdict(each) for each in comparison.most_different],
        "largest_losses": [asdict(each) for each in comparison.largest_losses],
        "counterfactual": None if comparison.counterfactual is None else msgspec.to_builtins(comparison.counterfactual),
        "notes": list(comparison.notes),
    }


@describes(Comparison, _document)
def parts(comparison: Comparison) -> Iterator[Part]:
    """The verdict with its reasons, the differences, how alike the rankings are, and examples."""
    yield from (Note(reason, strong=True) for reason in comparison.reasons)
    yield Facts({"data": comparison.data, "contexts": comparison.contexts, "items": comparison.items})
    yield Table(
        _metric_rows(comparison.metrics), f"candidate minus production, {comparison.level:.0%} intervals", most=None
    )
    yield from _groups(comparison)
    yield from _agreement(comparison)
    if comparison.counterfactual is not None:
        yield from _counterfactual(comparison.counterfactual)
    yield Table([_example(each) for each in comparison.most_different], "contexts that are ranked most differently")
    yield Table(
        [_example(each) for each in comparison.largest_losses], f"contexts where {comparison.metric} falls most"
    )
    yield from (Note(note) for note in comparison.notes)


def _metric_rows(metrics: Sequence[MetricDifference]) -> list[dict[str, Any]]:
    bound = bound_of([each.difference for each in metrics])
    return [
        {
            "metric": each.metric,
            "candidate": each.candidate.value,
            "production": each.production.value,
            "difference": each.difference.value,
            "interval": interval_mark(each.difference, bound),
            "low": each.difference.low,
            "high": each.difference.high,
            "contexts": each.difference.contexts,
        }
        for each in metrics
    ]


def _groups(comparison: Comparison) -> Iterator[Part]:
    """A forest plot: a row for each group, intervals on one axis, the whole first."""
    if not comparison.groups:
        return
    whole = comparison[comparison.metric].difference
    bound = bound_of([whole, *(group.simultaneous for group in comparison.groups)])
    rows = [("all", "-", comparison.contexts, whole)]
    rows += [(group.by, group.group, group.contexts, group.simultaneous) for group in comparison.groups]
    together = f"the intervals of the {len(comparison.groups)} groups hold together"
    title = f"{comparison.metric}, candidate minus production; {together}"
    yield Table(
        [
            {
                "by": by,
                "group": group,
                "contexts": contexts,
                "difference": each.value,
                "interval": interval_mark(each, bound),
                "low": each.low,
                "high": each.high,
            }
            for by, group, contexts, each in rows
        ],
        title,
        most=None,
    )


def _agreement(comparison: Comparison) -> Iterator[Part]:
    agreement = comparison.agreement
    places = f"first {agreement.places} places"
    yield Facts(
        {
            "rank-biased overlap": _with_interval(agreement.overlap),
            "contexts by overlap, 0 to 1": Histogram(agreement.overlap_counts, "rank-biased overlap from 0 to 1"),
            "Kendall's τ-b": _with_interval(agreement.tau),
            f"changed items in the {places}": _with_interval(agreement.changed),
            f"contexts with a change in the {places}": share_text(agreement.changed_contexts),
            "contexts with another first item": share_text(agreement.first_changed),
            "contexts in the same order": share_text(agreement.same),
        }
    )


def _counterfactual(estimates: CounterfactualEstimates) -> Iterator[Part]:
    yield Headline(f"Reward for each context if a policy {estimates.policy}: logged {_with_interval(estimates.logged)}")
    rows: list[dict[str, Any]] = [
        {"policy": side.name, **row} for side in estimates.sides if side.reward is not None for row in side.reward.rows
    ]
    if estimates.difference is not None:
        rows += [{"policy": "difference", **row} for row in estimates.difference.rows]
    yield Table(rows, most=None)
    yield Table(
        [
            {
                "policy": side.name,
                "effective_sample": side.effective,
                "shown_too": side.shown,
                "greatest_weight": side.greatest_weight,
                "clipped": side.clipped or None,
                "never_shown": share_text(side.unsupported),
                "refused": side.refused,
            }
            for side in estimates.sides
        ],
        "support of the log",
    )
    yield from (Note(note) for note in estimates.notes)


def _example(each: ContextDifference) -> dict[str, Any]:
    return {
        **data_row({name: value for name, value in each.context.items() if name != "outcome_at"}),
        "overlap": each.overlap,
        "difference": each.difference,
        "candidate_first": _items(each.candidate),
        "production_first": _items(each.production),
    }


def _items(items: Sequence[RankedItem]) -> str:
    """Write the first items as one line; a label that is above 0 in brackets."""
    texts = ("/".join(map(str, item.item.values())) + (f" [{item.label:g}]" if item.label else "") for item in items)
    return ", ".join(list(texts)[:_SHOWN_ITEMS])


def _with_interval(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    interval = "" if estimate.low is None else f" [{estimate.low:.4g}, {estimate.high:.4g}]"
    return f"{estimate.value:.4g}{interval}"


def interval_mark(estimate: Estimate, bound: float) -> IntervalMark | None:
    """Draw a difference on an axis around 0."""
    if estimate.value is None:
        return None
    return IntervalMark(estimate.value, estimate.low, estimate.high, -bound, bound, compared=True)


def bound_of(estimates: Sequence[Estimate]) -> float:
    """Return how far the axis of intervals reaches to both sides of 0."""
    ends = [abs(end) for each in estimates for end in (each.value, each.low, each.high) if end is not None]
    return max(ends, default=0.0) or 1.0
