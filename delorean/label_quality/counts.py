"""Adds up what is counted of label data, a part at a time, in memory that does not grow with its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.label_quality.report import DAY, LabelCounts
from delorean.labels import OUTCOME_COLUMN, TIME_COLUMN
from delorean.quantiles import DROPPED_BITS, bin_columns, quantiles, sum_bins
from schemas.errors import LabelError

MOST_GROUPS = 10_000  # of one column, and days
_PENDING = 50_000  # rows of partial sums that are kept before they are added up
_SUMS = ("contexts", "items", "known", "positives", "total", "without_positives", "all_positive")
_QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99, 1.0)
_COARSE_BITS = 50  # of a float's 52: the bins of changes have four to an octave
_COARSER_BITS = _COARSE_BITS - DROPPED_BITS
ITEMS, DELAY = "items per context", "delay until the outcome"


class LabelSums:
    """The sums that `LabelCounts` are made from, and the distributions of numbers.

    labels: names of the labels' columns
    by: names of the columns to group by; days are always counted
    """

    def __init__(self, labels: Sequence[str], by: Sequence[str]) -> None:
        self._labels, self._by = labels, by
        self._sums: list[pa.Table] = []
        self._numbers: dict[str, pa.Table] = {}
        self._values: dict[str, dict[int, int]] = {}

    def add(self, rows: pa.Table, lengths: NDArray[np.int64]) -> None:
        """Add rows. lengths: number of items of each."""
        groups = {
            "": pa.nulls(len(rows), pa.string()),
            DAY: rows[TIME_COLUMN].cast(pa.timestamp("us")).cast(pa.date32()).cast(pa.string()),
            **{name: rows[name].cast(pa.string()) for name in self._by},
        }
        self._add_numbers(ITEMS, lengths.astype(np.float64))
        if self._labels:
            times = (rows[name].cast(pa.int64()).to_numpy() for name in (OUTCOME_COLUMN, TIME_COLUMN))
            self._add_numbers(DELAY, np.subtract(*times) / 1e6)
        parents = np.repeat(np.arange(len(rows)), lengths)
        for label in self._labels:
            values = pc.fill_null(pc.list_flatten(rows[label]).cast(pa.float64()), float("nan")).to_numpy()
            self._add_values(label, values)
            sums = _sums_of_rows(values, parents, lengths)
            for by, group in groups.items():
                table = pa.table({"group": group, **sums}).group_by("group", use_threads=False)
                part = table.aggregate([(name, "sum") for name in _SUMS])
                self._sums.append(_labelled(part.rename_columns(["group", *_SUMS]), label, by))
        if sum(len(part) for part in self._sums) > _PENDING:
            self._sums = [self._added()]

    def counts(self) -> tuple[LabelCounts, ...]:
        """Return the counts of each label: of all contexts, by column with the largest groups first, and by day."""
        rows = self._added().to_pylist() if self._sums else []
        places = {name: place for place, name in enumerate(("", *self._by, DAY))}
        labels = {name: place for place, name in enumerate(self._labels)}

        def order(row: Mapping[str, Any]) -> tuple[int, int, int, str]:
            size = 0 if row["by"] == DAY else -row["contexts"]
            return labels[row["label"]], places[row["by"]], size, str(row["group"])

        return tuple(_counts(row) for row in sorted(rows, key=order))

    def quantiles(self, what: str) -> dict[str, float]:
        """Return share → quantile of `ITEMS` or `DELAY`; empty where nothing was counted."""
        bins = self._numbers.get(what)
        if bins is None or not len(bins):
            return {}
        return dict(zip((f"{share:g}" for share in _QUANTILES), quantiles(bins, _QUANTILES), strict=True))

    def distributions(self) -> dict[str, dict[str, int]]:
        """Return what → bin or value, as text → its count, to compare with other label data."""
        found = {}
        for what, bins in self._numbers.items():
            coarse: dict[int, int] = {}
            for fine, rows in zip(bins["bin"].to_pylist(), bins["rows"].to_pylist(), strict=True):
                coarse[fine >> _COARSER_BITS] = coarse.get(fine >> _COARSER_BITS, 0) + rows
            found[what] = _named(coarse)
        for label, values in self._values.items():
            found[f"values of '{label}'"] = _named(values)
        for each in self.counts():
            if each.by not in ("", DAY) and each.label == self._labels[0]:
                found.setdefault(f"contexts by '{each.by}'", {})[each.group] = each.contexts
        return found

    def _add_numbers(self, what: str, values: NDArray[np.float64]) -> None:
        bins = sum_bins(pa.table(bin_columns(np.maximum(values, 0))))
        before = self._numbers.get(what)
        self._numbers[what] = bins if before is None else sum_bins(pa.concat_tables([before, bins]))

    def _add_values(self, label: str, values: NDArray[np.float64]) -> None:
        known = values[~np.isnan(values)] + 0.0  # which makes 0 of -0
        bins, counts = np.unique(known.view(np.int64) >> _COARSE_BITS, return_counts=True)
        sums = self._values.setdefault(label, {})
        for each, count in zip(bins.tolist(), counts.tolist(), strict=True):
            sums[each] = sums.get(each, 0) + count

    def _added(self) -> pa.Table:
        keys = ["label", "by", "group"]
        table = pa.concat_tables(self._sums).group_by(keys, use_threads=False)
        sums = table.aggregate([(name, "sum") for name in _SUMS]).rename_columns([*keys, *_SUMS])
        for by in (*self._by, DAY):
            groups = pc.sum(pc.equal(sums["by"], by)).as_py() or 0
            if groups > MOST_GROUPS * len(self._labels):
                raise LabelError.because(
                    f"'{by}' has more than {MOST_GROUPS:,} values, too many to measure label data by",
                    "name a column of few values: by = […]",
                )
        return sums


def _sums_of_rows(
    values: NDArray[np.float64], parents: NDArray[np.int64], lengths: NDArray[np.int64]
) -> dict[str, NDArray[np.int64] | NDArray[np.float64]]:
    rows = len(lengths)
    known = ~np.isnan(values)
    counts = np.bincount(parents[known], minlength=rows)
    positives = np.bincount(parents[values > 0], minlength=rows)
    return {
        "contexts": np.ones(rows, np.int64),
        "items": lengths,
        "known": counts,
        "positives": positives,
        "total": np.bincount(parents[known], weights=values[known], minlength=rows).astype(np.float64),
        "without_positives": ((counts > 0) & (positives == 0)).astype(np.int64),
        "all_positive": ((counts > 0) & (positives == counts)).astype(np.int64),
    }


def _labelled(part: pa.Table, label: str, by: str) -> pa.Table:
    for position, (name, value) in enumerate((("label", label), ("by", by))):
        part = part.add_column(position, name, pa.array([value] * len(part), pa.string()))
    return part


def _counts(row: Mapping[str, Any]) -> LabelCounts:
    known, total = row["known"], row["total"]
    group = row["group"]
    return LabelCounts(
        label=row["label"],
        by=row["by"],
        group=("" if not row["by"] else "null") if group is None else group,
        contexts=row["contexts"],
        items=row["items"],
        known=known,
        positives=row["positives"],
        mean=total / known if known else None,
        without_positives=row["without_positives"],
        all_positive=row["all_positive"],
    )


def _named(bins: Mapping[int, int]) -> dict[str, int]:
    """Name bins by the numbers that they begin with."""
    starts = (np.array(list(bins), dtype=np.int64) << _COARSE_BITS).view(np.float64)
    return {f"{start:g}": count for start, count in zip(starts.tolist(), bins.values(), strict=True)}
