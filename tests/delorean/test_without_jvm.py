"""Without a session nothing of Spark is started, nor even imported; with one, the same calls give the same bytes."""

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project_at_rest import HISTORY, Project, long_labels, minutes

from delorean import TimeMachine, as_of_join, as_of_join_spark, generate, materialise_labels
from delorean.labels import LabelColumns
from encoders import feature_encoder
from snapshotter.index import open_index
from snapshotter.storage import open_storage

COLUMNS = LabelColumns(("video_id",))
WORK = """
import sys
from pathlib import Path

import psutil
from project_at_rest import HISTORY, Project, long_labels, minutes

from delorean import TimeMachine, as_of_join, compare_encoders, day_coverage, generate, label_coverage
from delorean import materialise_labels
from delorean.labels import LabelColumns
from encoders import feature_encoder
from snapshotter.index import open_index
from snapshotter.storage import open_storage

folder = Path.cwd()
with open_index(f"sqlite://{folder}/index.db") as index:
    project = Project(open_storage(f"file://{folder}/store"), index)
    project.history([((k,), k, [{"video_id": k, "minutes": 1.5}]) for k in range(8)], "r", buckets=4)
    labels = materialise_labels(
        long_labels([(k, 10, k, 0.0) for k in range(8)]), LabelColumns(("video_id",)), project.storage, buckets=2
    )

    @feature_encoder(data=[HISTORY], features=["f"])
    def total(context, items, data, out):
        for i in range(len(items.video_id)):
            out.f[i] = data.history.minutes[0]

    machine = TimeMachine(index, project.storage)
    view = machine.at(minutes(9))["history"]
    assert view.to_polars().height == view.to_pandas().shape[0] == 8
    assert machine.features(long_labels([(1, 10, 1, 0.0)]), total, items="video_id")["f"].to_pylist() == [[1.5]]
    made = generate(labels, total, index, project.storage, "f")
    assert made.rows == 8 and made.to_arrow().num_rows == 8
    compare_encoders(total, total, labels, index, project.storage)
    label_coverage(labels, index, project.storage, elements=[HISTORY])
    day_coverage(index, project.storage)
    rows = view.to_arrow().select(["profile_id", "captured_at"])
    as_of_join(rows.rename_columns(["profile_id", "time"]), rows, by="profile_id")
assert not psutil.Process().children(recursive=True), psutil.Process().children(recursive=True)
print([name for name in sys.modules if name.split(".")[0] in ("pyspark", "py4j")])
"""


def test_travelling_joining_generating_and_comparing_start_no_jvm_and_import_no_spark(tmp_path):
    tests = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PATH": "/nowhere", "PYTHONPATH": f"{tests.parent}:{tests / 'support'}"}
    environment.pop("JAVA_HOME", None)
    (tmp_path / "work.py").write_text(WORK)
    done = subprocess.run([sys.executable, "work.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@feature_encoder(data=[HISTORY], features=["watched", "share"])
def watched(context, items, data, out):
    history = data.history
    for i in range(len(items.video_id)):
        for j in range(len(history.video_id)):
            if history.video_id[j] == items.video_id[i]:
                out.watched[i] = history.minutes[j]
                out.share[i] = history.minutes[j] / 7.0


capture = st.tuples(st.integers(0, 3), st.integers(0, 4), st.floats(width=32))
captures = st.lists(capture, min_size=1, max_size=8, unique_by=lambda capture: capture[:2])
shown = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=12, unique=True
)


def published(folder, runs):
    """Publish one run after the other: (profile, minute, minutes watched of the videos 0 and 1)."""
    project = Project(open_storage(f"file://{folder}/store"), open_index(f"sqlite://{folder}/index.db"))
    for n, rows in enumerate(runs):
        some = [((p,), at, [{"video_id": v, "minutes": value} for v in (0, 1)]) for p, at, value in rows]
        project.history(some, f"run-{n}", buckets=2)
    return project


def contents(storage, folder):
    """Every data file below a folder, whatever it is called."""
    files = []
    for file in storage.list(folder):
        if file.path.endswith(".parquet"):
            with storage.open_input(file.path) as opened:
                files.append(opened.read())
    return sorted(files)


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=st.lists(captures, min_size=1, max_size=3), rows=shown, at=st.integers(0, 5))
def test_with_and_without_a_session_travelling_joining_and_generating_give_the_same_bytes(
    runs, rows, at, spark, tmp_path_factory
):
    project = published(tmp_path_factory.mktemp("project"), runs)
    storage, labelled = project.storage, long_labels([(p, t, v, float(v)) for p, t, v in rows])
    with project.index as index:
        for name, session in (("here", None), ("there", spark)):
            given = labelled if session is None else session.createDataFrame(labelled)
            labels = materialise_labels(given, COLUMNS, storage, labels_id=name, buckets=2)
            generate(labels, watched, index, storage, name, spark=session)
        assert contents(storage, "labels/here") == contents(storage, "labels/there")
        assert contents(storage, "feature_sets/here") == contents(storage, "feature_sets/there")
        view = TimeMachine(index, storage).at(minutes(at + 4))["history"]
        state, in_spark = view.to_arrow(), view.to_spark(spark)
    assert repr(in_spark.toArrow().cast(state.schema).to_pylist()) == repr(state.to_pylist())
    captured = state.append_column("n", state["captured_at"].cast("int64"))
    left = labelled.append_column("row", [list(range(len(rows)))])
    joined = as_of_join(left, captured, by="profile_id")
    frames = (spark.createDataFrame(left), spark.createDataFrame(captured))
    same = as_of_join_spark(*frames, by="profile_id", buckets=2).toArrow().sort_by("row").cast(joined.schema)
    assert repr(same.to_pylist()) == repr(joined.to_pylist())
