from __future__ import annotations

import errno
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from killed_writer import kill_a_writer

from schemas.errors import ConfigError, StorageError
from snapshotter.storage import open_storage
from snapshotter.storage.local import LocalStorage

FILL = """
import resource, sys
import numpy as np
import pyarrow as pa
from schemas.errors import DeloreanError
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import write_parquet
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
storage = open_storage(sys.argv[1])
table = pa.table({"x": np.random.default_rng(0).random(100_000)})  # does not compress
for write in (
    lambda: write_parquet(storage, "a/b.parquet", table, table.schema),
    lambda: storage.create("a/c.json", b"x" * 300_000),
):
    try:
        write()
    except DeloreanError as error:
        print(type(error).__name__, error)
"""


LIST_WITHOUT_HANDLES = """
import os, resource, sys
from schemas.errors import DeloreanError
from snapshotter.storage import open_storage
storage = open_storage(sys.argv[1])
lowest_free = os.dup(0)
os.close(lowest_free)
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, lowest_free))
try:
    print([file.path for file in storage.list(sys.argv[2])])
except DeloreanError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(f"file://{tmp_path}/data")


def test_a_disk_that_takes_no_more_is_one_clear_error_and_leaves_nothing(storage: LocalStorage) -> None:
    ran = subprocess.run([sys.executable, "-c", FILL, storage.uri], capture_output=True, text=True)
    assert ran.stdout.splitlines() == [
        "StorageError could not write 'a/b.parquet': File too large → raise the limit on the size of files",
        "StorageError could not write 'a/c.json': File too large → raise the limit on the size of files",
    ], ran.stderr
    assert list(storage.list("")) == []


@pytest.mark.parametrize("prefix", ["", "a"])
def test_a_folder_that_cannot_be_listed_is_an_error_and_never_an_empty_one(storage: LocalStorage, prefix: str) -> None:
    storage.create("a/b/c.json", b"x")
    command = [sys.executable, "-c", LIST_WITHOUT_HANDLES, storage.uri, prefix]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.stdout.startswith(f"StorageError could not list '{prefix}': Too many open files"), ran


def test_a_folder_in_the_middle_that_cannot_be_listed_is_an_error(storage: LocalStorage) -> None:
    storage.create("a/b/c.json", b"x")
    (storage.root / "a" / "loop").symlink_to("loop")  # the system refuses to look at it
    with pytest.raises(StorageError, match="could not list 'a': Too many levels of symbolic links"):
        list(storage.list("a"))
    with pytest.raises(StorageError, match="Too many levels of symbolic links"):
        list(storage.list("a/loop"))


def test_files_that_vanish_while_they_are_listed_are_left_out(storage: LocalStorage) -> None:
    for name in "abc":
        storage.create(f"x/{name}.json", b"x")
    listing = storage.list("x")
    assert next(listing).path == "x/a.json"
    storage.delete(["x/b.json"])
    assert [file.path for file in listing] == ["x/c.json"]


def test_a_full_disk_says_what_to_do(storage: LocalStorage) -> None:
    with pytest.raises(StorageError, match="could not write 'a.bin': No space left on device → free some disk space"):
        fail_while_writing(storage, OSError(errno.ENOSPC, "as the file system says it"))
    assert list(storage.list("")) == []


def test_an_error_of_the_callers_is_left_as_it_is(storage: LocalStorage) -> None:
    with pytest.raises(ConnectionResetError):
        fail_while_writing(storage, ConnectionResetError(errno.ECONNRESET, "of another's"))


def fail_while_writing(storage: LocalStorage, error: OSError) -> None:
    with storage.open_output("a.bin"):
        raise error


def test_what_a_killed_writer_leaves_is_listed_under_another_name(storage: LocalStorage) -> None:
    kill_a_writer(storage.uri, 1000)
    (left,) = storage.list("a")
    assert left.path.startswith("a/.b.bin.")
    assert left.path.endswith(".tmp")
    storage.delete([left.path])
    assert list(storage.list("")) == []


def test_a_symbolic_link_leads_nobody_outside(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("secret")
    storage.create("a.txt", b"inside")
    (storage.root / "link").symlink_to(tmp_path / "outside")
    for path in ("link/secret.txt", "link"):
        with pytest.raises(StorageError, match="is not inside"):
            storage.open_input(path)
    with pytest.raises(StorageError, match="is not inside"):
        storage.create("link/new.txt", b"")
    assert [file.path for file in storage.list("")] == ["a.txt"]


def test_a_file_where_a_folder_should_be_is_one_clear_error(storage: LocalStorage) -> None:
    storage.create("a", b"")
    with pytest.raises(StorageError, match="could not write 'a/b': Not a directory"):
        storage.create("a/b", b"")


def test_files_can_be_read_by_others_of_the_machine(storage: LocalStorage) -> None:
    storage.create("a.txt", b"")
    assert stat.S_IMODE((storage.root / "a.txt").stat().st_mode) == 0o644


def test_a_folder_with_spaces_is_written_as_a_uri(tmp_path: Path) -> None:
    folder = tmp_path / "my data"
    storage = open_storage(folder.as_uri())
    storage.create("a.txt", b"")
    assert (folder / "a.txt").exists()


@pytest.mark.parametrize("uri", ["file://host/data", "file:data", "file://data"])
def test_a_uri_that_names_no_folder_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="expected file:///path|has a '[#?]'"):
        open_storage(uri)
