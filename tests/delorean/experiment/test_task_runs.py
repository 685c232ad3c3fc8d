"""Experiments of several tasks: run, for days, replayed and checked like any other."""

from datetime import date

import pyarrow.parquet as pq
import pytest
from project_at_rest import long_labels

from delorean.audit.paradox import check_feature_set
from delorean.experiment import load_experiment
from delorean.experiment.diff import diff
from delorean.experiment.label_quality import quality_of
from delorean.experiment.replay import replay
from delorean.experiment.steps import generated_features
from delorean.feature_sets.parts import parts_of
from delorean.feature_sets.table import lineage_of, load_feature_set, table_uri
from delorean.labels import load_labels
from delorean.tasks.task_set import recorded_tasks
from schemas.errors import EmptyLabelsError, LabelError

SPEC = """
encoders = ["MODULE:minutes_watched", "MODULE:mood_known"]

[tables]
shown = { path = "shown.parquet" }

[sentinels]
profile_id = -1
seed_id = ""
video_id = -1
row_id = -1

[defaults]
minutes_watched = 0.0

[tasks.home.labels]
table = "shown"
items = ["video_id"]
context = ["profile_id"]

[tasks.similar]
weight = 0.5

[tasks.similar.sample]
fraction = 0.5

[tasks.similar.labels]
query = '''
WITH seeds AS (SELECT concat('seed ', profile_id) AS seed_id, video_id, time, outcome_at, label FROM shown)
SELECT seed_id, video_id, unix_seconds(time) AS at, outcome_at, label AS clicked FROM seeds
'''
items = ["video_id"]
context = ["seed_id"]
time = "at"
time_unit = "s"
label = "clicked"

[tasks.rows.labels]
query = '''
SELECT profile_id, video_id AS row_id, time, outcome_at, label FROM shown
WHERE profile_id IN (SELECT profile_id FROM captures('mood'))
'''
items = ["row_id"]
context = ["profile_id"]
"""
DAY = 1440
HEADER = """

@feature_encoder(features=["hour"])
def hour(context, items, data, out):
    for i in range(len(out.hour)):
        out.hour[i] = float(context.time // 3_600_000_000 % 24)
"""


@pytest.fixture
def uses(lab):
    """A spec of three tasks: homepages, more like this, and the order of rows."""
    rows = [(p, DAY * d + 7 + p % 5, v, (p + v) % 2) for d in range(3) for p in range(40) for v in range(4)]
    pq.write_table(long_labels(rows), lab.folder / "shown.parquet")
    module = lab.folder / f"{lab.module}.py"
    module.write_text(module.read_text() + HEADER)
    lab.write = lambda text=SPEC, name="uses": (lab.folder / f"{name}.toml").write_text(
        text.replace('MODULE:mood_known"', f'{lab.module}:mood_known", "{lab.module}:hour"').replace(
            "MODULE", lab.module
        )
    )
    lab.load = lambda name="uses": load_experiment(lab.folder / f"{name}.toml", lab.index)
    lab.write()
    return lab


def test_three_tasks_run_are_measured_checked_and_replayed(uses, spark):
    experiment = uses.load()
    record = uses.run(spark, experiment)
    labels = load_labels(record.labels.id, uses.storage)
    counts = {each.task: each for each in labels.merged}
    assert (counts["home"].contexts, counts["rows"].contexts, counts["similar"].contexts) == (120, 96, 120)
    assert counts["home"].kept_items == 480
    assert 30 < counts["similar"].kept_contexts < 90
    features = load_feature_set(uses.storage, "uses", record.features.version)
    tasks = recorded_tasks(features.lineage)
    assert [task.without for task in tasks.tasks] == [()] + 2 * [("minutes_watched", "mood_known")]
    table = features.to_polars()
    similar = table.filter(table["task_type"] == "similar")
    assert {*similar["minutes_watched"].explode()} == {0.0}
    assert similar["mood_known"].explode().is_nan().all()
    assert not similar["hour"].explode().is_nan().any()
    assert {*similar["inclusion_probability"]} == {0.5}
    quality = quality_of(experiment, uses.storage, spark=spark, index=uses.index)
    assert {each.group for each in quality.counts if each.by == "task_type"} == {"home", "similar", "rows"}
    assert quality.merged == labels.merged
    assert check_feature_set(features.uri, index=uses.index).clean
    assert generated_features(experiment, uses.storage, None)[1] == record.features.version
    again = replay(record, uses.index, uses.storage, buckets=4, modules=(uses.module,))
    assert again.identical
    # The same rows made in this process, and drawn as a fixed size, whose strata Spark surveys first.
    uses.write(SPEC.replace("fraction = 0.5", "quota = 30"))
    fixed = uses.run(spark, uses.load())
    kept = {each.task: each.kept_contexts for each in load_labels(fixed.labels.id, uses.storage).merged}
    assert kept == {"home": 120, "similar": 30, "rows": 96}
    assert "tasks.similar.sample.quota" in {row["field"] for row in diff(record, fixed, uses.storage).settings}
    other = SPEC.replace("seed_id, video_id, unix", "CAST(NULL AS STRING) AS seed_id, video_id, unix")
    uses.write(other)
    with pytest.raises(LabelError, match="task 'similar': label data has .* nulls in column 'seed_id'"):
        uses.run(spark, uses.load())


def test_tasks_for_days_have_parts_and_equal_what_is_made_at_once(uses, spark):
    experiment = uses.load()
    records = [uses.run(spark, experiment, run_id=f"d{day}", day=date(2026, 5, day)) for day in (2, 3, 4)]
    last = records[-1]
    lineage = lineage_of(table_uri(uses.storage, "uses"), last.features.version)
    assert len(parts_of(lineage)) == 3
    assert lineage["task_items"]["home"] == 480
    assert replay(last, uses.index, uses.storage, buckets=2, modules=(uses.module,)).identical
    uses.write(SPEC.replace("[tables]", "[merge]\nincremental = false\n\n[tables]"), name="once")
    once = uses.run(spark, uses.load("once"), run_id="once", day=date(2026, 5, 4))
    assert (once.labels.parts, once.features.digest) == (0, last.features.digest)
    assert lineage_of(table_uri(uses.storage, "once"), once.features.version)["task_items"] == lineage["task_items"]
    uses.write(SPEC.replace("FROM seeds", "FROM seeds WHERE time < :date - INTERVAL 90 DAYS"), name="empty")
    with pytest.raises(EmptyLabelsError, match="task 'similar' has no label rows"):
        uses.run(spark, uses.load("empty"), run_id="e2", day=date(2026, 5, 2))
