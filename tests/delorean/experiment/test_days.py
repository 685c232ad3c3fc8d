"""Runs of an experiment for days: recorded with their parts, replayed, kept by a vacuum, trained on."""

import os
import shutil
from datetime import UTC, date, datetime, timedelta

import msgspec
import pyarrow.parquet as pq
import pytest
from project_at_rest import START, long_labels

from delorean.experiment import ExperimentSpec, load_experiment
from delorean.experiment.day_features import is_incremental
from delorean.experiment.label_data import known_between
from delorean.experiment.record import RunRecord, find_run
from delorean.experiment.replay import replay
from delorean.experiment.tables import query
from delorean.feature_sets.parts import parts_of
from delorean.feature_sets.table import lineage_of, load_feature_set, table_uri
from delorean.labels import find_labels, label_data_names
from delorean.project.vacuum import vacuum
from schemas.errors import ConfigError, ReplayError

DAY = 1440


def shown(lab, days=4):
    rows = [(p, DAY * d + 7 + p % 5, v, (p + v) % 2) for d in range(days) for p in range(40) for v in range(4)]
    pq.write_table(long_labels(rows), lab.folder / "shown.parquet")


def test_days_are_recorded_with_their_parts_replayed_and_kept(lab, spark):
    shown(lab)
    records = [lab.run(spark, run_id=f"d{day}", day=date(2026, 5, day)) for day in (2, 3, 4)]
    last = records[-1]
    parts = parts_of(lineage_of(table_uri(lab.storage, "lab"), last.features.version))
    assert ([part.version for part in parts], last.labels.parts) == ([0, 1, 2], 3)
    assert (last.labels.contexts, last.labels.items, last.features.rows) == (120, 480, 120)
    assert find_run("lab", lab.storage) == last
    assert lab.run(spark, run_id="d4", day=date(2026, 5, 4)) == last
    with pytest.raises(ConfigError, match="run id 'd4' is taken"):
        lab.run(spark, run_id="d4", day=date(2026, 5, 5))
    again = replay(last, lab.index, lab.storage, buckets=2, modules=(lab.module,))
    assert again.identical
    assert again.features.digest == last.features.digest
    # All at once, without parts, gives the same.
    lab.write_spec(('items = ["video_id"]', 'items = ["video_id"]\nincremental = false'), name="once")
    once = lab.run(spark, lab_spec(lab, "once"), run_id="once", day=date(2026, 5, 4))
    assert (once.labels.parts, once.features.digest) == (0, last.features.digest)
    # A vacuum long after keeps what the runs need.
    labels = {part.labels for part in parts}
    for file in lab.storage.root.rglob("*"):
        if file.is_file():
            os.utime(file, (0, 0))
    vacuum(lab.storage, lab.index, timedelta(days=7))
    assert labels < set(label_data_names(lab.storage))
    for record in records:
        assert replay(record, lab.index, lab.storage, into="after", modules=(lab.module,)).identical
    features = load_feature_set(lab.storage, "lab", last.features.version)
    assert features.to_arrow().num_rows == 120
    for part in lab.storage.root.glob(f"labels/{parts[0].labels}/*"):
        if part.is_file():
            part.unlink()
    with pytest.raises(ReplayError, match=f"label data '{parts[0].labels}' of a part is gone"):
        replay(last, lab.index, lab.storage, into="after", modules=(lab.module,))


def lab_spec(lab, name) -> ExperimentSpec:
    return load_experiment(lab.folder / f"{name}.toml", lab.index)


def test_what_a_part_reads_of_captures_is_that_of_its_day(lab, spark):
    shown(lab)
    asked = "SELECT * FROM shown WHERE EXISTS (SELECT 1 FROM captures('mood') m WHERE m.profile_id = shown.profile_id)"
    lab.write_spec(('table = "shown"', f'query = "{asked}"'))
    first = lab.run(spark, run_id="d2", day=date(2026, 5, 2))
    assert first.labels.contexts == 32  # profiles 0, 5, … were never captured
    lab.project.mood([((p,), DAY + 3, "late") for p in range(0, 40, 5)], "mood-late")
    second = lab.run(spark, run_id="d3", day=date(2026, 5, 3))
    assert (second.labels.contexts, second.labels.parts) == (32 + 40, 2)
    sources = [find_labels(each.labels.id, lab.storage).source for each in (first, second)]
    before = [f"mood-{run}" for run in range(3)]
    assert [source["state"] for source in sources] == [
        {"captures('mood')": before},
        {"captures('mood')": [*before, "mood-late"]},
    ]
    # Made again, the first day's part neither sees what was captured later, nor depends on the run.
    shutil.rmtree(lab.storage.root / "labels" / first.labels.id)
    shutil.rmtree(lab.storage.root / "feature_sets")
    again = lab.run(spark, run_id="again", day=date(2026, 5, 2))
    assert (again.labels.id, again.features.digest) == (first.labels.id, first.features.digest)


def test_a_day_without_labels_is_generated_whole(lab, spark):
    shown(lab)
    lab.write_spec(
        ('items = ["video_id"]', 'items = ["video_id"]\nlabels = []\ncontext = ["profile_id"]'),
    )
    assert not is_incremental(lab.spec, date(2026, 5, 2))
    record = lab.run(spark, run_id="d2", day=date(2026, 5, 2))
    assert (record.labels.parts, record.labels.contexts) == (0, 160)


def test_a_model_is_trained_on_all_parts(lab, spark):
    shown(lab, days=10)
    lab.run(spark, day=date(2026, 5, 6))
    record = lab.run(spark, day=date(2026, 5, 11), training=True)
    assert record.labels.parts == 2
    assert record.metrics is not None
    assert record.features.rows == 400


def test_the_time_of_a_part_reaches_the_tables_files(lab, spark):
    shown(lab)
    rows = query(spark, "SELECT *, 1 AS one FROM shown", lab.spec.located_tables)
    part = known_between(rows, "outcome_at", START, datetime(2026, 5, 2, tzinfo=UTC))
    plan = part._jdf.queryExecution().executedPlan().toString()
    assert "PushedFilters: [IsNotNull(outcome_at), GreaterThan(outcome_at," in plan
    assert part.count() == 160


def test_a_record_without_parts_is_read_as_one_of_an_earlier_release(lab, spark):
    record = lab.run(spark)
    fields = record.to_json()
    del fields["labels"]["parts"], fields["labels"]["day"], fields["features"]["copied"]
    assert msgspec.convert(fields, RunRecord) == record
