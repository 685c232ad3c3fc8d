# ruff: noqa: E501  # programs in lines
"""Random encoders: expressions over columns with edge values, to be compared compiled and as plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from encoders import DataMaps, Element
from schemas.data_keys import context_variable, item, service_element

INTS = [0, 1, -1, 2, 3, -7, 10, 62, 63, 64, 2**31, 2**53, 2**53 + 1, -(2**53) - 1, 2**62, 2**63 - 1, -(2**63)]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 0.125, 2.675, 0.1, 1e-320, 1e16, 2.0**53, 2.0**63, 1e300]
FLOATS += [float("inf"), float("-inf"), float("nan"), 3.0, -8.0, 1 / 3]
TEXTS = [None, "", "US", "CA", "us", "ünï"]
LISTS: list[list[Any]] = [[], [0], [1, -1], [3, 1, 2, 2], [2**53 + 1, 5], [2**62, 2**62], list(range(20))]
CONTEXT = [
    context_variable("which", "int64"),
    context_variable("i", "int64"),
    context_variable("j", "int64"),
    context_variable("x", "double"),
    context_variable("y", "double"),
    context_variable("p", "bool"),
    context_variable("t", "string"),
    context_variable("u", "string"),
]
ITEMS = [item("video_id", "int64")]
WHOLE = service_element("whole", "list<int64>")
REAL = service_element("real", "list<double>")
WORDS = service_element("words", "list<string>")
NAMES = {
    "SHOP": "US",
    "PAIR": ("US", "CA"),
    "LIMIT": 3,
    "WHOLE": WHOLE,
    "REAL": REAL,
    "WORDS": WORDS,
}
HEAD = """
def is_shop(text, other="US"):
    return text == other

def half(x):
    return x / 2
"""


def _of(*templates: str, **parts: Any) -> st.SearchStrategy[str]:
    """Fill templates, in which {i}, {x}, {b} and {t} stand for expressions of a kind."""

    def fill(template: str) -> st.SearchStrategy[str]:
        import string

        names = [name for _, name, _, _ in string.Formatter().parse(template) if name]
        slots = [f"{name}_{place}" for place, name in enumerate(names)]
        for name, slot in zip(names, slots, strict=True):
            template = template.replace(f"{{{name}}}", f"{{{slot}}}", 1)
        return st.tuples(*(parts[name] for name in names)).map(
            lambda values: template.format(**dict(zip(slots, values, strict=True)))
        )

    return st.sampled_from(templates).flatmap(fill)


def _expressions() -> dict[str, st.SearchStrategy[str]]:
    small = st.sampled_from(["0", "1", "2", "3", "-1", "7", "64", "LIMIT"])
    text = st.sampled_from(["context.t", "context.u", '"US"', '""', "SHOP", "data.words.values[0]", 'f"US"'])
    ints = st.one_of(st.sampled_from(["context.i", "context.j", "len(data.whole.values)"]), small)
    reals = st.sampled_from(["context.x", "context.y", "0.5", "2.0", "1e10", "math.pi", 'float("nan")'])
    bools = st.sampled_from(["context.p", "True", "False"])
    for _ in range(2):
        parts = {"i": ints, "x": reals, "b": bools, "t": text, "e": small, "n": st.one_of(ints, reals, bools)}
        wider = _of(*_INTS, **parts), _of(*_REALS, **parts), _of(*_BOOLS, **parts)
        ints, reals, bools = (st.one_of(old, new) for old, new in zip((ints, reals, bools), wider, strict=True))
    return {"i": ints, "x": reals, "b": bools}


_SIGNS = ("+", "-", "*", "//", "%", "**")
# Exponents and shifts of integers are small, {e}: Python would compute all digits, however many, until memory ends.
_COMPARE = [f"({{n}} {sign} {{n}})" for sign in ("<", "<=", ">", ">=", "==", "!=")]
_INTS = [
    *(f"({{i}} {sign} {{i}})" for sign in _SIGNS[:-1]),
    *(f"({{i}} {sign} {{b}})" for sign in _SIGNS[:3]),
    "({i} ** {e})",
    "({i} << {e})",
    "({i} >> {i})",
    "({i} & {i})",
    "({i} | {b})",
    "({i} ^ {i})",
    "(-{i})",
    "(~{i})",
    "(-{b})",
    "abs({i})",
    "min({i}, {i})",
    "max({i}, {i}, {b})",
    "round({x})",
    "int({x})",
    "int({b})",
    "math.floor({x})",
    "math.ceil({x})",
    "math.trunc({x})",
    "sum(data.whole.values)",
    "max(data.whole.values)",
    "min([{i}, {i}])",
    "data.whole.values[{i}]",
    "len(data.whole.values[{i}:{i}])",
    "sum(data.whole.values[{i}:])",
    "sorted(data.whole.values)[{i}]",
    "divmod({i}, {i})[0]",
    "divmod({i}, {i})[1]",
    "pow({i}, {e})",
    "({i} if {b} else {i})",
    "round({i}, 1)",
    "sum([v * {i} for v in data.whole.values if v > {i}])",
    "data.whole.values.sum()",
    "data.whole.values.max()",
]
_REALS = [
    *(f"({{x}} {sign} {{x}})" for sign in _SIGNS),
    *(f"({{i}} {sign} {{x}})" for sign in _SIGNS),
    *(f"({{x}} {sign} {{i}})" for sign in _SIGNS),
    "({i} / {i})",
    "({x} / {x})",
    "({b} / {i})",
    "({x} / {i})",
    "({i} ** -1)",
    "({x} ** -2)",
    "(-{x})",
    "abs({x})",
    "float({i})",
    "min({x}, {i})",
    "max({i}, {x})",
    "min({x}, {x}, {x})",
    "round({x}, 2)",
    "round({x}, 0)",
    *(
        f"math.{name}({{n}})"
        for name in ("sqrt", "exp", "log", "log1p", "expm1", "log2", "log10", "sin", "tanh", "asin")
    ),
    *(
        f"math.{name}({{n}})"
        for name in ("cos", "tan", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "fabs")
    ),
    *(f"math.{name}({{n}}, {{n}})" for name in ("atan2", "copysign", "fmod", "pow")),
    "sum(data.real.values)",
    "sum(data.real.values, {x})",
    "max(data.real.values)",
    "min(data.real.values)",
    "data.real.values.sum()",
    "data.real.values.mean()",
    "data.real.values.min()",
    "data.real.values[{i}]",
    "sorted(data.real.values)[{i}]",
    "({x} if {b} else {x})",
    "half({i})",
    "half({x})",
    "np.sqrt({x})",
    "np.floor({x})",
    "np.maximum({x}, {x})",
    "(data.real.values * {x}).sum()",
    "(data.real.values - data.real.values.min()).max()",
]
_BOOLS = [
    *_COMPARE,
    "({i} < {i} < {i})",
    "({n} < {i} <= {x})",
    "({b} and {b})",
    "({b} or {b})",
    "(not {b})",
    "(not {n})",
    "({b} & {b})",
    "bool({n})",
    "({i} in (1, 2, 3))",
    "({n} in ({i}, {x}))",
    "({i} in data.whole.values)",
    "({x} in [0.5, 2.0])",
    "({i} not in [1, {i}])",
    "math.isnan({n})",
    "math.isinf({x})",
    "math.isfinite({x})",
    "({t} == {t})",
    "({t} != {t})",
    "({t} in ({t}, 'CA'))",
    "({t} in ['US', 'CA'])",
    "({t} not in {{'US', 'us'}})",
    "({t} in PAIR)",
    "({t} in data.words.values)",
    "({t} is None)",
    "({t} is not None)",
    "({t} == None)",
    "bool({t})",
    "(not {t})",
    "is_shop({t})",
    "is_shop({t}, other={t})",
    "(({t} if {b} else {t}) == {t})",
    "(({t} or 'US') == {t})",
    "any([v == {t} for v in data.words.values])",
    "all([v > {i} for v in data.whole.values])",
    "isinstance({i}, int)",
]
_STATEMENTS = [
    "out.f[0] = {n}",
    "out.f[:] = {n}",
    "out.f[-1] += {n}",
    "v = {n}\n            out.f[0] = v * 2",
    "v = 0\n            for w in data.whole.values:\n                v += w * {i}\n            out.f[0] = v",
    "v = 0.0\n            for w in data.real.values:\n                v += w if {b} else {x}\n            out.f[0] = v",
    "v = np.zeros(3)\n            v[{i}] = {n}\n            out.f[0] = v[0] + v[2]",
    "v = np.zeros(3, dtype=np.int64)\n            v[0] = {n}\n            v[1] -= {i}\n            out.f[0] = v[0] + v[1]",
    "v = [{i}, {i}]\n            v.append({i})\n            v[0], v[1] = v[1], v[0]\n            out.f[0] = v[0] - v[2]",
    "assert {b}\n            out.f[0] = {n}",
    "if {n}:\n                raise ValueError('no')\n            out.f[0] = {n}",
    "v = {t}\n            if v:\n                out.f[0] = v == {t}\n            elif v == 'CA':\n                out.f[0] = 2",
    "match {t}:\n                case 'US' | 'CA':\n                    out.f[0] = 1\n                case _:\n                    out.f[0] = {n}",
    "while {i} > 5:\n                out.f[0] = {n}\n                break",
]


@st.composite
def programs(draw: st.DrawFn, count: int = 6) -> str:
    """Write an encoder with some statements, of which the context's variable `which` chooses one."""
    parts = _expressions()
    text = st.sampled_from(["context.t", "context.u", '"US"', "SHOP"])
    kinds = {**parts, "n": st.one_of(parts["i"], parts["x"], parts["b"]), "t": text}
    lines = [
        HEAD,
        '@feature_encoder(data=[WHOLE, REAL, WORDS], features=["f"])',
        "def program(context, items, data, out):",
    ]
    lines.append("    if len(items.video_id) > 0:")
    for place in range(count):
        lines.append(f"        if context.which == {place}:\n            {draw(_of(*_STATEMENTS, **kinds))}")
    return "\n".join(lines) + "\n"


@st.composite
def values(draw: st.DrawFn, count: int = 6) -> DataMaps:
    """Make one context."""
    chosen: dict[str, Any] = {
        "which": draw(st.integers(0, count - 1)),
        "i": draw(st.sampled_from(INTS)),
        "j": draw(st.sampled_from(INTS)),
        "x": draw(st.sampled_from(FLOATS) | st.floats(-1e6, 1e6)),
        "y": draw(st.sampled_from(FLOATS) | st.floats(-10, 10)),
        "p": draw(st.booleans()),
        "t": draw(st.sampled_from(TEXTS)),
        "u": draw(st.sampled_from(TEXTS)),
    }
    columns = {key.name: pa.array([chosen[key.name]], key.type) for key in CONTEXT}
    lists = {
        "whole": pa.array([draw(st.sampled_from(LISTS))], WHOLE.type),
        "real": pa.array([draw(st.lists(st.sampled_from(FLOATS) | st.floats(-1e3, 1e3), max_size=20))], REAL.type),
        "words": pa.array([draw(st.lists(st.sampled_from(TEXTS), max_size=3))], WORDS.type),
    }
    return DataMaps(
        pa.table({"time": pa.array([0], pa.timestamp("us", "UTC")), **columns}),
        pa.table({"video_id": pa.array([7, 8], pa.int64())}),
        np.array([0, 2]),
        {name: Element(array, np.array([0])) for name, array in lists.items()},
    )
