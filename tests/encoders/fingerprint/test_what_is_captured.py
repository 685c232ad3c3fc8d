"""A fingerprint covers all code that an encoder runs: helpers of other modules, decorators, defaults, versions."""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from encoders import DataMaps, FeatureEncoder, FeatureModel, feature_encoder
from encoders.library.keys import VIDEO_ID
from schemas.errors import EncoderError

Define = Callable[..., dict[str, Any]]
Build = Callable[..., DataMaps]
_names = itertools.count()
ENCODER = """
@feature_encoder(features=["f"], compiled=COMPILED)
def f(context, items, data, out):
    for i in range(len(items.video_id)):
        out.f[i] = BODY
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Import a module of the project's from a text."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(text: str, name: str | None = None) -> ModuleType:
        name = name or f"helpers_{next(_names)}"
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return make


@pytest.fixture
def declare(define: Define) -> Callable[..., FeatureEncoder]:
    def declare_encoder(body: str, head: str = "", compiled: bool = False, **names: Any) -> FeatureEncoder:
        text = head + ENCODER.replace("BODY", body).replace("COMPILED", str(compiled))
        encoder: FeatureEncoder = define(text, feature_encoder=feature_encoder, **names)["f"]
        return encoder

    return declare_encoder


def both(encoder: FeatureEncoder, data_maps: Build, cache: Path) -> list[float]:
    bound = FeatureModel([encoder]).bind([], [VIDEO_ID], cache)
    maps = data_maps([0], [[1, 2]])
    assert bound.encode(maps)["f"].tobytes() == bound.interpret(maps)["f"].tobytes()
    return bound.encode(maps)["f"].tolist()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("import {m}", "{m}.f(items.video_id[i])"),
        ("import {m} as h", "h.f(items.video_id[i])"),
        ("from {m} import f as g", "g(items.video_id[i])"),
        ("from {m} import *", "f_again(items.video_id[i])"),
        ("import {m}", "items.video_id[i] * {m}.FACTOR"),
    ],
)
def test_a_helper_of_another_module_is_captured_with_what_it_uses(
    head: str,
    body: str,
    compiled: bool,
    module: Callable[..., ModuleType],
    declare: Callable[..., FeatureEncoder],
    data_maps: Build,
    cache: Path,
) -> None:
    prints = []
    for factor in (2, 3):
        text = f"FACTOR = {factor}\ndef f(x):\n    return x * FACTOR\ndef f_again(x):\n    return f(x)\n"
        name = module(text).__name__
        encoder = declare(body.format(m=name), head.format(m=name), compiled)
        assert both(encoder, data_maps, cache) == [factor, 2 * factor]
        prints.append(encoder.fingerprint)
    assert prints[0] != prints[1]


def test_helpers_of_third_modules_are_captured_too(
    module: Callable[..., ModuleType], declare: Callable[..., FeatureEncoder]
) -> None:
    prints = set()
    for step in (1, 2):
        third = module(f"def step(x):\n    return x + {step}\n", f"third_{step}")
        second = module("import THIRD as t\ndef f(x):\n    return t.step(x)\n".replace("THIRD", third.__name__))
        encoder = declare("h.f(items.video_id[i])", f"import {second.__name__} as h")
        assert f"return x + {step}" in encoder.captured().text
        prints.add(encoder.fingerprint)
    assert len(prints) == 2


DECORATED = """
import functools
def twice(function):
    @functools.wraps(function)
    def wrapper(x):
        return 2 * function(x)
    return wrapper

@twice
def f(x):
    return x
"""


@pytest.mark.parametrize("compiled", [True, False])
def test_a_decorated_helper_keeps_its_decorator(
    compiled: bool,
    module: Callable[..., ModuleType],
    declare: Callable[..., FeatureEncoder],
    data_maps: Build,
    cache: Path,
) -> None:
    encoder = declare("h.f(items.video_id[i])", f"import {module(DECORATED).__name__} as h", compiled)
    assert both(encoder, data_maps, cache) == [2, 4]
    other = module(DECORATED.replace("2 * function", "3 * function"))
    assert (
        declare("h.f(items.video_id[i])", f"import {other.__name__} as h", compiled).fingerprint != encoder.fingerprint
    )


def test_a_decorated_encoder_is_the_function_that_is_declared(define: Define, data_maps: Build, cache: Path) -> None:
    text = """
import functools
def noted(function):
    @functools.wraps(function)
    def wrapper(context, items, data, out):
        function(context, items, data, out)
        out.f[0] = out.f[0] + 1
    return wrapper

@feature_encoder(features=["f"], compiled=False)
@noted
def f(context, items, data, out):
    out.f[:] = 1.0
"""
    encoder = define(text, feature_encoder=feature_encoder)["f"]
    assert both(encoder, data_maps, cache) == [2, 1]


def test_what_runs_is_the_code_that_was_loaded_whatever_its_file_says_now(
    module: Callable[..., ModuleType], declare: Callable[..., FeatureEncoder], tmp_path: Path
) -> None:
    loaded = module("def f(x):\n    return x * 2\n", "changing")
    encoder = declare("h.f(items.video_id[i])", "import changing as h")
    (tmp_path / "changing.py").write_text("# a line more\n\ndef f(x):\n    return x * 2\n")
    moved = encoder.fingerprint
    (tmp_path / "changing.py").write_text("def f(x):\n    return x * 30\n")  # another size: Python compares that
    assert encoder.fingerprint == moved
    importlib.reload(loaded)
    assert encoder.fingerprint != moved


def test_a_file_that_changed_after_it_was_loaded_is_refused(
    module: Callable[..., ModuleType], declare: Callable[..., FeatureEncoder], tmp_path: Path
) -> None:
    module("def f(x):\n    return x * 21\n", "changed")
    path = tmp_path / "changed.py"
    path.write_text("def f(x):\n    return x * 22\n")
    os.utime(path, (1, 1))
    encoder = declare("h.f(items.video_id[i])", "import changed as h")
    with pytest.raises(EncoderError, match=r"'f': .*changed.py has changed since it was loaded.*reload"):
        _ = encoder.fingerprint


def test_a_default_is_the_value_that_it_had_when_the_helper_was_defined(
    define: Define, data_maps: Build, cache: Path
) -> None:
    text = "LIMIT = 3\ndef h(x, limit=LIMIT):\n    return x * limit\nLIMIT = 4\n"
    text += ENCODER.replace("BODY", "h(items.video_id[i]) + LIMIT").replace("COMPILED", "True")
    encoder = define(text, feature_encoder=feature_encoder)["f"]
    assert both(encoder, data_maps, cache) == [7, 10]


@pytest.mark.parametrize(
    ("head", "body", "message"),
    [
        ("import {m} as h", "g(h)", "the module .* as a whole → write what it uses of it"),
        ("import {m} as h", "h.nothing(1)", "nothing, which is not defined"),
        ("import functools\nh = functools.partial(max, 1)", "h(2)", "a partial"),
        ("h = {{'a': abs}}", "h['a'](2)", "a dict"),
        ("class H:\n    def m(self):\n        return 1\nh = H()", "h.m()", "a H"),
        ("class H:\n    def m(self):\n        return 1", "H().m()", "a type"),
        ("h = [1]", "h[0]", "a list"),
        ("import numpy\nh = numpy.float32(0.1)", "h * 1", "a float32"),
        ("def h(x, found=[]):\n    return len(found)", "h(1)", "a list"),
        ("h = lambda x: x", "h(1)", "not a plain function"),
    ],
)
def test_what_cannot_be_captured_is_refused_by_name(
    head: str, body: str, message: str, module: Callable[..., ModuleType], declare: Callable[..., FeatureEncoder]
) -> None:
    name = module("def f(x):\n    return x\n").__name__
    encoder = declare(body, "def g(x):\n    return 1\n" + head.format(m=name))
    with pytest.raises(EncoderError, match=message):
        _ = encoder.fingerprint


def test_an_installed_distribution_counts_by_name_and_version(
    declare: Callable[..., FeatureEncoder], tmp_path: Path
) -> None:
    encoder = declare("np.sqrt(items.video_id[i])", "import numpy as np")
    assert encoder.captured().versions == {"numpy": importlib.import_module("numpy").__version__}
    assert declare("re.compile('a') is None", "import re").captured().versions == {}
    assert declare("np.sqrt(2.0)", "import numpy as np", compiled=True).captured().versions == {}
