"""Draws the samples of tasks from grouped label rows, and counts what was taken of each stratum.

Which contexts are drawn depends on hashes of the rows and on the strata's sizes, never on order, files or buckets.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.labels import TIME_COLUMN, LabelShape
from delorean.labels.merge_report import ALL, StratumCounts
from delorean.labels.row_hashes import row_hashes
from delorean.labels.task_sample import INCLUSION_COLUMN, LabelSample
from delorean.tasks.impossible_features import task_numbers
from delorean.tasks.task_set import TASK_VARIABLE, TaskSet
from schemas.errors import LabelError
from snapshotter.selection.quotas import sample_size, stratum_name

MOST_STRATA = 10_000
StratumKey: TypeAlias = tuple[str, tuple[str, ...]]  # task and the values of its strata


class Draw(NamedTuple):
    """What is drawn of a stratum: contexts whose hash is at most `last`, each with a probability; None: no context."""

    last: int | None
    probability: float


class Stratum(NamedTuple):
    """Rows of one stratum: their positions, and a hash of each."""

    key: StratumKey
    rows: NDArray[np.int64]
    hashes: NDArray[np.uint64]


@dataclass(frozen=True)
class TaskMerge:
    """The samples of tasks, and how their rows are counted. It is sent to Spark's tasks.

    samples: task → its sample; other tasks keep all rows
    draws: of the strata of samples of a fixed size, once `drawn` has added them up
    """

    tasks: TaskSet
    shape: LabelShape
    samples: Mapping[str, LabelSample]
    draws: Mapping[StratumKey, Draw] = field(default_factory=dict)

    @property
    def needs_survey(self) -> bool:
        """Whether the rows must be surveyed before any is drawn."""
        return any(sample.fixed_size for sample in self.samples.values())

    def survey(self, tables: Iterable[pa.Table]) -> list[Any]:
        """Count the contexts of strata of a fixed size in grouped rows, with the smallest hashes, as plain values."""
        counts: dict[StratumKey, int] = {}
        smallest: dict[StratumKey, NDArray[np.uint64]] = {}
        for table in tables:
            for key, rows, hashes in self._strata(table):
                sample = self.samples.get(key[0])
                if sample is not None and sample.fixed_size:
                    counts[key] = counts.get(key, 0) + len(rows)
                    most = sample_size(sample.quota, None, key[1], 0)
                    both = np.concatenate([smallest.get(key, hashes[:0]), hashes])
                    smallest[key] = np.sort(both)[:most]
        return [[*key, counts[key], b64encode(smallest[key].tobytes()).decode()] for key in counts]

    def drawn(self, surveys: Iterable[Sequence[Any]]) -> TaskMerge:
        """Return the merge with what is drawn of each stratum. surveys: of all buckets, see `survey`.

        Raises LabelError for strata of too many values.
        """
        counts: dict[StratumKey, int] = {}
        hashes: dict[StratumKey, list[NDArray[np.uint64]]] = {}
        for task, values, count, encoded in (row for survey in surveys for row in survey):
            key = (task, tuple(values))
            counts[key] = counts.get(key, 0) + count
            hashes.setdefault(key, []).append(np.frombuffer(b64decode(encoded), np.uint64))
        draws = {}
        for key, count in counts.items():
            taken = min(count, sample_size(self.samples[key[0]].quota, None, key[1], count))
            last = None if not taken else int(np.sort(np.concatenate(hashes[key]))[taken - 1])
            draws[key] = Draw(last, taken / count)
        return replace(self, draws=draws)

    def take(self, table: pa.Table) -> tuple[pa.Table, list[StratumCounts]]:
        """Return the grouped rows that are drawn, with their probabilities, and the counts of all."""
        kept = np.ones(table.num_rows, dtype=bool)
        probability = np.ones(table.num_rows)
        counts = []
        items, positives = self._items(table)
        for key, rows, hashes in self._strata(table):
            kept[rows], probability[rows] = self._drawn(key, hashes)
            taken = rows[kept[rows]]
            sums = ((len(each), int(items[each].sum()), int(positives[each].sum())) for each in (rows, taken))
            before, after = sums
            counts.append(StratumCounts(key[0], stratum_name(key[1]) if key[1] else ALL, *before, *after))
        if self.samples:
            own = table[INCLUSION_COLUMN]
            position = table.schema.get_field_index(INCLUSION_COLUMN)
            product = pc.multiply(own, pa.array(probability))
            table = table.set_column(position, table.schema.field(INCLUSION_COLUMN), product)
        return (table if kept.all() else table.filter(pa.array(kept))), counts

    def _drawn(self, key: StratumKey, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], float]:
        sample = self.samples.get(key[0])
        if sample is None:
            return np.ones(len(hashes), dtype=bool), 1.0
        if sample.fraction is not None:
            return hashes / 2.0**64 < sample.fraction, sample.fraction
        draw = self.draws[key]
        if draw.last is None:
            return np.zeros(len(hashes), dtype=bool), 1.0
        return hashes <= np.uint64(draw.last), draw.probability

    def _items(self, table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the number of items of each row, and of those with a label above 0."""
        lists = table[self.shape.items[0].name].combine_chunks()
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
        positive = np.zeros(int(lengths.sum()), dtype=bool)
        for label in self.shape.labels:
            positive |= table[label].combine_chunks().flatten().to_numpy(zero_copy_only=False) > 0
        rows = np.repeat(np.arange(table.num_rows), lengths)
        return lengths, np.bincount(rows[positive], minlength=table.num_rows)

    def _strata(self, table: pa.Table) -> Iterator[Stratum]:
        """Yield the strata of each task that has rows."""
        numbers = task_numbers(table, self.tasks)
        for number, task in enumerate(self.tasks.tasks):
            rows = np.flatnonzero(numbers == number)
            sample = self.samples.get(task.name)
            if not len(rows):
                continue
            if sample is None:
                yield Stratum((task.name, ()), rows, np.zeros(len(rows), np.uint64))
                continue
            # The task's own variables only: another task's do not change what is drawn, nor does a wider type.
            key = [TASK_VARIABLE, *task.context, TIME_COLUMN]
            own = table.select([*dict.fromkeys((*key, *sample.strata))]).take(pa.array(rows))
            hashes = row_hashes(_wide(own.select(key)), key, sample.seed)
            for stratum, at in _groups(own.select(list(sample.strata)), task.name):
                yield Stratum((task.name, stratum), rows[at], hashes[at])


def _wide(table: pa.Table) -> pa.Table:
    types = ((field.name, pa.int64() if pa.types.is_integer(field.type) else field.type) for field in table.schema)
    return table.cast(pa.schema(list(types)))


def _groups(columns: pa.Table, task: str) -> Iterator[tuple[tuple[str, ...], NDArray[np.int64]]]:
    """Yield the distinct rows of columns, as texts, and the positions of each."""
    if not columns.column_names:
        yield (), np.arange(columns.num_rows)
        return
    texts = [pc.fill_null(column.cast(pa.string()), "null") for column in columns.columns]
    names = [f"s{i}" for i in range(len(texts))]
    table = pa.table([*texts, pa.array(np.arange(columns.num_rows))], names=[*names, "row"])
    groups = table.group_by(names, use_threads=False).aggregate([("row", "list")])
    if groups.num_rows > MOST_STRATA:
        raise LabelError.because(
            f"task '{task}' has more than {MOST_STRATA:,} strata in {', '.join(columns.column_names)}",
            "stratify by columns with fewer values",
        )
    for row in groups.to_pylist():
        yield tuple(row[name] for name in names), np.array(row["row_list"], dtype=np.int64)
