"""A fingerprint changes with what an encoder computes, and with nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from encoders import FeatureEncoder, FeatureModel, feature_encoder
from encoders.library import ALL
from encoders.library.history import minutes_watched
from encoders.library.keys import VIEWING_HISTORY
from schemas.data_keys import service_element
from schemas.errors import EncoderError, FingerprintError

Define = Callable[..., dict[str, Any]]
SOURCE = """
LIMIT = 3
def helper(x):
    return x * 2

@feature_encoder(data=[KEY], features=["f"])
def f(context, items, data, out, *, days: int = 7):
    for i in range(len(items.video_id)):
        out.f[i] = helper(len(data.history.values)) + LIMIT + days
"""
KEY = service_element("history", "list<int64>")


@pytest.fixture
def make(define: Define) -> Callable[..., FeatureEncoder]:
    def make_encoder(old: str = "", new: str = "", key: Any = KEY) -> FeatureEncoder:
        assert old in SOURCE
        encoder: FeatureEncoder = define(SOURCE.replace(old, new), feature_encoder=feature_encoder, KEY=key)["f"]
        return encoder

    return make_encoder


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 3  # a comment"),
        ("LIMIT = 3", "LIMIT = (3)\nUNUSED = 4"),
        ("    for i", '    """A docstring."""\n\n    # a comment\n    for i'),
        ("days: int = 7", "days = 7"),
        ("helper(len(data.history.values)) + LIMIT + days", "(helper(\n    len(data.history.values)) + LIMIT) + days"),
        ("def helper(x):", "def helper(x: int) -> int:"),
    ],
)
def test_it_is_stable_under_comments_and_layout(old: str, new: str, make: Callable[..., FeatureEncoder]) -> None:
    assert make(old, new).fingerprint == make().fingerprint


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("+ LIMIT", "- LIMIT"),
        ("LIMIT = 3", "LIMIT = 4"),
        ("LIMIT = 3", "LIMIT = 3.0"),
        ("x * 2", "x * 3"),
        ("days: int = 7", "days: int = 8"),
        ('features=["f"])', 'features=["f"], compiled=False)'),
    ],
)
def test_it_changes_with_source_constants_helpers_and_parameters(
    old: str, new: str, make: Callable[..., FeatureEncoder]
) -> None:
    assert make(old, new).fingerprint != make().fingerprint


def test_a_model_with_its_source_keeps_its_constants_as_they_were(make: Callable[..., FeatureEncoder]) -> None:
    model = FeatureModel(make())
    before, kept = model.fingerprint, model.with_source()
    model.encoders[0].function.__globals__["LIMIT"] = 4
    assert model.fingerprint == FeatureModel(make("LIMIT = 3", "LIMIT = 4")).fingerprint != before
    assert kept.fingerprint == kept.with_source().fingerprint == before
    assert kept.encoders == model.encoders


def test_it_changes_with_parameters_names_and_types(make: Callable[..., FeatureEncoder]) -> None:
    encoder = make()
    prints = [
        encoder.fingerprint,
        encoder.configured(days=8).fingerprint,
        encoder.configured(rename={"f": "g"}).fingerprint,
        make(key=service_element("history", "list<int32>")).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert encoder.configured(days=8).configured(days=7).fingerprint == encoder.fingerprint
    assert encoder.configured(rename={"f": "f"}).fingerprint == encoder.fingerprint


def test_it_is_that_of_earlier_releases_unless_defaults_or_aliases_are_declared(
    make: Callable[..., FeatureEncoder],
) -> None:
    of_the_first_release = "9ad6d38f4d5feed8ce03e2e085f8d9b08e2d82252ba32e1b9d028ba244e5f071"
    assert minutes_watched.fingerprint == of_the_first_release

    def with_key(**declared: Any) -> str:
        key = service_element("history", "list<struct<video_id: int64, plays: int32>>", **declared)
        return make("data.history.values", "data.history.plays", key=key).fingerprint

    prints = [
        with_key(),
        with_key(defaults={"plays": 0}),
        with_key(defaults={"plays": 1}),
        with_key(aliases={"plays": ["n"]}),
    ]
    assert len(set(prints)) == len(prints)


def test_it_is_the_same_in_every_process() -> None:
    script = "from encoders import FeatureModel; from encoders.library import ALL; print(FeatureModel(ALL).fingerprint)"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == FeatureModel(ALL).fingerprint


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": 1}, "uses the global 'LIMIT', a dict.* → make it a parameter"),
        ([1], "a list"),
        (json, "the module json.*compiled encoders use math and numpy"),
        (object(), "a object"),
    ],
)
def test_a_global_that_cannot_travel_is_refused(value: Any, message: str, define: Define) -> None:
    cell = define(SOURCE.replace("LIMIT = 3", ""), feature_encoder=feature_encoder, KEY=KEY, LIMIT=value)
    with pytest.raises(EncoderError, match=message):
        _ = cell["f"].fingerprint


def test_a_name_with_two_meanings_is_refused(define: Define) -> None:
    other = define("LIMIT = 9\ndef helper(x):\n    return x + LIMIT\n")["helper"]
    cell = define(
        SOURCE.replace("def helper(x):\n    return x * 2", ""), feature_encoder=feature_encoder, KEY=KEY, helper=other
    )
    with pytest.raises(EncoderError, match="mean different things by 'LIMIT'"):
        _ = cell["f"].fingerprint


def test_a_model_round_trips_through_json() -> None:
    changed = minutes_watched.configured(rename={"minutes_watched": "minutes_7d"}, window_days=7)
    model = FeatureModel([*ALL, changed])
    again = FeatureModel.from_json(model.to_json())
    assert again.fingerprint == model.fingerprint
    assert again.features == model.features
    assert again.to_json() == model.to_json()
    assert again.encoders[-1].parameters == {"window_days": 7}
    assert list(model.elements) == [
        "viewing_history",
        "my_list",
        "predicted_ratings",
        "search_results",
        "videos",
        "similar_videos",
    ]
    assert model.elements["viewing_history"] == VIEWING_HISTORY


def test_an_encoder_that_changed_since_is_refused() -> None:
    written = json.loads(FeatureModel([minutes_watched]).to_json())
    written["encoders"][0]["fingerprint"] = "0" * 64
    with pytest.raises(FingerprintError, match="minutes_watched' is not the one this model was created with"):
        FeatureModel.from_json(json.dumps(written))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("os:system", "lies outside the modules it may be imported from"),
        ("encoders.library_evil:f", "lies outside the modules"),
        ("encoders.library.nowhere:f", "cannot be imported"),
        ("encoders.library.history:DAY", "is not a feature encoder"),
        ("encoders.library.history:math.log", "is not a feature encoder"),
    ],
)
def test_only_encoders_of_allowed_modules_are_imported(reference: str, message: str) -> None:
    written = json.loads(FeatureModel([minutes_watched]).to_json())
    written["encoders"][0]["encoder"] = reference
    with pytest.raises(EncoderError, match=message):
        FeatureModel.from_json(json.dumps(written))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 2, "encoders": []}',
        '{"format": 1, "encoders": [{"encoder": 3}]}',
        "[" * 100_000,
        " " * 2_000_000,
    ],
)
def test_text_that_is_no_feature_model_is_refused(text: str) -> None:
    with pytest.raises(EncoderError, match="feature model"):
        FeatureModel.from_json(text)
