"""A bounded sample of labels and features: whole contexts, chosen by a hash of their variables and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.labels import LABEL_COLUMN, TIME_COLUMN
from delorean.labels.row_hashes import row_hashes
from delorean.leaks.scopes import LeakScope
from delorean.leaks.thresholds import LeakThresholds
from delorean.tasks.task_set import TASK_VARIABLE
from encoders.columns import one_array
from encoders.vector import columns_of
from schemas.errors import LabelError
from schemas.vectors import is_vector, vector_matrix
from snapshotter.records import DataFile
from snapshotter.storage import Storage
from snapshotter.storage.parquet import ParquetReader

_HASH = "#hash"  # no column of a feature set can have that name
_READ_FOR_ONE = 8  # items read for each sampled one: further items are skipped in whole row groups


@dataclass(frozen=True)
class LeakSample:
    """Labels and features of some contexts, end to end.

    labels: (items,) float32; NaN: unknown
    offsets: (contexts + 1,) int64, where each context's items start and end
    features: name → (items,) float32, NaN where unknown
    of_items: the items that the sample was taken from
    """

    labels: NDArray[np.float32]
    offsets: NDArray[np.int64]
    features: Mapping[str, NDArray[np.float32]]
    of_items: int = 0

    def __post_init__(self) -> None:
        """Raise LabelError for arrays whose lengths do not match."""
        if len(self.offsets) == 0 or self.offsets[0] != 0 or self.offsets[-1] != len(self.labels):
            raise LabelError.because(f"offsets do not go from 0 to the {len(self.labels)} labels")
        for name, values in self.features.items():
            if len(values) != len(self.labels):
                raise LabelError.because(f"feature '{name}' has {len(values)} values for {len(self.labels)} labels")

    def limited(self, max_items: int, seed: int) -> LeakSample:
        """Keep randomly chosen contexts with together at most `max_items` items; at least one context."""
        if len(self.labels) <= max_items:
            return self
        sizes = np.diff(self.offsets)
        order = np.random.default_rng(seed).permutation(len(sizes))
        kept = np.sort(order[: _fitting(sizes[order], max_items)])
        chosen = np.zeros(len(sizes), dtype=bool)
        chosen[kept] = True
        items = np.repeat(chosen, sizes)
        return replace(
            self,
            labels=self.labels[items],
            offsets=np.concatenate([[0], np.cumsum(sizes[kept])]),
            features={name: values[items] for name, values in self.features.items()},
            of_items=max(self.of_items, len(self.labels)),
        )


class LeakSampler:
    """Samples the rows of a feature set as they are added, in bounded memory.

    It keeps the contexts with the smallest hashes (Cohen and Kaplan 2007, bottom-k sketches), so the sample depends
    only on the rows, not on their order or files.

    features: the columns, each list<float32> as long as the label's list, or a list of vectors, which are sampled as
        one feature for each component
    context: the context variables' columns; with the time they determine what is sampled
    more: further columns for `rows`
    label: the label's column
    task: only rows of this task; None: all
    """

    def __init__(
        self,
        features: Sequence[str],
        context: Sequence[str],
        max_items: int,
        seed: int = 0,
        more: Sequence[str] = (),
        label: str = LABEL_COLUMN,
        task: str | None = None,
    ) -> None:
        self.label, self.task = label, task
        self.features = tuple(features)
        self.context = tuple(context)
        of_task = () if task is None else (TASK_VARIABLE,)
        self.columns = tuple(dict.fromkeys((*context, TIME_COLUMN, label, *features, *more, *of_task)))
        self._columns_kept = tuple(dict.fromkeys((label, *features, TIME_COLUMN, *more)))
        self._max_items = max_items
        self._seed = seed
        self._kept: list[pa.Table] = []
        self._kept_items = 0
        self._below: np.uint64 | None = None
        self._of_items = 0

    def add(self, rows: pa.Table) -> None:
        """Add rows with the columns `columns`. Raises LabelError where lists differ in length."""
        if self.task is not None:
            rows = rows.filter(pc.equal(rows[TASK_VARIABLE], self.task))
        lengths = pc.list_value_length(rows[self.label])
        for name in self.features:
            if not pc.list_value_length(rows[name]).equals(lengths):
                raise LabelError.because(f"feature '{name}' has lists of other lengths than '{self.label}'")
        self._of_items += pc.sum(lengths).as_py() or 0
        hashes = row_hashes(rows, [*self.context, TIME_COLUMN], self._seed)
        rows = rows.select(self._columns_kept).append_column(_HASH, pa.array(hashes))
        if self._below is not None:
            rows = rows.filter(pa.array(hashes < self._below))
        self._kept.append(rows)
        self._kept_items += pc.sum(pc.list_value_length(rows[self.label])).as_py() or 0
        if self._kept_items > 2 * self._max_items:
            self._kept = [self._smallest()]

    def sample(self) -> LeakSample:
        """Return the sample."""
        if not self._kept:
            none = np.zeros(0, dtype=np.float32)
            return LeakSample(none, np.zeros(1, dtype=np.int64), dict.fromkeys(self.features, none))
        rows = self._smallest()
        return replace(self._labels(rows), features=_features(rows, self.features))

    def rows(self) -> tuple[LeakSample, pa.Table]:
        """Return the sample without features, and its rows."""
        if not self._kept:
            return replace(self.sample(), features={}), pa.table({})
        rows = self._smallest()
        return self._labels(rows), rows

    def _labels(self, rows: pa.Table) -> LeakSample:
        sizes = pc.fill_null(pc.list_value_length(rows[self.label]), 0).to_numpy()
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return LeakSample(_floats(rows[self.label]), offsets, {}, self._of_items)

    def _smallest(self) -> pa.Table:
        """Return the kept rows with the smallest hashes that fit, by hash, and drop all others from now on."""
        rows = pa.concat_tables(self._kept)
        rows = rows.take(pc.sort_indices(rows[_HASH]))
        sizes = pc.fill_null(pc.list_value_length(rows[self.label]), 0).to_numpy()
        fitting = _fitting(sizes, self._max_items)
        if fitting < len(sizes):
            self._below = rows[_HASH].to_numpy()[fitting]
        self._kept_items = int(sizes[:fitting].sum())
        return rows.slice(0, fitting).combine_chunks()


def sample_of(
    storage: Storage,
    files: Sequence[DataFile],
    scope: LeakScope,
    items: int,
    thresholds: LeakThresholds | None = None,
) -> LeakSample:
    """Sample a feature set's files, committed or not.

    scope: only its columns, the time and the label are read
    items: of the scope's rows in all files; where there are many more than needed, whole row groups are skipped, evenly

    Raises MissingFileError, CorruptFileError, or DataKeyError for a missing column.
    """
    thresholds = thresholds or LeakThresholds()
    sampler = LeakSampler(
        scope.features, scope.context, thresholds.max_items, thresholds.seed, label=scope.label, task=scope.task
    )
    _read_into(sampler, storage, files, items, thresholds)
    return replace(sampler.sample(), of_items=items)


def sample_rows(
    storage: Storage,
    files: Sequence[DataFile],
    scope: LeakScope,
    lists: Sequence[str],
    more: Sequence[str],
    items: int,
    thresholds: LeakThresholds,
) -> tuple[LeakSample, pa.Table]:
    """Sample rows as `sample_of` does. Returns their labels, and the columns `lists`, `more` and `time`."""
    sampler = LeakSampler(lists, scope.context, thresholds.max_items, thresholds.seed, more, scope.label, scope.task)
    _read_into(sampler, storage, files, items, thresholds)
    return sampler.rows()


def _read_into(
    sampler: LeakSampler, storage: Storage, files: Sequence[DataFile], items: int, thresholds: LeakThresholds
) -> None:
    step = max(1, items // (_READ_FOR_ONE * thresholds.max_items))
    group = 0
    for file in files:
        with ParquetReader(storage, file) as reader:
            for position in range(reader.metadata.num_row_groups):
                if group % step == 0:
                    sampler.add(reader.read(sampler.columns, [position]))
                group += 1


def _features(rows: pa.Table, names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    features: dict[str, NDArray[np.float32]] = {}
    for name in names:
        if not is_vector(rows.schema.field(name).type.value_type):
            features[name] = _floats(rows[name])
            continue
        matrix = vector_matrix(name, one_array(pc.list_flatten(rows[name])))
        columns = columns_of([name], {name: matrix.shape[1]})
        features |= {column: np.ascontiguousarray(matrix[:, i]) for i, column in enumerate(columns)}
    return features


def _floats(column: pa.ChunkedArray) -> NDArray[np.float32]:
    values = pc.fill_null(pc.list_flatten(column).cast(pa.float32()), float("nan"))
    floats: NDArray[np.float32] = np.ascontiguousarray(values.to_numpy())
    return floats


def _fitting(sizes: NDArray[np.int64], most: int) -> int:
    """Return how many of the first sizes add up to at most `most`; at least one, if there are any."""
    return max(min(1, len(sizes)), int(np.searchsorted(np.cumsum(sizes), most, side="right")))
