"""Features of several tasks: bit for bit those of each task alone, and defaults where a task cannot have them."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project_at_rest import HISTORY, MOOD, PROFILE, minutes

from delorean.audit.comparison import compare_encoders
from delorean.audit.paradox import check_feature_set
from delorean.coverage import label_coverage
from delorean.feature_sets.table import open_table
from delorean.generation import generate
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_labels, materialise_tasks
from delorean.labels.task_layout import TaskRows
from delorean.leaks import LeakThresholds
from delorean.tasks.task_set import TaskSet, recorded_tasks
from encoders import feature_encoder
from encoders.feature_model import FeatureModel
from schemas.data_keys import context_variable, service_element
from schemas.errors import ConfigError, ParadoxError
from schemas.services import Service
from schemas.tables import TIME

SEED = context_variable("seed_id", "int64")
RELATED = service_element("related", "list<int64>")
SENTINELS = {"profile_id": -1, "seed_id": -1, "video_id": -1, "row_id": -1}
DEFAULTS = {"minutes_watched": 0.0, "is_related": -2.0}


@feature_encoder(data=[HISTORY], features=["minutes_watched"])
def minutes_watched(context, items, data, out):
    assert context.profile_id != -1
    for i in range(len(items.video_id)):
        out.minutes_watched[i] = 0.0
        for j in range(len(data.history.video_id)):
            if data.history.video_id[j] == items.video_id[i]:
                out.minutes_watched[i] += data.history.minutes[j]


@feature_encoder(data=[MOOD], features=["mood_known"])
def mood_known(context, items, data, out):
    for i in range(len(out.mood_known)):
        out.mood_known[i] = 1.0 if data.mood.present else 0.0


@feature_encoder(data=[RELATED], features=["is_related"])
def is_related(context, items, data, out):
    for i in range(len(items.video_id)):
        for each in data.related.values:
            if each == items.video_id[i]:
                out.is_related[i] = 1.0


@feature_encoder(features=["hour"])
def hour(context, items, data, out):
    for i in range(len(out.hour)):
        out.hour[i] = float(context.time // 3_600_000_000 % 24)


MODEL = FeatureModel([minutes_watched, mood_known, is_related, hour])
TASKS = {
    "home": LabelColumns(items=("video_id",), context=("profile_id",)),
    "similar": LabelColumns(items=("video_id",), context=("seed_id",)),
    "rows": LabelColumns(items=("row_id",), context=("profile_id",)),
}
CAN_HAVE = {
    "home": ("minutes_watched", "mood_known", "hour"),
    "similar": ("is_related", "hour"),
    "rows": ("mood_known", "hour"),
}


READ_BY = {"history": ["home"], "mood": ["home", "rows"], "related": ["similar"]}


def rows_of(columns, rows):
    """Rows of (context, minute, item, label)."""
    context, at, items, labels = zip(*rows, strict=True)
    return pa.table(
        {
            columns.context[0]: pa.array(context, pa.int64()),
            "time": pa.array([minutes(m) for m in at], TIME),
            "outcome_at": pa.array([minutes(m + 1) for m in at], TIME),
            columns.items[0]: pa.array(items, pa.int64()),
            "label": pa.array(labels, pa.float32()),
        }
    )


def capture(project, run="1", at=0):
    """State of profiles and seeds 0–5, and of the sentinel: somebody else captured it."""
    ids = [*range(6), -1]
    project.history([((p,), at + p % 3, [{"video_id": v, "minutes": p + v + 0.25} for v in range(p % 4)]) for p in ids],
                    f"history-{run}", 4)  # fmt: skip
    project.mood([((p,), at + 1, "good") for p in ids if p % 3], f"mood-{run}", 2)
    related = Service("related", RELATED, (SEED,))
    project.publish(related, [((p,), at + 2, [p, p + 1]) for p in ids], f"related-{run}", 2, "seed_id")


def merged(project, rows, buckets=2, **options):
    tasks = [TaskRows(name, rows_of(TASKS[name], rows[name]), TASKS[name]) for name in rows]
    return materialise_tasks(tasks, project.storage, sentinels=SENTINELS, buckets=buckets, **options)


def generated(project, labels, model=MODEL, name="uses", defaults=DEFAULTS, **options):
    tasks = TaskSet(labels.tasks.tasks, labels.tasks.sentinels, defaults)
    return generate(labels, model, project.index, project.storage, name, tasks=tasks, **options)


def table_of(features):
    return pl.from_arrow(open_table(features.uri, features.version).to_pyarrow_table())


ROW = st.tuples(st.integers(0, 7), st.integers(0, 6), st.integers(0, 4), st.integers(0, 1))
ROWS = st.lists(ROW, min_size=1, max_size=12, unique_by=lambda row: row[:3])
SOME = {name: [(i, 5, v, v % 2) for i in range(8) for v in range(3)] for name in TASKS}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries(dict.fromkeys(TASKS, ROWS)), st.sampled_from([1, 4]), st.uuids())
def test_the_merged_feature_set_is_that_of_each_task_alone_with_defaults(project, rows, buckets, name):
    if not project.index.elements():
        capture(project)
    found = table_of(generated(project, merged(project, rows, buckets), name=f"a{name.hex}"))
    expected = []
    for task, own in rows.items():
        alone = materialise_labels(rows_of(TASKS[task], own), TASKS[task], project.storage)
        encoders = [encoder for encoder in MODEL.encoders if encoder.features[0] in CAN_HAVE[task]]
        features = table_of(generate(alone, encoders, project.index, project.storage, f"b{task}{name.hex}"))
        lengths = pl.col(TASKS[task].items[0]).list.len()
        lacking = [
            pl.lit(DEFAULTS.get(each, float("nan")), pl.Float32).repeat_by(lengths).alias(each)
            for each in MODEL.features
            if each not in CAN_HAVE[task]
        ]
        lacking += [
            (pl.lit(-1, pl.Int64).repeat_by(lengths) if each in ("video_id", "row_id") else pl.lit(-1, pl.Int64)).alias(
                each
            )
            for each in SENTINELS
            if each not in features.columns
        ]
        lacking.append(pl.lit(task).alias("task_type"))
        expected.append(features.with_columns(*lacking))
    everywhere = pl.concat(expected, how="diagonal")
    columns = [*SENTINELS, "task_type", "time", "outcome_at", "label", *MODEL.features]
    order = ["task_type", "profile_id", "seed_id", "time"]
    left, right = (each.select(columns).sort(order) for each in (found, everywhere))
    for column in MODEL.features:  # also the bits of NaN's neighbours
        assert np.array_equal(*(side[column].explode().to_numpy().view(np.uint32) for side in (left, right)))
    for column in columns:
        assert left[column].equals(right[column]), column
    for element in ("history", "mood", "related"):  # what served each row whose own encoders read the element
        served = [f"{element}_run_id", f"{element}_captured_at"]
        read = everywhere.filter(pl.col("task_type").is_in(READ_BY[element])).sort(order).select(served)
        assert found.filter(pl.col("task_type").is_in(READ_BY[element])).sort(order).select(served).equals(read)


def test_what_a_task_cannot_have_is_counted_and_recorded(project):
    capture(project)
    features = generated(project, merged(project, SOME))
    tasks = recorded_tasks(features.lineage)
    assert {task.name: task.without for task in tasks.tasks} == {
        "home": ("is_related",),
        "similar": ("minutes_watched", "mood_known"),
        "rows": ("minutes_watched", "is_related"),
    }
    assert features.lineage["task_items"] == {"home": 24, "similar": 24, "rows": 24}
    assert {(row["task"], row["feature"], row["default"], row["items"]) for row in features.impossible} == {
        ("home", "is_related", -2.0, 24),
        ("similar", "minutes_watched", 0.0, 24),
        ("similar", "mood_known", None, 24),
        ("rows", "minutes_watched", 0.0, 24),
        ("rows", "is_related", -2.0, 24),
    }
    # Of the rows that can have them, profiles and seeds 6 and 7 were never captured, nor the moods of 0 and 3.
    assert features.absent == {"history": 4, "mood": 8, "related": 2}


def test_a_capture_under_the_sentinel_serves_no_row(project):
    capture(project)
    found = table_of(generated(project, merged(project, SOME)))
    similar = found.filter(pl.col("task_type") == "similar")
    assert similar["history_run_id"].null_count() == similar["mood_run_id"].null_count() == len(similar)
    assert found.filter(pl.col("task_type") != "similar")["related_run_id"].null_count() == 16


def test_coverage_counts_rows_of_other_tasks_as_not_applicable(project):
    capture(project)
    cells = {
        cell.element: cell for cell in label_coverage(merged(project, SOME), project.index, project.storage).elements
    }
    assert {name: (cell.rows, cell.found, cell.not_applicable) for name, cell in cells.items()} == {
        "history": (16, 12, 8),
        "mood": (16, 8, 8),
        "related": (8, 6, 16),
    }
    assert cells["related"].absent == {"never captured": 2}
    complete = label_coverage(merged(project, SOME), project.index, project.storage, elements=["history", "related"])
    assert complete.complete == 18


def test_features_of_tasks_are_copied_until_their_defaults_change(project):
    capture(project)
    labels = merged(project, SOME)
    generated(project, labels, [hour, is_related])
    again = generated(project, labels)
    assert again.lineage["copied"]["features"] == ["is_related", "hour"]
    whole = generated(project, labels, name="whole", recompute=True)
    assert again.digest == whole.digest
    assert again.absent == whole.absent
    assert again.task_items == whole.task_items
    changed = generated(project, labels, defaults={"minutes_watched": 0.0})
    assert changed.lineage["copied"]["features"] == ["minutes_watched", "mood_known", "hour"]
    assert changed.digest.features["is_related"] != whole.digest.features["is_related"]


def test_adding_a_task_computes_its_features_anew_and_leaves_the_others_equal(project):
    capture(project)
    two = {name: SOME[name] for name in ("home", "similar")}
    sentinels = {name: SENTINELS[name] for name in ("profile_id", "seed_id")}
    tasks = [TaskRows(name, rows_of(TASKS[name], two[name]), TASKS[name]) for name in two]
    labels = materialise_tasks(tasks, project.storage, sentinels=sentinels)
    before = table_of(generated(project, labels))
    after = generated(project, merged(project, SOME))
    assert "copied" not in after.lineage  # other label data, so nothing is copied
    columns = ["task_type", "profile_id", "seed_id", "time", "video_id", "label", *MODEL.features]
    kept = table_of(after).filter(pl.col("task_type") != "rows").select(columns).sort(columns[:4])
    assert kept.equals(before.select(columns).sort(columns[:4]))


def test_a_task_that_is_always_positive_is_no_leak_but_a_leak_within_a_task_is(project):
    capture(project)
    rng = np.random.default_rng(0)
    rows = {
        "home": [(p, m, v, int(rng.random() < 0.9)) for p in range(6) for m in range(20) for v in range(5)],
        "rows": [(p, m, v, int(rng.random() < 0.05)) for p in range(6) for m in range(20) for v in range(5)],
    }
    tasks = [TaskRows(name, rows_of(TASKS[name], rows[name]), TASKS[name]) for name in rows]
    sentinels = {name: SENTINELS[name] for name in ("video_id", "row_id")}
    labels = materialise_tasks(tasks, project.storage, sentinels=sentinels)
    features = generate(labels, [mood_known, hour], project.index, project.storage, "uses", leaks=LeakThresholds())
    assert features.leaks.suspicious == ()
    assert check_feature_set(features.uri, index=project.index).clean
    leaky = rows_of(TASKS["home"], rows["home"])
    leaky = leaky.append_column("bought", leaky["label"].cast(pa.int64()))
    columns = LabelColumns(items=("video_id", "bought"), context=("profile_id",))
    tasks = [TaskRows("home", leaky, columns), tasks[1]]
    labels = materialise_tasks(tasks, project.storage, sentinels={**sentinels, "bought": -1})
    with pytest.raises(ParadoxError, match="task 'home': label data reveals its labels: bought"):
        generate(labels, [mood_known, hour], project.index, project.storage, "leaky", leaks=LeakThresholds())


def test_tasks_that_are_not_those_of_the_label_data_are_an_error(project):
    capture(project)
    labels = merged(project, SOME)
    fewer = type(labels.tasks)(labels.tasks.tasks[:2], labels.tasks.sentinels)
    with pytest.raises(ConfigError, match="is of other tasks"):
        generate(labels, MODEL, project.index, project.storage, "uses", tasks=fewer)
    alone = materialise_labels(rows_of(TASKS["home"], SOME["home"]), TASKS["home"], project.storage)
    with pytest.raises(ConfigError, match="is of other tasks"):
        generate(alone, [hour], project.index, project.storage, "uses", tasks=fewer)


def test_a_feature_that_no_task_can_have_is_an_error(project):
    capture(project)
    both = service_element("both", "int64")
    project.publish(Service("both", both, (PROFILE, SEED)), [((1, 1), 0, 1)], "both-1")

    @feature_encoder(data=[both], features=["of_both"])
    def of_both(context, items, data, out):
        out.of_both[:] = 1.0

    with pytest.raises(ConfigError, match="no task can have the feature 'of_both'"):
        generated(project, merged(project, SOME), [hour, of_both])


def test_encoders_that_only_some_tasks_can_have_are_compared_there(project):
    capture(project)
    labels = merged(project, SOME)
    found = compare_encoders(minutes_watched, minutes_watched, labels, project.index, project.storage)
    assert found.equal
