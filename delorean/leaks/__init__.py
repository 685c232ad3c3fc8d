"""Finds features that are the label in disguise, by how implausibly well they predict it.

`detect_leaks(sample)` measures every feature against labels shuffled within their contexts; `sample.sample_of` takes a
bounded sample from files that bucket tasks wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from delorean.leaks.thresholds import LeakThresholds

if TYPE_CHECKING:
    from delorean.leaks.detect import detect_leaks

__all__ = ["LeakThresholds", "detect_leaks"]


def __getattr__(name: str) -> Any:
    """Import `detect_leaks` when it is first used: reading a spec's thresholds must not import Numba."""
    if name != "detect_leaks":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from delorean.leaks.detect import detect_leaks

    return detect_leaks
