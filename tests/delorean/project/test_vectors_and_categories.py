"""A project whose encoders write vectors and categories: spec, features, training, package, scores, ranking."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from declaring_project import OLD, Folder, capture
from project_at_rest import minutes

from delorean import LabelColumns, load_package, materialise_labels
from delorean.display.text import to_text
from delorean.feature_sets.table import load_feature_set
from delorean.packaging.files import MANIFEST, write_json
from delorean.ranking_data.feature_set_reader import read_feature_set
from schemas.data_keys import global_element
from schemas.errors import DeloreanError, TrainingError
from schemas.tables import TIME
from snapshotter.global_elements import publish_global

VIDEOS = global_element("videos", "struct<video_id: int64, factors: list<float>, genre: string>")
COUNTRIES = ["AT", "CH", "DE", "US"]
WIDTH = 3
ENCODERS = """
from delorean import Vector, code_of, data_key, feature_encoder, lookup

HISTORY = data_key("history")
VIDEOS = data_key("videos")


@feature_encoder(data=[VIDEOS], features=[Vector("factors", 3), "genre"])
def video(context, items, data, out, *, genres: tuple[str, ...] = ("drama",)):
    videos = data.videos
    for i in range(len(items.video_id)):
        row = lookup(videos, items.video_id[i])
        if row >= 0:
            out.factors[i] = videos.factors.values[videos.factors.offsets[row] : videos.factors.offsets[row + 1]]
            out.genre[i] = code_of(genres, videos.genre[row])


@feature_encoder(data=[HISTORY], features=["country_code", "minutes"])
def situation(context, items, data, out, *, countries: tuple[str, ...] = ("US",)):
    for i in range(len(items.video_id)):
        out.country_code[i] = code_of(countries, context.country)
        if data.history.present:
            out.minutes[i] = 0.0
            for j in range(len(data.history.video_id)):
                if data.history.video_id[j] == items.video_id[i]:
                    out.minutes[i] += data.history.minutes[j]
"""
SPEC = """
encoders = [
    {{ encoder = "{module}:video", parameters = {{ genres = ["crime", "drama"] }} }},
    {{ encoder = "{module}:situation", parameters = {{ countries = {countries} }} }},
]
[tables]
shown = {{ path = "shown.parquet" }}
[labels]
id = "shown"
table = "shown"
items = ["video_id"]
[model]
learner = "{learner}"
rounds = 12
categorical = ["country_code", "genre"]
parameters = {{ {parameters} }}
threads = 1
"""
PARAMETERS = {
    "lightgbm": "num_leaves = 8, min_data_in_leaf = 2, min_data_per_group = 2, cat_smooth = 1.0",
    "xgboost": "max_depth = 3",
}


def factors_of(video: int) -> list[float]:
    return [float(np.float32(np.cos(video * place + 0.1))) for place in range(1, WIDTH + 1)]


def shown() -> pa.Table:
    """120 contexts with six videos; what is liked depends on country, genre and the first factor."""
    rows = [(p, 10 + 10 * n, v) for p in range(24) for n in range(5) for v in range(6)]
    country = [[*COUNTRIES, "FR", "BR"][p % 6] for p, _, _ in rows]
    liked = [float((c in ("AT", "FR")) == (v % 2 == 0) and factors_of(v)[0] > -0.6) for (_, _, v), c in
             zip(rows, country, strict=True)]  # fmt: skip
    return pa.table(
        {
            "profile_id": pa.array([p for p, _, _ in rows], pa.int64()),
            "country": pa.array(country, pa.string()),
            "time": pa.array([minutes(m) for _, m, _ in rows], TIME),
            "video_id": pa.array([v for _, _, v in rows], pa.int64()),
            "label": pa.array(liked, pa.float32()),
            "outcome_at": pa.array([minutes(m + 1) for _, m, _ in rows], TIME),
        }
    )


def write_spec(folder: Folder, learner: str = "lightgbm", countries: object = COUNTRIES, **changes: str) -> None:
    text = SPEC.format(
        module=folder.module, learner=learner, parameters=PARAMETERS[learner], countries=json.dumps(countries)
    )
    for old, new in changes.values():
        text = text.replace(old, new)
    (folder.path / "spec.toml").write_text(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    path = tmp_path_factory.mktemp("vectors")
    made = Folder(path, f"vectors_{path.name.replace('-', '_')}")
    pq.write_table(shown(), path / "shown.parquet")
    with made.open() as project:
        materialise_labels(shown(), LabelColumns(items=("video_id",)), project.storage, labels_id="shown")
        capture(project, OLD, [((p,), 0, [{"video_id": p % 6, "minutes": 1.0 + p}]) for p in range(24)], "run")
        videos = pa.table(
            {
                "video_id": pa.array(range(5), pa.int64()),  # the sixth is not in the catalogue
                "factors": pa.array([factors_of(v) for v in range(5)], pa.list_(pa.float32())),
                "genre": ["drama", "crime", "drama", "western", None],
            }
        )
        publish_global(videos, VIDEOS, minutes(0), project.storage, project.index, "v1")
    made.encoders(ENCODERS)
    write_spec(made)
    with made.open() as project:
        project.generate("spec")
    yield made
    made.forget()


@pytest.fixture(scope="module", params=sorted(PARAMETERS))
def packaged(folder: Folder, request: pytest.FixtureRequest) -> tuple[Folder, Path]:
    write_spec(folder, request.param)
    with folder.open() as project:
        project.package("spec", request.param)
    return folder, folder.path / request.param


def test_a_model_of_vectors_and_categories_is_trained_packaged_scored_and_served(packaged: tuple[Folder, Path]) -> None:
    folder, path = packaged
    with folder.open() as project:
        package = project.load_package(path)
        assert package.features == ("factors", "genre", "country_code", "minutes")
        assert package.columns == ("factors[0]", "factors[1]", "factors[2]", "genre", "country_code", "minutes")
        package.check_golden_rows()
        features = load_feature_set(project.storage, "spec")
        data = read_feature_set(features.uri, package.features, ["video_id"], ["profile_id", "country"])
        codes = dict(zip(data.contexts["country"].to_pylist(), data.features[::6, 4].tolist(), strict=True))
        assert codes == {"AT": 0.0, "CH": 1.0, "DE": 2.0, "US": 3.0, "FR": 4.0, "BR": 4.0}
        np.testing.assert_array_equal(data.features[:6, 3], np.array([1, 0, 1, 2, np.nan, np.nan], np.float32))
        assert np.isnan(data.features[5::6, :4]).all()
        scores = package.score(data.features)
        assert len(np.unique(scores)) > 6
        importances = package.report.importances
        assert set(importances) == {"factors", "genre", "country_code", "minutes"}
        assert importances["country_code"] > 0
        predictions = project.predict("spec", path).to_arrow()
        of = {
            (row["profile_id"], row["time"], video): score
            for row in predictions.to_pylist()
            for video, score in zip(row["video_id"], row["score"], strict=True)
        }
        row = data.contexts.slice(40, 1).to_pylist()[0]
        assert [of[row["profile_id"], row["time"], v] for v in range(6)] == scores[240:246].tolist()
        comparison = project.compare(path, path)
        assert comparison.agreement.same == 1.0
        context = {"profile_id": 9, "country": "DE"}  # its service is not running, so the history is absent
        ranked = project.rank(path, context, list(range(6)), explain=True)["ranked"]
    assert [entry["score"] for entry in ranked] == sorted((entry["score"] for entry in ranked), reverse=True)
    by_video = {entry["item"]["video_id"]: entry for entry in ranked}
    for video, entry in by_video.items():
        shown_features = entry["features"]
        assert shown_features["factors"] == (factors_of(video) if video < 5 else [None] * WIDTH)
        assert shown_features["country_code"] == 2.0
        values = [*shown_features["factors"], *(shown_features[name] for name in ("genre", "country_code", "minutes"))]
        row = np.array([[np.nan if value is None else value for value in values]], np.float32)
        assert package.score(row).tolist() == [entry["score"]]
    assert [by_video[v]["features"]["genre"] for v in range(6)] == [1.0, 0.0, 1.0, 2.0, None, None]


def test_forged_vocabularies_and_widths_are_not_loaded(packaged: tuple[Folder, Path], tmp_path: Path) -> None:
    folder, path = packaged
    for number, (old, new) in enumerate(
        (('"AT"', '"XX"'), ('"AT"', '"CH"'), ('"AT"', "7"), ('"factors": 3', '"factors": 4'))
    ):
        copy = Path(shutil.copytree(path, tmp_path / str(number)))
        text = (copy / "feature_model.json").read_text()
        assert old in text
        data = text.replace(old, new).encode()
        (copy / "feature_model.json").write_bytes(data)
        manifest = json.loads((copy / MANIFEST).read_text())
        manifest["files"]["feature_model.json"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        (copy / MANIFEST).write_bytes(write_json(manifest))
        if new == '"factors": 4':  # what the installed encoder declares counts; the text only informs
            assert load_package(copy, modules=(folder.module,)).columns[:3] == (
                "factors[0]",
                "factors[1]",
                "factors[2]",
            )
            continue
        with pytest.raises(DeloreanError, match="countries|fingerprint"):
            load_package(copy, modules=(folder.module,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"countries": ["US", "US"]}, "'countries': a vocabulary contains 'US' twice"),
        ({"countries": []}, "0 texts"),
        ({"countries": ["US", 7]}, r"countries\[1\]: Expected `string`, got `integer`"),
        ({"countries": "US"}, "'US', expected a list of texts"),
        ({"countries": 7}, "7, expected a list of texts"),
        ({"countries": [["US"]]}, "Expected `string`, got `array`"),
        ({"of": ('"country_code", "genre"]', '"factors"]')}, "unknown feature 'factors'"),
    ],
)
def test_a_wrong_spec_is_one_error_before_any_work(folder: Folder, changes: dict[str, object], message: str) -> None:
    write_spec(folder, **changes)  # type: ignore[arg-type]  # that is what is tested
    with folder.open() as project, pytest.raises(DeloreanError, match=message):
        project.generate("spec")


def test_an_id_depends_on_the_vocabulary_and_not_on_how_it_is_written(folder: Folder) -> None:
    write_spec(folder)
    with folder.open() as project:
        spec = project.spec("spec")
        encoders = spec.feature_model.encoders
        assert replace(spec, encoders=encoders).id == spec.id
        assert type(spec).from_json(json.loads(json.dumps(spec.to_json()))).id == spec.id
    write_spec(folder, countries=COUNTRIES[::-1])
    with folder.open() as project:
        assert project.spec("spec").id != spec.id


def test_a_component_that_is_no_category_is_a_training_error(folder: Folder) -> None:
    write_spec(folder, of=('["country_code", "genre"]', '["factors[1]"]'))
    with folder.open() as project:
        project.generate("spec")
        with pytest.raises(TrainingError, match=r"'factors\[1\]' has .* no category"):
            project.train("spec")


def test_displays_shorten_vocabularies_and_name_widths(folder: Folder) -> None:
    write_spec(folder, countries=[f"country {n}" for n in range(3_000)])
    with folder.open() as project:
        video, situation = project.spec("spec").feature_model.encoders
        text = to_text(project.spec("spec").feature_model)
    assert "factors of 3 components" in to_text(video)
    assert "'country 5', … 3,000 texts" in to_text(situation)
    assert "country 7" not in text + to_text(situation)
