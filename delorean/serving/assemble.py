"""Builds the data maps that encoders read from live answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from encoders import DataMaps, Element
from encoders.data_map import ABSENT
from schemas.data_keys import DataKey
from schemas.services import Status

_WITH_VALUE = pa.array([Status.OK.value, Status.FALLBACK.value])


def assemble(
    contexts: pa.Table,
    items: pa.Table,
    item_offsets: np.ndarray[tuple[int], np.dtype[np.int64]],
    answers: Mapping[str, pa.RecordBatch],
    versions: Mapping[str, pa.Array],
    *,
    without_fallback: Collection[str] = (),
    read_as: Mapping[str, DataKey] = MappingProxyType({}),
) -> DataMaps:
    """Build the data maps of contexts from the answers of services and versions of global elements.

    contexts: their variables and `time`
    items, item_offsets: their items, concatenated, and where each context's start and end
    answers: service element → answers as the gateway returns them, one row per context; an answer without a value is
        an absent element, a fallback's value is used
    versions: global element → a list with its version, which serves all contexts; empty without a valid version
    without_fallback: service elements that are absent where only a fallback's value exists
    read_as: service element → the element as encoders declare it; answers of another type are converted to its type
    """
    elements = {}
    for name, batch in answers.items():
        accepted = _WITH_VALUE[:1] if name in without_fallback else _WITH_VALUE
        has_value = pc.and_(pc.is_in(batch["status"], accepted), batch["value"].is_valid())
        rows = np.where(has_value.to_numpy(zero_copy_only=False), np.arange(len(batch)), ABSENT)
        values = batch["value"]
        elements[name] = Element(read_as[name].adapter(values.type)(values) if name in read_as else values, rows)
    for name, version in versions.items():
        elements[name] = Element(version, np.full(len(contexts), 0 if len(version) else ABSENT, dtype=np.int64))
    return DataMaps(contexts, items, item_offsets, elements)
