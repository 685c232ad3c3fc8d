"""Ranking data: contexts, their items, labels and features, flattened for learning; read from feature sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.training.stable_hash import unit_hash
from schemas.errors import MissingFileError, TrainingError
from schemas.tables import TIME
from snapshotter.storage.delta import delta_table
from snapshotter.storage.delta_version import DeltaVersion

_BATCH_ROWS = 16_384
Batches = Callable[[Sequence[str]], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class RankingData:
    """Labelled items of many contexts, end to end.

    contexts: one row for each context: its variables, `time` (timestamp[us, UTC]) and, where the feature set has it,
        `outcome_at`, from when on its labels are known
    items: the items of all contexts end to end, one column for each item variable
    offsets: (contexts + 1,) where each context's items start and end
    labels: (items,) float32; above 0 is positive
    features: (items, features) float32, NaN where unknown
    names: the features' names, in the order of their columns
    weights: (contexts,) float64 weight of each context in training, None: all equal
    """

    contexts: pa.Table
    items: pa.Table
    offsets: NDArray[np.int64]
    labels: NDArray[np.float32]
    features: NDArray[np.float32]
    names: tuple[str, ...]
    weights: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        """Number of contexts."""
        return len(self.offsets) - 1

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Whether each item is a positive."""
        return self.labels > 0

    @property
    def item_weights(self) -> NDArray[np.float64] | None:
        """Each item's weight: its context's."""
        return None if self.weights is None else np.repeat(self.weights, np.diff(self.offsets))

    def take(self, rows: NDArray[np.int64]) -> RankingData:
        """Give some contexts with their items, in the order of `rows`."""
        lengths = np.diff(self.offsets)[rows]
        positions = ranges(self.offsets[:-1][rows], lengths)
        return replace(
            self,
            contexts=self.contexts.take(rows),
            items=self.items.take(positions),
            offsets=_offsets(lengths),
            labels=self.labels[positions],
            features=self.features[positions],
            weights=None if self.weights is None else self.weights[rows],
        )


def read_feature_set(
    source: str | pa.Table,
    features: Sequence[str],
    items: Sequence[str],
    context: Sequence[str],
    *,
    version: int | None = None,
    weight: str | None = None,
    max_items: int | None = None,
    seed: int = 0,
) -> RankingData:
    """Read a feature set for training, sorted by time and context, so that no file's order changes a model.

    source: the path of a Delta table, or an Arrow table of the same columns
    features: columns list<float32>, which become the features in this order
    items, context: the columns of the item variables (lists) and of the context variables
    version: of the Delta table, None: the newest
    weight: a column with each context's weight, such as `confidence`; where it is null the context counts 1
    max_items: when there are more, contexts are sampled by a seeded hash of their variables and time

    Memory: the result, and a few thousand rows at a time besides. Raises TrainingError.
    """
    names, batches = _batches(source, version)
    outcome = ["outcome_at"] if "outcome_at" in names else []
    wanted = [*context, "time", *outcome, *([weight] if weight else [])]
    contexts, lengths = _read_contexts(batches, wanted)
    keep = _sample(contexts.select([*context, "time"]), lengths, max_items, seed)
    order = _sorted_rows(contexts, context, keep)
    starts = np.full(len(lengths), -1, dtype=np.int64)
    offsets = _offsets(lengths[order])
    starts[order] = offsets[:-1]
    matrix = np.empty((int(offsets[-1]), len(features)), dtype=np.float32)
    labels = np.empty(len(matrix), dtype=np.float32)
    item_table = _read_items(batches, starts, lengths, (matrix, labels), (features, items))
    contexts = contexts.take(order)
    weights = _weights(contexts, weight) if weight else None
    if weight:
        contexts = contexts.drop_columns([weight])
    return RankingData(contexts, item_table, offsets, labels, matrix, tuple(features), weights)


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the positions start, start + 1, … of each range, end to end.

    >>> ranges(np.array([5, 0]), np.array([2, 3]))
    array([5, 6, 0, 1, 2])
    """
    ends = np.cumsum(lengths)
    return np.arange(int(ends[-1]) if len(ends) else 0, dtype=np.int64) + np.repeat(starts - ends + lengths, lengths)


def _batches(source: str | pa.Table, version: int | None) -> tuple[Sequence[str], Batches]:
    """Give the names of a source's columns and a way to read some of them."""
    if isinstance(source, pa.Table):
        table = source
        _require(table.schema.names, ["time", "label"])
        return table.schema.names, lambda columns: _from_table(table, columns)
    try:
        stored = DeltaVersion.of(delta_table(source, version), source)
    except MissingFileError as error:
        raise TrainingError.because(f"no feature set to train on: {error}", "generate one first") from error

    def read(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        _require(stored.schema.names, columns, f"version {stored.version} of {source}")
        yield from stored.batches(columns)

    return stored.schema.names, read


def _from_table(table: pa.Table, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    _require(table.schema.names, columns)
    yield from table.select(list(columns)).to_batches(max_chunksize=_BATCH_ROWS)


def _require(found: Sequence[str], wanted: Sequence[str], where: str = "the feature set") -> None:
    for name in wanted:
        if name not in found:
            raise TrainingError.unknown(f"column of {where}", name, found)


def _read_contexts(batches: Batches, columns: Sequence[str]) -> tuple[pa.Table, NDArray[np.int64]]:
    parts, lengths = [], []
    for batch in batches([*columns, "label"]):
        parts.append(batch.select(list(columns)))
        lengths.append(_lengths(batch, "label"))
    rows = sum(len(part) for part in parts)
    if rows == 0:
        raise TrainingError.because("the feature set is empty", "generate features for label data that has rows")
    contexts = pa.Table.from_batches(parts)
    if contexts.schema.field("time").type != TIME:
        raise TrainingError.because(f"column 'time' is {contexts.schema.field('time').type}, expected {TIME}")
    if contexts["time"].null_count:
        raise TrainingError.because("column 'time' has nulls: a row without a time belongs to no part of a split")
    return contexts.combine_chunks(), np.concatenate(lengths)


def _lengths(batch: pa.RecordBatch, column: str) -> NDArray[np.int64]:
    values = batch.column(column)
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
        raise TrainingError.because(f"column '{column}' is {values.type}, expected a list with a value for each item")
    if values.null_count:
        raise TrainingError.because(f"column '{column}' is null in {values.null_count} rows, expected a list in each")
    found: NDArray[np.int64] = pc.list_value_length(values).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _sample(contexts: pa.Table, lengths: NDArray[np.int64], most: int | None, seed: int) -> NDArray[np.int64]:
    total = int(lengths.sum())
    if most is None or total <= most:
        return np.arange(len(lengths))
    return np.flatnonzero(unit_hash(contexts.columns, seed) < most / total)


def _sorted_rows(contexts: pa.Table, names: Sequence[str], keep: NDArray[np.int64]) -> NDArray[np.int64]:
    keys = [(name, "ascending") for name in ["time", *names]]
    order: NDArray[np.int64] = pc.sort_indices(contexts, sort_keys=keys).to_numpy().astype(np.int64)
    kept = np.zeros(len(order), dtype=bool)
    kept[keep] = True
    return order[kept[order]]


def _read_items(
    batches: Batches,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    into: tuple[NDArray[np.float32], NDArray[np.float32]],
    columns: tuple[Sequence[str], Sequence[str]],
) -> pa.Table:
    """Put each row's lists where its context stands (start −1: left out), and give the items in that order."""
    matrix, labels = into
    features, items = columns
    parts: list[pa.RecordBatch] = []
    places: list[NDArray[np.int64]] = []
    row = 0
    for batch in batches([*items, *features, "label"]):
        start, length = starts[row : row + len(batch)], lengths[row : row + len(batch)]
        kept = np.repeat(start >= 0, length)
        place = ranges(start, length)[kept]
        for column, name in enumerate(features):
            matrix[place, column] = _floats(batch, name, length, row)[kept]
        labels[place] = _floats(batch, "label", length, row)[kept]
        parts.append(
            pa.record_batch([_flat(batch, name, length, row).filter(pa.array(kept)) for name in items], names=items)
        )
        places.append(place)
        row += len(batch)
    if np.isnan(labels).any() or (labels < 0).any():
        raise TrainingError.because("column 'label' has nulls or values below 0, expected gains of 0 and more")
    where = np.empty(len(labels), dtype=np.int64)
    where[np.concatenate(places)] = np.arange(len(labels))
    return pa.Table.from_batches(parts).take(where).combine_chunks()


def _flat(batch: pa.RecordBatch, column: str, lengths: NDArray[np.int64], row: int) -> pa.Array:
    found = _lengths(batch, column)
    if (found != lengths).any():
        at = int(np.argmax(found != lengths))
        raise TrainingError.because(
            f"column '{column}' has {found[at]} values in row {row + at}, expected {lengths[at]}: one for each label"
        )
    return batch.column(column).flatten()


def _floats(batch: pa.RecordBatch, column: str, lengths: NDArray[np.int64], row: int) -> NDArray[np.float32]:
    values = _flat(batch, column, lengths, row)
    if values.type != pa.float32():
        raise TrainingError.because(f"column '{column}' is {batch.column(column).type}, expected list<float>")
    found: NDArray[np.float32] = values.to_numpy(zero_copy_only=False)
    return found


def _weights(contexts: pa.Table, name: str) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = pc.fill_null(contexts[name].cast(pa.float64()), 1.0).to_numpy()
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise TrainingError.because(f"weight column '{name}' has values that are not finite and 0 or more")
    return weights


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
