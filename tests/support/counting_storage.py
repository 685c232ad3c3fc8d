"""A storage that counts what is asked of the one behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

import pyarrow as pa

from snapshotter.storage import Storage, StoredFile


class CountingStorage(Storage):
    """Passes everything on. listed: files that were listed; opened: how often each file was; live: open right now."""

    def __init__(self, storage: Storage) -> None:
        self.uri = storage.uri
        self.storage = storage
        self.listings: Counter[str] = Counter()
        self.listed = 0
        self.opened: Counter[str] = Counter()
        self.inputs: list[pa.NativeFile] = []
        self.most_open = 0

    def list(self, prefix: str, name_prefix: str = "") -> Iterator[StoredFile]:
        self.listings[f"{prefix}/{name_prefix}"] += 1
        for file in self.storage.list(prefix, name_prefix):
            self.listed += 1
            yield file

    def open_input(self, path: str) -> pa.NativeFile:
        self.opened[path] += 1
        opened = self.storage.open_input(path)
        self.inputs = [*(file for file in self.inputs if not file.closed), opened]
        self.most_open = max(self.most_open, len(self.inputs))
        return opened

    def open_output(self, path: str) -> AbstractContextManager[pa.NativeFile]:
        return self.storage.open_output(path)

    def create(self, path: str, data: bytes) -> bool:
        return self.storage.create(path, data)

    def delete(self, paths: Iterable[str]) -> None:
        self.storage.delete(paths)
