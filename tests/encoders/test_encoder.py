"""What an encoder may be: checked where it is declared, as far as its source shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from encoders import DataMaps, Element, FeatureModel, feature_encoder
from encoders.library.keys import VIDEO_ID, VIDEOS, VIEWING_HISTORY
from schemas.data_keys import context_variable, service_element
from schemas.errors import DataKeyError, EncoderError, EncoderOutputError, UndeclaredKeyError

Define = Callable[..., dict[str, Any]]
HEAD = """@feature_encoder(data=[VIEWING_HISTORY, VIDEOS], features=["f"])
def f(context, items, data, out, *, days: int = 7):
"""
NAMES = {"feature_encoder": feature_encoder, "VIEWING_HISTORY": VIEWING_HISTORY, "VIDEOS": VIDEOS}


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("out.f[0] = len(data.my_list.video_id)", UndeclaredKeyError, "unknown data element 'my_list'"),
        ("out.f[0] = len(data.viewing_histroy.minutes)", UndeclaredKeyError, "did you mean 'viewing_history'"),
        (
            "out.f[0] = data.viewing_history.minute[0]",
            EncoderError,
            "field of 'viewing_history' 'minute' → did you mean 'minutes'",
        ),
        (
            "h = data.viewing_history\n    out.f[0] = h.vido_id[0]",
            EncoderError,
            r":4 \(`out.f\[0\] = h.vido_id\[0\]`\): unknown field .*did you mean 'video_id'",
        ),
        (
            "h, v = data.viewing_history, data.videos\n    out.f[0] = v.minutes[0]",
            EncoderError,
            "unknown field of 'videos' 'minutes'",
        ),
        ("out.g[0] = 1.0", EncoderOutputError, "unknown feature 'g'"),
        ("out.f = 1.0", EncoderOutputError, r":3 .* replaces out.f → write out.f\[i\]"),
        ("x = out.f\n    return x", EncoderOutputError, ":4 .* returns a value, expected None"),
        ("out.f[0] = 1\n    yield 1", EncoderOutputError, ":4 .* yields"),
        ("pass", EncoderOutputError, "declares the feature 'f' and never writes it"),
        (
            "out.f[0] = 1\n    data.viewing_history.minutes[0] = 2",
            EncoderOutputError,
            "writes to data.viewing_history.minutes",
        ),
        ("out.f[0] = 1\n    items.video_id[0] = 2", EncoderOutputError, "writes to items.video_id"),
        ("out.f[0] = 1\n    context = 3", EncoderError, "rebinds 'context'"),
        ("global x\n    out.f[0] = 1", EncoderError, "changes variables outside it"),
    ],
)
def test_what_an_encoder_must_not_do_is_an_error_where_it_is_declared(
    body: str, error: type[EncoderError], message: str, define: Define
) -> None:
    with pytest.raises(error, match=message):
        define(f"{HEAD}    {body}\n", **NAMES)


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("(context, items, data)", r"write \(context, items, data, out"),
        ("(context, items, out, data)", r"write \(context, items, data, out"),
        ("(context, items, data, out, days=7)", "'days' must be keyword-only"),
        ("(context, items, data, out, *, days)", "'days' must be keyword-only with a default"),
        ("(context, items, data, out, *, days=[7])", "a default that is an int"),
        ("(context, items, data, out, *, days=float('nan'))", "expected a finite number"),
        ("(context, items, data, out, *, days=1 << 63)", "does not fit 64 bits"),
    ],
)
def test_an_encoder_has_the_one_signature(signature: str, message: str, define: Define) -> None:
    with pytest.raises(EncoderError, match=message):
        define(f'@feature_encoder(features=["f"])\ndef f{signature}:\n    out.f[0] = 1\n', **NAMES)


def test_only_data_elements_are_declared() -> None:
    with pytest.raises(EncoderError, match=r"declares 'video_id', a item, as data → read it as items.video_id"):
        feature_encoder(data=[VIDEO_ID], features=["f"])(lambda context, items, data, out: None)
    with pytest.raises(DataKeyError, match="'videos' is declared twice"):
        feature_encoder(data=[VIDEOS, service_element("videos", "int64")], features=["f"])(lambda: None)


@pytest.mark.parametrize(
    ("features", "message"), [([], "declares no feature"), (["a", "a"], "feature 'a' twice"), (["a-b"], "cannot name")]
)
def test_features_are_named_once_and_readably(features: list[str], message: str) -> None:
    with pytest.raises(EncoderError, match=message):

        @feature_encoder(features=features)
        def f(context, items, data, out):
            out.a[0] = 1


def test_a_function_without_source_is_refused() -> None:
    namespace: dict[str, Any] = {}
    exec("def f(context, items, data, out):\n    out.f[0] = 1\n", namespace)
    with pytest.raises(EncoderError, match="its source cannot be read"):
        feature_encoder(features=["f"])(namespace["f"])


@feature_encoder(features=["plain"])
def plain(context, items, data, out, *, weight: float = 2.0, device: str = "tv", on: bool = True, times: int = 1):
    for i in range(len(items.video_id)):
        out.plain[i] = (weight if context.device == device and on else 0.0) * times


def test_parameters_and_names_are_configured_without_changing_the_original(
    cache: Any, data_maps: Callable[..., DataMaps]
) -> None:
    other = plain.configured(rename={"plain": "phone"}, weight=3, device="phone", times=2)
    assert (other.features, plain.features) == (("phone",), ("plain",))
    assert other.parameters == {"weight": 3.0, "device": "phone", "on": True, "times": 2}
    bound = FeatureModel([plain, other]).bind([context_variable("device", "string")], [VIDEO_ID], cache)
    found = bound.encode(data_maps([0, 0], [[1], [1]], context={"device": pa.array(["phone", "tv"])}))
    assert {name: values.tolist() for name, values in found.items()} == {"plain": [0.0, 2.0], "phone": [6.0, 0.0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wieght": 1.0}, "did you mean 'weight'"),
        ({"times": 1.5}, "'times' is 1.5, expected int"),
        ({"on": 1}, "'on' is 1, expected bool"),
        ({"device": None}, "'device' is None, expected str"),
        ({"rename": {"plan": "x"}}, "did you mean 'plain'"),
        ({"rename": {"plain": "1x"}}, "cannot name a feature"),
    ],
)
def test_a_wrong_configuration_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        plain.configured(**change)


@feature_encoder(features=["doubled"])
def same_name(context, items, data, out):
    out.doubled[0] = 1.0


def test_two_encoders_must_not_write_one_feature() -> None:
    with pytest.raises(EncoderOutputError, match=r"'doubled' is written by .*same_name' and by .* → rename one"):
        FeatureModel([same_name, same_name])
    FeatureModel([same_name, same_name.configured(rename={"doubled": "again"})])


def test_a_variable_that_the_label_data_lacks_is_named_when_bound(cache: Any) -> None:
    with pytest.raises(UndeclaredKeyError, match=r"reads context.device: .* did you mean 'devise'"):
        FeatureModel([plain]).bind([context_variable("devise", "string")], [VIDEO_ID], cache)
    with pytest.raises(UndeclaredKeyError, match=r"reads items.video_id"):
        FeatureModel([plain]).bind([context_variable("device", "string")], [], cache)


def test_an_encoder_can_be_called_as_the_function_it_is() -> None:
    class Seen:
        device = "tv"
        video_id = (1, 2)
        plain = np.zeros(2)

    plain(Seen, Seen, None, Seen)
    assert Seen.plain.tolist() == [2.0, 2.0]


def test_only_what_is_read_is_asked_of_a_data_map(
    both_ways: Any, data_maps: Callable[..., DataMaps], define: Define
) -> None:
    """A field that no encoder reads is not even converted, so it may hold what encoders could not read."""
    key = service_element("plays", "list<struct<id: int64, odd: int64>>")
    source = """
@feature_encoder(data=[KEY], features=["n"])
def n(context, items, data, out):
    out.n[0] = len(data.plays.id)
"""
    encoder = define(source, feature_encoder=feature_encoder, KEY=key)["n"]
    values = pa.array([[{"id": 1, "odd": None}]], key.type)
    assert both_ways(encoder, data_maps([0], [[1]], {"plays": Element(values, np.array([0]))}))["n"] == [1.0]
