"""What an encoder takes from around it travels with it: constants, text, helpers, imports, closures."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from difflib import SequenceMatcher
from math import exp as exponential

import numpy as np
import pyarrow as pa
import pytest

from encoders import DataMaps, FeatureEncoder, feature_encoder, text_code
from schemas.data_keys import context_variable
from schemas.errors import EncoderError

Run = Callable[..., dict[str, list[float]]]
Build = Callable[..., DataMaps]
DEVICE = context_variable("device", "string")
PHONE = "phone"
SMALL = ("phone", "watch")
TV = "tv"
WORD = re.compile("[a-z]+", re.IGNORECASE)
KNOWN = frozenset({"tv", "phone"})
NESTED = ((1, 2.5), (3, float("inf")))
HALF = np.float64(0.5)


def depth(n: int, step: int = 1) -> int:
    return 0 if n <= 0 else 1 + shrink(n, step)


def shrink(n: int, step: int) -> int:
    return depth(n - step)


@feature_encoder(features=["f"])
def compares_text(context, items, data, out):
    device = context.device
    named = (device == PHONE) + 2 * (device in SMALL) + 4 * (text_code(device or "") == text_code("tv"))
    out.f[0] = named + 8 * (device == TV) + 16 * (device in ("tv", "watch")) + 32 * (device != "tv")


@feature_encoder(features=["f"])
def uses_constants(context, items, data, out):
    deepest = depth(3)
    out.f[0] = NESTED[0][1] + HALF + math.floor(exponential(1.0)) + np.sqrt(16.0) + deepest


@feature_encoder(features=["f"], compiled=False)
def uses_the_standard_library(context, items, data, out):
    likeness = SequenceMatcher(None, context.device or "", "phones").ratio()
    out.f[0] = len(WORD.findall(context.device or "")) + 10 * (context.device in KNOWN) + (likeness > 0.9) * 100


def closing_over(weight: float) -> FeatureEncoder:
    @feature_encoder(features=["f"])
    def weighted(context, items, data, out):
        out.f[0] = weight * 2

    return weighted


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        (compares_text, [1 + 2 + 32, 4 + 8 + 16, 2 + 16 + 32, 32]),
        (uses_constants, [2.5 + 0.5 + 2 + 4 + 3] * 4),
        (uses_the_standard_library, [111, 11, 1, 0]),
        (closing_over(1.5), [3.0] * 4),
    ],
)
def test_what_an_encoder_uses_travels_with_it(
    encoder: FeatureEncoder, expected: list[float], both_ways: Run, data_maps: Build
) -> None:
    maps = data_maps([0] * 4, [[1]] * 4, context={"device": pa.array(["phone", "tv", "watch", None])})
    assert both_ways(encoder, maps, [DEVICE])["f"] == expected


def test_encoders_that_close_over_different_values_differ() -> None:
    assert closing_over(1.0).fingerprint != closing_over(2.0).fingerprint


@feature_encoder(features=["f"])
def hashes_at_run_time(context, items, data, out):
    out.f[0] = text_code(context.device) % 1000


def test_the_code_of_a_text_is_the_same_compiled(both_ways: Run, data_maps: Build) -> None:
    maps = data_maps([0], [[1]], context={"device": pa.array(["tv"])})
    assert both_ways(hashes_at_run_time, maps, [DEVICE])["f"] == [text_code("tv") % 1000]


_batch = 3


@feature_encoder(features=["f"])
def uses_a_taken_name(context, items, data, out):
    out.f[0] = _batch


def test_a_name_that_the_generated_code_needs_is_refused() -> None:
    with pytest.raises(EncoderError, match="uses the global '_batch', which is a reserved name → rename it"):
        _ = uses_a_taken_name.fingerprint
