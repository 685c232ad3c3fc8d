"""Tells whether a service's snapshot looks like those of its last runs: by their trend, not by fixed thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snapshotter.index import SnapshotIndex, iterate_runs
from snapshotter.records import ServiceSnapshot, SnapshotRun

MOST_RUNS = 20
_PAGE = 32
FEWEST_RUNS = 5  # of fewer any range would be a guess
_SURELY = 1.96  # standard deviations of Kendall's count of rising pairs: below, a trend is noise
_LIKE_DEVIATION = 1.4826  # of normal noise, its standard deviation / the median of its size
# By simulation: one in some hundred judgements of noise is a false alarm, for 5 runs as for 20, heavy tails included.
_WIDTH, _UNCERTAIN = 4.0, 3.5
_FLOOR_OF_SHARE, _FLOOR_OF_VALUE = 0.02, 0.05  # of a share as it is, of any other as part of what is expected


@dataclass(frozen=True)
class DriftAlert:
    """A measure that is not as the last runs let one expect. runs: how many these are."""

    measure: str
    low: float
    high: float
    found: float
    runs: int

    def __str__(self) -> str:
        """Say it in words."""
        expected = f"expected {_number(self.low)} to {_number(self.high)}"
        return f"{self.measure} is {_number(self.found)}, {expected} after the last {self.runs} runs"


def judge(earlier: Sequence[Mapping[str, float]], new: Mapping[str, float]) -> list[DriftAlert]:
    """Compare a service's profile with those of its earlier runs.

    earlier: the oldest first; of more than 20 the newest 20 count. A measure that fewer than 5 of them have is not
        judged. More confidence than expected is no alarm.
    """
    alerts = []
    for measure, found in new.items():
        history = [profile[measure] for profile in earlier[-MOST_RUNS:] if measure in profile]
        if len(history) < FEWEST_RUNS:
            continue
        low, high = _expected(np.array(history), _is_share(measure))
        if found < low or (found > high and measure != "confidence"):
            alerts.append(DriftAlert(measure, low, high, found, len(history)))
    return alerts


def judged(
    index: SnapshotIndex, service: str, most: int | None = None
) -> list[tuple[SnapshotRun, ServiceSnapshot, list[DriftAlert]]]:
    """Compare published snapshots of a service, at most so many, with those before them, the latest first.

    No more runs are read than that takes.
    """
    taken = list(_published(index, service, most))
    measured = [found.profile for _, found in taken if found.files and found.profile]
    result = []
    for run, found in taken[:most]:
        before = measured[1:] if found.files and found.profile else measured
        result.append((run, found, judge(before[:MOST_RUNS][::-1], found.profile)))
        measured = before
    return result


def _published(index: SnapshotIndex, service: str, most: int | None) -> Iterator[tuple[SnapshotRun, ServiceSnapshot]]:
    """Yield a service's snapshots, the latest published first, until those are met that tell what is usual."""
    needed = None if most is None else {one.run_id for one in index.last_snapshots(service, most + MOST_RUNS)}
    met = 0
    for run in iterate_runs(index, _PAGE):
        for found in run.services:
            if found.service.name == service:
                met += 1
                yield run, found
        if needed is not None and most is not None:
            needed -= {run.run_id} | {record.name.id for record in index.unreadable()}
            if not needed and met >= most:
                return


def last_profiles(index: SnapshotIndex, service: str) -> list[Mapping[str, float]]:
    """Give the profiles of the snapshots of a service that captured last, the oldest first."""
    return [snapshot.profile for snapshot in index.last_snapshots(service, MOST_RUNS) if snapshot.profile][::-1]


def _expected(history: NDArray[np.float64], share: bool) -> tuple[float, float]:
    """Give the range for the next value: what the trend leads to, and around it what noise and few runs allow."""
    n = len(history)
    at = np.arange(n)
    slope = _slope(history)
    start = np.median(history - slope * at)
    # The line goes through one of the points, with a slope through two: those tell nothing of the noise.
    residuals = np.sort(np.abs(history - start - slope * at))[1 if slope == 0 else 2 :]
    expected = float(start + slope * n)
    noise = float(np.median(residuals)) * _LIKE_DEVIATION * _WIDTH * n / (n - _UNCERTAIN)
    reach = max(noise, _FLOOR_OF_SHARE if share else _FLOOR_OF_VALUE * abs(expected))
    low, high = max(expected - reach, 0.0), expected + reach
    return (min(low, 1.0), min(high, 1.0)) if share else (low, max(high, 0.0))


def _slope(history: NDArray[np.float64]) -> float:
    """Give Theil and Sen's slope, the median of all pairs', where Kendall's test says that there is a trend."""
    n = len(history)
    first, second = np.triu_indices(n, 1)
    rises = history[second] - history[first]
    rising = abs(float(np.sign(rises).sum()))
    if rising <= _SURELY * (n * (n - 1) * (2 * n + 5) / 18) ** 0.5:
        return 0.0
    return float(np.median(rises / (second - first)))


def _is_share(measure: str) -> bool:
    return measure == "confidence" or "share" in measure.partition("(")[0]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
