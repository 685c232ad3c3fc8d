"""Runs record all that they resolved, under ids that people can use."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from project_at_rest import long_labels

from delorean.display.html import to_html
from delorean.display.text import to_text
from delorean.experiment.record import find_run, forget_run, recorded_runs, save_run
from delorean.experiment.steps import package_of
from delorean.experiment.tables import pinned_tables
from delorean.feature_sets.table import lineage_of, table_uri
from delorean.ranking_data.feature_set_reader import read_feature_set
from delorean.ranking_data.split import Split
from schemas.errors import ConfigError, LabelError, PackageError, ReplayError, TrainingError
from snapshotter.storage.table_source import TableSource


def test_a_run_records_what_it_resolved(lab, spark):
    record = lab.run(spark)
    assert record.run_id == f"{lab.spec.id}-1"
    assert record.experiment.id == record.experiment_id == lab.spec.id
    assert record.snapshots == {
        "history": ("history-0", "history-1", "history-2"),
        "mood": ("mood-0", "mood-1", "mood-2"),
    }
    assert record.confidence["mood"] == {"mood-0": 1.0, "mood-1": 1.0, "mood-2": 1.0}
    assert record.labels.contexts == 120
    assert record.labels.tables == {"shown": {"path": "shown.parquet", "format": "parquet", "version": None}}
    assert (record.features.rows, record.features.items, record.features.version) == (120, 480, 0)
    assert set(record.features.digest.features) == {"minutes_watched", "mood_known"}
    assert [encoder["fingerprint"] for encoder in record.encoders.values()] == [
        encoder.fingerprint for encoder in lab.spec.feature_model.encoders
    ]
    assert {"python", "pyarrow", "numba"} <= set(record.versions)
    assert set(record.seconds) == {"labels", "features"}
    assert sum(row["rows"] for row in record.features.spread) == 120
    assert lineage_of(table_uri(lab.storage, "lab"))["experiment"] == record.experiment_id
    assert DeltaTable(table_uri(lab.storage, "lab"), version=0).to_pyarrow_table().num_rows == 120


def test_what_does_not_train_imports_no_learner():
    """Generation, replays and their displays start a second or two sooner."""
    code = "import sys, delorean.experiment.run, delorean.experiment.replay, delorean.display.descriptions as shown\n"
    code += "print(sorted({'sklearn', 'onnx', 'onnxruntime', 'skl2onnx', 'lightgbm', 'xgboost'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_runs_are_found_by_id_by_experiment_by_name_and_by_the_beginning_of_an_id(lab, spark):
    first, second = lab.run(spark), lab.run(spark)
    lab.write_spec(('"PT1H"', '"PT2H"'))
    other = lab.run(spark)
    assert [record.run_id for record in recorded_runs(lab.storage)] == [other.run_id, second.run_id, first.run_id]
    assert find_run(first.run_id, lab.storage) == first
    assert find_run(first.experiment_id, lab.storage) == second
    assert find_run(first.experiment_id[:6], lab.storage) == second
    assert find_run("lab", lab.storage) == other


def test_an_unknown_id_is_an_error_that_names_the_nearest(lab, spark):
    record = lab.run(spark)
    with pytest.raises(ReplayError, match="unknown experiment run 'labb' → did you mean 'lab'"):
        find_run("labb", lab.storage)
    with pytest.raises(ReplayError, match=f"did you mean '{record.run_id}'"):
        find_run(f"{record.experiment_id}-9", lab.storage)
    with pytest.raises(ReplayError, match="unknown experiment run ''"):
        find_run("", lab.storage)


def test_runs_that_end_at_the_same_time_get_different_ids(lab, spark):
    record = lab.run(spark)
    with ThreadPoolExecutor(8) as threads:
        saved = list(threads.map(lambda _: save_run(record, lab.storage).run_id, range(40)))
    assert len(set(saved)) == 40
    assert {found.run_id for found in recorded_runs(lab.storage)} == {record.run_id, *saved}


def test_a_record_that_was_tampered_with_is_named(lab, spark):
    record = lab.run(spark)
    path = lab.folder / "store/experiments" / record.experiment_id / f"{record.run_id}.json"
    path.chmod(0o644)
    path.write_text(path.read_text()[:-30])
    with pytest.raises(ReplayError, match=f"{record.run_id}.json cannot be read"):
        find_run("lab", lab.storage)


def test_a_run_that_fails_in_training_is_recorded_with_its_features(lab, spark):
    lab.write_spec(("[as_of", '[split]\nby_time = false\ngroup = "country"\n[as_of'))
    with pytest.raises(TrainingError, match="country"):
        lab.run(spark, training=True)
    record = find_run("lab", lab.storage)
    assert record.metrics is None
    assert record.features.rows == 120


def test_a_run_that_trains_records_its_metrics(lab, spark):
    lab.write_spec(("[as_of", '[split]\nby_time = false\ngroup = "profile_id"\n[as_of'))
    record = lab.run(spark, training=True)
    assert record.ndcg == record.metrics["model"]["test"]["ndcg@10"]
    assert find_run(record.run_id, lab.storage) == record


def test_confidence_can_weigh_rows_in_training(lab, spark):
    split = '[split]\nby_time = false\ngroup = "profile_id"\n'
    lab.project.history([((p,), 39, [{"video_id": 1, "minutes": 5.0}]) for p in range(30)], "poor", failed=90)
    lab.write_spec(("[as_of", f'{split}[model]\nweight = "confidence"\n[as_of'))
    weighted = lab.run(spark, training=True)
    data = read_feature_set(
        table_uri(lab.storage, "lab"), ["minutes_watched"], ["video_id"], ["profile_id"], weight="confidence"
    )
    assert sorted(set(data.weights)) == [0.25, 1.0]
    lab.write_spec(("[as_of", f"{split}[as_of"))
    assert lab.run(spark, training=True).metrics != weighted.metrics
    lab.write_spec(("[as_of", f'{split}[model]\nweight = "confidense"\n[as_of'))
    with pytest.raises(TrainingError, match="did you mean 'confidence'"):
        lab.run(spark, training=True)


def test_a_run_without_spark_gives_the_same_over_label_data_that_is_at_rest(lab, spark):
    with pytest.raises(LabelError, match="not at rest, and its query needs Spark → pass a session"):
        lab.run(None)
    lab.write_spec(('items = ["video_id"]', 'items = ["video_id"]\nid = "kept"'))
    with_spark = lab.run(spark)
    assert lab.run(None).features.digest == with_spark.features.digest


def test_label_data_under_an_id_is_not_used_for_another_query(lab, spark):
    lab.write_spec(("[labels]", '[labels]\nid = "shared"'))
    first = lab.run(spark)
    assert lab.run(spark).labels == first.labels
    moved = replace(lab.spec, folder=str(shutil.copytree(lab.folder, lab.folder.parent / "moved")))
    assert lab.run(spark, moved).labels == first.labels
    lab.write_spec(('table = "shown"', 'id = "shared"\nquery = "SELECT * FROM shown WHERE profile_id < 9"'))
    with pytest.raises(LabelError, match="label data 'shared' was made by another query"):
        lab.run(spark)


@pytest.fixture
def shown(tmp_path):
    """A Delta table of label rows with two versions."""
    where = str(tmp_path / "shown")
    write_deltalake(where, long_labels([(1, 7, 0, 1)]))
    write_deltalake(where, long_labels([(1, 7, 0, 1), (2, 7, 0, 1)]), mode="overwrite")
    return where


def test_the_version_of_a_delta_table_is_pinned_when_it_is_read(shown):
    tables = {"newest": TableSource(shown, "delta"), "first": TableSource(shown, "delta", 0)}
    pinned = pinned_tables({**tables, "plain": TableSource("x.parquet")})
    assert {name: source.version for name, source in pinned.items()} == {"newest": 1, "first": 0, "plain": None}


def test_a_delta_version_that_is_not_there_or_was_vacuumed_away_is_named(shown):
    with pytest.raises(LabelError, match=r"table 'shown': there is no version 7 of .* → the newest is 1"):
        pinned_tables({"shown": TableSource(shown, "delta", 7)})
    DeltaTable(shown).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    with pytest.raises(LabelError, match="1 of 1 files of version 0 .* are gone.*vacuumed"):
        pinned_tables({"shown": TableSource(shown, "delta", 0)})
    assert pinned_tables({"shown": TableSource(shown, "delta")})["shown"].version > 0
    shutil.rmtree(Path(shown))
    with pytest.raises(LabelError, match="there is no Delta table"):
        pinned_tables({"shown": TableSource(shown, "delta")})


def test_a_table_that_is_not_there_is_an_error_of_the_labels(lab, spark):
    (lab.folder / "shown.parquet").unlink()
    with pytest.raises(LabelError, match="shown.parquet"):
        lab.run(spark)


def test_records_are_small_text_that_any_reader_reads(lab, spark):
    import json

    record = lab.run(spark)
    text = (lab.folder / "store/experiments" / record.experiment_id / f"{record.run_id}.json").read_text()
    assert json.loads(text)["spec"]["labels"] == {"table": "shown", "items": ["video_id"]}


def test_a_run_with_an_id_ends_once_and_finds_its_labels_again(lab, spark, caplog):
    lab.write_spec(("[as_of", '[split]\nby_time = false\ngroup = "country"\n[as_of'))
    with pytest.raises(TrainingError, match="country"):
        lab.run(spark, training=True, run_id="d1")
    assert list(recorded_runs(lab.storage)) == []  # it can be run again
    lab.capture(3, 39)
    first = lab.run(spark, run_id="d1")
    assert first.run_id == f"{lab.spec.id}-d1"
    assert first.snapshots["history"] == ("history-0", "history-1", "history-2")
    assert lab.run(spark, run_id="d1") == first
    assert f"run '{first.run_id}' has already ended: nothing to do" in caplog.text
    assert len(DeltaTable(table_uri(lab.storage, "lab")).history()) == 1
    assert len({file.path.split("/")[1] for file in lab.storage.list("labels")}) == 1
    other = lab.run(spark, run_id="d2")
    assert other.labels.id != first.labels.id
    assert other.snapshots["history"][-1] == "history-3"
    with pytest.raises(ConfigError, match=f"run '{first.run_id}' has ended with its features, without training"):
        lab.run(spark, training=True, run_id="d1")
    forget_run(first.run_id, lab.storage)
    with pytest.raises(ReplayError, match="run 'd1' was forgotten → choose another run id"):
        lab.run(spark, run_id="d1")


def test_an_experiment_and_its_run_show_the_graph_of_their_inputs(lab, spark):
    spec, record = lab.spec, lab.run(spark)
    assert "history · service → minutes_watched → minutes_watched" in to_text(spec)
    assert "minutes_watched, mood_known, labels shown → gradient boosted trees" in to_text(spec)
    assert "history · 3 snapshots → minutes_watched" in to_text(record)
    assert "<svg" in to_html(spec)
    assert "120 rows, 480 items, 2 features" in repr(record)
    lost = replace(spec, name="<b>lost", encoders=(*spec.encoders, "nowhere:at_all"))
    for drawn in (to_text(lost), to_html(lost)):
        assert "encoder &#x27;nowhere:at_all&#x27;" in drawn or "encoder 'nowhere:at_all'" in drawn
        assert "at_all" in drawn
    assert "<b>lost" not in to_html(lost)


def test_a_run_for_a_day_learns_what_was_known_when_it_began_whenever_it_takes_place(lab, spark):
    rows = [(p, m, v, (p + v) % 2) for p in range(40) for m in (7, 14, 1439, 1500) for v in range(4)]
    pq.write_table(long_labels([row for row in rows if row[1] < 1500]), lab.folder / "shown.parquet")
    then = lab.run(spark, run_id="then", day=date(2026, 5, 2))
    pq.write_table(long_labels(rows), lab.folder / "shown.parquet")
    later = lab.run(spark, run_id="later", day=date(2026, 5, 2))
    assert (then.labels.contexts, then.features.digest) == (120, later.features.digest)  # outcomes at midnight count
    assert lab.run(spark, run_id="next", day=date(2026, 5, 3)).labels.contexts == 160


def test_a_query_is_told_the_day(lab, spark):
    lab.write_spec(
        ('table = "shown"', "query = \"SELECT * FROM shown WHERE time < :date - INTERVAL '23:50' HOUR TO MINUTE\"")
    )
    assert lab.run(spark, day=date(2026, 5, 2)).labels.contexts == 40
    with pytest.raises(LabelError, match="date"):
        lab.run(spark)


def test_training_for_a_run_takes_its_features_and_leaves_a_package_that_is_there(lab, spark, tmp_path):
    first = lab.run(spark, run_id="first")
    lab.run(spark, run_id="second")
    spec, folder = replace(lab.spec, split=Split(by_time=False, group="profile_id")), tmp_path / "packages" / "one"

    def packaged(run_id):
        return package_of(spec, lab.index, lab.storage, folder, [lab.module], run_id)

    made = packaged("first")
    assert made.lineage["feature_set"]["version"] == first.features.version
    at = (folder / "model.onnx").stat().st_mtime_ns
    assert packaged("first").lineage == made.lineage
    assert (folder / "model.onnx").stat().st_mtime_ns == at
    with pytest.raises(PackageError, match="exists, and is not a package of version 1"):
        packaged("second")
    with pytest.raises(ConfigError, match="no run 'third' has generated features of 'lab'"):
        packaged("third")
