"""Describes the quality of label data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from delorean.display.description import describes
from delorean.display.parts import Facts, Note, Part, ShareBar, Table
from delorean.label_quality.report import LabelCounts, LabelQuality
from delorean.labels.merge_report import StratumCounts, merge_rows


@describes(LabelQuality, LabelQuality.to_json)
def _quality(quality: LabelQuality) -> Iterator[Part]:
    yield from (Note(violation, strong=True) for violation in quality.violations)
    items = max(quality.items, 1)
    contradictions = {
        f"contradictions of '{name}'": f"{count:,} ({count / items:.2%})"
        for name, count in quality.contradictions.items()
    }
    yield Facts(
        {
            "items": quality.items,
            "times": f"{quality.earliest} to {quality.latest}",
            "items in a context": _quantiles(
                {share: f"{value:g}" for share, value in quality.items_per_context.items()}
            ),
            "outcomes known after": _quantiles(
                {share: str(timedelta(seconds=round(value))) for share, value in quality.delay_seconds.items()}
            ),
            f"duplicates within {quality.limits.near}": f"{quality.duplicates:,} ({quality.duplicates / items:.2%})",
            **contradictions,
        }
    )
    yield merge_table(quality.merged)
    yield Table([_row(each) for each in quality.overall], "labels")
    for by in dict.fromkeys(each.by for each in quality.counts if each.by):
        yield Table([_row(each) for each in quality.counts if each.by == by], f"by {by}")
    if quality.against is not None:
        changes = [
            {
                "distribution": change.what,
                "stability index": round(change.index, 4),
                "most changed": change.largest,
                "before": f"{change.before:.2%}",
                "now": f"{change.now:.2%}",
            }
            for change in quality.changes
        ]
        yield Table(changes, f"changes against label data {quality.against}")


def merge_table(counts: Sequence[StratumCounts]) -> Table:
    """Return what a merge took of each task and stratum."""
    rows = [
        {
            "task": row["task"],
            "stratum": row["stratum"],
            "contexts": row["contexts"],
            "share": ShareBar(row["share_before"]),
            "taken": row["kept_contexts"],
            "share of what was taken": ShareBar(row["share_after"]),
            "items": row["items"],
            "items taken": row["kept_items"],
            "positives": row["positives"],
            "positives taken": row["kept_positives"],
        }
        for row in merge_rows(counts)
    ]
    return Table(rows, "merged tasks")


def _row(counts: LabelCounts) -> dict[str, Any]:
    return {
        **({"group": counts.group} if counts.by else {}),
        "label": counts.label,
        "contexts": counts.contexts,
        "items": counts.items,
        "with label": counts.known,
        "positives": counts.positives,
        "share": None if counts.share is None else f"{counts.share:.2%}",
        "": ShareBar(counts.share),
        "mean": None if counts.mean is None else round(counts.mean, 4),
        "without positives": counts.without_positives,
        "all positive": counts.all_positive,
    }


def _quantiles(values: dict[str, str]) -> str | None:
    return ", ".join(f"{float(share):.0%} {value}" for share, value in values.items()) or None
