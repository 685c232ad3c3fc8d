"""A bounded sample of labels and features: whole contexts, chosen by a hash of what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.labels import LABEL_COLUMN, TIME_COLUMN
from delorean.labels.row_hashes import row_hashes
from delorean.leaks.thresholds import LeakThresholds
from schemas.errors import LabelError
from snapshotter.records import DataFile
from snapshotter.storage import Storage
from snapshotter.storage.parquet import ParquetReader

_HASH = "#hash"  # no column of a feature set can have that name
_READ_FOR_ONE = 8  # items read for each that is sampled: what more there is, is skipped in whole row groups


@dataclass(frozen=True)
class LeakSample:
    """Labels and features of some contexts, end to end.

    labels: (items,) float32; NaN: unknown
    offsets: (contexts + 1,) int64, where each context's items start and end
    features: name → (items,) float32, NaN where the encoder knows nothing
    of_items: items of all contexts that the sample was taken from
    """

    labels: NDArray[np.float32]
    offsets: NDArray[np.int64]
    features: Mapping[str, NDArray[np.float32]]
    of_items: int = 0

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together. Raises LabelError."""
        if len(self.offsets) == 0 or self.offsets[0] != 0 or self.offsets[-1] != len(self.labels):
            raise LabelError.because(f"offsets do not go from 0 to the {len(self.labels)} labels")
        for name, values in self.features.items():
            if len(values) != len(self.labels):
                raise LabelError.because(f"feature '{name}' has {len(values)} values for {len(self.labels)} labels")

    def limited(self, max_items: int, seed: int) -> LeakSample:
        """Keep as many contexts, chosen evenly, as have together no more items; at least one."""
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
    """Gathers a sample from rows of a feature set as they come, in bounded memory.

    It keeps the contexts of the smallest hashes (Cohen and Kaplan 2007, bottom-k sketches), so the same rows give the
    same sample, in any order and any number of files.

    features: the columns, each list<float32> as long as the label's list
    context: the context variables' columns; together with the time they decide what is sampled
    more: other columns of the rows, for `rows`
    """

    def __init__(
        self, features: Sequence[str], context: Sequence[str], max_items: int, seed: int = 0, more: Sequence[str] = ()
    ) -> None:
        self.features = tuple(features)
        self.context = tuple(context)
        self.columns = tuple(dict.fromkeys((*context, TIME_COLUMN, LABEL_COLUMN, *features, *more)))
        self._columns_kept = tuple(dict.fromkeys((LABEL_COLUMN, *features, TIME_COLUMN, *more)))
        self._max_items = max_items
        self._seed = seed
        self._kept: list[pa.Table] = []
        self._kept_items = 0
        self._below: np.uint64 | None = None
        self._of_items = 0

    def add(self, rows: pa.Table) -> None:
        """Offer rows with the columns `columns`. Raises LabelError where lists are not of one length."""
        lengths = pc.list_value_length(rows[LABEL_COLUMN])
        for name in self.features:
            if not pc.list_value_length(rows[name]).equals(lengths):
                raise LabelError.because(f"feature '{name}' has lists of other lengths than '{LABEL_COLUMN}'")
        self._of_items += pc.sum(lengths).as_py() or 0
        hashes = row_hashes(rows, [*self.context, TIME_COLUMN], self._seed)
        rows = rows.select(self._columns_kept).append_column(_HASH, pa.array(hashes))
        if self._below is not None:
            rows = rows.filter(pa.array(hashes < self._below))
        self._kept.append(rows)
        self._kept_items += pc.sum(pc.list_value_length(rows[LABEL_COLUMN])).as_py() or 0
        if self._kept_items > 2 * self._max_items:
            self._kept = [self._smallest()]

    def sample(self) -> LeakSample:
        """Give what was gathered."""
        if not self._kept:
            none = np.zeros(0, dtype=np.float32)
            return LeakSample(none, np.zeros(1, dtype=np.int64), dict.fromkeys(self.features, none))
        rows = self._smallest()
        return replace(self._labels(rows), features={name: _floats(rows[name]) for name in self.features})

    def rows(self) -> tuple[LeakSample, pa.Table]:
        """Give the labels of what was gathered, without features, and the rows themselves."""
        if not self._kept:
            return replace(self.sample(), features={}), pa.table({})
        rows = self._smallest()
        return self._labels(rows), rows

    def _labels(self, rows: pa.Table) -> LeakSample:
        sizes = pc.fill_null(pc.list_value_length(rows[LABEL_COLUMN]), 0).to_numpy()
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return LeakSample(_floats(rows[LABEL_COLUMN]), offsets, {}, self._of_items)

    def _smallest(self) -> pa.Table:
        """Give the kept rows of the smallest hashes that fit, in that order; what is above will not be kept again."""
        rows = pa.concat_tables(self._kept)
        rows = rows.take(pc.sort_indices(rows[_HASH]))
        sizes = pc.fill_null(pc.list_value_length(rows[LABEL_COLUMN]), 0).to_numpy()
        fitting = _fitting(sizes, self._max_items)
        if fitting < len(sizes):
            self._below = rows[_HASH].to_numpy()[fitting]
        self._kept_items = int(sizes[:fitting].sum())
        return rows.slice(0, fitting).combine_chunks()


def sample_of(
    storage: Storage,
    files: Sequence[DataFile],
    features: Sequence[str],
    context: Sequence[str],
    items: int,
    thresholds: LeakThresholds | None = None,
) -> LeakSample:
    """Take a sample from a feature set's files, such as bucket tasks wrote, committed or not.

    features, context: names of the columns; nothing else is read, besides the time and the labels
    items: of all files; where there are many more than are wanted, whole row groups are skipped, evenly

    Raises MissingFileError, CorruptFileError, or DataKeyError for a column that is not there.
    """
    thresholds = thresholds or LeakThresholds()
    sampler = LeakSampler(features, context, thresholds.max_items, thresholds.seed)
    _gather(sampler, storage, files, items, thresholds)
    return replace(sampler.sample(), of_items=items)


def sample_rows(
    storage: Storage,
    files: Sequence[DataFile],
    lists: Sequence[str],
    context: Sequence[str],
    more: Sequence[str],
    items: int,
    thresholds: LeakThresholds,
) -> tuple[LeakSample, pa.Table]:
    """Take a sample of rows as `sample_of` does: their labels, and the columns `lists`, `more` and `time`."""
    sampler = LeakSampler(lists, context, thresholds.max_items, thresholds.seed, more)
    _gather(sampler, storage, files, items, thresholds)
    return sampler.rows()


def _gather(
    sampler: LeakSampler, storage: Storage, files: Sequence[DataFile], items: int, thresholds: LeakThresholds
) -> None:
    step = max(1, items // (_READ_FOR_ONE * thresholds.max_items))
    group = 0
    for file in files:
        with ParquetReader(storage, file) as reader:
            for place in range(reader.metadata.num_row_groups):
                if group % step == 0:
                    sampler.add(reader.read(sampler.columns, [place]))
                group += 1


def _floats(column: pa.ChunkedArray) -> NDArray[np.float32]:
    values = pc.fill_null(pc.list_flatten(column).cast(pa.float32()), float("nan"))
    found: NDArray[np.float32] = np.ascontiguousarray(values.to_numpy())
    return found


def _fitting(sizes: NDArray[np.int64], most: int) -> int:
    """Count how many of the first have together no more items; at least one, if there are any."""
    return max(min(1, len(sizes)), int(np.searchsorted(np.cumsum(sizes), most, side="right")))
