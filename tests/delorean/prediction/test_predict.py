from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import write_deltalake

from delorean.packaging.package import ModelPackage
from delorean.prediction import Predictions, load_predictions, predict
from delorean.prediction.table import prediction_names
from schemas.errors import ConfigError, TrainingError
from snapshotter.storage import Storage, open_storage

sys.path.insert(0, str(Path(__file__).parents[1] / "company"))  # its encoders are imported by their module's name

from company import CONTEXT, ITEMS, MODEL, NOW, data_maps, train_company, write_company


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return write_company(tmp_path_factory.mktemp("packages") / "company", train_company())


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(f"file://{tmp_path}/store")


def features(profiles: list[int], seed: int = 0) -> pa.Table:
    """A feature set without labels, in the columns of its kind; the last context has no items."""
    maps = data_maps(profiles, [NOW - timedelta(minutes=i) for i in range(len(profiles))], seed)
    encoded = MODEL.bind(CONTEXT, ITEMS).encode(maps)
    lists = {"video_id": maps.items["video_id"].combine_chunks()}
    lists |= {name: pa.array(values, pa.float32(), from_pandas=False) for name, values in encoded.items()}
    offsets = pa.array([*maps.item_offsets, maps.item_offsets[-1]], pa.int32())
    contexts = pa.concat_tables([maps.contexts, data_maps([7], [NOW - timedelta(days=1)]).contexts])
    columns = {name: pa.ListArray.from_arrays(offsets, values) for name, values in lists.items()}
    return pa.table({**{name: contexts[name] for name in contexts.column_names}, **columns})


def written(table: Any, folder: Path, files: int = 1) -> str:
    for rows in np.array_split(np.arange(len(table)), files):
        write_deltalake(str(folder), table.slice(rows[0], len(rows)), mode="append")
    return f"file://{folder}"


def scores_by_hand(package: ModelPackage, table: pa.Table) -> list[list[float]]:
    """Score each context by itself."""
    by_context = []
    for row in table.to_pylist():
        matrix = np.array([row[name] for name in package.features], np.float32).T.reshape(-1, len(package.features))
        by_context.append(package.score(matrix).tolist())
    return by_context


def by_place(table: pa.Table) -> pa.Table:
    return table.sort_by([("time", "ascending"), ("profile_id", "ascending")])


def test_each_item_gets_the_score_that_the_package_gives_it_alone(
    package: ModelPackage, storage: Storage, tmp_path: Path
) -> None:
    table = features(list(range(40)))
    predictions = predict(package, written(table, tmp_path / "set", 3), storage, "scores")
    scored, expected = by_place(predictions.to_arrow()), by_place(table)
    assert scored.column_names == ["profile_id", "country", "time", "video_id", "score"]
    assert scored.drop_columns(["score"]).to_pylist() == expected.select(scored.column_names[:-1]).to_pylist()
    assert scored["score"].to_pylist() == scores_by_hand(package, expected)
    assert (predictions.rows, predictions.item_count) == (41, 800)
    assert predictions.lowest == pc.min(scored["score"].combine_chunks().flatten()).as_py()
    assert load_predictions(storage, "scores") == predictions


def test_spark_and_this_process_give_the_same_bits(
    package: ModelPackage, storage: Storage, tmp_path: Path, spark: Any
) -> None:
    uri = written(features(list(range(40))), tmp_path / "set", 5)
    here = predict(package, uri, storage, "here")
    there = predict(package, uri, storage, "there", spark=spark)
    assert by_place(here.to_arrow()).equals(by_place(there.to_arrow()))
    assert (here.lowest, here.highest, here.item_count) == (there.lowest, there.highest, there.item_count)
    assert by_place(there.to_spark(spark).toArrow())["score"].equals(by_place(here.to_arrow())["score"])


def test_labels_are_carried_along_where_they_are_kept(package: ModelPackage, storage: Storage, tmp_path: Path) -> None:
    table = features(list(range(10)))
    labels = pa.ListArray.from_arrays(table["video_id"].combine_chunks().offsets, pa.array(range(200), pa.float32()))
    uri = written(table.append_column("label", labels), tmp_path / "set")
    predictions = predict(package, uri, storage, "scores", keep=["label", "country"])
    scored = predictions.to_arrow()
    assert scored.column_names == ["profile_id", "country", "time", "video_id", "score", "label"]
    assert scored["label"].combine_chunks().flatten().to_pylist() == list(range(200))


def test_a_table_written_by_polars_is_scored(package: ModelPackage, storage: Storage, tmp_path: Path) -> None:
    table = features(list(range(10)))
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    frame.write_delta(tmp_path / "set")
    predictions = predict(package, f"file://{tmp_path}/set", storage, "scores")
    assert by_place(predictions.to_arrow())["score"].to_pylist() == scores_by_hand(package, by_place(table))


def test_a_version_without_rows_gives_predictions_without_rows(
    package: ModelPackage, storage: Storage, tmp_path: Path
) -> None:
    write_deltalake(str(tmp_path / "set"), features([1]).slice(0, 0))
    predictions = predict(package, f"file://{tmp_path}/set", storage, "scores")
    assert (predictions.rows, predictions.lowest, predictions.to_arrow().num_rows) == (0, None, 0)


def test_an_older_version_is_scored_where_it_is_named(package: ModelPackage, storage: Storage, tmp_path: Path) -> None:
    uri = written(features(list(range(10))), tmp_path / "set", 2)
    older = predict(package, uri, storage, "scores", version=0)
    newer = predict(package, uri, storage, "scores")
    assert (older.rows, older.version, older.feature_set["version"]) == (6, 0, 0)
    assert (newer.rows, newer.version, newer.feature_set["version"]) == (11, 1, 1)
    assert load_predictions(storage, "scores", 0) == older


def test_a_run_that_is_started_again_commits_nothing_more(
    package: ModelPackage, storage: Storage, tmp_path: Path
) -> None:
    uri = written(features(list(range(10))), tmp_path / "set")
    first = predict(package, uri, storage, "scores", run_id="monday")
    assert predict(package, uri, storage, "scores", run_id="monday") == first
    other = written(features(list(range(5))), tmp_path / "other")
    with pytest.raises(ConfigError, match="run id is taken"):
        predict(package, other, storage, "scores", run_id="monday")


def test_tables_that_record_no_encoders_are_scored_with_a_note(
    package: ModelPackage, storage: Storage, tmp_path: Path
) -> None:
    predictions = predict(package, written(features([1, 2]), tmp_path / "set"), storage, "scores")
    assert "does not record which encoders" in predictions.notes[0]


def test_a_missing_feature_is_named(package: ModelPackage, storage: Storage, tmp_path: Path) -> None:
    uri = written(features([1, 2]).drop_columns([package.features[1]]), tmp_path / "set")
    with pytest.raises(ConfigError, match=f"unknown column of version 0 of .*'{package.features[1]}'"):
        predict(package, uri, storage, "scores")
    assert prediction_names(storage) == []


def test_lists_of_other_lengths_are_rejected_and_nothing_is_visible(
    package: ModelPackage, storage: Storage, tmp_path: Path
) -> None:
    table = features([1, 2])
    shorter = pa.array([[0.0]] * len(table), pa.list_(pa.float32()))
    place = table.column_names.index(package.features[0])
    uri = written(table.set_column(place, package.features[0], shorter), tmp_path / "set")
    with pytest.raises(TrainingError, match=r"has 1 values in row 0, expected \d+"):
        predict(package, uri, storage, "scores")
    assert prediction_names(storage) == []
    assert not list(storage.list("predictions"))


def test_doubles_are_scored_where_float32_holds_them_and_rejected_where_it_does_not(
    package: ModelPackage, storage: Storage, tmp_path: Path
) -> None:
    table, name = features([1, 2]), package.features[0]
    place, doubles = table.column_names.index(name), table[name].cast(pa.list_(pa.float64()))
    same = predict(package, written(table.set_column(place, name, doubles), tmp_path / "set"), storage, "scores")
    assert by_place(same.to_arrow())["score"].to_pylist() == scores_by_hand(package, by_place(table))
    tenths = pa.array([[0.1] * len(values) for values in table[name].to_pylist()], pa.list_(pa.float64()))
    with pytest.raises(TrainingError, match=f"'{name}' is list<.*double>, expected list<float>"):
        predict(package, written(table.set_column(place, name, tenths), tmp_path / "other"), storage, "scores")


def test_predictions_that_do_not_exist_are_named_with_those_that_do(
    package: ModelPackage, storage: Storage, tmp_path: Path
) -> None:
    predict(package, written(features([1]), tmp_path / "set"), storage, "scores")
    with pytest.raises(ConfigError, match="there are no predictions 'score' → existing: scores"):
        load_predictions(storage, "score")
    with pytest.raises(ConfigError, match="the newest is 0"):
        load_predictions(storage, "scores", 7)


def test_a_description_shows_the_package_and_the_scores(
    package: ModelPackage, storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from delorean.display.text import show

    show(predict(package, written(features(list(range(9))), tmp_path / "set"), storage, "scores"))
    shown = capsys.readouterr().out
    assert package.digest[:12] in shown
    assert "scores of the first 10 rows" in shown
    assert isinstance(load_predictions(storage, "scores"), Predictions)
