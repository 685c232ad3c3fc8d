"""Vocabularies: what they accept, and that compiled code finds the same categories as plain Python and a dictionary."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from encoders import DataMaps, Element, FeatureModel, Vocabulary, code_of, feature_encoder
from encoders.bound_model import BoundModel
from schemas.data_keys import context_variable, item, service_element
from schemas.errors import EncoderError, FingerprintError
from schemas.hashing import text_code

COUNTRY, VIDEO = context_variable("country", "string"), item("video_id", "int64")
TAGS = service_element("tags", "list<string>")
Define = Callable[..., dict[str, Any]]


def position(countries: Any, country: Any) -> float:
    return code_of(countries, country)


@feature_encoder(data=[TAGS], features=["country_code", "known", "tag_codes", "size"])
def codes(
    context: Any,
    items: Any,
    data: Any,
    out: Any,
    *,
    tags: tuple[str, ...] = ("a",),
    countries: tuple[str, ...] = ("b",),
) -> None:
    for i in range(len(items.video_id)):
        out.country_code[i] = position(countries, context.country)
        out.known[i] = 1.0 if context.country in countries else 0.0
        total = 0.0
        for tag in data.tags.values:
            total = total * 7.0 + code_of(tags, tag)
        out.tag_codes[i] = total
        out.size[i] = len(tags)


def maps_of(countries: list[str | None], tags: list[list[str | None]]) -> DataMaps:
    contexts = pa.table({"time": pa.array([0] * len(countries), pa.timestamp("us", "UTC")), "country": countries})
    element = Element(pa.array(tags, TAGS.type), np.arange(len(tags), dtype=np.int64))
    items = pa.table({"video_id": pa.array([1] * len(countries), pa.int64())})
    return DataMaps(contexts.cast(contexts.schema.set(1, pa.field("country", pa.string()))), items,
                    np.arange(len(countries) + 1), {"tags": element})  # fmt: skip


@pytest.fixture(scope="module")
def bound_to(cache: Any) -> Callable[..., BoundModel]:
    def bind(**parameters: Any) -> BoundModel:
        return FeatureModel([codes.configured(**parameters)]).bind([COUNTRY], [VIDEO], cache)

    return bind


words = st.lists(st.text(max_size=4).filter(lambda text: text.isprintable()), min_size=1, max_size=12, unique=True)
maybe = st.one_of(st.none(), st.text(max_size=3), st.sampled_from(["", "a", "b", "US"]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    countries=words, tags=words, rows=st.lists(st.tuples(maybe, st.lists(maybe, max_size=4)), min_size=1, max_size=4)
)
def test_compiled_code_plain_python_and_a_dictionary_find_the_same_categories(
    countries: list[str], tags: list[str], rows: Any, bound_to: Callable[..., BoundModel]
) -> None:
    rows += [(country, [tag]) for country, tag in zip(countries, tags, strict=False)]
    maps = maps_of([country for country, _ in rows], [list(each) for _, each in rows])
    bound = bound_to(countries=countries, tags=tuple(tags))
    compiled, plain = bound.encode(maps), bound.interpret(maps)
    for name, values in compiled.items():
        assert values.tobytes() == plain[name].tobytes(), name
    places = {text: float(place) for place, text in enumerate(countries)}
    expected = [math.nan if country is None else places.get(country, float(len(countries))) for country, _ in rows]
    np.testing.assert_array_equal(compiled["country_code"], np.array(expected, np.float32))
    assert compiled["known"].tolist() == [float(country in places) for country, _ in rows]
    assert set(compiled["size"].tolist()) == {float(len(tags))}


def test_the_largest_vocabulary_is_found_in_whole_by_compiled_code(bound_to: Callable[..., BoundModel]) -> None:
    texts = [f"title {n}" for n in range(65_535)]
    maps = maps_of([*texts[::-13], "none of them", None], [["a"]] * (len(texts[::-13]) + 2))
    found = bound_to(countries=texts).encode(maps)["country_code"]
    assert found[:-2].tolist() == [float(n) for n in range(65_535)][::-13]
    assert found[-2] == 65_535
    assert np.isnan(found[-1])


def test_one_compilation_serves_every_vocabulary(bound_to: Callable[..., BoundModel]) -> None:
    first, second = bound_to(countries=("US",)), bound_to(countries=("DE", "AT"))
    assert first.encoders[0].text == second.encoders[0].text
    assert second.encode(maps_of(["AT"], [["a"]]))["country_code"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("US", "a list of texts"),
        ([], "0 texts, expected 1 to 65,535"),
        (["US", "DE", "US"], "'US' twice"),
        (["US", None], "contains None, expected texts"),
        (["US", 7], "contains 7, expected texts"),
        (["\ud800"], "not Unicode"),
        ([str(n) for n in range(65_536)], "65,536 texts, expected 1 to 65,535"),
    ],
)
def test_what_is_no_vocabulary_is_an_error(texts: Any, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        Vocabulary(texts)
    if not isinstance(texts, str):
        with pytest.raises(EncoderError, match=f"parameter 'countries': .*{message}"):
            codes.configured(countries=texts)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"countries": "US"}, "'US', expected a list of texts"), ({"countries": 3}, "3, expected a list of texts")],
)
def test_another_value_than_a_vocabulary_is_an_error(parameters: Any, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        codes.configured(**parameters)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("out.f[0] = code_of(words, 3)", "code_of"),
        ("out.f[0] = code_of((1, 2), context.country)", "parameter with a tuple of texts"),
        ("out.f[0] = words[0] < 'x'", "codes have no order"),
        ("for word in words:\n        out.f[0] = 1.0", "cannot be compiled"),
    ],
)
def test_what_compiled_code_cannot_do_with_a_vocabulary_is_an_error(body: str, message: str, define: Define) -> None:
    source = f'@feature_encoder(features=["f"])\ndef f(context, items, data, out, *, words=("a", "b")):\n    {body}\n'
    with pytest.raises(EncoderError, match=message):
        FeatureModel([define(source, feature_encoder=feature_encoder, code_of=code_of)["f"]]).bind(
            [COUNTRY], [VIDEO]
        ).warm_up()


def test_plain_encoders_have_vocabularies_too(define: Define) -> None:
    source = (
        '@feature_encoder(features=["f"], compiled=False)\n'
        'def f(context, items, data, out, *, words=("a", "b")):\n'
        "    out.f[:] = code_of(words, context.country.lower()) + 10 * sum(len(word) for word in words)\n"
    )
    encoder = define(source, feature_encoder=feature_encoder, code_of=code_of)["f"]
    bound = FeatureModel([encoder]).bind([COUNTRY], [VIDEO])
    assert bound.encode(maps_of(["B", "C"], [[], []]))["f"].tolist() == [21.0, 22.0]


def test_a_vocabulary_decides_the_fingerprint_and_survives_json_and_pickle() -> None:
    one, other = codes.configured(countries=["US", "DE"]), codes.configured(countries=["DE", "US"])
    assert len({codes.fingerprint, one.fingerprint, other.fingerprint}) == 3
    assert codes.configured(countries=("US", "DE")).fingerprint == one.fingerprint
    text = FeatureModel([one]).to_json(with_source=True)
    read = FeatureModel.from_json(text, (__name__,))
    assert read.encoders[0].parameters == {"tags": ("a",), "countries": ("US", "DE")}
    assert read.fingerprint == FeatureModel([one]).fingerprint
    copied = pickle.loads(pickle.dumps(Vocabulary(["US", "DE"])))
    assert (copied, type(copied), code_of(copied, "DE")) == (("US", "DE"), Vocabulary, 1.0)


def test_a_package_runs_its_own_source_only_with_the_vocabulary_of_its_fingerprint() -> None:
    model = FeatureModel([codes.configured(countries=["US", "DE"])])
    allow = [model.encoders[0].fingerprint]
    fields = json.loads(model.to_json(with_source=True))
    read = FeatureModel.from_json(json.dumps(fields), (), allow)  # no module is allowed: its own source runs
    found = read.bind([COUNTRY], [VIDEO]).encode(maps_of(["DE"], [["a"]]))
    assert found["country_code"].tolist() == [1.0]
    for forged, error in ((["DE", "US"], FingerprintError), (["US", "US"], EncoderError), ([1], EncoderError)):
        fields["encoders"][0]["parameters"]["countries"] = forged
        with pytest.raises(error):
            FeatureModel.from_json(json.dumps(fields), (), allow)


@pytest.mark.parametrize(
    "column", [list, pa.array, pd.Series, pl.Series, lambda texts: pa.chunked_array([texts[:2], texts[2:]])]
)
def test_the_most_frequent_texts_of_any_column(column: Callable[[list[str | None]], Any]) -> None:
    texts = ["US", "DE", None, "US", "CH", "DE", "AT"]
    assert Vocabulary.most_frequent(column(texts), 3) == ("DE", "US", "AT")


def test_the_most_frequent_texts_of_lists_and_what_has_none() -> None:
    lists = pa.array([["drama", "crime"], None, ["drama", None]])
    assert Vocabulary.most_frequent(lists, 9) == ("drama", "crime")
    assert Vocabulary.most_frequent(lists.flatten().dictionary_encode(), 1) == ("drama",)
    for column in (pa.array([1, 2]), pa.array([None, None])):
        with pytest.raises(EncoderError, match="expected texts"):
            Vocabulary.most_frequent(column, 3)
    with pytest.raises(EncoderError, match="0 texts"):
        Vocabulary.most_frequent(pa.array([None], pa.string()), 3)


def test_a_code_is_of_a_text() -> None:
    assert text_code("US") != code_of(("US",), "US") == 0.0
    with pytest.raises(EncoderError, match=r"code_of\(…, 7\)"):
        code_of(("US",), 7)  # type: ignore[arg-type]  # that is what is tested
