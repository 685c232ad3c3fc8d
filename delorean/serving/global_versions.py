"""Global elements for serving: the version valid at a moment, a few of them in memory, the newest ready in advance."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

import pyarrow as pa

from encoders.columns import one_array
from schemas.data_keys import DataKey
from schemas.errors import ConfigError, DeloreanError
from snapshotter.global_elements import read_global_version
from snapshotter.index import SnapshotIndex
from snapshotter.records import END_OF_TIME, GlobalVersion, from_micros
from snapshotter.storage import Storage

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedVersion:
    """A version and its whole table: one value, a list of rows."""

    version: GlobalVersion
    values: pa.Array


class GlobalVersions:
    """The versions of some global elements. Use it as a context manager; threads may share it.

    refresh: how often published versions are looked for, so how late a new one may be used for live requests
    kept: versions in memory for each element, the longest unused leave first

    Raises ConfigError for a published version of another type than the model's.
    """

    def __init__(
        self,
        elements: Sequence[DataKey],
        index: SnapshotIndex,
        storage: Storage,
        clock: Callable[[], int],
        refresh: timedelta = timedelta(seconds=30),
        kept: int = 3,
    ) -> None:
        self._elements = {element.name: element for element in elements}
        self._index, self._storage, self._clock, self._kept = index, storage, clock, kept
        self._loaded: dict[str, OrderedDict[str, LoadedVersion]] = {name: OrderedDict() for name in self._elements}
        self._lock = threading.Lock()
        self._published: dict[str, Sequence[GlobalVersion]] = {}
        self.refresh()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._refresh_for_ever, args=(refresh.total_seconds(),), daemon=True)
        self._thread.start()

    def newest(self, now: datetime) -> dict[str, LoadedVersion | None]:
        """Give each element's version that is valid now, among those that the last refresh found."""
        return {
            name: self._load(name, next((v for v in self._published[name] if v.valid_from <= now), None))
            for name in self._elements
        }

    def at(self, moment: datetime) -> dict[str, LoadedVersion | None]:
        """Give each element's version that was valid at a moment, as the index knows it now."""
        return {
            name: self._load(name, next(iter(self._index.global_versions(name, moment)), None))
            for name in self._elements
        }

    def refresh(self) -> None:
        """Look for published versions, and load those that are valid now."""
        self._published = {name: self._index.global_versions(name, END_OF_TIME) for name in self._elements}
        self.newest(from_micros(self._clock()))

    def close(self) -> None:
        """End the background thread."""
        self._ended.set()
        self._thread.join()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _refresh_for_ever(self, seconds: float) -> None:
        while not self._ended.wait(seconds):
            try:
                self.refresh()
            except DeloreanError as error:
                _log.warning("global elements stay as they are: %s", error)

    def _load(self, name: str, version: GlobalVersion | None) -> LoadedVersion | None:
        if version is None:
            return None
        loaded = self._loaded[name]
        with self._lock:
            if version.version_id in loaded:
                loaded.move_to_end(version.version_id)
                return loaded[version.version_id]
        read = LoadedVersion(version, self._read(self._elements[name], version))
        with self._lock:
            read = loaded.setdefault(version.version_id, read)
            while len(loaded) > self._kept:
                loaded.popitem(last=False)
        return read

    def _read(self, element: DataKey, version: GlobalVersion) -> pa.Array:
        if version.element != element:
            raise ConfigError.because(
                f"version '{version.version_id}' of '{element.name}' is {version.element.type}, the model was trained "
                f"with {element.type}",
                "publish it with that type, or train again",
            )
        table = read_global_version(version, self._storage).combine_chunks()
        rows = pa.StructArray.from_arrays([one_array(column) for column in table.columns], fields=list(element.type))
        return pa.ListArray.from_arrays(pa.array([0, len(rows)], pa.int32()), rows, type=pa.list_(element.type))
