"""Label data with no label, one or several, with weights and columns that are carried along: at rest and downstream."""

import json

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from project_at_rest import HISTORY, long_labels, minutes

from delorean import (
    FeatureModel,
    LabelColumns,
    LeakThresholds,
    check_feature_set,
    compare_feature_sets,
    feature_encoder,
    generate,
    load_labels,
    materialise_labels,
    read_feature_set,
)
from delorean.feature_sets.table import load_feature_set
from delorean.labels import Labels
from delorean.labels.rebucket import rebucket
from schemas.errors import ConfigError, LabelError, ParadoxError, TrainingError
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import read_parquet

SEVERAL = LabelColumns(
    items=("video_id",), labels=("play", "minutes"), weight="importance", keep=("inclusion_probability", "stratum")
)
NONE = LabelColumns(items=("video_id",), labels=())


@feature_encoder(data=[HISTORY], features=["entries"])
def entries(context, items, data, out):
    for i in range(len(items.video_id)):
        out.entries[i] = len(data.history.video_id) + items.video_id[i]


def rows(contexts=40):
    plain = long_labels([(p, m, v, (p + v) % 2) for p in range(contexts) for m in (7, 20) for v in range(4)])
    numbers = np.arange(len(plain))
    return (
        plain.drop_columns(["label"])
        .append_column("play", plain["label"])
        .append_column("minutes", pa.array((numbers * 7 % 11).astype(float)))
        .append_column("importance", pa.array(1.0 + numbers % 3))
        .append_column("inclusion_probability", pa.array([0.5 if p.as_py() % 2 else 0.25 for p in plain["profile_id"]]))
        .append_column(
            "stratum", pa.array([None if p.as_py() == 3 else f"s{p.as_py() % 2}" for p in plain["profile_id"]])
        )
    )


@pytest.fixture
def storage(tmp_path):
    return open_storage(f"file://{tmp_path}")


def stored(labels, storage):
    parts = [read_parquet(storage, file) for file in labels.files]
    return pl.DataFrame(pa.concat_tables(parts)).sort("profile_id", "time")


@pytest.fixture
def captured(project):
    project.history([((p,), 3, [{"video_id": 0, "minutes": 1.0}] * (p % 5)) for p in range(40)], "run", 2)
    return project


def test_each_label_and_the_weight_are_lists_and_what_is_kept_is_a_column(storage):
    labels = materialise_labels(rows(), SEVERAL, storage, labels_id="may", buckets=4)
    assert load_labels("may", storage) == labels
    assert labels.schema.names == [
        "profile_id", "time", "outcome_at", "video_id", "play", "minutes", "weight", "inclusion_probability", "stratum"
    ]  # fmt: skip
    assert [key.name for key in (*labels.context, *labels.items)] == ["profile_id", "video_id"]
    assert set(labels.outcome_columns) >= {"play", "minutes", "weight", "importance", "stratum", "outcome_at"}
    expected = (
        pl.DataFrame(rows())
        .sort("profile_id", "time", "video_id")
        .group_by("profile_id", "time", "inclusion_probability", "stratum", maintain_order=True)
        .agg(
            pl.col("outcome_at").max(), "video_id",
            *(pl.col(name).cast(pl.Float32) for name in ("play", "minutes", "importance")),
        )
        .rename({"importance": "weight"})
    )  # fmt: skip
    assert stored(labels, storage).equals(expected.select(labels.schema.names))
    assert stored(rebucket(labels, 1, storage), storage).equals(expected.select(labels.schema.names))


def test_spark_writes_the_same_files_and_grouped_rows_the_same_columns(spark, storage):
    here = materialise_labels(rows(), SEVERAL, storage, buckets=4)
    there = materialise_labels(spark.createDataFrame(rows()).repartition(3), SEVERAL, storage, buckets=4)
    assert [file.checksum for file in here.files] == [file.checksum for file in there.files]
    grouped = stored(here, storage).rename({"weight": "importance"}).to_arrow()
    again = materialise_labels(grouped, SEVERAL, storage, buckets=4)
    assert stored(again, storage).equals(stored(here, storage))


def test_without_labels_there_is_no_outcome(storage):
    labels = materialise_labels(rows().select(["profile_id", "time", "video_id"]), NONE, storage)
    assert labels.schema.names == ["profile_id", "time", "video_id"]
    assert labels.label_names == ()
    with pytest.raises(LabelError, match="clash with the rows' own outcome_at"):
        materialise_labels(rows().select(["profile_id", "time", "video_id", "outcome_at"]), NONE, storage)


def test_manifests_of_earlier_releases_have_one_label(storage):
    labels = materialise_labels(long_labels([(1, 2, 3, 1)]), LabelColumns(items=("video_id",)), storage, labels_id="m")
    with storage.open_input("labels/m/manifest.json") as file:
        manifest = json.loads(file.read())
    old = {name: value for name, value in manifest.items() if name not in ("label_names", "weighted", "kept")}
    assert Labels.from_json(old) == labels
    assert labels.schema.names == ["profile_id", "time", "outcome_at", "video_id", "label"]
    assert labels.outcome_columns == ("label", "outcome_at")


@pytest.mark.parametrize(
    ("columns", "kind", "message"),
    [
        ({"labels": ("play", "video_id")}, ParadoxError, "label column 'video_id' is also a context or item variable"),
        ({"labels": ("play", "play")}, LabelError, "label 'play' has a name that the rows have already"),
        ({"labels": ("play", "time")}, LabelError, "label 'time' has a name that the rows have already"),
        ({"labels": ("play",), "label": "minutes"}, LabelError, "both label = 'minutes' and labels"),
        ({"labels": ("play",), "keep": ("play",)}, LabelError, "uses play in two roles"),
        ({"labels": ("play",), "context": ("profile_id", "stratum"), "keep": ("stratum",)}, LabelError, "two roles"),
        ({"labels": ("played",)}, LabelError, "did you mean 'play'"),
        ({"labels": "play"}, LabelError, "labels"),
        ({"labels": ("play",), "keep": ("minutes",)}, LabelError, "'minutes' .* carried along, has several values"),
        ({"labels": ("play",), "keep": ("nested",)}, LabelError, "'nested' of the label data is struct"),
        ({"labels": ("stratum",)}, LabelError, "nulls in column 'stratum'|does not fit float"),
        ({"labels": ("play",), "weight": "negative"}, LabelError, "'negative' .*: 320 weights are negative.*-1"),
    ],
)  # fmt: skip
def test_wrong_roles_are_refused_by_name(columns, kind, message, storage):
    table = rows().append_column("negative", pa.array([-1.0] * 320))
    table = table.append_column("nested", pa.array([{"a": 1}] * 320))
    with pytest.raises(kind, match=message):
        materialise_labels(
            table, LabelColumns(**{"items": ("video_id",), "context": ("profile_id",), **columns}), storage
        )


def test_features_have_every_label_and_everything_downstream_uses_them(captured):
    storage = captured.storage
    labels = materialise_labels(rows(), SEVERAL, storage, buckets=2)
    features = generate(labels, FeatureModel(entries), captured.index, storage, "f", leaks=LeakThresholds())
    assert features.labels == ("play", "minutes")
    assert load_feature_set(storage, "f").labels == ("play", "minutes")
    table = features.to_arrow()
    assert table.schema.names[: len(labels.schema.names)] == labels.schema.names
    assert [finding.where.split(",")[0] for finding in features.leaks.features] == ["play", "minutes"]
    report = check_feature_set(features.uri, index=captured.index)
    assert report.clean, report
    assert {finding.where.split(",")[0] for finding in report.leaks.features} == {"play", "minutes"}
    again = generate(rebucket(labels, 8, storage), FeatureModel(entries), captured.index, storage, "g")
    assert compare_feature_sets(features, again).equal
    assert features.digest == again.digest
    reads = {}
    for label in ("play", "minutes"):
        data = read_feature_set(
            features.uri, ["entries"], ["video_id"], ["profile_id"], label=label, item_weight="weight"
        )
        reads[label] = data
        sorted_rows = pl.DataFrame(table).sort("time", "profile_id")
        assert data.labels.tolist() == sorted_rows[label].explode().to_list()
        assert data.item_weights.tolist() == sorted_rows["weight"].explode().to_list()
    assert not np.array_equal(reads["play"].labels, reads["minutes"].labels)


def test_a_changed_label_weight_or_kept_column_changes_the_digest(captured):
    digests = set()
    for name in ("", "play", "minutes", "importance", "inclusion_probability"):
        table = rows()
        if name:
            changed = pa.array([0.125 if row < 4 else value.as_py() for row, value in enumerate(table[name])])
            table = table.set_column(table.column_names.index(name), name, changed.cast(table[name].type))
        labels = materialise_labels(table, SEVERAL, captured.storage)
        digest = generate(labels, FeatureModel(entries), captured.index, captured.storage, f"f{name}").digest
        digests.add(digest.keys)
    assert len(digests) == 5


def test_features_without_labels_are_generated_checked_and_compared_and_training_says_what_is_missing(captured):
    storage = captured.storage
    bare = rows().select(["profile_id", "time", "video_id"])
    labels = materialise_labels(bare, NONE, storage, buckets=2)
    features = generate(labels, FeatureModel(entries), captured.index, storage, "f", leaks=LeakThresholds())
    with_labels = materialise_labels(rows(), SEVERAL, storage, buckets=2)
    labelled = generate(with_labels, FeatureModel(entries), captured.index, storage, "g")
    order = [("profile_id", "ascending"), ("time", "ascending")]
    same = [each.to_arrow().sort_by(order)["entries"] for each in (features, labelled)]
    assert same[0].equals(same[1])
    assert "no label that a feature could predict" in features.leaks.verdict
    report = check_feature_set(features.uri, index=captured.index)
    assert report.clean
    assert "it has no labels: there are no outcomes to check" in report.notes
    assert compare_feature_sets(features, features).equal
    with pytest.raises(ConfigError, match="different labels: none and play, minutes"):
        compare_feature_sets(features, labelled)
    with pytest.raises(TrainingError, match="column of .* 'label'"):
        read_feature_set(features.uri, ["entries"], ["video_id"], ["profile_id"])


def test_a_label_is_never_read_as_data(captured):
    labels = materialise_labels(
        rows().rename_columns(["history" if n == "minutes" else n for n in rows().column_names]),
        LabelColumns(items=("video_id",), context=("profile_id",), labels=("play", "history")),
        captured.storage,
    )
    with pytest.raises(ParadoxError, match="reads 'history' as data, which is a column of the label's outcome"):
        generate(labels, FeatureModel(entries), captured.index, captured.storage, "f")


def test_each_label_is_searched_for_in_the_variables(captured):
    table = rows()
    copy = table.append_column("bought", pa.array([float(v) for v in table["minutes"].to_pylist()]))
    columns = LabelColumns(items=("video_id", "bought"), context=("profile_id",), labels=("play", "minutes"))
    labels = materialise_labels(copy, columns, captured.storage)
    with pytest.raises(ParadoxError, match="label data reveals its labels: bought"):
        generate(labels, FeatureModel(entries), captured.index, captured.storage, "f", leaks=LeakThresholds())
    early = rows().set_column(2, "outcome_at", pa.array([minutes(0)] * 320, pa.timestamp("us", "UTC")))
    with pytest.raises((ParadoxError, LabelError)):
        materialise_labels(early, SEVERAL, captured.storage)
