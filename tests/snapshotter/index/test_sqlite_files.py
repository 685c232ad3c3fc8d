"""Files of earlier releases, files with a broken record, and files that may only be read."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from schemas.data_keys import context_variable, global_element, service_element
from schemas.errors import NotInIndexError, SnapshotIndexError, UnreadableRecordError, WithdrawnError
from schemas.services import Service, Status
from snapshotter.index import SnapshotIndex, open_index
from snapshotter.index.sqlite import SqliteIndex
from snapshotter.records import ContextSet, DataFile, GlobalVersion, ServiceSnapshot, SnapshotRun

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
DAY = timedelta(days=1)
HISTORY = Service("history", service_element("history", "int64"), (context_variable("profile_id", "int64"),))
MOOD = Service("mood", service_element("mood", "string"), HISTORY.key)
VIDEOS = global_element("videos", "struct<video_id: int64, title: string>")
NOBODY = 65_534
# Publishes runs, opening the index for each.
WRITER = """
import sys
from dataclasses import replace
from snapshotter.index import open_index
with open_index(sys.argv[1]) as index:
    run = index.run("r0")
print("begun", flush=True)
for number in range(40):
    with open_index(sys.argv[1]) as index:
        services = tuple(replace(taken, run_id=f"w{number}") for taken in run.services)
        assert index.publish_run(replace(run, run_id=f"w{number}", services=services, published_at=None))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users may enter, other than pytest's."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "index"
        folder.mkdir()
        Path(made).chmod(0o755)
        yield folder


@pytest.fixture
def uri(folder: Path) -> str:
    return f"sqlite://{folder}/index.db"


@contextmanager
def as_nobody() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@contextmanager
def only_reading(folder: Path) -> Iterator[None]:
    """Be somebody who may read a folder and its files, and write neither; the modes say nothing to root."""
    modes = {path: path.stat().st_mode for path in (folder, *folder.iterdir())}
    for path in modes:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with as_nobody():
            yield
    finally:
        for path, mode in modes.items():
            if path.exists():
                path.chmod(mode)


def execute(uri: str, text: str, *values: object) -> None:
    with closing(sqlite3.connect(uri.removeprefix("sqlite://"))) as connection:
        connection.execute(text, values)
        connection.commit()


def run(number: int) -> SnapshotRun:
    run_id, at = f"r{number}", NOON + number * DAY
    taken = [
        ServiceSnapshot(run_id, service, None, 1, {Status.OK: 9}, at, at, (), {}, {"rows": 9.0})
        for service in (HISTORY, MOOD)
    ]
    return SnapshotRun(run_id, "c", NOON, tuple(taken))


def version(number: int) -> GlobalVersion:
    file = DataFile(f"globals/videos/v{number}/a.parquet", 1, 1, "0f" * 16)
    return GlobalVersion(VIDEOS, f"v{number}", NOON + number * DAY, (file,))


def context_set(number: int) -> ContextSet:
    return ContextSet.of_one_key(f"c{number}", date(2026, 1, 1 + number), ("e",), HISTORY.key, (), ())


def publish(uri: str) -> None:
    with open_index(uri) as index:
        for number in range(3):
            assert index.publish_run(run(number))
            assert index.publish_global(version(number))
            assert index.publish_context_set(context_set(number))


@pytest.fixture
def earlier(uri: str) -> str:
    """A file that schema version 1 wrote: two of its versions have types that its own release could not read."""
    script = (Path(__file__).parent / "written_by_schema_1.sql").read_text()
    with closing(sqlite3.connect(uri.removeprefix("sqlite://"))) as connection:
        connection.executescript(script)
    return uri


def check_earlier(index: SnapshotIndex) -> None:
    assert [run.run_id for run in index.runs()] == ["r2", "r1", "r0"]
    assert [(service.name, str(service.element.type)) for service in index.elements()] == [
        ("history", "list<item: struct<video_id: int64, minutes: float>>"),
        ("history", "list<item: struct<video_id: int64, at: timestamp[us, tz=UTC]>>"),
        ("my_list", "list<item: int64>"),
    ]
    assert index.context_set(date(2026, 1, 5)).context_set_id == "2026-01-05-abc"
    assert [found.version_id for found in index.global_versions("videos", NOON + 9 * DAY)] == ["v2", "v1"]
    types = {name: str(index.global_versions(name, NOON)[0].element.type) for name in ("required", "dashed")}
    assert types == {
        "required": "struct<id: int64, listed_at: timestamp[us, tz=UTC]>",
        "dashed": "struct<id: int64, release-year: int64, kind: string>",
    }


def test_a_file_of_an_earlier_release_goes_on_and_what_it_could_not_read_is_read(earlier: str) -> None:
    with open_index(earlier) as index:
        check_earlier(index)
        assert index.publish_run(run(7)) is True
        assert index.elements()[0] == MOOD
        assert index.withdraw_run("r2", "wrong", "ann") is True
        assert [str(service.element.type)[:8] for service in index.elements()] == [
            "string",
            "int64",
            "list<ite",
            "list<ite",
        ]
    with open_index(earlier) as again:
        assert [found.run_id for found in again.runs()] == ["r7", "r1", "r0"]


def test_a_file_of_an_earlier_release_that_may_only_be_read_is_read_as_it_is(earlier: str, folder: Path) -> None:
    content = (folder / "index.db").read_bytes()
    with only_reading(folder), open_index(earlier) as index:
        check_earlier(index)
        assert index.withdrawals() == []
    assert (folder / "index.db").read_bytes() == content


def test_a_file_from_before_context_sets_had_revisions_is_read_and_goes_on(uri: str, folder: Path) -> None:
    with open_index(uri) as index:
        assert index.publish_context_set(context_set(1))
        assert index.publish_run(run(1))
    execute(uri, "UPDATE schema_version SET version = 2")
    with only_reading(folder), open_index(uri) as index:
        assert index.context_sets_of(date(2026, 1, 2)) == [context_set(1)]
        assert index.elements() == [MOOD, HISTORY]
        assert index.withdrawals() == []
    with open_index(uri) as index:
        second = replace(context_set(1), revision=2, after="c1")
        assert index.publish_context_set(second)
        assert index.context_sets_of(date(2026, 1, 2)) == [context_set(1), second]
    with closing(sqlite3.connect(folder / "index.db")) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(3,)]


@pytest.mark.parametrize(
    "broken", ["{", "[]", '{"run_id": 7}', "\x00", '{"element": {"name": "x", "kind": "k", "type": 7}}']
)
def test_what_cannot_be_read_hides_nothing_else(uri: str, broken: str, caplog: pytest.LogCaptureFixture) -> None:
    publish(uri)
    execute(uri, "UPDATE snapshots SET record = ? WHERE run_id = 'r1' AND service = 'history'", broken)
    execute(uri, "UPDATE global_versions SET record = ? WHERE version_id = 'v1'", broken)
    execute(uri, "UPDATE context_sets SET record = ? WHERE date = '2026-01-02'", broken)
    with open_index(uri) as index:
        assert [found.run_id for found in index.runs()] == ["r2", "r0"]
        assert [found.run_id for found in index.runs(2)] == ["r2", "r0"]
        assert [found.context_set_id for found in index.context_sets(date.max, limit=2)] == ["c2", "c0"]
        listed = index.global_versions("videos", NOON + 9 * DAY, skip_unreadable=True)
        assert [found.version_id for found in listed] == ["v2", "v0"]
        for limit in range(4):
            assert index.global_versions("videos", NOON + 9 * DAY, limit, skip_unreadable=True) == listed[:limit]
        assert [found.run_id for found in index.last_snapshots("history", 2)] == ["r2", "r0"]
        assert [found.run_id for found in index.snapshots("mood", NOON, NOON + 9 * DAY)] == ["r2", "r1", "r0"]
        assert [str(one.name) for one in index.unreadable()] == [
            "run 'r1'",
            "the context set of 2026-01-02",
            "version 'v1' of global element 'videos'",
        ]
        assert caplog.text.count("is left out") == 3
        at = index.global_version_at("videos", NOON + DAY / 2)
        assert at is not None
        assert at.version_id == "v0"
        assert next(index.iterate_snapshots("history", NOON, NOON + 9 * DAY)).run_id == "r2"


def depends(index: SnapshotIndex) -> list[Callable[[], object]]:
    return [
        lambda: index.run("r1"),
        lambda: index.runs_by_id(["r0", "r1"]),
        lambda: index.snapshots("history", NOON, NOON + 9 * DAY),
        lambda: list(index.iterate_snapshots("history", NOON, NOON + 9 * DAY)),
        lambda: index.context_set(date(2026, 1, 2)),
        lambda: index.global_version("videos", "v1"),
        lambda: index.global_version_at("videos", NOON + DAY),
        lambda: index.global_versions("videos", NOON + 9 * DAY),
    ]


def test_a_day_with_a_broken_revision_says_how_to_withdraw_it(uri: str) -> None:
    day = date(2026, 1, 2)
    with open_index(uri) as index:
        for revision in (1, 2):
            assert index.publish_context_set(replace(context_set(1), revision=revision))
        execute(uri, "UPDATE context_sets SET record = '{' WHERE date = '2026-01-02.r0002'")
        assert index.context_set(day) == context_set(1)
        assert list(index.iterate_context_sets()) == [context_set(1)]  # it hides no other
        [broken] = index.unreadable()
        command = "delorean index withdraw context-set 2026-01-02 --revision 2 --reason …"
        assert (broken.name.label, command in broken.problem) == ("2026-01-02.r2", True)
        with pytest.raises(UnreadableRecordError, match="of revision 2 of the context set of .*--revision 2"):
            index.context_sets_of(day)
        assert index.withdraw_context_set(day, "broken", "ann", revision=2) is True
        assert index.context_sets_of(day) == [context_set(1)]


def test_what_depends_on_a_broken_record_says_so_until_it_is_withdrawn(uri: str) -> None:
    publish(uri)
    for table, where in (
        ("runs", "run_id = 'r1'"),
        ("snapshots", "run_id = 'r1'"),
        ("global_versions", "version_id = 'v1'"),
    ):
        execute(uri, f"UPDATE {table} SET record = '{{' WHERE {where}")
    execute(uri, "UPDATE context_sets SET record = '{' WHERE date = '2026-01-02'")
    with open_index(uri) as index:
        for look_up in depends(index):
            with pytest.raises(
                UnreadableRecordError,
                match="→ withdraw it: delorean index withdraw (run r1|context-set|global videos v1)",
            ):
                look_up()
        assert index.withdraw_run("r1", "broken", "ann")
        assert index.withdraw_global("videos", "v1", "broken", "ann")
        assert index.withdraw_context_set(date(2026, 1, 2), "broken", "ann")
        assert [found.run_id for found in index.snapshots("history", NOON, NOON + 9 * DAY)] == ["r2", "r0"]
        assert [found.run_id for found in index.runs()] == ["r2", "r0"]
        assert [service.name for service in index.elements()] == ["mood", "history"]
        for gone, error in (
            (lambda: index.run("r1"), WithdrawnError),
            (lambda: index.context_set(date(2026, 1, 2)), NotInIndexError),
        ):
            with pytest.raises(error):
                gone()
        assert index.unreadable() == ()


def test_a_withdrawn_record_is_kept_whole_in_the_file(uri: str) -> None:
    publish(uri)
    with open_index(uri) as index:
        index.withdraw_run("r1", "wrong", "ann")
    with closing(sqlite3.connect(uri.removeprefix("sqlite://"))) as connection:
        (content,) = connection.execute("SELECT content FROM withdrawals").fetchone()
    rows = json.loads(content)
    assert [json.loads(row["record"])["service"]["name"] for row in rows["snapshots"]] == ["history", "mood"]
    assert rows["runs"][0]["run_id"] == "r1"


def test_what_may_only_be_read_is_read_and_writing_says_why_not(uri: str, folder: Path) -> None:
    publish(uri)
    with only_reading(folder), open_index(uri) as index:
        assert [found.run_id for found in index.runs()] == ["r2", "r1", "r0"]
        assert index.run("r1").services == run(1).services
        assert [service.name for service in index.elements()] == ["mood", "history"]
        assert len(list(index.iterate_snapshots("history", NOON, NOON + 9 * DAY))) == 3
        assert index.global_versions("videos", NOON + 9 * DAY)[0].version_id == "v2"
        assert index.context_set(date(2026, 1, 2)) == context_set(1)
        for write in (
            lambda: index.publish_run(run(9)),
            lambda: index.publish_global(version(9)),
            lambda: index.publish_context_set(context_set(9)),
            lambda: index.withdraw_run("r1", "wrong", "ann"),
        ):
            with pytest.raises(
                SnapshotIndexError, match=r"is read-only for this process: .* → run this command as a user"
            ):
                write()
    assert sorted(path.name for path in folder.iterdir()) == ["index.db"]


def test_whoever_may_only_read_sees_what_others_publish_meanwhile(uri: str, folder: Path) -> None:
    publish(uri)
    with only_reading(folder):
        reader = open_index(uri)
    with reader, open_index(uri) as writer:
        for number in range(3, 6):
            writer.publish_run(run(number))
            with only_reading(folder):  # beside a log that is being written
                assert [found.run_id for found in reader.runs(1)] == [f"r{number}"]
        writer.close()
        with only_reading(folder):  # when the log is gone
            assert [found.run_id for found in reader.runs(2)] == ["r5", "r4"]


def test_a_log_that_a_killed_writer_left_is_read_where_nothing_may_be_written(uri: str, folder: Path) -> None:
    publish(uri)
    with open_index(uri) as writer:
        writer.publish_run(run(7))
        for name in ("index.db", "index.db-wal"):
            shutil.copy(folder / name, folder / f"copied-{name}")
    for name in ("index.db", "index.db-wal"):
        (folder / f"copied-{name}").rename(folder / name)
    assert not (folder / "index.db-shm").exists()
    with only_reading(folder), open_index(uri) as index:
        assert [found.run_id for found in index.runs(2)] == ["r7", "r2"]


def test_a_reader_never_sees_half_of_what_is_written_beside_it(uri: str, folder: Path) -> None:
    """The writer opens and closes the file each time: so the log comes and goes."""
    publish(uri)
    with subprocess.Popen([sys.executable, "-c", WRITER, uri], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        seen = []
        with as_nobody(), open_index(uri) as index:
            while writer.poll() is None:
                found = index.runs()
                assert all(len(run.services) == 2 for run in found)
                seen.append(len(found))
            assert len(index.runs()) == 43
    assert writer.returncode == 0
    assert seen == sorted(seen)


def test_an_index_that_is_missing_in_a_folder_that_may_not_be_written_is_told(uri: str, folder: Path) -> None:
    with (
        only_reading(folder),
        pytest.raises(SnapshotIndexError, match="does not exist, and this process may not create it"),
    ):
        open_index(uri)
    deeper = f"sqlite://{folder}/deeper/still/index.db"
    with (
        only_reading(folder),
        pytest.raises(SnapshotIndexError, match="does not exist, and this process may not create it"),
    ):
        open_index(deeper)


def test_what_is_not_asked_for_is_not_read(uri: str) -> None:
    with open_index(uri) as index:
        for number in range(40):
            index.publish_run(run(number))
            index.publish_global(version(number))
    for table in ("snapshots", "runs"):
        execute(uri, f"UPDATE {table} SET record = '{{' WHERE run_id NOT IN ('r39', 'r20')")
    execute(uri, "UPDATE global_versions SET record = '{' WHERE version_id NOT IN ('v39', 'v20')")
    with open_index(uri) as index:
        assert [found.run_id for found in index.runs(1)] == ["r39"]
        assert index.runs_by_id(["r20", "r39"]).keys() == {"r20", "r39"}
        assert len(index.run_ids()) == 40
        assert [service.name for service in index.elements()] == ["mood", "history"]
        assert next(index.iterate_snapshots("history", NOON, NOON + 99 * DAY)).run_id == "r39"
        assert [found.run_id for found in index.snapshots("history", NOON + 20 * DAY, NOON + 20 * DAY)] == ["r20"]
        for days in (20, 39, 99):
            at = index.global_version_at("videos", NOON + days * DAY)
            assert at is not None
            assert at.version_id == ("v20" if days == 20 else "v39")
        assert index.global_version("videos", "v20") is not None
        assert index.unreadable() == ()


def test_queries_of_a_page_search_and_never_sort_what_they_do_not_give(uri: str) -> None:
    publish(uri)
    asked: list[str] = []
    with open_index(uri) as index:
        assert isinstance(index, SqliteIndex)
        connection = index._file._connection
        assert connection is not None
        connection.set_trace_callback(asked.append)
        index.runs(1)
        list(index.iterate_snapshots("history", NOON, NOON + 9 * DAY))
        index.last_snapshots("history", 1)
        index.global_version_at("videos", NOON)
        index.context_sets(date.max, limit=1)
        connection.set_trace_callback(None)
        assert len(asked) == 6
        for text in asked:
            plan = [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")]
            scanned = [step for step in plan if step.startswith("SCAN ")]  # a page of runs, or of snapshots
            assert scanned in ([], ["SCAN r"], ["SCAN page"]), plan
            assert "USE TEMP B-TREE FOR ORDER BY" not in plan or scanned, plan
