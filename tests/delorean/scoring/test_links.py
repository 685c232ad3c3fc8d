from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delorean.scoring.links import EXP, IDENTITY, SIGMOID, apply_link, exp


@given(st.floats(-745, 709.7))
def test_exp_is_within_a_unit_in_the_last_place_of_the_c_librarys(x: float) -> None:
    assert abs(exp(x) - math.exp(x)) <= math.ulp(math.exp(x))


@pytest.mark.parametrize(
    ("x", "bits"),
    [
        (0.0, "0x1.0000000000000p+0"),
        (-0.0, "0x1.0000000000000p+0"),
        (1.0, "0x1.5bf0a8b14576ap+1"),
        (-1.0, "0x1.78b56362cef38p-2"),
        (0.1, "0x1.1aec7b35a00d4p+0"),
        (-36.7, "0x1.0998b04bdd190p-53"),
        (709.7, "0x1.d75ae7a50ee14p+1023"),
        (-745.1, "0x0.0000000000001p-1022"),
    ],
)
def test_exp_has_these_bits_on_every_machine(x: float, bits: str) -> None:
    assert float(exp(x)).hex() == bits


def test_exp_of_what_has_no_finite_result() -> None:
    assert (exp(710.0), exp(np.inf), exp(-746.0), exp(-np.inf)) == (np.inf, np.inf, 0.0, 0.0)
    assert math.isnan(exp(np.nan))


@given(st.lists(st.floats(-800, 800), min_size=2, max_size=20))
def test_links_keep_the_order_of_sums(values: list[float]) -> None:
    sums = np.sort(np.array(values))
    for link in (IDENTITY, SIGMOID, EXP):
        scores = np.empty(len(sums), np.float32)
        apply_link(sums, len(sums), 1.0, 1.0, link, scores)
        assert (np.diff(scores[np.isfinite(scores)]) >= 0).all()
