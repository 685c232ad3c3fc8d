"""From live answers to data maps: the one place where serving builds what encoders read."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from encoders import DataMaps, Element
from encoders.data_map import ABSENT
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
) -> DataMaps:
    """Build the data maps of contexts that were asked for just now.

    contexts: their variables and `time`
    items, item_offsets: their items end to end, and where each context's start and end
    answers: service element → answers as the gateway gives them, a row for each context; an answer without a value is
        an absent element, a fallback's value is used
    without_fallback: service elements that are absent where there is but a fallback's value
    versions: global element → the one version for all of them, or nothing where there is none, as one list
    """
    elements = {}
    for name, batch in answers.items():
        accepted = _WITH_VALUE[:1] if name in without_fallback else _WITH_VALUE
        has_value = pc.and_(pc.is_in(batch["status"], accepted), batch["value"].is_valid())
        rows = np.where(has_value.to_numpy(zero_copy_only=False), np.arange(len(batch)), ABSENT)
        elements[name] = Element(batch["value"], rows)
    for name, version in versions.items():
        elements[name] = Element(version, np.full(len(contexts), 0 if len(version) else ABSENT, dtype=np.int64))
    return DataMaps(contexts, items, item_offsets, elements)
