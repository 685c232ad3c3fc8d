"""Features that are the label in disguise: found by how implausibly well they predict it.

`detect_leaks(sample)` measures every feature against labels shuffled within their contexts; `sample_of` takes a bounded
sample from files that bucket tasks wrote.
"""

from delorean.leaks.detect import detect_leaks
from delorean.leaks.report import FeatureLeak, LeakReport
from delorean.leaks.sample import LeakSample, LeakSampler, sample_of
from delorean.leaks.thresholds import LeakThresholds

__all__ = ["FeatureLeak", "LeakReport", "LeakSample", "LeakSampler", "LeakThresholds", "detect_leaks", "sample_of"]
