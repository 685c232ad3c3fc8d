"""Generation against a scan of everything, and that nothing about how it runs shows in what it gives."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project_at_rest import COUNTRY, HISTORY, PROFILE, Project, long_labels, minutes

from delorean.display.text import to_text
from delorean.feature_sets.table import lineage_of, load_feature_set
from delorean.generation import generate
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_labels
from delorean.leaks import LeakThresholds
from delorean.state.rules import AsOf
from delorean.state.sources import PinnedSources
from encoders import FeatureModel, feature_encoder, lookup
from schemas.data_keys import context_variable, global_element, service_element
from schemas.errors import ConfigError, CorruptFileError, DataKeyError, EncoderError, MissingFileError, ParadoxError
from schemas.services import Service
from schemas.tables import TIME
from snapshotter.global_elements import publish_global
from snapshotter.index import open_index
from snapshotter.storage import open_storage

COLUMNS = LabelColumns(items=("video_id",))
VIDEOS = global_element("videos", "struct<video_id: int64, year: int32>")
CHARTS = service_element("charts", "list<int64>")


@feature_encoder(data=[HISTORY], features=["minutes_watched"])
def minutes_watched(context, items, data, out):
    history = data.history
    for i in range(len(items.video_id)):
        if history.present:
            out.minutes_watched[i] = 0.0
        for j in range(len(history.video_id)):
            if history.video_id[j] == items.video_id[i]:
                out.minutes_watched[i] += history.minutes[j]


@feature_encoder(data=[VIDEOS], features=["year"])
def year(context, items, data, out):
    for i in range(len(items.video_id)):
        row = lookup(data.videos, items.video_id[i])
        if row >= 0:
            out.year[i] = data.videos.year[row]


@feature_encoder(data=[CHARTS], features=["in_charts"])
def in_charts(context, items, data, out):
    for i in range(len(items.video_id)):
        out.in_charts[i] = 0.0
        for video in data.charts.values:
            if video == items.video_id[i]:
                out.in_charts[i] = 1.0


def rows_of(feature_set):
    return feature_set.to_arrow().sort_by([("profile_id", "ascending"), ("time", "ascending")])


def bits(table):
    """The same table with floats as their bits, so that NaN equals itself and nothing else equals by accident."""
    for i, field in enumerate(table.schema):
        if pa.types.is_list(field.type) and pa.types.is_floating(field.type.value_type):
            lists = table[field.name].combine_chunks()
            offsets = pc.subtract(lists.offsets, lists.offsets[0])
            table = table.set_column(i, field.name, pa.ListArray.from_arrays(offsets, lists.flatten().view(pa.int32())))
    return table


def expected(labels, captures, rule):
    """Scan all captures for each label row. captures: (publishing order, profile, minute, history)."""
    found = []
    for profile, minute, video, _ in sorted(labels):
        best = None
        for published, owner, at, history in captures:
            if owner != profile or at > minute - rule[1] or (rule[0] is not None and at < minute - rule[0]):
                continue
            if best is None or (at, published) >= best[:2]:
                best = (at, published, history)
        if best is None:
            found.append(None)
        else:
            found.append(float(sum(h["minutes"] for h in best[2] if h["video_id"] == video)))
    return found


history = st.lists(
    st.fixed_dictionaries({"video_id": st.integers(0, 3), "minutes": st.integers(0, 9).map(float)}), max_size=4
)
capture = st.tuples(st.integers(0, 5), st.integers(0, 12), history)
run = st.lists(capture, max_size=6, unique_by=lambda c: c[:2])
label_rows = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 12), st.integers(0, 3), st.integers(0, 1)),
    min_size=1,
    max_size=12,
    unique_by=lambda r: r[:3],
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=st.lists(st.tuples(run, st.sampled_from([1, 2, 4])), min_size=1, max_size=4),
    labels=label_rows,
    buckets=st.sampled_from([1, 2, 8]),
    lag=st.integers(0, 2),
    age=st.one_of(st.none(), st.integers(2, 8)),
    listed=st.sampled_from([1, 2, 32]),
)
def test_each_label_row_sees_the_latest_state_of_its_own_time(
    runs, labels, buckets, lag, age, listed, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("project")
    with open_index(f"sqlite://{folder}/index.db") as index:
        project = Project(open_storage(f"file://{folder}/store"), index)
        captures = []
        for published, (rows, run_buckets) in enumerate([([(99, 0, [])], 1), *runs]):
            project.history([((p,), at, h) for p, at, h in rows], f"run-{published}", run_buckets)
            captures += [(published, p, at, h) for p, at, h in rows]
        materialised = materialise_labels(long_labels(labels), COLUMNS, project.storage, buckets=buckets)
        rules = {"history": AsOf(None if age is None else timedelta(minutes=age), timedelta(minutes=lag))}
        features = partial(generate, materialised, FeatureModel([minutes_watched]), index, project.storage, rules=rules)
        with pytest.MonkeyPatch.context() as patched:  # snapshots are listed from the newest on, a few or all at once
            patched.setattr("delorean.state.snapshot_pages.FIRST_PAGE", listed)
            patched.setattr("delorean.state.snapshot_pages._GROWTH", 2)
            result = features("f")
        again = features("again", pinned=PinnedSources(result.lineage["snapshots"], {}))
    assert again.digest == result.digest
    flat = rows_of(result)["minutes_watched"].combine_chunks().flatten().to_pylist()
    assert [None if np.isnan(v) else v for v in flat] == expected(labels, captures, (age, lag))
    assert result.absent["history"] == rows_of(result)["history_captured_at"].null_count


def busy_project(project):
    """Three runs of different bucket counts, charts by country, two versions of the videos."""
    histories = [
        [
            ((p,), 10 * run + p % 3, [{"video_id": v, "minutes": float(p + v + run)} for v in range(p % 5)])
            for p in range(60)
        ]
        for run in range(3)
    ]
    for run, (rows, buckets) in enumerate(zip(histories, (4, 1, 16), strict=True)):
        project.history(rows, f"run-{run}", buckets)
    charts = Service("charts", CHARTS, (COUNTRY,))
    project.publish(charts, [(("US",), 5, [1, 2]), (("DE",), 5, [3])], "charts-1")
    for version, at in (("v1", 0), ("v2", 15)):
        table = pa.table({"video_id": [0, 1, 2], "year": pa.array([2000 + at, 2001 + at, 2002 + at], pa.int32())})
        publish_global(table, VIDEOS, minutes(at), project.storage, project.index, version)
    labels = long_labels([(p, m, v, (p + v) % 2) for p in range(60) for m in (7, 14, 40) for v in range(4)])
    country = pa.array(["US" if p % 2 else "DE" for p in labels["profile_id"].to_pylist()])
    return labels.append_column("country", country), FeatureModel([minutes_watched, year, in_charts])


def test_buckets_spark_and_this_process_give_the_same_features(project, spark):
    rows, model = busy_project(project)
    results = []
    for name, buckets, session in (("one", 1, None), ("eight", 8, None), ("spark", 4, spark)):
        labels = materialise_labels(rows, COLUMNS, project.storage, buckets=buckets)
        results.append(generate(labels, model, project.index, project.storage, name, spark=session))
    tables = [rows_of(result) for result in results]
    assert tables[0].num_rows == 180
    assert bits(tables[0]).equals(bits(tables[1]))
    assert bits(tables[0]).equals(bits(tables[2]))
    assert {2000.0, 2015.0} <= set(tables[0]["year"].combine_chunks().flatten().to_pylist())
    lazy = results[2].to_spark(spark)
    assert lazy.schema.names == tables[2].column_names
    in_spark = lazy.orderBy("profile_id", "time").toArrow().cast(tables[2].schema)
    assert bits(in_spark.combine_chunks()).equals(bits(tables[2].combine_chunks()))
    assert set(tables[0]["in_charts"].combine_chunks().flatten().to_pylist()) == {0.0, 1.0}


def test_workers_of_an_executor_map_the_versions_of_a_global_element_once_for_all(project, spark):
    def mapped(batches):
        with open("/proc/self/maps") as maps:
            files = {tuple(line.split()[4:]) for line in maps if "/delorean-" in line}
        for _ in batches:
            yield pa.RecordBatch.from_pydict({"inode": [i for i, _ in files], "path": [path for _, path in files]})

    def files():
        return set(spark.range(0, 8, 1, 8).mapInArrow(mapped, "inode string, path string").collect())

    rows, _ = busy_project(project)
    labels = materialise_labels(rows, COLUMNS, project.storage, buckets=8)
    before = files()
    generate(labels, FeatureModel([year]), project.index, project.storage, "f", spark=spark)
    [(inode, path)] = files() - before
    assert Path(path).stat().st_ino == int(inode)
    assert "blockmgr" in path  # a folder that goes with the executor


def test_spark_and_this_process_write_equal_bytes(project, spark):
    rows, model = busy_project(project)
    labels = materialise_labels(rows, COLUMNS, project.storage, buckets=4)
    sums = []
    for name, session in (("here", None), ("there", spark)):
        generate(labels, model, project.index, project.storage, name, spark=session)
        folder = project.storage.list(f"feature_sets/{name}")
        paths = [file.path for file in folder if file.path.endswith(".parquet")]
        contents = []
        for path in paths:
            with project.storage.open_input(path) as opened:
                contents.append(opened.read())
        sums.append(sorted(contents))
    assert sums[0] == sums[1]


def test_snapshots_published_later_change_only_what_is_generated_later(project):
    rows, model = busy_project(project)
    labels = materialise_labels(rows, COLUMNS, project.storage)
    first = generate(labels, model, project.index, project.storage, "f")
    before = rows_of(first)
    project.history([((p,), 39, []) for p in range(60)], "late")
    second = generate(labels, model, project.index, project.storage, "f")
    assert (first.version, second.version) == (0, 1)
    assert bits(rows_of(first)).equals(bits(before))
    assert not bits(rows_of(second)).equals(bits(before))
    assert "late" in lineage_of(second.uri)["snapshots"]["history"]
    assert "late" not in lineage_of(second.uri, version=0)["snapshots"]["history"]


def test_a_table_or_a_version_without_provenance_is_a_clear_error(project):
    project.history([((1,), 10, [])], "r")
    generate(labels_of(project), FeatureModel([minutes_watched]), project.index, project.storage, "f")
    uri = f"{project.storage.uri}/feature_sets/f"
    with pytest.raises(ConfigError, match="version 7 of .* has no lineage.*its newest version is 0"):
        lineage_of(uri, 7)
    with pytest.raises(ConfigError, match="there is no feature set at .*/ff → did you mean 'f'?"):
        lineage_of(f"{project.storage.uri}/feature_sets/ff")
    write_deltalake(f"{project.storage.uri}/foreign", pa.table({"x": [1]}))
    with pytest.raises(ConfigError, match="was not generated by DeLorean"):
        lineage_of(f"{project.storage.uri}/foreign")


def test_other_encoders_under_the_same_name_give_the_next_version_other_columns(project):
    rows, _ = busy_project(project)
    labels = materialise_labels(rows, COLUMNS, project.storage)
    first = generate(labels, FeatureModel([minutes_watched]), project.index, project.storage, "f")
    second = generate(labels, FeatureModel([year]), project.index, project.storage, "f")
    assert {"minutes_watched", "year"} & set(second.to_arrow().schema.names) == {"year"}
    assert {"minutes_watched", "year"} & set(first.to_arrow().schema.names) == {"minutes_watched"}


def test_every_reader_sees_the_same_feature_set(project):
    rows, model = busy_project(project)
    labels = materialise_labels(rows, COLUMNS, project.storage, buckets=2)
    result = generate(labels, model, project.index, project.storage, "f")
    expected = rows_of(result)
    order = ["profile_id", "time"]
    assert pl.read_delta(result.uri).sort(order)["year"].equals(pl.from_arrow(expected)["year"])
    table = DeltaTable(result.uri)
    assert len(table.file_uris()) == 2
    parquet = [uri.removeprefix("file://") for uri in table.file_uris()]
    read = duckdb.sql(f"SELECT in_charts FROM read_parquet({parquet}) ORDER BY profile_id, time").fetchall()
    assert [row[0] for row in read] == expected["in_charts"].to_pylist()


def test_no_row_is_made_from_anything_later_than_itself(project):
    rows, model = busy_project(project)
    result = generate(
        materialise_labels(rows, COLUMNS, project.storage), model, project.index, project.storage, "f"
    ).to_arrow()
    for row in result.select(["time", "latest_input_at", "outcome_at", "history_captured_at"]).to_pylist():
        assert row["latest_input_at"] <= row["time"] < row["outcome_at"]
        assert row["history_captured_at"] is None or row["history_captured_at"] <= row["latest_input_at"]


def test_rows_before_the_first_capture_are_kept_and_counted(project):
    project.history([((1,), 10, [])], "r")
    labels = materialise_labels(long_labels([(1, 5, 0, 1), (1, 15, 0, 1), (2, 15, 0, 0)]), COLUMNS, project.storage)
    result = generate(labels, FeatureModel([minutes_watched]), project.index, project.storage, "f")
    assert result.rows == 3
    assert result.absent == {"history": 2}
    values = rows_of(result)["minutes_watched"].combine_chunks().flatten().to_pylist()
    assert np.isnan(values).tolist() == [True, False, True]


def test_a_service_keyed_by_another_variable_is_read_by_every_task_and_the_plan_says_so(project):
    rows, model = busy_project(project)
    labels = materialise_labels(rows, COLUMNS, project.storage, buckets=8)
    result = generate(labels, model, project.index, project.storage, "f")
    assert any("charts" in note and "each of 8 tasks" in note for note in result.notes)


def labels_of(project, rows=((1, 15, 0, 1),)):
    return materialise_labels(long_labels(rows), COLUMNS, project.storage)


def test_an_element_nobody_captured_is_named(project):
    project.history([((1,), 10, [])], "r")
    with pytest.raises(DataKeyError, match="charts.*known: history"):
        generate(labels_of(project), FeatureModel([in_charts]), project.index, project.storage, "f")
    with pytest.raises(DataKeyError, match="'videos' has no version"):
        generate(labels_of(project), FeatureModel([year]), project.index, project.storage, "f")


def test_a_type_that_differs_from_the_snapshots_is_named(project):
    other = service_element("history", "list<struct<video_id: int64, minutes: double>>")
    project.publish(Service("history", other, (PROFILE,)), [((1,), 10, [])], "r")
    with pytest.raises(DataKeyError, match=r"history\.minutes' is double, expected float"):
        generate(labels_of(project), FeatureModel([minutes_watched]), project.index, project.storage, "f")


def test_labels_that_lack_a_service_key_are_refused(project):
    project.publish(Service("charts", CHARTS, (COUNTRY,)), [(("US",), 5, [1])], "r")
    with pytest.raises(DataKeyError, match="service 'charts' is keyed by.*country"):
        generate(labels_of(project), FeatureModel([in_charts]), project.index, project.storage, "f")


def test_a_failing_encoder_is_named_with_its_context_on_executors_too(project, spark):
    @feature_encoder(data=[HISTORY], features=["broken"], compiled=False)
    def broken(context, items, data, out):
        if context.profile_id == 2:
            raise ValueError("no such mood")
        out.broken[0] = 1.0

    project.history([((1,), 10, [])], "r")
    labels = labels_of(project, [(1, 15, 0, 1), (2, 15, 0, 1)])
    for session in (None, spark):
        with pytest.raises(EncoderError, match="broken.*profile_id.*2.*no such mood"):
            generate(labels, FeatureModel([broken]), project.index, project.storage, "f", spark=session)
    with pytest.raises(ConfigError, match="no feature set"):
        lineage_of(f"{project.storage.uri}/feature_sets/f")


def test_a_broken_or_missing_snapshot_file_is_named_and_nothing_is_published(project, spark):
    project.history([((1,), 10, [])], "r")
    labels = labels_of(project)
    path = Path(project.storage.uri.removeprefix("file://")) / "snapshots/history/r/00000-0.parquet"
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content[:-20] + b"\0" * 20)
    for session in (None, spark):
        with pytest.raises(CorruptFileError, match="00000-0.parquet"):
            generate(labels, FeatureModel([minutes_watched]), project.index, project.storage, "f", spark=session)
    path.unlink()
    with pytest.raises(MissingFileError, match="00000-0.parquet"):
        generate(labels, FeatureModel([minutes_watched]), project.index, project.storage, "f")


def test_wrong_settings_are_refused(project):
    project.history([((1,), 10, [])], "r")
    model = FeatureModel([minutes_watched])
    with pytest.raises(ConfigError, match="did you mean 'history'"):
        generate(labels_of(project), model, project.index, project.storage, "f", rules={"histroy": AsOf()})
    with pytest.raises(ConfigError, match="lag ≤ max_age"):
        AsOf(timedelta(1), timedelta(2))
    with pytest.raises(ConfigError, match="feature set '../f' cannot name a folder"):
        generate(labels_of(project), model, project.index, project.storage, "../f")
    clash = FeatureModel([minutes_watched.configured(rename={"minutes_watched": "profile_id"})])
    with pytest.raises(ConfigError, match="several columns named profile_id"):
        generate(labels_of(project), clash, project.index, project.storage, "f")
    clash = FeatureModel([minutes_watched.configured(rename={"minutes_watched": "Profile_ID"})])
    with pytest.raises(ConfigError, match="several columns named Profile_ID, profile_id"):
        generate(labels_of(project), clash, project.index, project.storage, "f")
    labels = labels_of(project)
    earlier = replace(labels, context=(context_variable("profile_id", "uint32"),))
    with pytest.raises(DataKeyError, match="holds unsigned integers, which Delta .* profile_id: uint32"):
        generate(earlier, model, project.index, project.storage, "f")


def test_labels_that_a_left_over_variable_gives_away_are_refused_before_anything_is_generated(project):
    """`SELECT *, bought AS label, decided_at AS outcome_at` leaves both among the context variables."""
    project.history([((1,), 10, [])], "r")
    rng = np.random.default_rng(1)
    n = 600
    shown = pl.DataFrame({"profile_id": np.arange(n) // 20, "time": [minutes(20)] * n, "video_id": np.arange(n) % 20})
    shown = shown.with_columns(bought=pl.Series(rng.integers(0, 2, n)))
    shown = shown.with_columns(
        decided_at=pl.col("time") + pl.duration(seconds=1 + pl.col("bought") + pl.int_range(n) % 2)
    )
    labels = materialise_labels(shown.with_columns(label="bought", outcome_at="decided_at"), COLUMNS, project.storage)

    def generated(labels):
        return generate(labels, minutes_watched, project.index, project.storage, "f", leaks=LeakThresholds())

    with pytest.raises(ParadoxError, match="decided_at. is the time of the outcome"):
        generated(labels)
    shown = shown.with_columns(label="bought", outcome_at="decided_at").drop("decided_at")
    with pytest.raises(ParadoxError, match=r"label data reveals its labels: bought \(a context variable\)"):
        generated(materialise_labels(shown, COLUMNS, project.storage))
    assert not list(project.storage.list("feature_sets"))
    named = LabelColumns(items=("video_id",), context=("profile_id",))
    assert generated(materialise_labels(shown, named, project.storage)).leaks.suspicious == ()


def test_contexts_that_cannot_be_ranked_are_said_where_leaks_are(project):
    project.history([((1,), 10, [])], "r")
    rows = long_labels([(p, 20, 7, p % 2) for p in range(30)])
    labels = materialise_labels(rows, COLUMNS, project.storage)
    made = generate(labels, minutes_watched, project.index, project.storage, "f", leaks=LeakThresholds())
    assert made.leaks.verdict.startswith("each of 30 contexts has one item only: no order of items is wrong")
    assert made.leaks.verdict in to_text(made)
    assert load_feature_set(project.storage, "f").leaks == made.leaks


def test_label_times_before_all_state_are_told_with_their_share(project, caplog):
    project.history([((1,), 10, [])], "r")

    def notes_of(minutes_of_rows):
        rows = long_labels([(1, at, 7, 1.0) for at in minutes_of_rows])
        labels = materialise_labels(rows, COLUMNS, project.storage)
        return generate(labels, minutes_watched, project.index, project.storage, "f").notes

    assert notes_of([10, 20, 30]) == ()
    assert notes_of([11]) == ()
    [note] = notes_of([-40_000, 9, 10, 20])
    assert note.startswith("2 of 4 label rows (50.0%) have a time before the first state that features are made from")
    assert "times are 2026-04-03 05:20 to 2026-05-01 00:20 UTC → check the labels' times" in note
    assert note in caplog.text
    [note] = notes_of([1, 2])
    assert note.startswith("2 of 2 label rows (100.0%) can see no state at all at their times, 2026-05-01 00:01 to")


def test_text_contexts_and_items_work_like_numbers(project):
    device = context_variable("device", "string")
    seen = service_element("seen", "list<string>")

    @feature_encoder(data=[seen], features=["times_seen"])
    def times_seen(context, items, data, out):
        for i in range(len(items.title)):
            out.times_seen[i] = 0.0
            for title in data.seen.values:
                if title == items.title[i]:
                    out.times_seen[i] += 1.0

    project.publish(Service("seen", seen, (device,)), [(("tv-1",), 1, ["a", "b", "a"])], "r", 4, "device")
    rows = pa.table(
        {
            "device": ["tv-1", "tv-1", "tv-2"],
            "time": pa.array([minutes(5)] * 3, TIME),
            "title": ["a", "c", "a"],
            "label": [1, 0, 1],
            "outcome_at": pa.array([datetime(2027, 1, 1, tzinfo=UTC)] * 3, TIME),
        }
    )
    labels = materialise_labels(rows, LabelColumns(items=("title",)), project.storage, buckets=8)
    table = generate(labels, FeatureModel([times_seen]), project.index, project.storage, "f").to_arrow()
    found = {row["device"]: row["times_seen"] for row in table.to_pylist()}
    assert found["tv-1"] == [2.0, 0.0]
    assert found["tv-2"] == [0.0]
