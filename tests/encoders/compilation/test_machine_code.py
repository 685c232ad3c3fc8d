"""Compiled code computes what plain Python computes on real values, or is refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import encoder_programs as programs
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from encoders import DataMaps, Element, FeatureEncoder, FeatureModel, feature_encoder
from encoders.library.keys import VIDEO_ID
from schemas.data_keys import context_variable, global_element, service_element
from schemas.errors import EncoderError

Define = Callable[..., dict[str, Any]]
Run = Callable[..., dict[str, list[float]]]
Build = Callable[..., DataMaps]
COUNTRY = context_variable("country", "string")
FILMS = global_element("films", "struct<id: int64, title: string, genres: list<string>>")
HISTORY = service_element("history", "list<struct<name: string, n: int64>>")
SHOP, SMALL, LARGEST = "US", ("US", "CA"), 2**62
HEAD = """
MIN = "A"
def is_shop(text, shop="US"):
    return text == shop
def later(text):
    return text > MIN
def passes_on(text):
    return later(text)

@feature_encoder(features=["f"], data=DATA)
def f(context, items, data, out, *, shop: str = "US"):
    for i in range(len(items.video_id)):
        """
COUNTRIES = ["US", "DE", None, ""]


@pytest.fixture
def declare(define: Define) -> Callable[..., FeatureEncoder]:
    def declare_body(body: str, data: Any = ()) -> FeatureEncoder:
        names = {"math": math, "np": np, "SHOP": SHOP, "SMALL": SMALL, "LARGEST": LARGEST, "DATA": tuple(data)}
        source = HEAD + body.replace("\n", "\n        ") + "\n"
        encoder: FeatureEncoder = define(source, feature_encoder=feature_encoder, **names)["f"]
        return encoder

    return declare_body


@pytest.fixture
def countries(data_maps: Build) -> DataMaps:
    return data_maps([0] * 4, [[3], [-3], [2**62], [0]], context={"country": pa.array(COUNTRIES)})


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("out.f[i] = 2 ** -items.video_id[i]", [0.125, 8.0, 0.0, 1.0]),
        ("out.f[i] = items.video_id[i] * 4 - 1", [11, -13, 2.0**64, -1]),
        ("out.f[i] = (items.video_id[i] + 1) / 2", [2, -1, 2.0**61, 0.5]),
        ("out.f[i] = items.video_id[i] << 3", [24, -24, 2.0**65, 0]),
        ("out.f[i] = -7 // 2 + -7 % 3 + round(2.5) + round(0.125, 2)", [-4 + 2 + 2 + np.float32(0.12)] * 4),
    ],
)
def test_numbers_are_what_python_makes_of_them(
    body: str, expected: list[float], declare: Callable[..., FeatureEncoder], both_ways: Run, countries: DataMaps
) -> None:
    assert both_ways(declare(body), countries, [COUNTRY])["f"] == [float(np.float32(x)) for x in expected]


@pytest.mark.parametrize(
    "condition",
    [
        'context.country == "US"',
        'context.country in ["US", "CA"]',
        'context.country in ("US", "CA")',
        'context.country in {"US", "CA"}',
        "context.country in SMALL",
        "context.country == SHOP",
        "context.country == shop",
        "is_shop(context.country)",
        'is_shop("US", shop=context.country)',
        'context.country == f"US"',
        '("" or "US") == context.country',
        '(None or "US") == context.country and ("a" and "US") == context.country',
        '("US" if items.video_id[i] < 99 else "CA") == context.country',
        'not context.country != "US"',
        'context.country and context.country != "DE"',
        'any([each == context.country for each in ["US", "CA"]])',
    ],
)
def test_a_text_is_compared_wherever_it_stands(
    condition: str, declare: Callable[..., FeatureEncoder], both_ways: Run, countries: DataMaps
) -> None:
    found = both_ways(declare(f"if {condition}:\n    out.f[i] = 1.0\nelse:\n    out.f[i] = 0.0"), countries, [COUNTRY])
    assert found["f"] == [1.0, 0.0, 0.0, 0.0]


def test_a_text_is_matched(declare: Callable[..., FeatureEncoder], both_ways: Run, countries: DataMaps) -> None:
    body = 'match context.country:\n    case "US" | "CA":\n        out.f[i] = 1\n    case None:\n        out.f[i] = 2\n'
    found = both_ways(declare(body + "    case _:\n        out.f[i] = 3"), countries, [COUNTRY])
    assert found["f"] == [1.0, 3.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "body",
    [
        'out.f[i] = context.country < "M"',
        'out.f[i] = "A" <= context.country <= "M"',
        'x = "M"\nout.f[i] = x > context.country',
        "out.f[i] = shop < context.country",
        'out.f[i] = later("US")',
        'out.f[i] = passes_on(context.country) if context.country == "US" else 0',
        'if context.country == "US":\n    out.f[i] = context.country < context.region\nout.f[i] = 0',
        "out.f[i] = data.history.name[0] < data.history.name[1]",
        "h = data.history\nout.f[i] = h.name[0] > h.name[1]",
        "for name in data.history.name:\n    out.f[i] = name > MIN",
        "out.f[i] = data.films.genres.values[0] >= MIN",
        "out.f[i] = len(data.history.name[0])",
        "out.f[i] = max(data.history.name) == 'a'",
        "out.f[i] = sorted(data.history.name)[0] == 'a'",
        'out.f[i] = (data.history.name[0] + "a") == "aa"',
        'out.f[i] = data.history.name[0].upper() == "A"',
        'out.f[i] = data.history.name[0][0] == "A"',
        'out.f[i] = f"{context.country}" == "US"',
        "out.f[i] = float(data.history.name[0])",
    ],
)
def test_what_a_code_cannot_do_for_a_text_is_refused_when_declared(
    body: str, declare: Callable[..., FeatureEncoder]
) -> None:
    with pytest.raises(EncoderError, match=r"encoder 'f' at .*: it .*text.* → machine code sees a text as a code"):
        declare(body, [HISTORY, FILMS])


def test_a_name_that_is_a_text_only_sometimes_is_left_to_compilation(declare: Callable[..., FeatureEncoder]) -> None:
    declare('x = 3\nout.f[i] = x < 4\nx = "a" if out.f[i] else "b"\nout.f[i] = x == "a"')


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("out.f[i] = context.country < context.country", "text < text: text is only equal or not"),
        ("out.f[i] = context.country == 5", "text == an integer"),
        ("out.f[i] = context.country * 2", "multiply of text and an integer"),
        ("out.f[i] = context.country", "text cannot be put into"),
        ("out.f[i] = {'US': 1}[context.country]", "no a dictionary|a dictionary"),
        ("out.f[i] = hash(context.country)", r"hash\(\)"),
        ("out.f[i] = max(context.country, context.country) == 'US'", r"max\(\)|it calls max"),
        ("try:\n    out.f[i] = 1\nexcept Exception:\n    out.f[i] = 2", "catches no exceptions"),
        ("if items.video_id[i] > 2:\n    z = 1\nout.f[i] = z", "'z' may be read before it has a value"),
        ("out.f[i] = math.gamma(2.5)", r"math.gamma\(\)"),
        ("out.f[i] = np.exp(2.5)", r"numpy.exp\(\)"),
        ("out.f[i] = np.zeros(2, dtype=np.float32)[0]", "array of np.float32"),
    ],
)
def test_what_machine_code_cannot_do_as_python_does_is_refused_by_name(
    body: str, reason: str, declare: Callable[..., FeatureEncoder], cache: Path, countries: DataMaps
) -> None:
    with pytest.raises(EncoderError, match=f"encoder 'f'.*({reason})"):
        FeatureModel([declare(body)]).bind([COUNTRY], [VIDEO_ID], cache).warm_up()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("out.f[i] = round(items.video_id[i] * math.nan)", "ValueError: cannot convert float NaN to integer"),
        ("out.f[i] = int(items.video_id[i] * math.inf)", "cannot convert float"),
        ("out.f[i] = items.video_id[i] // 0", "ZeroDivisionError"),
        ("out.f[i] = items.video_id[i] % 0.0", "ZeroDivisionError"),
        ("out.f[i] = math.log(0 * items.video_id[i])", "ValueError: math domain error"),
        ("out.f[i] = math.exp(800 + abs(items.video_id[i]))", "OverflowError"),
        ("out.f[i] = items.video_id[i + 9]", "out of bounds"),
        ("out.f[i] = items.video_id[-2 - i]", "out of bounds"),
        ("out.f[i] = max(items.video_id[5:])", "ValueError"),
        ("out.f[i] = 1 << -abs(items.video_id[i] - 9)", "ValueError: negative shift count"),
        ("assert items.video_id[i] > 99, 'too few'\nout.f[i] = 1", "AssertionError"),
    ],
)
def test_what_raises_in_python_raises_compiled(
    body: str, reason: str, declare: Callable[..., FeatureEncoder], cache: Path, data_maps: Build
) -> None:
    maps = data_maps([0], [[3]], context={"country": pa.array(["US"])})
    bound = FeatureModel([declare(body)]).bind([COUNTRY], [VIDEO_ID], cache)
    for run in (bound.encode, bound.interpret):
        with pytest.raises(EncoderError, match=reason):
            run(maps)


def test_contexts_that_machine_numbers_cannot_hold_are_computed_by_python_the_others_by_machine(
    declare: Callable[..., FeatureEncoder], both_ways: Run, data_maps: Build
) -> None:
    items = [[1, 2], [2**62, 3], [], [5], [2**62]]
    element = Element(
        pa.array([[{"name": "a", "n": 1}], [{"name": "b", "n": 2}]], HISTORY.type), np.array([0, 1, 1, -1, 0])
    )
    maps = data_maps([0] * 5, items, {"history": element}, {"country": pa.array(["US", None, "DE", "US", "US"])})
    body = 'out.f[i] = items.video_id[i] * 4 + 100 * (context.country == "US")'
    body += "\nfor j in range(len(data.history.n)):"
    body += "\n    out.f[i] += data.history.n[j] if data.history.name[j] == 'b' else 0.5"
    found = both_ways(declare(body, [HISTORY]), maps, [COUNTRY])["f"]
    assert found == [104.5, 108.5, 2.0**64, 14, 120, 2.0**64]


def test_the_oracle_sees_texts(declare: Callable[..., FeatureEncoder], cache: Path, countries: DataMaps) -> None:
    encoder = declare('assert context.country != "US", type(context.country).__name__ + context.country\nout.f[i] = 1')
    bound = FeatureModel([encoder]).bind([COUNTRY], [VIDEO_ID], cache)
    with pytest.raises(EncoderError, match="AssertionError: strUS"):
        bound.interpret(countries)


def _outcome(run: Callable[[], dict[str, Any]]) -> tuple[str, Any]:
    try:
        found = run()["f"]
    except EncoderError:
        return "error", None
    return "values", str(found) if np.isnan(found).any() else found.tobytes()


@pytest.mark.filterwarnings("ignore:.is( not)?. with:SyntaxWarning")  # a program may ask whether a literal is None
@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of a program that fails: it is to be seen
@settings(
    max_examples=5,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(program=programs.programs(), contexts=st.lists(programs.values(), min_size=40, max_size=40))
def test_random_programs_give_the_same_bits_or_both_an_error(
    program: str, contexts: list[DataMaps], define: Define, cache: Path
) -> None:
    names = {"feature_encoder": feature_encoder, "math": math, "np": np, **programs.NAMES}
    try:
        bound = FeatureModel([define(program, **names)["program"]]).bind(programs.CONTEXT, programs.ITEMS, cache)
        bound.warm_up()
    except EncoderError:  # refused by name
        return
    for maps in contexts:
        assert _outcome(lambda maps=maps: bound.encode(maps)) == _outcome(lambda maps=maps: bound.interpret(maps)), (
            program
        )
