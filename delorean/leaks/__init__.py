"""Features that are the label in disguise: found by how implausibly well they predict it.

`detect_leaks(sample)` measures every feature against labels shuffled within their contexts; `sample_of` takes a bounded
sample from files that bucket tasks wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from delorean.leaks.detect import detect_leaks
    from delorean.leaks.report import FeatureLeak, LeakReport
    from delorean.leaks.sample import LeakSample, LeakSampler, sample_of
    from delorean.leaks.thresholds import LeakThresholds

__all__ = ["FeatureLeak", "LeakReport", "LeakSample", "LeakSampler", "LeakThresholds", "detect_leaks", "sample_of"]

# Imported when first used: a spec names thresholds, and whoever reads one need not wait for Numba.
_HOMES = {
    "FeatureLeak": "report",
    "LeakReport": "report",
    "LeakSample": "sample",
    "LeakSampler": "sample",
    "LeakThresholds": "thresholds",
    "detect_leaks": "detect",
    "sample_of": "sample",
}


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module 'delorean.leaks' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"delorean.leaks.{_HOMES[name]}"), name)
