"""Finds features that are the label in disguise, by how implausibly well they predict it.

`detect_leaks(sample)` measures every feature against labels shuffled within their contexts; `sample.sample_of` takes a
bounded sample from files that bucket tasks wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from delorean.leaks.thresholds import LeakThresholds
from schemas.lazy_imports import lazy_getattr

if TYPE_CHECKING:
    from delorean.leaks.detect import detect_leaks

__all__ = ["LeakThresholds", "detect_leaks"]

# Reading a spec's thresholds must not import Numba.
__getattr__ = lazy_getattr(__name__, {"detect_leaks": "delorean.leaks.detect"})
