"""What a merge of tasks' label data took: contexts, items and positives, before and after sampling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from snapshotter.records import JsonRecord

ALL = "all"


@dataclass(frozen=True)
class StratumCounts(JsonRecord):
    """One stratum of one task.

    stratum: values of the strata's columns, joined with slashes; "all" without strata
    contexts, items, positives: of its label rows; positives are items with a label above 0
    kept_contexts, kept_items, kept_positives: those that the merge took
    """

    task: str
    stratum: str
    contexts: int
    items: int
    positives: int
    kept_contexts: int
    kept_items: int
    kept_positives: int

    def __add__(self, other: StratumCounts) -> StratumCounts:
        """Add the counts of the same stratum."""
        mine, others = list(vars(self).values())[2:], list(vars(other).values())[2:]
        return StratumCounts(self.task, self.stratum, *(a + b for a, b in zip(mine, others, strict=True)))


def added_counts(counts: Iterable[StratumCounts], tasks: Sequence[str]) -> tuple[StratumCounts, ...]:
    """Add up counts by task, in the order of tasks, and stratum."""
    sums: dict[tuple[int, str], StratumCounts] = {}
    for each in counts:
        key = (tasks.index(each.task), each.stratum)
        sums[key] = sums[key] + each if key in sums else each
    return tuple(sums[key] for key in sorted(sums))


def merge_rows(counts: Sequence[StratumCounts]) -> list[dict[str, Any]]:
    """Return a row for each stratum: its share of all contexts and the share of positives, before and after.

    >>> home, search = StratumCounts("home", "US", 8, 80, 8, 4, 40, 4), StratumCounts("search", "all", 2, 8, 4, 2, 8, 4)
    >>> rows = merge_rows([home, search])
    >>> [(row["task"], row["share_before"], round(row["share_after"], 3)) for row in rows]
    [('home', 0.8, 0.667), ('search', 0.2, 0.333)]
    """
    before, after = sum(each.contexts for each in counts), sum(each.kept_contexts for each in counts)
    return [
        {
            **each.to_json(),
            "share_before": each.contexts / before if before else None,
            "share_after": each.kept_contexts / after if after else None,
            "positive_share_before": each.positives / each.items if each.items else None,
            "positive_share_after": each.kept_positives / each.kept_items if each.kept_items else None,
        }
        for each in counts
    ]
