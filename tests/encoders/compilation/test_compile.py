"""Compiled once for all processes, in a folder that nobody else can write to, from text that travels."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from encoders import DataMaps, Element, FeatureModel, feature_encoder
from encoders.library.keys import VIDEO_ID, VIDEOS
from schemas.errors import ConfigError

SOURCE = """
SCALE = 2.5
def scaled(x):
    return x * SCALE

@feature_encoder(data=[VIDEOS], features=["runtime"])
def runtime(context, items, data, out):
    for i in range(len(items.video_id)):
        row = lookup(data.videos, items.video_id[i])
        if row >= 0:
            out.runtime[i] = scaled(data.videos.runtime_minutes[row])

@feature_encoder(data=[VIDEOS], features=["letters"], compiled=False)
def letters(context, items, data, out):
    for i, video_id in enumerate(items.video_id):
        row = lookup(data.videos, video_id)
        out.letters[i] = len(WORD.findall(data.videos.title[row])) if row >= 0 else -1
"""
OTHER_PROCESS = """
    import pickle, sys
    bound, maps = pickle.loads(sys.stdin.buffer.read())
    found = bound.encode(maps)
    print({name: values.tolist() for name, values in found.items()})
"""


@pytest.fixture
def notebook(define: Callable[..., dict[str, Any]], tmp_path: Path) -> FeatureModel:
    import re

    from encoders import lookup

    cell = define(SOURCE, feature_encoder=feature_encoder, VIDEOS=VIDEOS, lookup=lookup, WORD=re.compile("[a-z]"))
    return FeatureModel([cell["runtime"], cell["letters"]])


@pytest.fixture
def maps(data_maps: Callable[..., DataMaps]) -> DataMaps:
    video = {
        "video_id": 4,
        "title": "Ab c",
        "genres": [],
        "release_year": 1,
        "runtime_minutes": 2.0,
        "popularity": None,
    }
    return data_maps([0], [[4, 5]], {"videos": Element(pa.array([[video]], pa.list_(VIDEOS.type)), np.array([0]))})


def in_another_process(bound: Any, maps: DataMaps) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(OTHER_PROCESS)], input=pickle.dumps((bound, maps)), capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def test_encoders_of_a_notebook_run_in_another_process_that_compiles_nothing(
    notebook: FeatureModel, maps: DataMaps, tmp_path: Path
) -> None:
    bound = notebook.bind([], [VIDEO_ID], tmp_path / "cache")
    here = {name: values.tolist() for name, values in bound.encode(maps).items()}
    assert (here["runtime"][0], here["letters"]) == (5.0, [2.0, -1.0])
    before = {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "cache").rglob("*"))}
    assert any(path.suffix == ".nbc" for path in before)
    assert in_another_process(bound, maps) == str(here)
    after = {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "cache").rglob("*"))}
    assert {path: at for path, at in after.items() if path.is_file()} == {
        path: at for path, at in before.items() if path.is_file()
    }


def test_what_runs_is_the_text_that_was_sent_whatever_lies_in_the_cache(
    notebook: FeatureModel, maps: DataMaps, tmp_path: Path
) -> None:
    bound = notebook.bind([], [VIDEO_ID], tmp_path / "cache")
    expected = str({name: values.tolist() for name, values in bound.encode(maps).items()})
    for path in (tmp_path / "cache").glob("*.py"):
        path.write_text("raise SystemExit('planted')")
    assert in_another_process(bound, maps) == expected


def test_a_folder_that_others_can_write_to_is_refused(notebook: FeatureModel, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(ConfigError, match="others can write to it → chmod 700"):
        notebook.bind([], [VIDEO_ID], tmp_path / "open").warm_up()


def test_a_folder_that_cannot_be_made_is_a_clear_error(notebook: FeatureModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be kept in .* → give another cache_folder"):
        notebook.bind([], [VIDEO_ID], tmp_path / "file" / "cache").warm_up()


def test_the_cache_is_private(notebook: FeatureModel, tmp_path: Path) -> None:
    notebook.bind([], [VIDEO_ID], tmp_path / "cache").warm_up()
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_a_bound_model_travels_without_what_it_kept(notebook: FeatureModel, maps: DataMaps, tmp_path: Path) -> None:
    bound = notebook.bind([], [VIDEO_ID], tmp_path / "cache")
    fresh = pickle.dumps(bound)
    bound.encode(maps)
    assert pickle.dumps(bound) == fresh


def test_the_versions_of_a_global_element_are_indexed_anew_when_they_change(
    notebook: FeatureModel, maps: DataMaps, tmp_path: Path
) -> None:
    bound = notebook.bind([], [VIDEO_ID], tmp_path / "cache")
    assert bound.encode(maps)["runtime"][0] == 5.0
    newer = maps.elements["videos"].values.to_pylist()
    newer[0][0]["runtime_minutes"] = 4.0
    element = Element(pa.array(newer, maps.elements["videos"].values.type), np.array([0]))
    changed = DataMaps(maps.contexts, maps.items, maps.item_offsets, {"videos": element})
    assert bound.encode(changed)["runtime"][0] == 10.0
    assert bound.encode(maps)["runtime"][0] == 5.0


def test_a_few_versions_in_turn_are_indexed_once_each_and_no_more_of_them_are_kept(
    notebook: FeatureModel, maps: DataMaps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from encoders import bound_model

    indexed = []
    index = bound_model._index
    monkeypatch.setattr(bound_model, "_index", lambda plan, *more: indexed.append(plan.key.name) or index(plan, *more))
    bound = notebook.bind([], [VIDEO_ID], tmp_path / "cache")
    value = maps.elements["videos"].values
    versions = [pa.array(value.to_pylist(), value.type) for _ in range(9)]

    def encode(version: pa.Array) -> None:
        elements = {"videos": Element(version, np.array([0]))}
        assert bound.encode(DataMaps(maps.contexts, maps.items, maps.item_offsets, elements))["runtime"][0] == 5.0

    for _ in range(5):  # live requests and replays in turn
        for version in versions[:3]:
            encode(version)
    assert len(indexed) == 3 * len(bound.kept.columns)
    for version in versions:
        encode(version)
    assert all(len(kept) <= 3 for kept in bound.kept.columns.values())
