"""Tables are committed whole and one after the other, and what cannot be read is named."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import delta_writer
import numpy as np
import pyarrow as pa
import pytest
from delta_writer import FILES, ROWS, SCHEMA, files_of
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

from schemas.errors import CorruptFileError, MissingFileError, StorageError
from snapshotter.storage.delta import (
    USER_METADATA,
    ConcurrentCommitError,
    commit_files,
    committed_once,
    delta_table,
)
from snapshotter.storage.delta_version import DeltaVersion
from snapshotter.storage.local import LocalStorage
from snapshotter.storage.parquet import write_parquet

WRITERS, COMMITS = 3, 10


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(f"file://{tmp_path}/data")


def commit(storage: LocalStorage, number: int, folder: str = "t") -> int:
    return commit_files(storage, folder, SCHEMA, files_of(storage, folder, 0, number), {USER_METADATA: "an experiment"})


def read(storage: LocalStorage, version: int | None = None, folder: str = "t") -> pa.Table:
    uri = storage.uri_of(folder)
    return DeltaVersion.of(delta_table(uri, version), uri).to_arrow()


def test_each_commit_takes_the_place_of_all_before_which_can_be_travelled_to(storage: LocalStorage) -> None:
    assert [commit(storage, number) for number in range(3)] == [0, 1, 2]
    for version in (0, 1, 2, None):
        expected = 2 if version is None else version
        assert set(read(storage, version)["commit"].to_pylist()) == {expected}
        assert read(storage, version).num_rows == ROWS * FILES
    assert read(storage).schema == SCHEMA
    assert {entry[USER_METADATA] for entry in delta_table(storage.uri_of("t")).history()} == {"an experiment"}


def test_writers_at_the_same_time_come_one_after_the_other(storage: LocalStorage, tmp_path: Path) -> None:
    command = [sys.executable, delta_writer.__file__, storage.uri, "t"]
    root = str(Path(__file__).resolve().parents[3])
    writers = [
        subprocess.Popen(
            [*command, str(writer), str(COMMITS)],
            env={**os.environ, "PYTHONPATH": root},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for writer in range(WRITERS)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    while any(writer.poll() is None for writer in writers):  # whoever reads meanwhile never sees half a version
        if (Path(storage.root) / "t/_delta_log/00000000000000000000.json").exists():
            rows = read(storage)
            assert rows.num_rows == ROWS * FILES
            assert rows.group_by(["writer", "commit"]).aggregate([]).num_rows == 1
    reported = [json.loads(writer.communicate()[0]) for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * WRITERS
    assert sorted(version for versions in reported for version in versions) == list(range(WRITERS * COMMITS))
    for writer, versions in enumerate(reported):
        assert versions == sorted(versions)
        for number in (0, COMMITS - 1):
            rows = read(storage, versions[number])
            assert rows.num_rows == ROWS * FILES
            assert set(zip(rows["writer"].to_pylist(), rows["commit"].to_pylist(), strict=True)) == {(writer, number)}


def test_of_commits_with_one_id_the_first_is_made_and_its_version_given_to_all(storage: LocalStorage) -> None:
    def commit_once(number: int) -> int:
        files = files_of(storage, "t", 0, number)
        return commit_files(storage, "t", SCHEMA, files, {}, once=f"id-{number % 3}")

    with ThreadPoolExecutor(6) as threads:
        versions = list(threads.map(commit_once, range(18)))
    assert delta_table(storage.uri_of("t")).version() == 2
    assert [set(versions[start::3]) for start in range(3)] == [{version} for version in versions[:3]]
    assert {commit(storage, number) for number in range(100, 110)} == set(range(3, 13))  # past a checkpoint
    assert [commit_once(number) for number in range(18, 21)] == versions[:3]
    assert [committed_once(storage.uri_of("t"), name) for name in ("id-0", "id-9")] == [versions[0], None]
    assert committed_once(storage.uri_of("nothing"), "id-0") is None


def test_a_commit_that_lost_its_answer_is_found_again(storage: LocalStorage) -> None:
    """As on S3, where a write that timed out may have been done. Here something fails that follows the commit."""
    for number in range(99):
        commit(storage, number)
    log = storage.root / "t/_delta_log"
    (log / "00000000000000000099.checkpoint.parquet").mkdir()  # the commit succeeds, the checkpoint after it cannot
    assert commit(storage, 99) == 99
    assert commit(storage, 100) == 100


def test_a_storage_that_refuses_is_an_error_that_changes_nothing(storage: LocalStorage) -> None:
    for number in (0, 1):
        files = files_of(storage, "t", 0, number)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # no file may grow larger: as a full disk
        try:
            with pytest.raises(
                StorageError, match="'t' could not be committed: .*File too large.* → check the storage"
            ):
                commit_files(storage, "t", SCHEMA, files, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert commit_files(storage, "t", SCHEMA, files, {}) == number
        assert read(storage).num_rows == ROWS * FILES


def test_what_is_no_table_or_has_no_such_version_is_named(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("no table")
    (tmp_path / "folder").mkdir()
    for path in ("plain.txt", "folder", "nothing"):
        with pytest.raises(MissingFileError, match=f"there is no Delta table at .*{path}"):
            delta_table(str(tmp_path / path))
        with pytest.raises(MissingFileError, match=f"there is no Delta table at .*{path}"):
            delta_table(str(tmp_path / path), 3)
    commit(storage, 0)
    for version in (1, 2**40, -1):
        with pytest.raises(MissingFileError, match=f"there is no version {version} of .*/t → the newest is 0"):
            delta_table(storage.uri_of("t"), version)


def test_a_log_that_was_tampered_with_is_named(storage: LocalStorage) -> None:
    for number in range(3):
        commit(storage, number)
    log = storage.root / "t/_delta_log"
    (log / "00000000000000000001.json").write_text("{")
    with pytest.raises(CorruptFileError, match=r"the log of the Delta table at .*/t cannot be read.*_delta_log"):
        delta_table(storage.uri_of("t"))
    (log / "00000000000000000001.json").unlink()
    with pytest.raises(CorruptFileError, match="the log of the Delta table at .*/t cannot be read"):
        delta_table(storage.uri_of("t"), 1)


@pytest.mark.parametrize("how", ["gone", "shorter", "longer", "one bit", "another file"])
def test_a_file_that_the_log_names_and_that_is_not_as_it_was_is_never_read_as_data(
    storage: LocalStorage, how: str
) -> None:
    commit(storage, 0)
    noise = np.random.default_rng(1).random(10_000, np.float32)  # what cannot be compressed is stored as it is
    rows = pa.table({"writer": [1], "commit": [1], "values": [noise]}, SCHEMA)
    commit_files(storage, "t", SCHEMA, [write_parquet(storage, "t/0-1/1.parquet", rows, SCHEMA)], {})
    path = storage.root / "t/0-1/1.parquet"
    content = bytearray(path.read_bytes())
    path.unlink()
    if how == "shorter":
        path.write_bytes(content[:-100])
    elif how == "longer":
        path.write_bytes(b"PAR1" + content)
    elif how == "one bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif how == "another file":
        other = pa.table({"writer": [1], "commit": [1], "values": [[1.0]]}).cast(SCHEMA)
        write_parquet(storage, "t/0-1/1.parquet", other, SCHEMA)
    kind, reported = (MissingFileError, "is gone") if how == "gone" else (CorruptFileError, "cannot be read")
    with pytest.raises(kind, match=f"file '0-1/1.parquet' of version 1 of .*/t {reported}"):
        read(storage)
    assert read(storage, 0).num_rows == ROWS * FILES


def test_versions_with_other_columns_are_read_each_as_it_is(storage: LocalStorage) -> None:
    commit(storage, 0)
    other = pa.schema([("writer", pa.string()), ("more", pa.list_(pa.struct([("x", pa.int32())])))])
    rows = pa.table({"writer": ["w"], "more": [[{"x": 1}, None]]}, other)
    commit_files(storage, "t", other, [write_parquet(storage, "t/other.parquet", rows, other)], {})
    assert read(storage).equals(rows)
    assert read(storage, 0).schema == SCHEMA


def test_neither_age_nor_checkpoints_take_a_version_away(storage: LocalStorage) -> None:
    for number in range(103):
        commit(storage, number)
    log = storage.root / "t/_delta_log"
    assert (log / "_last_checkpoint").exists()
    for file in log.iterdir():
        os.utime(file, (0, 0))
    commit(storage, 103)
    table = delta_table(storage.uri_of("t"))
    table.cleanup_metadata()
    with pytest.raises(DeltaError, match="minimum retention .* 876000 hours"):
        table.vacuum(retention_hours=24 * 365, dry_run=True)
    assert set(read(storage, 2)["commit"].to_pylist()) == {2}
    assert len(table.history()) == 104


def test_a_table_that_another_program_wrote_is_read_too(tmp_path: Path) -> None:
    uri = str(tmp_path / "with spaces and %")
    write_deltalake(uri, pa.table({"country": ["a b", "ü"], "n": [1, 2]}), partition_by=["country"])
    rows = DeltaVersion.of(delta_table(uri), uri).to_arrow().sort_by("n")
    assert rows.to_pylist() == [{"country": "a b", "n": 1}, {"country": "ü", "n": 2}]
    assert DeltaTable(uri).version() == 0


def test_an_append_keeps_what_its_version_had_and_is_made_onto_that_version_only(storage: LocalStorage) -> None:
    def append(number: int, to: int | None) -> int:
        table = pa.table({"number": [number]})
        file = write_parquet(storage, f"t/{number}/0.parquet", table, table.schema)
        return commit_files(storage, "t", table.schema, [file], {}, append_to=to)

    assert append(0, None) == 0
    for number in range(1, 23):
        assert append(number, number - 1) == number
    assert sorted(read(storage)["number"].to_pylist()) == list(range(23))
    assert sorted(read(storage, 5)["number"].to_pylist()) == list(range(6))
    with pytest.raises(ConcurrentCommitError, match="'t' has version 22, not 21, by now"):
        append(99, 21)
    assert commit_files(storage, "t", read(storage).schema, [], {}, append_to=22) == 23  # nothing new is a version, too
    assert len(read(storage)) == 23
    assert list((storage.root / "t/_delta_log").glob("*.checkpoint.parquet"))  # so that a long log is not read again
