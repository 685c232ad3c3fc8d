"""Label data of several tasks in one: every row of every task, sentinels for what a task lacks, samples as declared."""

import pickle
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delorean.labels import LabelColumns, load_labels
from delorean.labels.bucket_rule import BucketRule
from delorean.labels.materialise import materialise_labels, materialise_tasks
from delorean.labels.merge_report import merge_rows
from delorean.labels.rebucket import rebucket
from delorean.labels.task_layout import TaskRows, sentinel_of
from delorean.labels.task_sample import LabelSample
from schemas.errors import ConfigError, EmptyLabelsError, LabelError, ParadoxError
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import read_parquet

START = datetime(2026, 5, 1, tzinfo=UTC)
TIME = pa.timestamp("us", "UTC")
SENTINELS = {"profile_id": -1, "country": "", "seed_id": -1, "video_id": -1, "row_id": -1}
HOME = LabelColumns(items=("video_id",), context=("profile_id", "country"))
SIMILAR = LabelColumns(items=("video_id",), context=("seed_id",), time="at", time_unit="s", label="clicked")
ROWS = LabelColumns(items=("row_id",), context=("profile_id",))
COLUMNS = ["profile_id", "country", "seed_id", "task_type", "time", "outcome_at", "video_id", "row_id", "label"]


def times(minutes):
    return pa.array([START + timedelta(minutes=m) for m in minutes], TIME)


def table(columns, rows, time="time", label="label"):
    """Rows of (context values, minute, item, label), observed half a minute later."""
    contexts, minutes, items, labels = zip(*rows, strict=True) if rows else ((), (), (), ())
    values = list(zip(*contexts, strict=True)) or [()] * len(columns.context)
    fields = {
        name: pa.array(value, pa.string() if name == "country" else pa.int64())
        for name, value in zip(columns.context, values, strict=True)
    }
    fields[time] = (
        times(minutes)
        if time == "time"
        else pa.array([int((START + timedelta(minutes=m)).timestamp()) for m in minutes], pa.int64())
    )
    fields["outcome_at"] = times([m + 0.5 for m in minutes])
    return pa.table({**fields, columns.items[0]: pa.array(items, pa.int64()), label: pa.array(labels, pa.float32())})


def home(rows, **options):
    return TaskRows("home", table(HOME, rows), HOME, **options)


def similar(rows, **options):
    return TaskRows("similar", table(SIMILAR, rows, "at", "clicked"), SIMILAR, **options)


def rows_task(rows, **options):
    return TaskRows("rows", table(ROWS, rows), ROWS, **options)


ONE_ROW, ONE_SIMILAR = rows_task([((1,), 0, 1, 1)]), similar([((1,), 0, 1, 1)])


def merged(tasks, storage, **options):
    sentinels = options.pop("sentinels", SENTINELS)
    named = {name for task in tasks for name in (*task.columns.context, *task.columns.items)}
    own = {name: value for name, value in sentinels.items() if name in named}
    return materialise_tasks(tasks, storage, sentinels=own, **options)


def stored(labels, storage):
    return pa.concat_tables([read_parquet(storage, file) for file in labels.files])


@pytest.fixture
def storage(tmp_path):
    return open_storage(f"file://{tmp_path}")


ids, minutes, items, label = st.integers(0, 5), st.integers(0, 3), st.integers(0, 4), st.integers(0, 1)
key = {"unique_by": lambda row: row[:3], "min_size": 1, "max_size": 25}
home_rows = st.lists(st.tuples(st.tuples(ids, st.sampled_from(["US", "DE"])), minutes, items, label), **key)
similar_rows = st.lists(st.tuples(st.tuples(ids), minutes, items, label), **key)
hypothesis = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@hypothesis
@given(home_rows, similar_rows, similar_rows, st.sampled_from([1, 2, 8]))
def test_the_merge_is_each_tasks_own_label_data_with_sentinels(storage, of_home, of_similar, of_rows, buckets):
    tasks = [home(of_home), similar(of_similar), rows_task(of_rows)]
    labels = merged(tasks, storage, buckets=buckets)
    found = pl.from_arrow(stored(labels, storage)).select(COLUMNS)
    parts = []
    for task in tasks:
        alone = pl.from_arrow(stored(materialise_labels(task.rows, task.columns, storage), storage))
        lacking = {
            name: pl.lit(value, pl.String if name == "country" else pl.Int64)
            for name, value in SENTINELS.items()
            if name not in alone.columns
        }
        own = task.columns.items[0]
        filled = [
            (value.repeat_by(pl.col(own).list.len()) if name in ("video_id", "row_id") else value).alias(name)
            for name, value in lacking.items()
        ]
        parts.append(alone.with_columns(*filled, task_type=pl.lit(task.task)).select(COLUMNS))
    expected = pl.concat(parts)
    order = ["task_type", "profile_id", "country", "seed_id", "time"]
    assert found.sort(order).equals(expected.sort(order))
    assert load_labels(labels.labels_id, storage) == labels
    assert [task.items for task in labels.tasks.tasks] == [("video_id",), ("video_id",), ("row_id",)]


@hypothesis
@given(home_rows, similar_rows, st.randoms())
def test_the_order_of_rows_never_matters(storage, of_home, of_similar, random):
    sample = LabelSample(strata=("country",), quota=2, seed=7)
    first = merged([home(of_home, sample=sample), similar(of_similar)], storage, buckets=2)
    shuffled = [random.sample(rows, len(rows)) for rows in (of_home, of_similar)]
    second = merged([home(shuffled[0], sample=sample), similar(shuffled[1])], storage, buckets=2)
    assert [file.checksum for file in first.files] == [file.checksum for file in second.files]
    assert first.merged == second.merged


@hypothesis
@given(home_rows, similar_rows, st.integers(1, 3), st.sampled_from([1, 8]), st.integers(0, 3))
def test_a_quota_takes_that_many_of_each_stratum_with_its_probability(storage, of_home, of_rows, quota, buckets, seed):
    sample = LabelSample(strata=("country",), quota=quota, seed=seed)
    labels = merged([home(of_home, sample=sample), rows_task(of_rows)], storage, buckets=buckets)
    found = stored(labels, storage).to_pylist()
    for country in {row[0][1] for row in of_home}:
        population = len({row[:2] for row in of_home if row[0][1] == country})
        taken = [row for row in found if row["country"] == country]
        assert len(taken) == min(quota, population)
        assert {row["inclusion_probability"] for row in taken} == {len(taken) / population}
        counts = next(each for each in labels.merged if each.stratum == country)
        assert (counts.contexts, counts.kept_contexts) == (population, len(taken))
        assert counts.items == sum(row[0][1] == country for row in of_home)
        assert counts.kept_items == sum(len(row["video_id"]) for row in taken)
        assert counts.kept_positives == sum(label for row in taken for label in row["label"])
    assert {row["inclusion_probability"] for row in found if row["task_type"] == "rows"} == {1.0}


def test_what_is_drawn_depends_neither_on_other_tasks_nor_on_buckets(storage):
    rows = [((i, "US"), 0, 1, i % 2) for i in range(300)]
    for sample in (LabelSample(quota=40), LabelSample(fraction=0.2)):
        drawn = []
        for others, buckets in (([], 1), ([similar([((1,), 0, 1, 1)])], 16)):
            labels = merged(
                [home(rows, sample=sample), *others], storage, buckets=buckets, sentinels=SENTINELS if others else {}
            )
            found = stored(labels, storage).to_pylist()
            drawn.append(sorted(row["profile_id"] for row in found if row["task_type"] == "home"))
        assert drawn[0] == drawn[1]
        other = merged([home(rows, sample=LabelSample(quota=40, seed=1))], storage, sentinels={})
        assert sorted(stored(other, storage)["profile_id"].to_pylist()) != drawn[0]


def test_a_fraction_is_unbiased_and_draws_each_context_whatever_the_others(storage):
    rows = [((i, "US"), 0, 1, 1) for i in range(4000)]
    sample = LabelSample(fraction=0.25)
    whole = stored(merged([home(rows, sample=sample)], storage, sentinels={}), storage)
    half = stored(merged([home(rows[:2000], sample=sample)], storage, sentinels={}), storage)
    assert abs(len(whole) - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75)
    assert {*half["profile_id"].to_pylist()} == {p for p in whole["profile_id"].to_pylist() if p < 2000}
    assert {*whole["inclusion_probability"].to_pylist()} == {0.25}


def test_a_sample_of_a_sample_multiplies_probabilities(storage):
    rows = table(HOME, [((i, "US"), 0, 1, 1) for i in range(8)])
    rows = rows.append_column("inclusion_probability", pa.array([0.5] * 8))
    columns = LabelColumns(items=("video_id",), context=("profile_id", "country"), keep=("inclusion_probability",))
    labels = merged([TaskRows("home", rows, columns, LabelSample(quota=2))], storage, sentinels={})
    assert {*stored(labels, storage)["inclusion_probability"].to_pylist()} == {0.125}


def test_a_probability_that_is_no_float_is_an_error(storage):
    rows = table(HOME, [((1, "US"), 0, 1, 1)]).append_column("inclusion_probability", pa.array([1]))
    columns = LabelColumns(HOME.items, HOME.context, keep=("inclusion_probability",))
    with pytest.raises(LabelError, match="'inclusion_probability' of the label data is int64"):
        merged([TaskRows("home", rows, columns, LabelSample(quota=2))], storage)


def test_rows_without_the_bucket_variable_are_spread_by_a_variable_of_their_own(storage):
    tasks = [home([((i, "US"), 0, 1, 1) for i in range(64)]), similar([((i,), 0, 1, 1) for i in range(64)])]
    labels = merged([*tasks, rows_task([((1,), 0, 1, 1)])], storage, buckets=8)
    assert labels.bucket_variable == "profile_id"
    assert len(labels.files) == 8
    assert max(file.rows for file in labels.files) < 40
    rule = BucketRule.of_tasks("profile_id", labels.context, labels.tasks)
    for file in labels.files:
        assert {*rule.buckets(read_parquet(storage, file), 8).tolist()} == {file.bucket}
    again = rebucket(rebucket(labels, 2, storage), 8, storage)
    assert [file.checksum for file in again.files] == [file.checksum for file in labels.files]
    assert again.tasks == labels.tasks


def test_manifests_of_one_use_are_those_of_earlier_releases(storage):
    labels = materialise_labels(ONE_ROW.rows, ROWS, storage, labels_id="alone")
    assert not {"tasks", "merged"} & labels.to_json().keys()
    assert load_labels("alone", storage).tasks is None


def test_labels_weights_and_kept_columns_of_some_tasks_are_unknown_in_the_others(storage):
    first = table(HOME, [((1, "US"), 0, 1, 1), ((1, "US"), 0, 2, 0)])
    first = first.append_column("minutes", pa.array([3.0, 4.0])).append_column("w", pa.array([2.0, 0.5]))
    columns = LabelColumns(HOME.items, HOME.context, labels=("label", "minutes"), weight="w")
    second = table(ROWS, [((1,), 0, 7, 1)]).append_column("page", pa.array(["top"]))
    kept = LabelColumns(ROWS.items, ROWS.context, keep=("page",))
    labels = merged(
        [TaskRows("home", first, columns), TaskRows("rows", second, kept)],
        storage,
        sentinels={"country": "", "video_id": -1, "row_id": -1},
    )
    home_row, rows_row = sorted(stored(labels, storage).to_pylist(), key=lambda row: row["task_type"])
    assert labels.label_names == ("label", "minutes")
    assert (home_row["minutes"], home_row["weight"], home_row["page"]) == ([3.0, 4.0], [2.0, 0.5], None)
    assert np.isnan(rows_row["minutes"]).all()
    assert (rows_row["weight"], rows_row["page"]) == ([1.0], "top")


def test_grouped_tasks_merge_like_ungrouped_ones(storage):
    rows = [((1, "US"), 0, 1, 1), ((1, "US"), 0, 2, 0), ((2, "DE"), 1, 3, 1)]
    seeds = [((1,), 0, 1, 1)]
    long = merged([home(rows), rows_task(seeds)], storage)
    tasks = [
        TaskRows(each.task, stored(materialise_labels(each.rows, each.columns, storage), storage), each.columns)
        for each in (home(rows), rows_task(seeds))
    ]
    lists = merged(tasks, storage)
    assert stored(long, storage).equals(stored(lists, storage))
    with pytest.raises(LabelError, match="labels of tasks home are lists"):
        merged([tasks[0], rows_task(seeds)], storage)


def test_types_are_widened_and_a_sentinel_that_the_narrow_type_cannot_hold_is_no_value_of_it(storage):
    narrow = table(ROWS, [((1,), 0, 7, 1)])
    narrow = narrow.set_column(0, "profile_id", narrow["profile_id"].cast(pa.int16()))
    tasks = [home([((2**40, "US"), 0, 1, 1)]), TaskRows("rows", narrow, ROWS), similar([((1,), 0, 1, 1)])]
    labels = merged(tasks, storage, sentinels={**SENTINELS, "profile_id": -(2**40)})
    assert {key.name: key.type for key in labels.context}["profile_id"] == pa.int64()


def test_casters_can_be_sent_to_other_processes(storage, monkeypatch):
    kinds = []
    monkeypatch.setattr(
        "delorean.labels.materialise.LabelSource", lambda rows, names, cast: kinds.append(cast) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        merged([home([((1, "US"), 0, 1, 1)]), similar([((1,), 0, 1, 1)])], storage)
    rows = table(HOME, [((1, "US"), 0, 1, 1)])
    assert pickle.loads(pickle.dumps(kinds[0]))(rows)["task_type"].to_pylist() == ["home"]


def test_the_report_has_shares_before_and_after(storage):
    rows = [((i, "US" if i < 6 else "DE"), 0, 1, i % 2) for i in range(8)]
    labels = merged([home(rows, sample=LabelSample(("country",), 2)), rows_task([((1,), 0, 7, 1)])], storage)
    report = merge_rows(labels.merged)
    assert [(row["task"], row["stratum"], row["kept_contexts"]) for row in report] == [
        ("home", "DE", 2),
        ("home", "US", 2),
        ("rows", "all", 1),
    ]
    assert [row["share_before"] for row in report] == pytest.approx([2 / 9, 6 / 9, 1 / 9])
    assert [row["share_after"] for row in report] == pytest.approx([0.4, 0.4, 0.2])
    assert report[0]["positive_share_before"] == 0.5


def test_what_is_new_may_lack_tasks_whose_samples_are_of_no_size(storage):
    labels = merged([home([]), rows_task([((1,), 0, 1, 1)])], storage, complete=False)
    assert [each.task for each in labels.merged] == ["rows"]
    assert labels.tasks.names == ("home", "rows")
    with pytest.raises(EmptyLabelsError, match="label data has no rows"):
        merged([home([]), rows_task([])], storage, complete=False)


@pytest.mark.parametrize(
    ("tasks", "options", "error", "message"),
    [
        ([home([]), rows_task([((1,), 0, 1, 1)])], {}, EmptyLabelsError, "task 'home' has no label rows"),
        (
            [home([((1, "US"), 0, 1, 1)], sample=LabelSample(("country",), {"DE": 5})), rows_task([((1,), 0, 1, 1)])],
            {},
            EmptyLabelsError,
            "the sample of task 'home' takes none of its 1 contexts",
        ),
        ([home([((-1, "US"), 0, 1, 1)]), ONE_SIMILAR], {}, LabelError, "'profile_id' is -1 in 1 label rows"),
        ([home([((1, "US"), 0, -1, 1)]), ONE_ROW], {}, LabelError, "task 'home': 'video_id' is -1"),
        (
            [home([((1, "US"), 0, 1, 1)]), rows_task([((1,), 0, 1, 1)])],
            {"sentinels": {**SENTINELS, "country": 5}},
            LabelError,
            "the sentinel of 'country' is 5, and the variable is string",
        ),
        (
            [home([((1, "US"), 0, 1, 1)]), TaskRows("rows", table(ROWS, [((1,), 0, 1, 1)]).set_column(
                0, "profile_id", pa.array(["a"])), ROWS)],
            {},
            LabelError,
            "'profile_id' is int64 in task 'home' and string in task 'rows'",
        ),
        (
            [home([((1, "US"), 0, 1, 1)]), TaskRows("rows", ONE_ROW.rows.drop_columns("row_id"), ROWS)],
            {},
            LabelError,
            "task 'rows': .*'row_id'",
        ),
        (
            [TaskRows("home", table(HOME, [((1, "US"), 0, 1, 1)]).set_column(3, "outcome_at", times([0])), HOME)],
            {},
            ParadoxError,
            "task 'home': 1 label rows have an outcome not later",
        ),
        ([home([((1, "US"), 0, 1, 1)])], {"bucket_variable": "contry"}, LabelError, "did you mean 'country'"),
    ],
)  # fmt: skip
def test_tasks_that_cannot_be_merged_are_one_error(storage, tasks, options, error, message):
    sentinels = SENTINELS if len(tasks) > 1 else {}
    with pytest.raises(error, match=message):
        merged(tasks, storage, **{"sentinels": sentinels, **options})


@pytest.mark.parametrize(
    ("value", "kind"),
    [(-1, pa.string()), ("", pa.int64()), (True, pa.int64()), (1.5, pa.int64()), (2**40, pa.int32()),
     ("soon", TIME), (float("nan"), pa.float64()), ("5", pa.int64())],
)  # fmt: skip
def test_a_sentinel_that_is_no_value_of_its_variables_type_is_an_error(value, kind):
    with pytest.raises(LabelError, match="the sentinel of 'x' is"):
        sentinel_of("x", value, kind)


def test_a_sentinel_may_be_of_any_plain_type():
    assert sentinel_of("x", "1970-01-01T00:00:00Z", TIME).value == 0
    assert sentinel_of("x", -1, pa.decimal128(10, 2)).as_py() == -1
    assert sentinel_of("x", False, pa.bool_()).as_py() is False


@pytest.mark.parametrize(
    "sample",
    [
        {},
        {"quota": 1, "fraction": 0.5},
        {"fraction": 1.5},
        {"quota": -1},
        {"strata": "abc", "quota": 1},
        {"quota": {"US": 1}},
    ],
)
def test_a_sample_that_cannot_be_drawn_is_an_error(sample):
    with pytest.raises(ConfigError):
        LabelSample(**sample)
