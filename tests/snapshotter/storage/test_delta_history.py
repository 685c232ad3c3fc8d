"""The history of a table's files, read from its log once, is what opening each version gives."""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.errors import CorruptFileError
from snapshotter.storage.delta_history import read_history
from snapshotter.storage.delta_version import DeltaVersion
from snapshotter.storage.local import LocalStorage

STEPS = ("append", "overwrite", "delete", "compact", "restore", "checkpoint", "expire")
folders = itertools.count()


class Counting(LocalStorage):
    """A local storage that remembers what was opened."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.opened: list[str] = []

    def open_input(self, path: str) -> Any:
        self.opened.append(path)
        return super().open_input(path)


def step(table: str, name: str, number: int) -> None:
    """Change a table as other writers do."""
    rows = pa.table({"n": pa.array([number, number + 1, number % 3], pa.int64())})
    if name in ("append", "overwrite") or not DeltaTable.is_deltatable(table):
        write_deltalake(table, rows, mode="overwrite" if name == "overwrite" else "append")
        return
    opened = DeltaTable(table)
    if name == "delete":
        opened.delete(f"n = {number % 3}")
    elif name == "compact":
        opened.optimize.compact()
    elif name == "restore":
        with suppress(DeltaError):  # to the newest version, or to one whose log is gone, it is refused
            opened.restore(number % (opened.version() + 1), ignore_missing_files=True)
    elif name == "checkpoint":
        opened.create_checkpoint()
    else:
        opened.create_checkpoint()
        oldest = min(int(path.stem) for path in Path(table, "_delta_log").glob("*.json"))
        for version in range(oldest, opened.version()):  # as a clean-up of the log leaves it
            Path(table, "_delta_log", f"{version:020d}.json").unlink(missing_ok=True)


def log_of(table: Path) -> list[str]:
    return sorted(path.name for path in (table / "_delta_log").iterdir())


@given(st.lists(st.sampled_from(STEPS), min_size=1, max_size=9))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_agrees_with_every_version_that_can_be_opened(tmp_path: Path, steps: list[str]) -> None:
    name = f"t{next(folders)}"
    table = tmp_path / name
    for number, each in enumerate(steps):
        step(str(table), each, number)
    history = read_history(LocalStorage(f"file://{tmp_path}"), name, log_of(table))
    assert history.newest == DeltaTable(table).version()
    everywhere: set[str] = set()
    for version in range(history.oldest, history.newest + 1):
        opened = DeltaTable(table)
        opened.load_as_version(version)
        files = {file.path for file in DeltaVersion.of(opened, str(table)).files}
        assert {path for path in history.spans if history.is_in(path, [version])} == files
        everywhere |= files
    assert set(history.spans) == everywhere
    for path in everywhere:
        last = history.last_version(path)
        assert last is not None
        assert history.is_in(path, [last])
        assert not history.is_in(path, range(last + 1, history.newest + 1))


def test_each_commit_is_read_once_however_many_versions_there_are(tmp_path: Path) -> None:
    for number in range(60):
        step(str(tmp_path / "t"), "overwrite", number)
    storage = Counting(f"file://{tmp_path}")
    read_history(storage, "t", [name for name in log_of(tmp_path / "t") if name.endswith(".json")])
    assert sorted(storage.opened) == [f"t/_delta_log/{version:020d}.json" for version in range(61)]  # and what follows


def test_a_commit_that_came_after_the_listing_counts(tmp_path: Path) -> None:
    step(str(tmp_path / "t"), "append", 0)
    listed = log_of(tmp_path / "t")
    step(str(tmp_path / "t"), "append", 1)
    history = read_history(LocalStorage(f"file://{tmp_path}"), "t", listed)
    assert history.newest == 1
    assert len(history.spans) == 2


@pytest.mark.parametrize("damage", ["a commit is gone", "a commit is no JSON"])
def test_a_log_that_cannot_tell_is_an_error(tmp_path: Path, damage: str) -> None:
    for number in range(3):
        step(str(tmp_path / "t"), "append", number)
    commit = tmp_path / "t" / "_delta_log" / f"{1:020d}.json"
    if damage == "a commit is gone":
        commit.unlink()
    else:
        commit.write_bytes(b"{")
    with pytest.raises(CorruptFileError, match="lacks commits before version 2|commit 1 of .* cannot be read"):
        read_history(LocalStorage(f"file://{tmp_path}"), "t", log_of(tmp_path / "t"))
