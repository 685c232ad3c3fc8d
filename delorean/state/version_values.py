"""Reads the versions of global elements that label rows see, once for all workers of an executor."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256

import numpy as np
import pyarrow as pa

from delorean.state.matches import ElementMatch
from delorean.state.shared_array import shared_array
from delorean.state.sources import GlobalSource
from encoders.columns import one_array
from encoders.data_map import ABSENT, Element
from schemas.data_keys import DataKey
from snapshotter.global_elements import read_global_version
from snapshotter.records import GlobalVersion
from snapshotter.storage import Storage, open_storage


def match_versions(times: pa.ChunkedArray, source: GlobalSource, storage_uri: str) -> ElementMatch:
    """Match times with the versions of a global element by the as-of rule, reading each matched version once.

    Raises DataKeyError for a version that a time sees and whose rows cannot be read as the element's type.
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
    paths = [[file.path for file in version.files] for version in versions]  # which are never reused
    content = [storage_uri, element.to_json(), paths]
    name = sha256(repr(content).encode()).hexdigest()
    return shared_array(name, lambda: _read(storage_uri, element, versions))


def _read(storage_uri: str, element: DataKey, versions: tuple[GlobalVersion, ...]) -> pa.ListArray:
    storage = open_storage(storage_uri)
    parts = [version_rows(element, version, storage) for version in versions]
    offsets = np.cumsum([0, *map(len, parts)])
    rows = pa.concat_arrays([pa.array([], element.type), *parts])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), rows)


def version_rows(element: DataKey, version: GlobalVersion, storage: Storage) -> pa.StructArray:
    """Read the rows of a version as structs of the element's type, whatever type it was published under."""
    table = read_global_version(version, storage).combine_chunks()
    columns = [one_array(column) for column in table.columns]
    rows = pa.StructArray.from_arrays(columns, fields=list(version.element.type))
    return element.adapter(version.element.type)(rows)
