"""Compares feature sets at rest, or feature rows in memory, in parts small enough for any size of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from numpy.typing import NDArray

from delorean.comparison.comparer import Comparer
from delorean.comparison.result import FeatureComparison
from delorean.generation.feature_set import FeatureSet, lineage_of
from delorean.labels import LABEL_COLUMN
from schemas.errors import ConfigError, MissingFileError, StorageError
from schemas.hashing import bucket_of

Source: TypeAlias = FeatureSet | tuple[str, int | None] | str | pa.Table
_MOST_PARTS = 4096
_BATCH_ROWS = 16_384


def compare_feature_sets(
    before: Source,
    after: Source,
    *,
    context: Sequence[str] | None = None,
    items: Sequence[str] | None = None,
    values_at_once: int = 8_000_000,
) -> FeatureComparison:
    """Compare two versions of features: per feature whether it is equal, and how much it changed.

    before, after: feature sets, (uri of a Delta table, version), the uri alone for its newest version, or Arrow tables
        of the same columns
    context, items: the variables that tell rows and items apart; None: as the lineage of a feature set names them.
        Without lineage every list of floats is a feature
    values_at_once: bounds memory, by how many values of both sides are compared at a time

    Rows are dealt into parts by the bucket of a context variable, as many as bound the memory of one, and a part is
    compared at a time. Keys are read once more before, to see how many that takes. A file is read once for each part
    that it has rows of: once in all for files in buckets of that variable.

    Raises ConfigError for what is no feature set, or for sets of other variables; MissingFileError where a version's
    files are gone; DataKeyError for columns of other types, LabelError for rows that repeat a context and time.
    """
    told = context is not None and items is not None
    sides = [_Side.of(source, lineage=not told) for source in (before, after)]
    variables = []
    for what, given in (("context", context), ("items", items)):
        known = {tuple(side.keys[what]) for side in sides if what in side.keys} if given is None else {tuple(given)}
        if len(known) != 1:
            problem = " and ".join(" + ".join(names) for names in sorted(known)) or "not told, and no lineage tells"
            raise ConfigError.because(f"{what} of the two sides: {problem}", f'name them: {what}=("…",)')
        variables.append(known.pop())
    features = [side.features(variables[1]) for side in sides]
    comparer = Comparer(*variables, *features)
    for part in _parts(sides, comparer, values_at_once):
        comparer.add(*part)
    return comparer.result(sides[0].name, sides[1].name)


@dataclass
class _Side:
    """One of the two: its files, or one table's batches as if it were a file.

    keys: names of the `context` and `items` variables and of the `features`, where there is a lineage
    """

    name: str
    dataset: ds.Dataset
    keys: dict[str, list[str]]

    @classmethod
    def of(cls, source: Source, *, lineage: bool) -> _Side:
        if isinstance(source, pa.Table):
            return cls("a table", ds.dataset(source), {})
        if isinstance(source, FeatureSet):
            source = (source.uri, source.version)
        uri, version = (source, None) if isinstance(source, str) else source
        try:
            table = DeltaTable(uri, version=version)
            dataset = table.to_pyarrow_dataset()
        except (DeltaError, OSError) as error:
            wanted = "" if version is None else f"version {version} of "
            raise ConfigError.because(f"there is no {wanted}feature set at {uri}: {error}") from error
        name = f"{uri.rstrip('/').rsplit('/', 1)[-1]} version {table.version()}"
        if not lineage:
            return cls(name, dataset, {})
        found: dict[str, Any] = lineage_of(uri, table.version())
        keys = {what: [key["name"] for key in found[what]] for what in ("context", "items")}
        return cls(name, dataset, {**keys, "features": found["features"]})

    def features(self, items: Sequence[str]) -> list[str]:
        """Name the features: those of the lineage, or all lists of floats that are nothing else."""
        if "features" in self.keys:
            return self.keys["features"]
        schema: pa.Schema = self.dataset.schema
        lists = [f.name for f in schema if f.type in (pa.list_(pa.float32()), pa.large_list(pa.float32()))]
        return [name for name in lists if name not in (LABEL_COLUMN, *items)]

    def files(self) -> list[ds.Fragment]:
        return list(self.dataset.get_fragments())

    def read(self, file: ds.Fragment, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read some columns of a file, few rows at a time. Raises MissingFileError, StorageError."""
        try:
            yield from file.to_batches(
                schema=self.dataset.schema, columns=list(columns), batch_size=_BATCH_ROWS, batch_readahead=2
            )
        except FileNotFoundError as error:
            raise MissingFileError.because(
                f"{self.name}: file '{file.path}' is gone",
                "it was vacuumed away or deleted: generate the features again",
            ) from error
        except (DeltaError, OSError, pa.ArrowException) as error:
            raise StorageError.because(f"{self.name} cannot be read: {error}") from error


_Spread: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]  # fine buckets that a file has rows of, their items


@dataclass(frozen=True)
class _Parts:
    """Rows dealt by a variable's bucket. spread: of each file over fine buckets, which are parts of parts."""

    variable: str
    count: int
    spread: list[_Spread]


def _parts(sides: Sequence[_Side], comparer: Comparer, at_once: int) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Read both sides part by part, all rows of a context in one."""
    columns = comparer.columns
    for side in sides:
        for name in columns:
            if name not in side.dataset.schema.names:
                raise ConfigError.unknown(f"column of {side.name}", name, side.dataset.schema.names)
    variables = [name for name in comparer.context if _divides(name, sides)]
    if not variables:
        before, after = (_read(side, columns, None, 0) for side in sides)
        yield before, after
        return
    spreads = [_spreads(side, variables) for side in sides]
    # The variable that spreads items most evenly: the bucket variable nearly always, so that files line up with parts.
    sizes = {name: _total([file for spread in spreads for file in spread[name]]) for name in variables}
    variable = min(variables, key=lambda name: int(sizes[name].max()))
    count = _part_count(sizes[variable] * len(columns), at_once)
    for part in np.unique(np.flatnonzero(sizes[variable]) % count):
        before, after = (
            _read(side, columns, _Parts(variable, count, spread[variable]), int(part))
            for side, spread in zip(sides, spreads, strict=True)
        )
        yield before, after


def _divides(name: str, sides: Sequence[_Side]) -> bool:
    """Tell whether a variable can be hashed into buckets, alike on both sides."""
    types = [side.dataset.schema.field(name).type for side in sides]
    whole = [pa.types.is_integer(type) and type != pa.uint64() for type in types]  # noqa: A001
    text = [pa.types.is_string(type) or pa.types.is_large_string(type) for type in types]  # noqa: A001
    return all(whole) or all(text)


def _spreads(side: _Side, variables: Sequence[str]) -> dict[str, list[_Spread]]:
    """Count, for each variable and file, how many items fall into each fine bucket; a row counts as one besides."""
    spreads: dict[str, list[_Spread]] = {name: [] for name in variables}
    for file in side.files():
        counts = {name: np.zeros(_MOST_PARTS, dtype=np.int64) for name in variables}
        for batch in side.read(file, [*variables, LABEL_COLUMN]):
            lengths = pc.fill_null(pc.list_value_length(batch.column(LABEL_COLUMN)), 0).to_numpy()
            for name in variables:
                of = bucket_of(batch.column(name), _MOST_PARTS)
                counts[name] += np.bincount(of, weights=lengths + 1, minlength=_MOST_PARTS).astype(np.int64)
        for name, found in counts.items():
            filled = np.flatnonzero(found)
            spreads[name].append((filled, found[filled]))
    return spreads


def _total(files: Sequence[_Spread]) -> NDArray[np.int64]:
    total = np.zeros(_MOST_PARTS, dtype=np.int64)
    for buckets, counts in files:
        total[buckets] += counts
    return total


def _part_count(values: NDArray[np.int64], most: int) -> int:
    """Choose the least power of two whose largest part is small enough. values: of each fine bucket."""
    parts = 1
    while parts < _MOST_PARTS and int(values.reshape(-1, parts).sum(axis=0).max()) > most:
        parts *= 2
    return parts


def _read(side: _Side, columns: Sequence[str], parts: _Parts | None, part: int) -> pa.Table:
    """Read all rows of a part; of no parts, all rows."""
    found = []
    for number, file in enumerate(side.files()):
        mine = [True] if parts is None else parts.spread[number][0] % parts.count == part
        if not np.any(mine):
            continue
        for batch in side.read(file, columns):
            if parts is None or np.all(mine):
                found.append(batch)
            else:
                of = bucket_of(batch.column(parts.variable), parts.count)
                found.append(batch.filter(pa.array(of == part)))
    schema = pa.schema([side.dataset.schema.field(name) for name in columns])
    return pa.Table.from_batches(found, schema).combine_chunks()
