"""Ranking data: contexts with their items, labels and features as flat arrays, read from feature sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.training.context_weights import ContextWeight
from delorean.training.stable_hash import unit_hash
from schemas.errors import MissingFileError, TrainingError
from schemas.tables import TIME
from snapshotter.storage.delta import delta_table
from snapshotter.storage.delta_version import DeltaVersion

_BATCH_ROWS = 16_384
Batches = Callable[[Sequence[str]], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class RankingData:
    """Labelled items of many contexts, concatenated.

    contexts: one row for each context: its variables, `time` (timestamp[us, UTC]) and, where the feature set has it,
        `outcome_at`, the time at which its labels became known
    items: the items of all contexts, concatenated, one column for each item variable
    offsets: (contexts + 1,) where each context's items start and end
    labels: (items,) float32; above 0 is positive
    features: (items, features) float32, NaN where missing
    names: of the features, in the order of their columns
    weights: (contexts,) float64 weight of each context in training, None: all equal
    unread: number of contexts and of items of the feature set that a sample left out
    own_item_weights: (items,) float32 weight of each item within its context, None: all 1
    """

    contexts: pa.Table
    items: pa.Table
    offsets: NDArray[np.int64]
    labels: NDArray[np.float32]
    features: NDArray[np.float32]
    names: tuple[str, ...]
    weights: NDArray[np.float64] | None = None
    unread: tuple[int, int] = (0, 0)
    own_item_weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        """Return the number of contexts."""
        return len(self.offsets) - 1

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Whether each item is a positive."""
        return self.labels > 0

    @property
    def item_weights(self) -> NDArray[np.float64] | None:
        """Each item's weight: its context's, times its own."""
        if self.weights is None:
            return None if self.own_item_weights is None else self.own_item_weights.astype(np.float64)
        weights = np.repeat(self.weights, np.diff(self.offsets))
        return weights if self.own_item_weights is None else weights * self.own_item_weights

    def take(self, rows: NDArray[np.int64]) -> RankingData:
        """Return some contexts with their items, in the order of `rows`."""
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
            own_item_weights=None if self.own_item_weights is None else self.own_item_weights[positions],
        )


def read_feature_set(
    source: str | pa.Table,
    features: Sequence[str],
    items: Sequence[str],
    context: Sequence[str],
    *,
    version: int | None = None,
    weight: str | ContextWeight | None = None,
    max_items: int | None = None,
    seed: int = 0,
    label: str = "label",
    item_weight: str | None = None,
) -> RankingData:
    """Read a feature set for training, sorted by time and context, so that the order of files cannot change a model.

    source: the path of a Delta table, or an Arrow table of the same columns
    features: columns of type list<float32>; they become the features in this order
    items, context: the columns of the item variables (lists) and of the context variables
    version: of the Delta table; None: the newest
    weight: a column with each context's weight, such as `confidence`; where it is null the weight is 1. Or an inverse
        probability, see `ContextWeight`
    max_items: if there are more, contexts are sampled by a seeded hash of their variables and time
    label, item_weight: columns of lists: the label, and each item's weight; None: all 1

    Memory: the result and a few thousand rows; while a sample is drawn, the variables of four times as many contexts.
    Raises TrainingError for a missing table, column or value, or a column of another type.
    """
    names, batches = _batches(source, version, label)
    weighting = ContextWeight(times=weight) if isinstance(weight, str) else weight
    weight_columns = () if weighting is None else weighting.columns
    outcome = ["outcome_at"] if "outcome_at" in names else []
    columns = list(dict.fromkeys([*context, "time", *outcome, *weight_columns]))
    chosen = _choose_contexts(batches, columns, [*context, "time"], max_items, seed, label)
    order = _sorted_rows(chosen.contexts, context)
    offsets = _offsets(chosen.lengths[order])
    starts = np.empty(len(order), dtype=np.int64)
    starts[order] = offsets[:-1]
    matrix = np.empty((int(offsets[-1]), len(features)), dtype=np.float32)
    floats = {name: np.empty(len(matrix), np.float32) for name in (label, item_weight) if name is not None}
    item_table = _read_items(batches, chosen, starts, (matrix, floats), (features, items))
    if np.isnan(floats[label]).any() or (floats[label] < 0).any():
        raise TrainingError.because(f"column '{label}' has nulls or values below 0, expected gains of 0 and more")
    contexts = chosen.contexts.take(order)
    weights = None if weighting is None else weighting.of(contexts)
    contexts = contexts.drop_columns([name for name in weight_columns if name not in (*context, "time", *outcome)])
    own_weights = None if item_weight is None else floats[item_weight]
    return RankingData(
        contexts, item_table, offsets, floats[label], matrix, tuple(features), weights, chosen.unread, own_weights
    )


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions start, start + 1, … of each range, concatenated.

    >>> ranges(np.array([5, 0]), np.array([2, 3]))
    array([5, 6, 0, 1, 2])
    """
    ends = np.cumsum(lengths)
    return np.arange(int(ends[-1]) if len(ends) else 0, dtype=np.int64) + np.repeat(starts - ends + lengths, lengths)


def _batches(source: str | pa.Table, version: int | None, label: str) -> tuple[Sequence[str], Batches]:
    """Return the names of a source's columns and a function that reads some of them."""
    if isinstance(source, pa.Table):
        table = source
        _require(table.schema.names, ["time", label])
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


def _require(existing: Sequence[str], required: Sequence[str], where: str = "the feature set") -> None:
    for name in required:
        if name not in existing:
            raise TrainingError.unknown(f"column of {where}", name, existing)


@dataclass(frozen=True)
class _ChosenContexts:
    """The contexts that are read.

    rows: their row numbers in the feature set, ascending; lengths: number of items of each
    unread: number of contexts and of items that are left out
    """

    contexts: pa.Table
    rows: NDArray[np.int64]
    lengths: NDArray[np.int64]
    unread: tuple[int, int]


def _choose_contexts(
    batches: Batches, columns: Sequence[str], key: Sequence[str], most: int | None, seed: int, label: str
) -> _ChosenContexts:
    """Read the contexts, and keep a sample by hash if they have more items than `most`.

    The number of items is known only at the end. Until then, contexts whose hash is below a bound are kept; the bound
    is halved whenever they have more than four times `most` items, so it stays above the final bound.
    """
    kept: list[tuple[pa.RecordBatch, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
    rows = items = kept_items = 0
    bound = 1.0
    for batch in batches([*columns, label]):
        _check_times(batch)
        lengths = _lengths(batch, label)
        hashes = np.zeros(len(batch)) if most is None else unit_hash([batch[name] for name in key], seed)
        numbers = np.arange(rows, rows + len(batch))
        kept.append(_below(bound, batch.select(list(columns)), numbers, lengths, hashes))
        rows, items, kept_items = rows + len(batch), items + int(lengths.sum()), kept_items + int(kept[-1][2].sum())
        while most is not None and kept_items > 4 * most:
            bound /= 2
            kept = [_below(bound, *part) for part in kept]
            kept_items = sum(int(part[2].sum()) for part in kept)
    if rows == 0:
        raise TrainingError.because("the feature set is empty", "generate features for label data that has rows")
    if most is not None and items > most:
        kept = [_below(most / items, *part) for part in kept]
    contexts = pa.Table.from_batches([part[0] for part in kept]).combine_chunks()
    numbers, lengths = (np.concatenate([part[i] for part in kept]) for i in (1, 2))
    return _ChosenContexts(contexts, numbers, lengths, (rows - len(numbers), items - int(lengths.sum())))


def _below(
    bound: float,
    contexts: pa.RecordBatch,
    numbers: NDArray[np.int64],
    lengths: NDArray[np.int64],
    hashes: NDArray[np.float64],
) -> tuple[pa.RecordBatch, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Keep the contexts whose hash is below a bound."""
    keep = hashes < bound
    if keep.all():
        return contexts, numbers, lengths, hashes
    return contexts.filter(pa.array(keep)), numbers[keep], lengths[keep], hashes[keep]


def _check_times(contexts: pa.RecordBatch) -> None:
    if contexts.schema.field("time").type != TIME:
        raise TrainingError.because(f"column 'time' is {contexts.schema.field('time').type}, expected {TIME}")
    if contexts["time"].null_count:
        raise TrainingError.because("column 'time' has nulls: a row without a time belongs to no part of a split")


def _lengths(batch: pa.RecordBatch, column: str) -> NDArray[np.int64]:
    values = batch.column(column)
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
        raise TrainingError.because(f"column '{column}' is {values.type}, expected a list with a value for each item")
    if values.null_count:
        raise TrainingError.because(f"column '{column}' is null in {values.null_count} rows, expected a list in each")
    lengths: NDArray[np.int64] = pc.list_value_length(values).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def _sorted_rows(contexts: pa.Table, names: Sequence[str]) -> NDArray[np.int64]:
    keys = [(name, "ascending") for name in ["time", *names]]
    order: NDArray[np.int64] = pc.sort_indices(contexts, sort_keys=keys).to_numpy().astype(np.int64)
    return order


def _read_items(
    batches: Batches,
    chosen: _ChosenContexts,
    starts: NDArray[np.int64],
    into: tuple[NDArray[np.float32], Mapping[str, NDArray[np.float32]]],
    columns: tuple[Sequence[str], Sequence[str]],
) -> pa.Table:
    """Write the lists of each chosen row where its context starts, and return the items in that order.

    into: the features' matrix, and an array for each other column of lists of floats
    """
    matrix, others = into
    features, items = columns
    item_batches: list[pa.RecordBatch] = []
    positions: list[NDArray[np.int64]] = []
    row = 0
    for batch in batches([*items, *features, *others]):
        first, end = np.searchsorted(chosen.rows, [row, row + len(batch)])
        numbers, lengths = chosen.rows[first:end], chosen.lengths[first:end]
        read = batch if len(numbers) == len(batch) else batch.take(pa.array(numbers - row))
        row += len(batch)
        target = ranges(starts[first:end], lengths)
        for column, name in enumerate(features):
            matrix[target, column] = _floats(read, name, lengths, numbers)
        for name, values in others.items():
            values[target] = _floats(read, name, lengths, numbers)
        item_batches.append(pa.record_batch([_flat(read, name, lengths, numbers) for name in items], names=items))
        positions.append(target)
    order = np.empty(len(matrix), dtype=np.int64)
    order[np.concatenate(positions)] = np.arange(len(matrix))
    return pa.Table.from_batches(item_batches).take(order).combine_chunks()


def _flat(batch: pa.RecordBatch, column: str, lengths: NDArray[np.int64], rows: NDArray[np.int64]) -> pa.Array:
    own_lengths = _lengths(batch, column)
    if (own_lengths != lengths).any():
        at = int(np.argmax(own_lengths != lengths))
        raise TrainingError.because(
            f"column '{column}' has {own_lengths[at]} values in row {rows[at]}, expected {lengths[at]}: one per label"
        )
    return batch.column(column).flatten()


def _floats(
    batch: pa.RecordBatch, column: str, lengths: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    values = _flat(batch, column, lengths, rows)
    if values.type != pa.float32():
        raise TrainingError.because(f"column '{column}' is {batch.column(column).type}, expected list<float>")
    floats: NDArray[np.float32] = values.to_numpy(zero_copy_only=False)
    return floats


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
