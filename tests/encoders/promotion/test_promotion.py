"""Encoders of cells become modules that give the same bits, and tests that run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from encoders import DataMaps, Element, FeatureEncoder, FeatureModel, feature_encoder, lookup, promote, text_code
from encoders.library.keys import VIDEOS, VIEWING_HISTORY
from encoders.promotion.encoder_module import encoder_module
from schemas.data_keys import context_variable, global_element, item, service_element
from schemas.errors import ConfigError

Define = Callable[..., dict[str, Any]]
MOODS = "list<struct<mood: string, at: timestamp[us, UTC]>>"
CELL = '''
import math, re
import numpy as np
from math import exp as exponential
MOOD = service_element("mood", MOODS)
FACTOR, SMALL = np.float64(2.0), ('phone', "watch")
LATE = MidnightIn = 21

def hour_of( t ) :
    # UTC
    return t // 3_600_000_000 % 24

def scaled(x, by = FACTOR):
    return   x*by + math.sqrt(4.0)

@feature_encoder(data=[VIEWING_HISTORY, MOOD, VIDEOS], features=['evening', "cheer"])
def evening(context, items, data, out, *, from_hour: int = LATE - 3, weight=1.5):
    """Minutes of each candidate that were watched in the evening.

    More of it.
    """
    history = data.viewing_history
    for i in range(len(items.video_id)):
        row = lookup(data.videos, items.video_id[i])
        out.evening[i] = 0.0 if row >= 0 else exponential(1.0)  # as nobody has seen it
        out.cheer[i] = 0.25 * (context.device in SMALL) + 0.5 * (context.device == 'tv')
        for mood in data.mood.mood:
            out.cheer[i] += text_code(mood or "") == text_code("glad")
        for j in range(len(history.video_id)):
            if history.video_id[j] == items.video_id[i] and hour_of(history.watched_at[j]) >= from_hour:
                out.evening[i] += scaled(history.minutes[j]) * weight

def weighing(weight):
    @feature_encoder(features=["weighed"])
    def weighed(context, items, data, out):
        for i in range(len(items.video_id)):
            out.weighed[i] = weight * items.video_id[i]
    return weighed

WORDS = re.compile("[a-z]+", re.IGNORECASE)

@feature_encoder(features=["words"], compiled=False)
def words(context, items, data, out):
    out.words[:] = len(WORDS.findall(context.device or "")) if context.device != "tv" else 9.0

@feature_encoder(features=["never"], compiled=False)
def never(context, items, data, out):
    out.never[:] = float(context.device.nothing)
'''
NAMES = {
    "feature_encoder": feature_encoder,
    "lookup": lookup,
    "text_code": text_code,
    "service_element": service_element,
    "VIDEOS": VIDEOS,
    "VIEWING_HISTORY": VIEWING_HISTORY,
    "MOODS": MOODS,
}
CONTEXT, ITEMS = [context_variable("device", "string")], [item("video_id", "int64")]


@pytest.fixture(scope="module")
def cell(define: Define) -> dict[str, Any]:
    return define(CELL, **NAMES)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder, with a notebook's folder where one is."""
    (tmp_path / "delorean.toml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def imported(reference: str) -> FeatureEncoder:
    module, _, name = reference.partition(":")
    sys.modules.pop(module, None)
    sys.modules.pop(module.partition(".")[0], None)
    encoder: FeatureEncoder = getattr(importlib.import_module(module), name)
    return encoder


def encoded(encoder: FeatureEncoder, cache: Path) -> dict[str, bytes]:
    hours = [1, 19, 21, 23]
    history = [{"video_id": n % 3, "minutes": n / 7, "watched_at": n * 3_600_000_000} for n in hours]
    videos = [{"video_id": n, "title": "t", "genres": ["g"]} for n in (0, 1)]
    moods = pa.array([[{"mood": "glad", "at": 0}]], service_element("mood", MOODS).type)
    elements = {
        "viewing_history": Element(pa.array([history], VIEWING_HISTORY.type), np.array([0, -1, 0])),
        "mood": Element(moods, np.array([0, 0, -1])),
        "videos": Element(pa.array([videos], pa.list_(VIDEOS.type)), np.array([0, 0, 0])),
    }
    maps = DataMaps(
        pa.table({"time": pa.array([0, 1, 2], pa.timestamp("us", "UTC")), "device": ["tv", "phone", None]}),
        pa.table({"video_id": [0, 1, 2, 3, 1, 2]}),
        np.array([0, 3, 4, 6]),
        {key.name: elements[key.name] for key in encoder.data},
    )
    found = FeatureModel([encoder]).bind(CONTEXT, ITEMS, cache).encode(maps)
    return {feature: values.tobytes() for feature, values in found.items()}


def test_a_module_means_what_the_cell_does_and_its_test_runs(cell: dict[str, Any], project: Path, cache: Path) -> None:
    encoders = {
        "evening": cell["evening"].configured(from_hour=20, rename={"cheer": "cheerful"}),
        "weighed": cell["weighing"](0.1),
        "words": cell["words"],
    }
    for name, encoder in encoders.items():
        done = promote(encoder, f"../promoted_encoders/{name}.py")
        assert done.encoder == f"promoted_encoders.{name}:{name}"
        again = imported(done.encoder)
        assert again.fingerprint == encoder.fingerprint
        assert encoded(again, cache) == encoded(encoder, cache)
        assert again.function.__doc__ == encoder.function.__doc__
    text = (project / "promoted_encoders/evening.py").read_text()
    for kept in ("# as nobody has seen it", "from encoders.library.keys import VIDEOS, VIEWING_HISTORY", "# UTC"):
        assert kept in text
    assert "from_hour: int = 20" in text
    formatted = [sys.executable, "-m", "ruff", "format", "--check", "--isolated", str(project)]
    assert subprocess.run(formatted, capture_output=True).returncode == 0
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", ".", "tests"],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout
    assert "6 passed" in ran.stdout


def test_the_test_fails_once_the_module_computes_something_else(
    cell: dict[str, Any], project: Path, cache: Path
) -> None:
    done = promote(cell["weighing"](0.5), "../changed_encoders/weighed.py")
    done.module.write_text(done.module.read_text().replace("0.5", "0.75"))
    sys.modules.pop("changed_encoders", None)
    tests: dict[str, Any] = {"__name__": "its_test"}
    exec(done.test.read_text(), tests)
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        tests["test_features_are_those_at_promotion"]()


def test_without_suitable_example_data_the_test_fails_until_it_is_completed(
    cell: dict[str, Any], project: Path
) -> None:
    done = promote(cell["never"], "../never_encoders/never.py", test=project / "elsewhere/test_never.py")
    assert done.test == project / "elsewhere/test_never.py"
    tests: dict[str, Any] = {"__name__": "its_test"}
    exec(done.test.read_text(), tests)
    with pytest.raises(pytest.fail.Exception, match="no example data suits it.*nothing"):
        tests["test_features"]()


def test_nothing_is_overwritten_and_a_path_must_name_a_module(cell: dict[str, Any], project: Path) -> None:
    path = project / "own_encoders.py"
    path.write_text("mine = 1\n")
    with pytest.raises(ConfigError, match=r"own_encoders.py already exists → delete it, or use another name"):
        promote(cell["words"], path)
    (project / "tests").mkdir()
    (project / "tests/test_words.py").write_text("mine = 2\n")
    with pytest.raises(ConfigError, match=r"test_words.py already exists"):
        promote(cell["words"], project / "words.py")
    assert path.read_text() == "mine = 1\n"
    assert not (project / "words.py").exists()
    for wrong in ("my-encoders/words.py", "words.txt", "words"):
        with pytest.raises(ConfigError, match="names no module"):
            promote(cell["words"], wrong)


def test_the_types_of_any_file_come_back_from_a_module(tmp_path: Path) -> None:
    names = ["video_id", "release-year", 'the "price": net', "item: int64", "tz="]
    lists = [(name, pa.list_(pa.int64())) for name in names]
    films = global_element(
        "films",
        pa.struct([("film_id", pa.int64()), ("seen", pa.int32()), *lists]),
        defaults={"seen": 1},
        aliases={"seen": ["watched"]},
    )

    @feature_encoder(data=[films], features=["known"])
    def known(context: Any, items: Any, data: Any, out: Any) -> None:
        for i in range(len(items.video_id)):
            out.known[i] = 1.0 if lookup(data.films, items.video_id[i]) >= 0 else 0.0

    (tmp_path / "promoted_films.py").write_text(encoder_module(known))
    spec = importlib.util.spec_from_file_location("promoted_films", tmp_path / "promoted_films.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert films in vars(module).values()
