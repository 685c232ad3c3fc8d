"""Matching files from the newest on gives what matching all of them at once gives, and opens no more than it must."""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project_at_rest import HISTORY, PROFILE, Project, minutes

from delorean.as_of.join import as_of_rows
from delorean.state.captures import MOST_OPEN, find_captures, match_captures
from delorean.state.matches import CaptureFile
from delorean.state.rules import AsOf
from schemas.data_keys import context_variable, service_element
from schemas.errors import DataKeyError
from schemas.services import Service
from schemas.tables import TIME
from snapshotter.index import open_index
from snapshotter.records import END_OF_TIME
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import ParquetReader, read_parquet


def files_of(project, service="history"):
    """Every file, the earliest published first."""
    first = minutes(-1_000_000)
    snapshots = reversed(project.index.snapshots(service, first, END_OF_TIME))
    return [CaptureFile(snapshot, file) for snapshot in snapshots for file in snapshot.files]


def rows_at(rows):
    profiles, times = zip(*rows, strict=True)
    return (
        pa.table({"profile_id": pa.array(profiles, pa.int64())}),
        pa.chunked_array([pa.array([minutes(at) for at in times], TIME)]),
    )


def all_at_once(keys, times, rule, files, storage):
    """The kernel over the captures of all files together, as published: (captured_at, file, value) for each row."""
    tables = [read_parquet(storage, file) for _, file in files]
    captures = pa.concat_tables(tables)
    found = as_of_rows(
        [keys["profile_id"]],
        times,
        [captures["profile_id"]],
        captures["captured_at"],
        max_age=rule.max_age,
        lag=rule.lag,
        allow_exact=rule.allow_exact,
    )
    of = np.repeat(np.arange(len(tables)), [table.num_rows for table in tables])
    captured = captures["captured_at"].cast(pa.int64()).to_pylist()
    values = captures["value"].to_pylist()
    return [None if row < 0 else (captured[row], int(of[row]), values[row]) for row in found]


# A run captures over a span that may overlap those of others, in which a key may come several times; runs are published
# in the order of the list, whenever they captured.
run = st.tuples(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=5, unique=True),
    st.sampled_from([1, 2, 4]),
)
rules = st.builds(
    lambda age, lag, exact: AsOf(
        None if age is None else timedelta(minutes=age + lag), timedelta(minutes=lag), allow_exact=exact
    ),
    st.none() | st.integers(0, 6),
    st.integers(0, 3),
    st.booleans(),
)
rows = st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 12)), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=st.lists(run, min_size=1, max_size=12),
    rows=rows,
    rule=rules,
    most_open=st.sampled_from([1, 2, 5, 16]),
    grouped=st.sampled_from([1, 2, 1024]),
    few_keys=st.sampled_from([0, 4096]),
)
def test_newest_first_gives_what_all_at_once_gives(runs, rows, rule, most_open, grouped, few_keys, tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patched, open_index(f"sqlite://{folder}/index.db") as index:
        patched.setattr("snapshotter.storage.parquet._FEWEST_ROWS", grouped)
        patched.setattr("snapshotter.storage.parquet._ROW_GROUP_BYTES", 1)
        project = Project(open_storage(f"file://{folder}/store"), index)
        for number, (captures, buckets) in enumerate(runs):
            taken = [((p,), at, [{"video_id": number, "minutes": float(at)}]) for p, at in captures]
            project.history(taken, f"run-{number}", buckets)
        files = files_of(project)
    keys, times = rows_at(rows)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("delorean.state.captures.MOST_OPEN", most_open)
        patched.setattr("delorean.state.row_groups._FEW_KEYS", few_keys)
        matched = match_captures(keys, times, (PROFILE,), HISTORY, rule, files, project.storage)
    values = matched.element.values.to_pylist()
    found = [
        None if file < 0 else (at, file, values[row])
        for at, file, row in zip(matched.captured_at, matched.file, matched.element.rows, strict=True)
    ]
    assert found == all_at_once(keys, times, rule, files, project.storage)


@pytest.fixture
def opened(monkeypatch):
    """What is opened while a test runs: names of files, and how many at a time at most."""
    names, now, most = [], set(), [0]
    enter, leave = ParquetReader.__enter__, ParquetReader.__exit__

    def entered(reader):
        names.append(reader.file.path)
        now.add(reader.file.path)
        most[0] = max(most[0], len(now))
        return enter(reader)

    def left(reader, *error):
        now.discard(reader.file.path)
        return leave(reader, *error)

    monkeypatch.setattr(ParquetReader, "__enter__", entered)
    monkeypatch.setattr(ParquetReader, "__exit__", left)
    return names, most


def hourly(project, runs, profiles=4):
    for number in range(runs):
        project.history([((p,), 60 * number, []) for p in range(profiles)], f"run-{number}")
    return files_of(project)


def test_files_older_than_what_serves_the_rows_are_not_opened(project, opened):
    files = hourly(project, 60)
    names, _ = opened
    keys, times = rows_at([(p, 60 * 59 + 1) for p in range(4)])
    found = find_captures(keys, times, (PROFILE,), AsOf(), files, project.storage)
    assert (found.file == 59).all()
    assert [Path(name).parent.name for name in names] == ["run-59"]


def test_files_newer_than_all_rows_are_not_opened_nor_those_between_rows_far_apart(project, opened):
    files = hourly(project, 60)
    names, _ = opened
    keys, times = rows_at([(0, 61), (1, 60 * 40 + 5)])
    found = find_captures(keys, times, (PROFILE,), AsOf(), files, project.storage)
    assert found.file.tolist() == [1, 40]
    assert len(names) == len(set(names)) <= 6


def test_a_row_that_nothing_serves_looks_into_its_window_alone_and_few_files_at_a_time(project, opened):
    files = hourly(project, 60)
    names, most = opened
    keys, times = rows_at([(99, 60 * 50)])
    rule = AsOf(max_age=timedelta(hours=9))
    assert find_captures(keys, times, (PROFILE,), rule, files, project.storage).file.tolist() == [-1]
    assert sorted(Path(name).parent.name for name in names) == sorted(f"run-{n}" for n in range(41, 51))
    names.clear()
    find_captures(keys, times, (PROFILE,), AsOf(), files, project.storage)
    assert len(names) == 51
    assert most[0] <= MOST_OPEN


def test_each_file_is_opened_once_for_keys_and_values(project, opened):
    files = hourly(project, 40)
    names, most = opened
    keys, times = rows_at([(p, 60 * n + 1) for n in range(40) for p in range(4)])
    matched = match_captures(keys, times, (PROFILE,), HISTORY, AsOf(), files, project.storage)
    assert not matched.absent.any()
    assert len(names) == len(set(names)) == 40
    assert most[0] <= MOST_OPEN


@pytest.fixture
def groups_read(monkeypatch):
    """Files with a row group for every two rows; gives the row groups that are read while a test runs."""
    monkeypatch.setattr("snapshotter.storage.parquet._FEWEST_ROWS", 2)
    monkeypatch.setattr("snapshotter.storage.parquet._ROW_GROUP_BYTES", 1)
    groups = []
    verify = ParquetReader._verify
    monkeypatch.setattr(ParquetReader, "_verify", lambda reader, new: (groups.append([*new]), verify(reader, new))[1])
    return groups


@pytest.mark.parametrize("few_keys", [4096, 0])
def test_row_groups_without_any_of_the_keys_are_not_read(project, groups_read, few_keys, monkeypatch):
    monkeypatch.setattr("delorean.state.row_groups._FEW_KEYS", few_keys)
    country = context_variable("country", "string")
    service = Service("charts", HISTORY, (country,))
    names = ["AT", "BE", "CH", "DE", "ES", "FR", "GB", "HU"]
    project.publish(service, [((name,), 5, [{"video_id": 1, "minutes": 1.0}]) for name in names], "r")
    files = files_of(project, "charts")
    rows = pa.table({"country": ["ES", "FR", "CH", None, "BZ"]})
    times = pa.chunked_array([pa.array([minutes(9)] * 5, TIME)])
    groups_read.clear()
    matched = match_captures(rows, times, (country,), HISTORY, AsOf(), files, project.storage)
    assert matched.file.tolist() == [0, 0, 0, -1, -1]
    assert groups_read == [[4], [1, 2], [1, 2]]  # the footer, the keys, the values
    groups_read.clear()
    none = match_captures(rows.slice(4), times.slice(4), (country,), HISTORY, AsOf(), files, project.storage)
    assert none.file.tolist() == [-1]
    assert groups_read == [[4], []]


def test_row_groups_of_captures_that_no_row_sees_are_not_read_nor_values_that_serve_none(project, groups_read):
    project.history([((1,), at, [{"video_id": at, "minutes": 1.0}]) for at in range(10)], "r")
    files = files_of(project)
    keys, times = rows_at([(1, 5)])
    rule = AsOf(max_age=timedelta(minutes=3))
    groups_read.clear()
    matched = match_captures(keys, times, (PROFILE,), HISTORY, rule, files, project.storage)
    assert matched.element.values.to_pylist() == [[{"video_id": 5, "minutes": 1.0}]]
    assert groups_read == [[5], [1, 2], [2]]


def test_a_null_in_a_key_is_searched_nowhere(project, opened):
    files = hourly(project, 20)
    names, _ = opened
    keys = pa.table({"profile_id": pa.array([None, 1], pa.int64())})
    times = pa.chunked_array([pa.array([minutes(60 * 30)] * 2, TIME)])
    assert find_captures(keys, times, (PROFILE,), AsOf(), files, project.storage).file.tolist() == [-1, 19]
    assert [Path(name).parent.name for name in names] == ["run-19"]


def test_a_run_of_another_type_is_refused_only_where_it_serves_a_row(project):
    older = Service("history", service_element("history", "list<struct<video_id: string>>"), (PROFILE,))
    project.publish(older, [((1,), 0, [{"video_id": "5"}]), ((2,), 0, [])], "old")
    project.history([((1,), 10, [])], "new")
    files = files_of(project)
    one = match_captures(*rows_at([(1, 11)]), (PROFILE,), HISTORY, AsOf(), files, project.storage)
    assert one.file.tolist() == [1]
    with pytest.raises(DataKeyError, match=r"run 'old' serves rows, .*'history\.video_id' is string, expected int64"):
        match_captures(*rows_at([(1, 11), (2, 11)]), (PROFILE,), HISTORY, AsOf(), files, project.storage)
    before = match_captures(*rows_at([(1, 9), (2, 9)]), (PROFILE,), older.element, AsOf(), files, project.storage)
    assert before.file.tolist() == [0, 0]


def test_a_run_under_another_key_is_passed_over(project):
    country = context_variable("country", "string")
    project.publish(
        Service("history", HISTORY, (country,)), [(("US",), 5, [])], "by-country", bucket_variable="country"
    )
    project.history([((1,), 0, [])], "by-profile")
    found = find_captures(*rows_at([(1, 11)]), (PROFILE,), AsOf(), files_of(project), project.storage)
    assert found.file.tolist() == [1]


_FEW_FILES = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
sys.path[:0] = json.loads(sys.argv[2])
from pathlib import Path
from project_at_rest import HISTORY, Project, long_labels, minutes
from delorean.generation import generate
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_labels
from delorean.coverage import label_coverage
from delorean.time_travel import TimeMachine
from encoders import FeatureModel, feature_encoder
from snapshotter.index import open_index
from snapshotter.storage import open_storage

@feature_encoder(data=[HISTORY], features=["watched"], compiled=False)
def watched(context, items, data, out):
    for i in range(len(items.video_id)):
        out.watched[i] = len(data.history.video_id) if data.history.present else -1.0

folder = sys.argv[1]
with open_index(f"sqlite://{folder}/index.db") as index:
    project = Project(open_storage(f"file://{folder}/store"), index)
    for n in range(300):
        project.history([((n % 7,), n, [])], f"run-{n}")
    rows = long_labels([(p, at, 1, 1) for p in range(8) for at in (150, 400)])
    labels = materialise_labels(rows, LabelColumns(items=("video_id",)), project.storage, buckets=2)
    made = generate(labels, FeatureModel([watched]), index, project.storage, "f")
    [cell] = label_coverage(labels, index, project.storage).elements
    seen = TimeMachine(index, project.storage).at(minutes(299))["history"].to_arrow().num_rows
    print(json.dumps([made.absent["history"], cell.absent, seen]))
"""


def test_three_hundred_runs_need_few_open_files(tmp_path):
    paths = json.dumps([path for path in sys.path if path])
    script = tmp_path / "few_files.py"
    script.write_text(_FEW_FILES)
    command = [sys.executable, str(script), str(tmp_path), paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [2, {"never captured": 2}, 7]
