"""Turns trees' sums into scores, with the same bits on every machine."""

from __future__ import annotations

import numpy as np
from numba import njit

_LOG2E = 1.4426950408889634
# ln 2 in two parts: multiples of the first are exact up to 2²⁰.
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
IDENTITY, SIGMOID, EXP = 0, 1, 2


@njit(cache=True, nogil=True, error_model="numpy")
def exp(x):  # type: ignore[no-untyped-def]
    """Return eˣ within one unit in the last place, by additions, multiplications and a division alone.

    Processors and C libraries differ in the last bit of their exp; these operations are the same everywhere. The method
    and the coefficients are those of fdlibm (Sun Microsystems, 1993): eˣ = 2ᵏ·eʳ with |r| <= ln 2 / 2.
    """
    if np.isnan(x):
        return x
    if x > 709.782712893384:
        return np.inf
    if x < -745.1332191019411:
        return 0.0
    k = np.floor(x * _LOG2E + 0.5)
    high, low = x - k * _LN2_HIGH, k * _LN2_LOW
    r = high - low
    t = r * r
    c = r - t * (
        1.66666666666666019037e-01
        + t
        * (
            -2.77777777770155933842e-03
            + t * (6.61375632143793436117e-05 + t * (-1.65339022054652515390e-06 + t * 4.13813679705723846039e-08))
        )
    )
    y = 1.0 - ((low - (r * c) / (2.0 - c)) - high)
    half = np.floor(k * 0.5)  # in two steps: 2ᵏ may not be a double although the result is
    return y * 2.0 ** np.int64(half) * 2.0 ** np.int64(k - half)


@njit(cache=True, nogil=True, error_model="numpy")
def apply_link(sums, rows, divisor, scale, link, scores):  # type: ignore[no-untyped-def]
    """Write the scores of rows: link(scale · sum / divisor), rounded to float32.

    sums: float64 or float32; scores: (rows,) float32; link: IDENTITY, SIGMOID or EXP
    """
    for row in range(rows):
        value = np.float64(sums[row]) / divisor * scale
        if link == SIGMOID:
            value = 1.0 / (1.0 + exp(-value))
        elif link == EXP:
            value = exp(value)
        scores[row] = np.float32(value)
