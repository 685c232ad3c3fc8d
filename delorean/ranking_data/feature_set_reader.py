"""Reads ranking data from feature sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.ranking_data.context_sample import Batches, ChosenContexts, Eligible, choose_contexts
from delorean.ranking_data.context_weights import ContextWeight
from delorean.ranking_data.list_columns import ChosenRows, FeatureColumn, feature_columns
from delorean.ranking_data.matrix import IN_MEMORY, new_matrix
from delorean.ranking_data.ranking_data import RankingData, offsets_of, ranges
from delorean.ranking_data.split import LEFT_OUT, PARTS, Split, SplitParts
from schemas.errors import MissingFileError, TrainingError
from schemas.tables import TIME
from snapshotter.storage.delta import delta_table
from snapshotter.storage.delta_version import DeltaVersion

_BATCH_ROWS = 16_384


@dataclass(frozen=True)
class RankingColumns:
    """The columns of a feature set that make ranking data.

    features: columns of lists of numbers that float32 holds exactly, or of vectors of one length; they become the
        features in this order, and each vector several: `name[0]`, `name[1]`, …
    items, context: the columns of the item variables (lists) and of the context variables
    weight: a column with each context's weight, such as `confidence`; where it is null the weight is 1. Or an inverse
        probability, see `ContextWeight`
    label, item_weight: columns of lists: the label, and each item's weight; None: all 1
    other_labels: columns of lists of labels that are kept beside it, null as NaN
    kept: further columns of one value for each context, such as a stratum, to measure by
    """

    features: tuple[str, ...]
    items: tuple[str, ...]
    context: tuple[str, ...]
    weight: str | ContextWeight | None = None
    label: str = "label"
    item_weight: str | None = None
    other_labels: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    @property
    def weighting(self) -> ContextWeight | None:
        """The weight of contexts."""
        return ContextWeight(times=self.weight) if isinstance(self.weight, str) else self.weight


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
    other_labels: Sequence[str] = (),
    in_memory: int = IN_MEMORY,
    kept: Sequence[str] = (),
    eligible: Eligible | None = None,
) -> RankingData:
    """Read a feature set for training, sorted by time and context, so that the order of files cannot change a model.

    source: the path of a Delta table, or an Arrow table of the same columns
    features, items, context, weight, label, item_weight, other_labels, kept: see `RankingColumns`
    version: of the Delta table; None: the newest
    max_items: if there are more, contexts are sampled by a seeded hash of their variables and time
    in_memory: features that take more bytes are a mapped file, see `new_matrix`
    eligible: returns for some contexts whether each may be read; others are left out before a sample is drawn

    Memory: the result and a few thousand rows; while a sample is drawn, the variables of four times as many contexts.
    Raises TrainingError for a missing table, column or value, or a column of another type.
    """
    columns = RankingColumns(
        tuple(features), tuple(items), tuple(context), weight, label, item_weight, tuple(other_labels), tuple(kept)
    )
    reader = _Reader(source, version, columns)
    chosen = reader.choose(max_items, seed, eligible)
    return reader.read(chosen, _sorted_rows(chosen.contexts, columns.context), in_memory)


def read_parts(
    source: str | pa.Table,
    columns: RankingColumns,
    split: Split,
    *,
    version: int | None = None,
    max_items: int | None = None,
    seed: int = 0,
    in_memory: int = IN_MEMORY,
    share: tuple[int, int] | None = None,
) -> SplitParts:
    """Read the parts of a feature set, as `split.divide(read_feature_set(…))` but without a copy of the features.

    share: (i, n) reads files i, i + n, … of a Delta table, whose parts may be empty; None: all files
    Other arguments are those of `read_feature_set`.

    Each part is sorted by time and context; the three lie end to end in one matrix.

    Raises what `read_feature_set` raises, and TrainingError when a part would be empty.
    """
    reader = _Reader(source, version, columns, share)
    chosen = reader.choose(max_items, seed)
    order = _sorted_rows(chosen.contexts, columns.context)
    assigned = split.assign(chosen.contexts)[order]
    if share is None:
        split.require_parts(assigned, chosen.contexts)
    by_part = np.argsort(assigned, kind="stable")
    kept = order[by_part[np.searchsorted(assigned[by_part], 0) :]]
    data = reader.read(chosen, kept, in_memory)
    bounds = offsets_of(np.bincount(assigned[assigned != LEFT_OUT], minlength=len(PARTS)))
    train, validation, test = (data.between(int(first), int(end)) for first, end in pairwise(bounds))
    return SplitParts(train, validation, test, int((assigned == LEFT_OUT).sum()), data.unread)


def _time_range(source: str, version: int | None) -> pa.Array:
    """Return the first and the last time of a feature set's contexts. Raises TrainingError for an empty one."""
    _, batches, _ = _batches(source, version, "time")
    ranges_ = [pc.min_max(batch.column(0)) for batch in batches(["time"]) if len(batch)]
    if not ranges_:
        raise TrainingError.because(f"the feature set {source} is empty", "generate features for label data with rows")
    ends = [min(each["min"].as_py() for each in ranges_), max(each["max"].as_py() for each in ranges_)]
    return pa.array(ends, TIME)


@dataclass(frozen=True)
class FeatureSetSource:
    """A version of a feature set's Delta table to learn from. Fields as in `read_feature_set`."""

    uri: str
    version: int | None
    columns: RankingColumns
    max_items: int | None = None
    seed: int = 0

    def parts(self, split: Split) -> SplitParts:
        """Read the parts, or a sample of contexts."""
        return read_parts(self.uri, self.columns, split, version=self.version, max_items=self.max_items, seed=self.seed)

    def share(self, split: Split, number: int, shares: int) -> SplitParts:
        """Read a share of the files, whole. Raises TrainingError if there is no row in them."""
        return read_parts(self.uri, self.columns, split, version=self.version, share=(number, shares))

    def at_fixed_times(self, split: Split) -> Split:
        """Return the split of all contexts, for whichever of them is read."""
        return split.at_times_of(pa.table({"time": _time_range(self.uri, self.version)}))


class _Reader:
    """Reads ranking data from one source, or from a share of its files."""

    def __init__(
        self,
        source: str | pa.Table,
        version: int | None,
        columns: RankingColumns,
        share: tuple[int, int] | None = None,
    ) -> None:
        self._columns = columns
        self._schema, self._batches, self._name = _batches(source, version, columns.label, share)
        weight = () if columns.weighting is None else columns.weighting.columns
        outcome = ["outcome_at"] if "outcome_at" in self._schema.names else []
        self._of_contexts = list(dict.fromkeys([*columns.context, "time", *outcome, *columns.kept]))
        self._of_weights = [name for name in weight if name not in self._of_contexts]

    def choose(self, max_items: int | None, seed: int, eligible: Eligible | None = None) -> ChosenContexts:
        """Read the contexts, all or a sample."""
        columns, key = [*self._of_contexts, *self._of_weights], [*self._columns.context, "time"]
        return choose_contexts(self._batches, columns, key, max_items, seed, self._columns.label, eligible)

    def read(self, chosen: ChosenContexts, order: NDArray[np.int64], in_memory: int) -> RankingData:
        """Read chosen contexts. order: positions among the chosen ones, of those that are kept, as they shall stand."""
        columns = self._columns
        offsets = offsets_of(chosen.lengths[order])
        rank = np.argsort(order)  # of the chosen contexts, in the order in which they are read
        starts = offsets[:-1][rank]
        kept = replace(chosen, rows=chosen.rows[order[rank]], lengths=chosen.lengths[order[rank]])
        _require(self._schema.names, columns.features, self._name)
        features = feature_columns(self._batches, self._schema, columns.features)
        names = tuple(name for feature in features for name in feature.names)
        matrix = new_matrix(int(offsets[-1]), len(names), in_memory)
        lists = [name for name in (columns.label, columns.item_weight, *columns.other_labels) if name is not None]
        floats = {name: np.empty(len(matrix), np.float32) for name in lists}
        items = _read_items(self._batches, kept, starts, matrix, floats, features, columns.items)
        _require_gains(floats[columns.label], columns.label)
        contexts = chosen.contexts.take(order)
        weighting = columns.weighting
        return RankingData(
            contexts.drop_columns(self._of_weights),
            items,
            offsets,
            floats[columns.label],
            matrix,
            names,
            None if weighting is None else weighting.of(contexts),
            chosen.unread,
            None if columns.item_weight is None else floats[columns.item_weight],
            {name: floats[name] for name in columns.other_labels},
            None if weighting is None else weighting.probabilities(contexts),
        )


def _require_gains(labels: NDArray[np.float32], column: str) -> None:
    if not (labels >= 0).all() or np.isinf(labels).any():
        raise TrainingError.because(
            f"column '{column}' has nulls or values below 0, or infinite ones, expected gains of 0 and more"
        )


def _batches(
    source: str | pa.Table, version: int | None, label: str, share: tuple[int, int] | None = None
) -> tuple[pa.Schema, Batches, str]:
    """Return a source's schema, a function that reads some of its columns, and its name for people."""
    if isinstance(source, pa.Table):
        table = source
        _require(table.schema.names, ["time", label])
        return table.schema, lambda columns: _from_table(table, columns), "the feature set"
    try:
        stored = DeltaVersion.of(delta_table(source, version), source)
    except MissingFileError as error:
        raise TrainingError.because(f"no feature set to train on: {error}", "generate one first") from error

    (first, step), name = share or (0, 1), f"version {stored.version} of {source}"

    def read(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        _require(stored.schema.names, columns, name)
        for file in stored.files[first::step]:
            yield from stored.read(file, columns)

    return stored.schema, read, name


def _from_table(table: pa.Table, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    _require(table.schema.names, columns)
    yield from table.select(list(columns)).to_batches(max_chunksize=_BATCH_ROWS)


def _require(existing: Sequence[str], required: Sequence[str], where: str = "the feature set") -> None:
    for name in required:
        if name not in existing:
            raise TrainingError.unknown(f"column of {where}", name, existing)


def _sorted_rows(contexts: pa.Table, names: Sequence[str]) -> NDArray[np.int64]:
    keys = [(name, "ascending") for name in ["time", *names]]
    order: NDArray[np.int64] = pc.sort_indices(contexts, sort_keys=keys).to_numpy().astype(np.int64)
    return order


def _read_items(
    batches: Batches,
    chosen: ChosenContexts,
    starts: NDArray[np.int64],
    matrix: NDArray[np.float32],
    others: dict[str, NDArray[np.float32]],
    features: Sequence[FeatureColumn],
    items: Sequence[str],
) -> pa.Table:
    """Write the lists of each chosen row where its context starts, and return the items in that order.

    matrix: receives the features; others: an array for each other column of lists of floats
    """
    item_batches: list[pa.RecordBatch] = []
    positions: list[NDArray[np.int64]] = []
    row = 0
    for batch in batches([*items, *(feature.name for feature in features), *others]):
        first, end = np.searchsorted(chosen.rows, [row, row + len(batch)])
        numbers, lengths = chosen.rows[first:end], chosen.lengths[first:end]
        own = batch if len(numbers) == len(batch) else batch.take(pa.array(numbers - row))
        read = ChosenRows(own, numbers, lengths)
        row += len(batch)
        target = ranges(starts[first:end], lengths)
        column = 0
        for feature in features:
            matrix[target, column : column + feature.width] = read.matrix(feature)
            column += feature.width
        for name, values in others.items():
            values[target] = read.floats(name)
        item_batches.append(pa.record_batch([read.flat(name) for name in items], names=list(items)))
        positions.append(target)
    order = np.empty(len(matrix), dtype=np.int64)
    order[np.concatenate(positions)] = np.arange(len(matrix))
    return pa.Table.from_batches(item_batches).take(order).combine_chunks()
