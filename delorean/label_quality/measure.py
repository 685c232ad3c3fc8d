"""Measures label data at rest, a row group at a time, and compares it with earlier label data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from delorean.label_quality.counts import DELAY, ITEMS, LabelSums
from delorean.label_quality.limits import LabelQualityLimits
from delorean.label_quality.near_repeats import NearRepeats
from delorean.label_quality.report import Change, LabelQuality
from delorean.labels import OUTCOME_COLUMN, TIME_COLUMN, Labels
from delorean.tasks.task_set import TASK_VARIABLE
from schemas.errors import LabelError, QualityError
from snapshotter.storage import Storage
from snapshotter.storage.parquet import ParquetReader

_UNSEEN: Final = 0.5  # counts of a bin that one side has none of, so that its logarithm is finite


def measure_label_quality(
    labels: Labels, storage: Storage, limits: LabelQualityLimits | None = None, against: Labels | None = None
) -> LabelQuality:
    """Measure label data at rest.

    limits: also the columns that shares are measured by
    against: earlier label data, to measure what has changed

    Reads each row group once, and holds one at a time. Raises LabelError for columns that the label data lacks.
    """
    limits = limits or LabelQualityLimits()
    sums, repeats = _read(labels, storage, limits)
    changes = () if against is None else _changes(_sums_of(against, storage, limits), sums)
    return LabelQuality(
        labels.labels_id,
        labels.contexts,
        labels.item_count,
        labels.earliest,
        labels.latest,
        sums.counts(),
        sums.quantiles(ITEMS),
        sums.quantiles(DELAY),
        repeats.duplicates,
        repeats.contradictions,
        limits,
        changes,
        None if against is None else against.labels_id,
        labels.merged,
    )


def require_quality(quality: LabelQuality) -> None:
    """Raise QualityError if a limit is broken and the policy is to fail."""
    if quality.failed:
        raise QualityError.because(
            f"label data '{quality.labels_id}' breaks its limits: {'; '.join(quality.violations)}",
            "correct the label data, or change [label_quality] in the spec",
        )


def _read(labels: Labels, storage: Storage, limits: LabelQualityLimits) -> tuple[LabelSums, NearRepeats]:
    context, items = [key.name for key in labels.context], [key.name for key in labels.items]
    by = _existing(labels, _by(labels, limits))
    sums = LabelSums(labels.label_names, by)
    repeats = NearRepeats(context, items, labels.label_names, round(limits.near.total_seconds() * 1e6))
    outcome = [OUTCOME_COLUMN] if labels.label_names else []
    columns = [*dict.fromkeys((*context, TIME_COLUMN, *outcome, *items, *labels.label_names, *by))]
    for rows in _row_groups(labels, storage, columns, repeats):
        lengths = pc.list_value_length(rows[items[0]]).cast(pa.int64()).to_numpy()
        sums.add(rows, lengths)
        repeats.add(rows)
    return sums, repeats


def _sums_of(labels: Labels, storage: Storage, limits: LabelQualityLimits) -> LabelSums:
    """Count earlier label data by those of the columns that it has."""
    names = {key.name for key in labels.context} | {column.name for column in labels.kept}
    by = [name for name in _by(labels, limits) if name in names]
    sums = LabelSums(labels.label_names, by)
    items, outcome = labels.items[0].name, [OUTCOME_COLUMN] if labels.label_names else []
    columns = [*dict.fromkeys((TIME_COLUMN, *outcome, items, *labels.label_names, *by))]
    for rows in _row_groups(labels, storage, columns):
        sums.add(rows, pc.list_value_length(rows[items]).cast(pa.int64()).to_numpy())
    return sums


def _by(labels: Labels, limits: LabelQualityLimits) -> list[str]:
    """Return the columns that shares are measured by: of label data of several tasks the task, too."""
    return [*dict.fromkeys([*(() if labels.tasks is None else (TASK_VARIABLE,)), *limits.by])]


def _row_groups(
    labels: Labels, storage: Storage, columns: Sequence[str], repeats: NearRepeats | None = None
) -> Iterator[pa.Table]:
    for file in labels.files:
        with ParquetReader(storage, file) as reader:
            for group in range(reader.metadata.num_row_groups):
                yield reader.read(columns, [group])
        if repeats is not None:
            repeats.end_of_file()


def _existing(labels: Labels, by: Sequence[str]) -> Sequence[str]:
    names = [key.name for key in labels.context] + [column.name for column in labels.kept]
    for name in by:
        if name not in names:
            raise LabelError.unknown("column to measure label data by", name, names)
    return by


def _changes(before: LabelSums, now: LabelSums) -> tuple[Change, ...]:
    """Compare the distributions that both have, the most changed first."""
    old, new = before.distributions(), now.distributions()
    changes = [_change(what, old[what], new[what]) for what in new if what in old]
    return tuple(sorted(changes, key=lambda change: -change.index))


def _change(what: str, before: Mapping[str, int], now: Mapping[str, int]) -> Change:
    """Measure the population stability index (Siddiqi 2006)."""
    totals = [
        sum(each.values()) + _UNSEEN * sum(not each.get(name) for name in {*before, *now}) for each in (before, now)
    ]
    index, largest = 0.0, ("", 0.0, 0.0)
    for name in sorted({*before, *now}):
        p, q = ((each.get(name) or _UNSEEN) / total for each, total in zip((before, now), totals, strict=True))
        index += (q - p) * math.log(q / p)
        if not largest[0] or abs(q - p) > abs(largest[2] - largest[1]):
            largest = (name, p, q)
    return Change(what, index, *largest)
