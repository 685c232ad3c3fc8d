"""A feature model bound to the variables of contexts and items: it can be pickled, sent to workers and run there."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from encoders.bound_encoder import BatchFunction, BoundEncoder, Features
from encoders.columns import Columns, flatten, one_array, read_only, variable_column
from encoders.compilation.code_cache import default_cache_folder
from encoders.data_map import ABSENT, DataMaps, Element
from encoders.hash_index import index_table
from encoders.layout import OBJECT, TEXT, Column, Layout, ListLayout, ScalarLayout, element_layout, in_python
from schemas.data_keys import DataKey, Kind
from schemas.errors import DataKeyError
from schemas.nulls import is_text

_MOST_CACHED = 3  # versions of each global element whose columns a process caches


@dataclass(frozen=True)
class ElementPlan:
    """How an element is converted to columns.

    layout: of the fields that are read; indexed: whether rows are looked up
    type: the type of one value; for a global element, of its whole table
    """

    key: DataKey
    layout: Layout
    indexed: bool
    type: pa.DataType


class ExecutionMode(Enum):
    """What reads the columns: compiled code, the same encoders in plain Python, or encoders never compiled."""

    MACHINE = "machine"
    ORACLE = "oracle"
    PLAIN = "plain"


@dataclass(frozen=True)
class ColumnPlan:
    """The columns that all encoders of one execution mode read; each is built once."""

    context: Mapping[str, ScalarLayout]
    items: Mapping[str, ScalarLayout]
    elements: Mapping[str, ElementPlan]

    def in_python(self) -> ColumnPlan:
        """Give the plan for the same columns in plain Python, where texts are texts instead of codes."""
        context, items = (
            {name: ScalarLayout(Column(s.column.path, _in_python(s.column.dtype))) for name, s in variables.items()}
            for variables in (self.context, self.items)
        )
        elements = {name: replace(plan, layout=in_python(plan.layout)) for name, plan in self.elements.items()}
        return ColumnPlan(context, items, elements)


@dataclass(frozen=True)
class _ProcessCache:
    """What a process caches between calls.

    columns: of a few versions of global elements, with their arrays, the most recently used first
    batches: by the encoder's position
    folder: of compiled code, once it is known
    """

    columns: dict[tuple[ExecutionMode, str], tuple[tuple[pa.Array, Columns], ...]] = field(default_factory=dict)
    batches: dict[int, BatchFunction] = field(default_factory=dict)
    folder: list[Path | None] = field(default_factory=list)


@dataclass(frozen=True)
class BoundModel:
    """Encoders ready to run over data maps. It contains only text and types, so it can be pickled.

    variables: the data keys of the context and item variables that are read
    plans: the columns that encoders read, for each execution mode
    cache_folder: folder of cached compiled code; None: a folder in the user's home, if it can be written
    """

    encoders: tuple[BoundEncoder, ...]
    variables: Mapping[tuple[str, str], DataKey] = field(repr=False)
    plans: Mapping[ExecutionMode, ColumnPlan] = field(repr=False)
    cache_folder: str | None = None
    kept: _ProcessCache = field(default_factory=_ProcessCache, repr=False, compare=False)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(feature for encoder in self.encoders for feature in encoder.features)

    def encode(self, maps: DataMaps) -> dict[str, NDArray[np.float32]]:
        """Compute every feature for every item of every context.

        Gives feature → float32 for all items in the order of maps.items; NaN where an encoder wrote nothing.
        Raises DataKeyError for data that does not fit its keys, EncoderError naming the context for which an encoder
        fails.
        """
        return self._encode(maps, compiled=True)

    def interpret(self, maps: DataMaps) -> dict[str, NDArray[np.float32]]:
        """Compute the same features in plain Python: slow, the reference for compiled encoders."""
        return self._encode(maps, compiled=False)

    def warm_up(self) -> None:
        """Compile every encoder, or load it from the cache folder, so that the first request does not wait for it."""
        folder = self._folder()
        for place in range(len(self.encoders)):
            self._batch(place, folder)
        if any(plan.indexed for plan in self.plans[ExecutionMode.MACHINE].elements.values()):
            index_table(np.zeros(1, np.int64), np.array([0, 1]), False, folder)

    def _encode(self, maps: DataMaps, compiled: bool) -> dict[str, NDArray[np.float32]]:
        offsets = _checked_offsets(maps)
        folder = self._folder()
        modes = [_mode(encoder, compiled) for encoder in self.encoders]
        columns = {mode: self._columns(maps, mode, folder) for mode in dict.fromkeys(modes)}
        features: Features = {}
        for place, (encoder, mode) in enumerate(zip(self.encoders, modes, strict=True)):
            if mode is ExecutionMode.MACHINE:
                in_python = functools.partial(self._one_in_python, maps, encoder, folder)
                features.update(encoder.run(self._batch(place, folder), maps, offsets, columns[mode], in_python))
            else:
                features.update(encoder.run(encoder.interpreted(), maps, offsets, columns[mode]))
        return features

    def _one_in_python(self, maps: DataMaps, encoder: BoundEncoder, folder: Path | None, i: int) -> Features:
        """Compute one context in plain Python."""
        one = maps.only(i)
        columns = self._columns(one, ExecutionMode.ORACLE, folder)
        return encoder.run(encoder.interpreted(), one, one.item_offsets, columns)

    def _batch(self, place: int, folder: Path | None) -> BatchFunction:
        batch = self.kept.batches.get(place)
        if batch is None:
            batch = self.kept.batches[place] = self.encoders[place].load(folder)
        return batch

    def _folder(self) -> Path | None:
        if not self.kept.folder:
            chosen = default_cache_folder() if self.cache_folder is None else Path(self.cache_folder)
            self.kept.folder.append(chosen)
        return self.kept.folder[0]

    def _columns(self, maps: DataMaps, mode: ExecutionMode, folder: Path | None) -> Columns:
        plan = self.plans[mode]
        columns: Columns = {}
        for group, table in (("context", maps.contexts), ("items", maps.items)):
            variables = plan.context if group == "context" else plan.items
            for name, scalar in variables.items():
                values = _column(table, self.variables[group, name])
                columns[scalar.column.path] = variable_column(name, scalar.column, values)
        for name, element_plan in plan.elements.items():
            element = maps.elements.get(name)
            if element is None:
                raise DataKeyError.unknown("data element in the data maps", name, maps.elements)
            columns.update(self._element(element_plan, element, mode, folder))
            columns["data", name, ":rows"] = _rows(name, element, len(maps))
        return columns

    def _element(self, plan: ElementPlan, element: Element, mode: ExecutionMode, folder: Path | None) -> Columns:
        """Flatten an element. Columns of global elements are cached, since calls mostly use one of a few versions."""
        if plan.key.kind is not Kind.GLOBAL_ELEMENT:
            return flatten(plan.key.name, plan.layout, _typed(plan.key.name, plan.type, element.values))
        cache_key = mode, plan.key.name
        cached = self.kept.columns.get(cache_key, ())
        entry = next((each for each in cached if each[0] is element.values), None)
        if entry is None:
            values = _typed(plan.key.name, plan.type, element.values)
            columns = flatten(plan.key.name, plan.layout, values)
            if plan.indexed:
                columns.update(_index(plan, values, folder))
            entry = (element.values, columns)
        if not cached or cached[0] is not entry:  # threads may overwrite each other's entry, which is then rebuilt
            others = [each for each in cached if each[0] is not element.values]
            self.kept.columns[cache_key] = (entry, *others[: _MOST_CACHED - 1])
        return entry[1]

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the cache."""
        return {**self.__dict__, "kept": _ProcessCache()}


def _mode(encoder: BoundEncoder, compiled: bool) -> ExecutionMode:
    if not encoder.compiled:
        return ExecutionMode.PLAIN
    return ExecutionMode.MACHINE if compiled else ExecutionMode.ORACLE


def _in_python(dtype: str) -> str:
    return OBJECT if dtype == TEXT else dtype


def _index(plan: ElementPlan, values: pa.Array, folder: Path | None) -> Columns:
    first = plan.key.type.field(0)
    layout = element_layout(plan.key, True, {first.name})
    flat = flatten(plan.key.name, layout, values)
    path = ("data", plan.key.name)
    if not isinstance(layout, ListLayout):
        raise DataKeyError.because(f"global element '{plan.key.name}' is not a table")
    keys = flat[*path, "[]", first.name]
    slots, bounds = index_table(keys, flat[layout.starts.path], is_text(first.type), folder)
    return {(*path, ":keys"): keys, (*path, ":slots"): slots, (*path, ":slot_starts"): bounds}


def _column(table: pa.Table, key: DataKey) -> pa.Array:
    index = table.schema.get_field_index(key.name)
    if index < 0:
        raise DataKeyError.unknown(f"{key.kind} variable in the data maps", key.name, table.schema.names)
    return _typed(key.name, key.type, one_array(table.column(index)))


def _typed(name: str, expected: pa.DataType, values: pa.Array) -> pa.Array:
    values = one_array(values)
    if values.type == expected:
        return values
    try:
        return values.cast(expected)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataKeyError.because(f"'{name}' is {values.type}, expected {expected}: {error}") from error


def _rows(name: str, element: Element, contexts: int) -> NDArray[np.int64]:
    rows = np.ascontiguousarray(element.rows, dtype=np.int64)
    values = len(element.values)
    if len(rows) != contexts or (contexts and (rows.min() < ABSENT or rows.max() >= values)):
        raise DataKeyError.because(
            f"'{name}': its rows must be {contexts} positions from {ABSENT} to {values - 1}, one for each context"
        )
    if element.values.null_count:
        valid = element.values.is_valid().to_numpy(zero_copy_only=False)
        rows = np.where((rows >= 0) & valid[rows], rows, ABSENT)
    return read_only(rows)


def _checked_offsets(maps: DataMaps) -> NDArray[np.int64]:
    offsets = np.ascontiguousarray(maps.item_offsets, dtype=np.int64)
    right = len(offsets) == len(maps) + 1 and offsets[0] == 0 and offsets[-1] == maps.items.num_rows
    if not right or (np.diff(offsets) < 0).any():
        raise DataKeyError.because(
            f"item offsets must be {len(maps) + 1} positions rising from 0 to {maps.items.num_rows}"
        )
    return read_only(offsets)
