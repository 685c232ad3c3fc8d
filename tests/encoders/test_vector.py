"""Features that are vectors: declared, written in compiled code and plain Python alike, and named for learners."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from encoders import DataMaps, Element, FeatureEncoder, FeatureModel, Vector, feature_encoder, lookup
from encoders.library import ALL
from encoders.promotion import promote
from schemas.data_keys import global_element, item, service_element
from schemas.errors import EncoderError, EncoderOutputError, FingerprintError

VIDEO = item("video_id", "int64")
FACTORS = global_element("factors", "struct<video_id: int64, f: list<float>, norm: double>")
TASTE = service_element("taste", "list<double>")
Define = Callable[..., dict[str, Any]]
NAMES = {"feature_encoder": feature_encoder, "Vector": Vector, "TASTE": TASTE}


@feature_encoder(data=[FACTORS, TASTE], features=["dot", Vector("factors", 3), Vector("products", 2)])
def factors(context: Any, items: Any, data: Any, out: Any, *, scale: float = 1.0) -> None:
    """Each item's factors as they are, their products with the taste, and the sum of these."""
    table, taste = data.factors, data.taste
    for i in range(len(items.video_id)):
        row = lookup(table, items.video_id[i])
        if row >= 0:
            start, end = table.f.offsets[row], table.f.offsets[row + 1]
            if end - start == 3:
                out.factors[i] = table.f.values[start:end]
            total = 0.0
            for j in range(min(end - start, len(taste.values))):
                product = scale * table.f.values[start + j] * taste.values[j]
                if j < 2:
                    out.products[i, j] = product
                    out.products[i, j] += 0.0
                total += product
            out.dot[i] = total


def maps_of(vectors: list[list[float]], tastes: list[list[float] | None], items: list[list[int]]) -> DataMaps:
    table = [{"video_id": n, "f": vector, "norm": 0.0} for n, vector in enumerate(vectors)]
    given_tastes = [taste for taste in tastes if taste is not None]
    rows = np.cumsum([taste is not None for taste in tastes]) - 1
    elements = {
        "factors": Element(pa.array([table], pa.list_(FACTORS.type)), np.zeros(len(tastes), np.int64)),
        "taste": Element(
            pa.array(given_tastes, TASTE.type), np.where([taste is None for taste in tastes], -1, rows).astype(np.int64)
        ),
    }
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in items])]).astype(np.int64)
    flat = pa.array([each for some in items for each in some], pa.int64())
    contexts = pa.table({"time": pa.array([0] * len(tastes), pa.timestamp("us", "UTC"))})
    return DataMaps(contexts, pa.table({"video_id": flat}), offsets, elements)


numbers = st.floats(width=32, allow_nan=True, allow_infinity=True)
vectors = st.lists(st.lists(numbers, min_size=3, max_size=3) | st.lists(numbers, max_size=4), min_size=1, max_size=5)
rows = st.lists(
    st.tuples(st.none() | st.lists(numbers, max_size=4), st.lists(st.integers(-1, 5), max_size=4)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(vectors=vectors, rows=rows)
def test_compiled_code_and_plain_python_write_the_same_bits_together_and_one_context_at_a_time(
    vectors: list[list[float]], rows: list[tuple[list[float] | None, list[int]]], cache: Any
) -> None:
    maps = maps_of(vectors, [taste for taste, _ in rows], [items for _, items in rows])
    bound = FeatureModel([factors]).bind([], [VIDEO], cache)
    compiled, plain = bound.encode(maps), bound.interpret(maps)
    items = maps.items.num_rows
    assert [compiled[name].shape for name in bound.features] == [(items,), (items, 3), (items, 2)]
    for name, values in compiled.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(np.isnan(values), np.isnan(plain[name]))
        same = (values.view(np.uint32) == plain[name].view(np.uint32)) | np.isnan(values)
        assert same.all(), name
    ids = maps.items["video_id"].to_pylist()
    for i, video in enumerate(ids):
        known = 0 <= video < len(vectors) and len(vectors[video]) == 3
        expected = vectors[video] if known else [np.nan] * 3
        np.testing.assert_array_equal(compiled["factors"][i], np.array(expected, np.float32))
    for context in range(len(maps)):
        first, end = maps.item_offsets[context : context + 2]
        for name, values in bound.encode(maps.only(context)).items():
            np.testing.assert_array_equal(values, compiled[name][first:end])


def test_what_is_not_written_is_missing_and_each_component_has_a_name() -> None:
    renamed = factors.configured(rename={"factors": "latent"}, scale=2.0)
    assert renamed.features == ("dot", "latent", "products")
    assert renamed.vectors == {"latent": 3, "products": 2}
    model = FeatureModel([renamed])
    assert model.columns == ("dot", "latent[0]", "latent[1]", "latent[2]", "products[0]", "products[1]")
    found = model.bind([], [VIDEO]).encode(maps_of([[1, 2, 3]], [None, [1, 1]], [[0, 9], [0]]))
    assert found["latent"].tolist()[::2] == [[1, 2, 3], [1, 2, 3]]
    assert np.isnan(found["latent"][1]).all()
    assert np.isnan(found["products"][:2]).all()
    assert found["products"][2].tolist() == [2.0, 4.0]


@pytest.mark.parametrize(
    ("declared", "body", "error", "message"),
    [
        ('[Vector("f", 0)]', "out.f[0, 0] = 1", EncoderError, "width 0, expected an integer from 1 to 4,096"),
        ('[Vector("f", 4097)]', "out.f[0, 0] = 1", EncoderError, "width 4097"),
        ('[Vector("f", 2.0)]', "out.f[0, 0] = 1", EncoderError, r"width 2\.0"),
        ('[Vector("f", True)]', "out.f[0, 0] = 1", EncoderError, "width True"),
        ('[Vector(7, 2)]', "out.f[0, 0] = 1", EncoderError, "7 cannot name a feature"),
        ('[Vector("f 1", 2)]', "out.f[0, 0] = 1", EncoderError, "'f 1' cannot name a feature"),
        ('["f", Vector("f", 2)]', "out.f[0] = 1", EncoderOutputError, "writes the feature 'f' twice"),
        ('{"f": 2}', "out.f[0, 0] = 1", EncoderError, "features"),
        ('["f"]', "out.f[0, 0] = 1", EncoderOutputError, r"writes out.f\[0, 0\], a number → .*Vector\(\"f\", 16\)"),
        ('[Vector("f", 2)]', "out.f[0, 2] = 1", EncoderOutputError, "has 2 components → .*j from 0 to 1"),
        ('[Vector("f", 2)]', "out.f[0, 1, 0] = 1", EncoderOutputError, "has 2 components"),
        ('[Vector("f", 2)]', "pass", EncoderOutputError, "declares the feature 'f' and never writes it"),
    ],
)  # fmt: skip
def test_a_wrong_vector_is_an_error_where_it_is_declared(
    declared: str, body: str, error: type[EncoderError], message: str, define: Define
) -> None:
    with pytest.raises(error, match=message):
        define(f"@feature_encoder(features={declared})\ndef f(context, items, data, out):\n    {body}\n", **NAMES)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("for j in range(len(data.taste.values)):\n        out.f[0, j] = 1.0", "out of bounds"),
        ("out.f[0] = data.taste.values[0:3]", "than a vector has"),
        ("out.f[len(items.video_id), 0] = 1.0", "out of bounds"),
    ],
)
@pytest.mark.parametrize("compiled", [True, False])
def test_writing_beyond_a_vector_is_an_error_that_names_the_context(
    body: str, message: str, compiled: bool, define: Define
) -> None:
    source = (
        f'@feature_encoder(data=[TASTE], features=[Vector("f", 2)], compiled={compiled})\n'
        f"def f(context, items, data, out):\n    {body}\n"
    )
    bound = FeatureModel([define(source, **NAMES)["f"]]).bind([], [VIDEO])
    with pytest.raises(EncoderError, match=f"encoder 'f' failed .* for the context time=1970.*{message}"):
        bound.encode(maps_of([], [[1.0, 2.0, 3.0]], [[0]]))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("out.f[:] = 2.0", [[2.0, 2.0], [2.0, 2.0]]),
        ("out.f[1, -1] = data.taste.values[0]", [[np.nan, np.nan], [np.nan, 5.0]]),
        ("row = out.f[1]\n    row[0] = 3.0\n    row[1] = row[0] + len(out.f)", [[np.nan, np.nan], [3.0, 5.0]]),
        ("for row in out.f:\n        row[0] = 4.0", [[4.0, np.nan], [4.0, np.nan]]),
        ("out.f[0] = out.f[1] = 1.5", [[1.5, 1.5], [1.5, 1.5]]),
        ("out.f[0, 0], out.f[0, 1] = 1, True\n    out.f[0, 0] += out.f[0, 1]", [[2.0, 1.0], [np.nan, np.nan]]),
        ("out.f[0, 0] = 1e300\n    out.f[0, 1] = 16777217", [[np.inf, 16777216.0], [np.nan, np.nan]]),
    ],
)
def test_every_way_to_write_a_vector_gives_what_numpy_gives(
    body: str, expected: list[list[float]], define: Define
) -> None:
    source = (
        f'@feature_encoder(data=[TASTE], features=[Vector("f", 2)])\ndef f(context, items, data, out):\n    {body}\n'
    )
    bound = FeatureModel([define(source, **NAMES)["f"]]).bind([], [VIDEO])
    maps = maps_of([], [[5.0]], [[0, 1]])
    for found in (bound.encode(maps), bound.interpret(maps)):
        np.testing.assert_array_equal(found["f"], np.array(expected, np.float32))


def test_the_width_decides_the_fingerprint_and_encoders_of_numbers_keep_theirs() -> None:
    wider = replace(factors, widths={**factors.widths, "products": 3})
    assert wider.fingerprint != factors.fingerprint
    printed = "58376114af4d638d89ee946349b132ac2ead55f8d24f8e44ef5576b3af1ee068"  # of the release before vectors
    assert FeatureModel([each for each in ALL if ".similar:" not in each.name]).fingerprint == printed


def test_a_model_with_vectors_is_read_from_json_and_from_its_packaged_source() -> None:
    model = FeatureModel([factors.configured(rename={"factors": "latent"})])
    fields = json.loads(model.to_json(with_source=True))
    allow = [model.encoders[0].fingerprint]
    maps = maps_of([[1, 2, 3]], [[1, 1]], [[0]])
    for read in (
        FeatureModel.from_json(json.dumps(fields), (__name__,)),
        FeatureModel.from_json(json.dumps(fields), (), allow),
    ):
        assert read.vectors == {"latent": 3, "products": 2}
        found = read.bind([], [VIDEO]).encode(maps)
        assert found["latent"].tolist() == [[1.0, 2.0, 3.0]]
    for forged, error in (
        ({"factors": 4, "products": 2}, FingerprintError),
        ({"factors": 0, "products": 2}, EncoderError),
        ({"others": 2}, EncoderError),
        ("factors", EncoderError),
        ({}, FingerprintError),
    ):
        fields["encoders"][0]["source"]["widths"] = forged
        with pytest.raises(error):
            FeatureModel.from_json(json.dumps(fields), (), allow)


def test_a_promoted_encoder_declares_its_vectors_and_its_vocabulary(
    define: Define, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from encoders import code_of

    source = (
        '@feature_encoder(data=[TASTE], features=["code", Vector("f", 2)])\n'
        'def f(context, items, data, out, *, countries=("US", "DE")):\n'
        "    for i in range(len(items.video_id)):\n"
        "        out.code[i] = code_of(countries, context.country)\n"
        "        out.f[i, 0] = len(data.taste.values)\n"
    )
    encoder: FeatureEncoder = define(source, code_of=code_of, **NAMES)["f"].configured(countries=["AT", "US"])
    (tmp_path / "delorean.toml").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    promoted = promote(encoder, tmp_path / "promoted_vector.py")
    module, test = promoted.module.read_text(), promoted.test.read_text()
    assert "from encoders import Vector, code_of, feature_encoder" in module
    assert 'features=["code", Vector("f", 2)]' in module
    assert "countries=('AT', 'US')" in module.replace('"', "'")
    assert "features['code'], np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]" in test.replace('"', "'")
    namespace: dict[str, Any] = {}
    exec(compile(test, str(promoted.test), "exec"), namespace)
    namespace["test_features_are_those_at_promotion"]()
