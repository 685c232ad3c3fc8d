"""Features that are the label in disguise: found by how implausibly well they predict it.

`detect_leaks(sample)` measures every feature against labels shuffled within their contexts; `sample_of` takes a bounded
sample from files that bucket tasks wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from delorean.lazy_imports import lazy_getattr

if TYPE_CHECKING:
    from delorean.leaks.detect import detect_leaks
    from delorean.leaks.report import FeatureLeak, LabelReport, LeakReport
    from delorean.leaks.sample import LeakSample, LeakSampler, sample_of
    from delorean.leaks.thresholds import LeakThresholds
    from delorean.leaks.variables import check_labels

__all__ = [
    "FeatureLeak",
    "LabelReport",
    "LeakReport",
    "LeakSample",
    "LeakSampler",
    "LeakThresholds",
    "check_labels",
    "detect_leaks",
    "sample_of",
]

# Imported when first used: a spec names thresholds, and whoever reads one need not wait for Numba.
__getattr__ = lazy_getattr(
    __name__,
    {
        "FeatureLeak": "delorean.leaks.report",
        "LabelReport": "delorean.leaks.report",
        "LeakReport": "delorean.leaks.report",
        "LeakSample": "delorean.leaks.sample",
        "LeakSampler": "delorean.leaks.sample",
        "LeakThresholds": "delorean.leaks.thresholds",
        "check_labels": "delorean.leaks.variables",
        "detect_leaks": "delorean.leaks.detect",
        "sample_of": "delorean.leaks.sample",
    },
)
