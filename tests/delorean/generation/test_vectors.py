"""Feature sets with vectors: what every reader gets of them, and that nothing about how they were made shows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import duckdb
import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from project_at_rest import HISTORY, Project, long_labels

from delorean.audit.comparison import compare_feature_sets
from delorean.audit.comparison.encoder_versions import compare_encoders
from delorean.audit.paradox import check_feature_set
from delorean.display.text import to_text
from delorean.feature_sets.digest import digest_rows
from delorean.feature_sets.table import FeatureSet, GenerationRecord, find_record, load_feature_set
from delorean.generation import generate
from delorean.labels import LabelColumns, Labels
from delorean.labels.materialise import materialise_labels
from delorean.leaks import LeakThresholds
from delorean.ranking_data.feature_set_reader import read_feature_set
from delorean.state.rules import SpreadLimit
from encoders import FeatureEncoder, FeatureModel, Vector, feature_encoder
from schemas.errors import ConfigError, DataKeyError, EncoderError

COLUMNS = LabelColumns(items=("video_id",))
WIDTH = 4


@feature_encoder(data=[HISTORY], features=["minutes", Vector("minutes_by_age", WIDTH)])
def by_age(context: Any, items: Any, data: Any, out: Any, *, scale: float = 1.0) -> None:
    """Minutes of each item, and of each of the latest plays."""
    history = data.history
    for i in range(len(items.video_id)):
        total = 0.0
        for j in range(len(history.video_id)):
            if history.video_id[j] == items.video_id[i]:
                total += history.minutes[j]
            if j < WIDTH:
                out.minutes_by_age[i, j] = scale * history.minutes[j] + items.video_id[i]
        out.minutes[i] = total


@feature_encoder(features=[Vector("one_hot", 3)])
def one_hot(context: Any, items: Any, data: Any, out: Any) -> None:
    """The item's number, one-hot."""
    for i in range(len(items.video_id)):
        out.one_hot[i] = 0.0
        out.one_hot[i, items.video_id[i] % 3] = 1.0


@pytest.fixture
def labels(project: Project) -> Labels:
    """40 contexts with 3 items each, in 4 buckets; a third of the profiles has no history."""
    histories = [
        ((p,), 0, [{"video_id": v, "minutes": float(p + v)} for v in range(p % 7)]) for p in range(40) if p % 3
    ]
    project.history(histories, "run", 2)
    rows = [(p, 5, v, int(v == p % 3)) for p in range(40) for v in range(3)]
    return materialise_labels(long_labels(rows), COLUMNS, project.storage, buckets=4)


def generated(
    project: Project, labels: Labels, *encoders: FeatureEncoder, name: str = "f", **options: Any
) -> FeatureSet:
    return generate(labels, list(encoders), project.index, project.storage, name, **options)


def matrix_of(rows: pa.Table, name: str) -> np.ndarray[Any, Any]:
    return np.array(rows[name].combine_chunks().flatten().flatten())


def test_every_reader_gets_lists_of_vectors(project: Project, labels: Labels) -> None:
    features = generated(project, labels, by_age, one_hot)
    rows = features.to_arrow().sort_by("profile_id")
    assert rows.schema.field("minutes_by_age").type == pa.list_(pa.list_(pa.float32()))
    values = rows["minutes_by_age"].to_pylist()
    for profile, of_items in enumerate(values):
        for video, vector in enumerate(of_items):
            history = [profile + v for v in range(profile % 7)] if profile % 3 else []
            expected = [float(m + video) for m in history[:WIDTH]] + [np.nan] * (WIDTH - len(history[:WIDTH]))
            np.testing.assert_array_equal(vector, expected)
    delta = DeltaTable(features.uri)
    arrow = delta.to_pyarrow_table().sort_by("profile_id")
    frame = delta.to_pandas().sort_values("profile_id")
    polars = pl.read_delta(features.uri).sort("profile_id")
    assert polars.schema["minutes_by_age"] == pl.List(pl.List(pl.Float32))
    assert duckdb.sql("select typeof(minutes_by_age) from arrow limit 1").fetchall() == [("FLOAT[][]",)]
    for read in (arrow["minutes_by_age"].to_pylist(), polars["minutes_by_age"].to_list(), list(frame.minutes_by_age)):
        np.testing.assert_array_equal(np.stack([np.stack(each) for each in read]), np.array(values, np.float32))
    assert isinstance(features.to_pandas(), pd.DataFrame)
    assert load_feature_set(project.storage, "f").vectors == {"minutes_by_age": WIDTH, "one_hot": 3}
    assert features.lineage["vectors"] == features.vectors


def test_learners_get_a_column_for_each_component(project: Project, labels: Labels) -> None:
    features = generated(project, labels, by_age, one_hot)
    data = read_feature_set(features.uri, features.features, ["video_id"], ["profile_id"])
    assert data.names == FeatureModel([by_age, one_hot]).columns
    np.testing.assert_array_equal(data.features[:, -3:], np.tile(np.eye(3, dtype=np.float32), (40, 1)))


def test_the_digest_covers_every_component_and_its_place(project: Project, labels: Labels) -> None:
    features = generated(project, labels, by_age, one_hot)
    rows = features.to_arrow()
    digest = partial(digest_rows, context=["profile_id"], items=["video_id"], features=["minutes_by_age", "one_hot"])
    before = digest(rows)
    assert {name: features.digest.features[name] for name in before.features} == before.features
    parts = [digest(rows.slice(first, 10)) for first in (30, 0, 20, 10)]
    assert sum(parts[1:], parts[0]) == before
    values = rows["one_hot"].to_pylist()
    changes = [(7, 1, 2, 1.0), (0, 0, 0, -0.0), (39, 2, 1, float("nan"))]
    changed = []
    for row, place, component, value in changes:
        copied = [[list(vector) for vector in of_items] for of_items in values]
        copied[row][place][component] = value + (copied[row][place][component] if value == 1.0 else 0.0)
        changed.append(copied)
    swapped = [[list(vector) for vector in of_items] for of_items in values]
    swapped[3][0], swapped[3][1] = swapped[3][1], swapped[3][0]
    turned = [[vector[::-1] for vector in of_items] for of_items in values]
    nulled = [[list(vector) for vector in of_items] for of_items in values]
    nulled[5][2] = None  # type: ignore[call-overload]  # that is what is tested
    zeros = [[list(vector) for vector in of_items] for of_items in values]
    zeros[5][2] = [0.0, 0.0, 0.0]
    others = [*changed, swapped, turned, nulled, zeros]
    digests = [before.features["one_hot"]]
    for other in others:
        column = pa.array(other, rows.schema.field("one_hot").type)
        digests.append(
            digest(rows.set_column(rows.column_names.index("one_hot"), "one_hot", column)).features["one_hot"]
        )
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("wrong", [[[[1.0], [1.0, 2.0], [3.0]]], [[[1.0, None], [1.0, 2.0], [3.0, 4.0]]]])
def test_a_digest_of_ragged_vectors_is_an_error_that_names_the_column(wrong: Any) -> None:
    time = pa.array([0], pa.timestamp("us", "UTC"))
    table = pa.table({"p": [1], "time": time, "outcome_at": time, "v": [[1, 2, 3]], "label": [[0.0, 0.0, 0.0]]})
    table = table.append_column("f", pa.array(wrong, pa.list_(pa.list_(pa.float32()))))
    with pytest.raises(DataKeyError, match="column 'f'"):
        digest_rows(table, ["p"], ["v"], ["f"])


def test_unchanged_vectors_are_copied_bit_for_bit(project: Project, labels: Labels) -> None:
    first = generated(project, labels, by_age, one_hot)
    scaled = by_age.configured(scale=2.0)
    second = generated(project, labels, scaled, one_hot)
    assert second.lineage["copied"] == {"version": 0, "features": ["one_hot"]}
    whole = generated(project, labels, scaled, one_hot, name="whole", recompute=True)
    assert second.digest == whole.digest
    assert second.digest.features["one_hot"] == first.digest.features["one_hot"]
    assert second.digest.features["minutes_by_age"] != first.digest.features["minutes_by_age"]
    third = generated(project, labels, by_age, one_hot)
    assert third.digest == first.digest
    assert third.lineage["copied"] == {"version": 0, "features": list(first.features)}


def test_another_width_is_another_feature(project: Project, labels: Labels) -> None:
    generated(project, labels, one_hot)
    wider = replace(one_hot, widths={"one_hot": 5})
    with pytest.raises(
        ConfigError, match=r"'one_hot' has 3 components .* version 0 of 'f', and would have 5 components"
    ):
        generated(project, labels, wider)

    @feature_encoder(features=["one_hot"])
    def number(context: Any, items: Any, data: Any, out: Any) -> None:
        out.one_hot[:] = 1.0

    with pytest.raises(ConfigError, match="has 3 components .* would have one number"):
        generated(project, labels, number)
    renamed = generated(project, labels, wider.configured(rename={"one_hot": "wider"}))
    assert renamed.vectors == {"wider": 5}
    generated(project, labels, wider)  # the newest version does not have the name


def test_rows_whose_captures_lie_too_far_apart_have_null_vectors(project: Project, labels: Labels) -> None:
    from datetime import timedelta

    from project_at_rest import MOOD

    @feature_encoder(data=[HISTORY, MOOD], features=[Vector("pair", 2), "alone"])
    def pair(context: Any, items: Any, data: Any, out: Any) -> None:
        for i in range(len(items.video_id)):
            out.pair[i, 0] = len(data.history.video_id)
            out.pair[i, 1] = data.mood.present
            out.alone[i] = 1.0

    project.mood([((p,), 4 if p % 2 else 0, "calm") for p in range(40)], "moods", 2)
    spread = SpreadLimit(timedelta(minutes=1), "null")
    features = generated(project, labels, pair, one_hot, spread=spread)
    rows = features.to_arrow().sort_by("profile_id")
    torn = [p for p in range(40) if p % 3 and p % 2]
    for profile, vectors in enumerate(rows["pair"].to_pylist()):
        assert [vector is None for vector in vectors] == [profile in torn] * 3
    assert rows["one_hot"].combine_chunks().flatten().null_count == 0
    data = read_feature_set(features.uri, ["pair"], ["video_id"], ["profile_id"])
    assert int(np.isnan(data.features).all(axis=1).sum()) == 3 * len(torn)
    assert compare_feature_sets(features, features).equal


def test_comparisons_count_components(project: Project, labels: Labels) -> None:
    before = generated(project, labels, by_age, one_hot)
    after = generated(project, labels, by_age.configured(scale=2.0), one_hot)
    comparison = compare_feature_sets(before, after)
    assert comparison["one_hot"].status == "equal"
    assert comparison["minutes_by_age"].items == int((~np.isnan(np.array(
        [m for row in before.to_arrow()["minutes_by_age"].to_pylist() for vector in row for m in vector]
    ))).sum())  # fmt: skip
    encoders = compare_encoders(by_age, by_age.configured(scale=2.0), labels, project.index, project.storage)
    assert encoders["minutes_by_age"] == comparison["minutes_by_age"]
    with pytest.raises(DataKeyError, match="'one_hot' has 3 components before and 5 components after"):
        compare_encoders(one_hot, replace(one_hot, widths={"one_hot": 5}), labels, project.index, project.storage)


def test_a_component_that_knows_the_label_is_a_leak(project: Project) -> None:
    random = np.random.default_rng(0)
    rows = [(p, 5, v, int(random.integers(2))) for p in range(200) for v in range(4)]
    watched = {p: [v for owner, _, v, label in rows if owner == p and label] for p in range(200)}
    project.history([((p,), 0, [{"video_id": v, "minutes": 1.0} for v in watched[p]]) for p in range(200)], "run")
    labels = materialise_labels(long_labels(rows), COLUMNS, project.storage)

    @feature_encoder(data=[HISTORY], features=[Vector("seen", 2)])
    def seen(context: Any, items: Any, data: Any, out: Any) -> None:
        for i in range(len(items.video_id)):
            out.seen[i, 0] = len(data.history.video_id)
            out.seen[i, 1] = 0.0
            for video_id in data.history.video_id:
                if video_id == items.video_id[i]:
                    out.seen[i, 1] = 1.0

    report = generated(project, labels, seen, leaks=LeakThresholds()).leaks
    assert report is not None
    assert {finding.feature: finding.suspicious for finding in report.features} == {"seen[0]": False, "seen[1]": True}


def test_a_check_of_a_stored_feature_set_reads_its_vectors(project: Project, labels: Labels) -> None:
    report = check_feature_set(generated(project, labels, by_age, one_hot).uri, index=project.index)
    assert not report.findings
    assert report.leaks is not None
    assert {finding.feature for finding in report.leaks.features} == set(FeatureModel([by_age, one_hot]).columns)


def test_a_feature_set_of_before_vectors_has_none(project: Project, labels: Labels) -> None:
    record = find_record(generated(project, labels, one_hot).uri, 0)
    fields = msgspec.json.decode(msgspec.json.encode(record))
    del fields["feature_set"]["vectors"]
    assert msgspec.convert(fields, GenerationRecord).feature_set.vectors == {}


def test_displays_show_the_length_of_vectors(project: Project, labels: Labels) -> None:
    text = to_text(generated(project, labels, by_age, one_hot))
    assert "one_hot: length of the vector" in text
    assert "minutes_by_age: length" in text


def test_more_components_than_a_list_holds_is_an_error(
    monkeypatch: pytest.MonkeyPatch, project: Project, labels: Labels
) -> None:
    monkeypatch.setattr("delorean.generation.bucket_task._MOST_COMPONENTS", 20)
    with pytest.raises(EncoderError, match="vectors 'one_hot' of a bucket's .* expected at most 20 → .*more buckets"):
        generated(project, labels, one_hot)
