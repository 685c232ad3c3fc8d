"""How an encoder fails: one clear error that names the encoder, its line and the context."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from encoders import DataMaps, Element, FeatureEncoder, FeatureModel, feature_encoder
from encoders.library.keys import PROFILE_ID, VIDEO_ID
from schemas.data_keys import service_element
from schemas.errors import EncoderError, EncoderOutputError, UndeclaredKeyError

Build = Callable[..., DataMaps]
SCORES = service_element("scores", "list<int64>")


@feature_encoder(data=[SCORES], features=["f"])
def beyond(context, items, data, out):
    out.f[0] = data.scores.values[2]


@feature_encoder(data=[SCORES], features=["f"])
def writes_beyond(context, items, data, out):
    for i in range(len(data.scores.values)):
        out.f[i] = 1.0


@feature_encoder(data=[SCORES], features=["f"])
def divides(context, items, data, out):
    out.f[0] = 1.0 / (len(data.scores.values) - 1)


@feature_encoder(data=[SCORES], features=["f"])
def raises(context, items, data, out):
    if len(data.scores.values) == 1:
        raise ValueError("one score is too few")
    out.f[0] = 1.0


@feature_encoder(data=[SCORES], features=["f"])
def wrong_length(context, items, data, out):
    out.f[:] = np.zeros(len(data.scores.values))


FAILURES = [
    (beyond, "it reads or writes out of bounds"),
    (writes_beyond, "it reads or writes out of bounds"),
    (divides, "ZeroDivisionError"),
    (raises, "ValueError: one score is too few"),
    (wrong_length, "it writes another number of values than there are items"),
]


@pytest.fixture
def maps(data_maps: Build) -> DataMaps:
    """The third context, profile 30, has one score; the fourth has four and a single item."""
    values = pa.array([[1, 2, 3], [7], [1, 2, 3, 4]], SCORES.type)
    return data_maps(
        [0, 0, 5, 0],
        [[1] * 3, [1] * 3, [1], [1]],
        {"scores": Element(values, np.array([0, 0, 1, 2]))},
        {"profile_id": pa.array([10, 20, 30, 40])},
    )


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("encoder", "reason"), FAILURES)
def test_a_failure_names_the_encoder_and_the_context(
    encoder: FeatureEncoder, reason: str, compiled: bool, maps: DataMaps, cache: Path
) -> None:
    bound = FeatureModel([encoder]).bind([PROFILE_ID], [VIDEO_ID], cache)
    who = 40 if encoder in (writes_beyond, wrong_length) else 30
    start = rf"encoder '.*{encoder.function.__name__}' failed.*profile_id={who}\b"
    with pytest.raises(EncoderError, match=f"{start}.*{reason}") as caught:
        (bound.encode if compiled else bound.interpret)(maps)
    assert "\n" not in str(caught.value)


def test_an_uncompiled_failure_names_the_line(maps: DataMaps, cache: Path) -> None:
    bound = FeatureModel([raises]).bind([PROFILE_ID], [VIDEO_ID], cache)
    line = raises.function.__code__.co_firstlineno + 3
    with pytest.raises(EncoderError, match=rf"test_bound_encoder.py:{line} \(`.*`\) for the context"):
        bound.interpret(maps)


@feature_encoder(data=[SCORES], features=["f"], compiled=False)
def reads_by_name(context, items, data, out):
    out.f[0] = len(getattr(data, "ratings").values)  # noqa: B009  # what the source check cannot see


def test_an_uncompiled_encoder_that_reads_an_undeclared_key_by_name_is_caught_as_it_runs(
    maps: DataMaps, cache: Path
) -> None:
    bound = FeatureModel([reads_by_name]).bind([PROFILE_ID], [VIDEO_ID], cache)
    with pytest.raises(UndeclaredKeyError, match=r"profile_id=10.*unknown data element 'ratings' → known: scores"):
        bound.encode(maps)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("helper(data)", "Unknown attribute 'vido' of type"),
        ("out.f[0] = undefined_thing", "uses 'undefined_thing', which is not defined"),
        ("x = [] if context.time else 0.0\n    out.f[0] = x", "Cannot unify"),
        ("out.f[0] = sum({'a': 1}.values())\n    print(open('x'))", "cannot be compiled"),
    ],
)
def test_what_cannot_be_compiled_is_one_clear_error(
    body: str, message: str, define: Callable[..., dict[str, Any]], cache: Path
) -> None:
    source = (
        "def helper(data):\n    return data.scores.vido\n"
        '@feature_encoder(data=[SCORES], features=["f"])\n'
        f"def f(context, items, data, out):\n    out.f[0] = 1\n    {body}\n"
    )
    cell = define(source, feature_encoder=feature_encoder, SCORES=SCORES)
    with pytest.raises(EncoderError, match=message) as caught:
        FeatureModel([cell["f"]]).bind([], [VIDEO_ID], cache).warm_up()
    assert "encoder '" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("standing", ["beside the cache", "far from it"])
def test_a_compile_error_names_the_users_line(
    define: Callable[..., dict[str, Any]], cache: Path, standing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cache.parent if standing == "beside the cache" else "/usr/share")
    source = (
        '@feature_encoder(features=["f"])\n'
        "# a comment moves lines apart\n\n"
        "def f(context, items, data, out):\n"
        '    """Doc."""\n'
        "    # and so does this\n"
        "    x = context.time\n"
        "    out.f[0] = x.nothing\n"
    )
    encoder = define(source, feature_encoder=feature_encoder)["f"]
    with pytest.raises(EncoderError, match=r"<cell \d+>:8 \(`.*nothing`\): Unknown attribute 'nothing' of type int64"):
        FeatureModel([encoder]).bind([], [VIDEO_ID], cache).warm_up()


def test_an_output_error_is_told_apart(maps: DataMaps, cache: Path) -> None:
    last = DataMaps(
        maps.contexts.slice(3),
        maps.items.slice(7),
        np.array([0, 1]),
        {"scores": Element(maps.elements["scores"].values, np.array([2]))},
    )
    with pytest.raises(EncoderOutputError, match="write one for each item"):
        FeatureModel([wrong_length]).bind([PROFILE_ID], [VIDEO_ID], cache).encode(last)
