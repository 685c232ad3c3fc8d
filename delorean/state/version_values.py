"""Reads the versions of global elements that label rows see, once for all workers of an executor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

import numpy as np
import pyarrow as pa

from delorean.state.matches import ElementMatch
from delorean.state.shared_array import shared_array
from delorean.state.sources import GlobalSource
from encoders.data_map import ABSENT, Element
from schemas.data_keys import DataKey
from snapshotter.capture.global_elements import read_global_version
from snapshotter.records import GlobalVersion
from snapshotter.storage import open_storage


def match_versions(times: pa.ChunkedArray, source: GlobalSource, storage_uri: str) -> ElementMatch:
    """Match times with the versions of a global element by the as-of rule, reading each matched version once.

    Raises DataKeyError for a version that a time sees and whose rows are of another type than the element's.
    """
    positions, valid_from = source.match(times)
    used = np.unique(positions[positions >= 0])
    versions = tuple(source.versions[i] for i in used)
    source.check_types(versions)
    values = _values(storage_uri, source.element, versions)
    rows = np.where(positions >= 0, np.searchsorted(used, positions), ABSENT)
    return ElementMatch(valid_from, positions, Element(values, rows))


@lru_cache(maxsize=4)
def _values(storage_uri: str, element: DataKey, versions: tuple[GlobalVersion, ...]) -> pa.ListArray:
    """Return a list of rows for each version, shared by the workers of an executor.

    Cached because neighbouring buckets use the same versions, and encoders index the same array only once.
    """
    content = [storage_uri, [[file.path for file in version.files] for version in versions]]  # paths are never reused
    name = sha256(repr(content).encode()).hexdigest()
    return shared_array(name, lambda: _read(storage_uri, element, versions))


def _read(storage_uri: str, element: DataKey, versions: Sequence[GlobalVersion]) -> pa.ListArray:
    storage = open_storage(storage_uri)
    tables = [read_global_version(version, storage) for version in versions]
    offsets = np.cumsum([0, *(table.num_rows for table in tables)])
    rows = pa.concat_tables([pa.schema(list(element.type)).empty_table(), *tables]).combine_chunks()
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), rows.to_struct_array().combine_chunks())
