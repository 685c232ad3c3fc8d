"""Compares a service's snapshot with the trend of its last runs, rather than with fixed thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snapshotter.index import SnapshotIndex, iterate_runs
from snapshotter.records import ServiceSnapshot, SnapshotRun

MOST_RUNS = 20
_PAGE = 32
FEWEST_RUNS = 5  # fewer say too little about the usual range
_SIGNIFICANT = 1.96  # standard deviations of Kendall's count of rising pairs: below, a trend is noise
_MAD_TO_DEVIATION = 1.4826  # of normal noise: its standard deviation / the median of its absolute value
# By simulation: about one comparison in a hundred is a false alert, for 5 to 20 runs, heavy tails included.
_WIDTH, _UNCERTAIN = 4.0, 3.5
_FLOOR_OF_SHARE, _FLOOR_OF_VALUE = (
    0.02,
    0.05,
)  # of a share: absolute; of other measures: as a part of the expected value


@dataclass(frozen=True)
class DriftAlert:
    """A measure outside the range predicted from recent runs. runs: how many these are."""

    measure: str
    low: float
    high: float
    value: float
    runs: int

    def __str__(self) -> str:
        """Return the alert as a sentence."""
        expected = f"expected {_number(self.low)} to {_number(self.high)}"
        return f"{self.measure} is {_number(self.value)}, {expected} after the last {self.runs} runs"


def drift_alerts(earlier: Sequence[Mapping[str, float]], new: Mapping[str, float]) -> list[DriftAlert]:
    """Compare a service's profile with those of its earlier runs.

    earlier: the oldest first; the newest 20 count. A measure that fewer than 5 of them have is not compared.

    More confidence than expected is no alert.
    """
    alerts = []
    for measure, value in new.items():
        history = [profile[measure] for profile in earlier[-MOST_RUNS:] if measure in profile]
        if len(history) < FEWEST_RUNS:
            continue
        low, high = _expected(np.array(history), _is_share(measure))
        if value < low or (value > high and measure != "confidence"):
            alerts.append(DriftAlert(measure, low, high, value, len(history)))
    return alerts


def recent_drift(
    index: SnapshotIndex, service: str, most: int | None = None
) -> list[tuple[SnapshotRun, ServiceSnapshot, list[DriftAlert]]]:
    """Compare the published snapshots of a service with those before them, the latest first.

    most: at most so many; no more runs are read than that takes
    """
    taken = list(_published(index, service, most))
    profiles = [snapshot.profile for _, snapshot in taken if snapshot.files and snapshot.profile]
    result = []
    for run, snapshot in taken[:most]:
        before = profiles[1:] if snapshot.files and snapshot.profile else profiles
        result.append((run, snapshot, drift_alerts(before[:MOST_RUNS][::-1], snapshot.profile)))
        profiles = before
    return result


def _published(index: SnapshotIndex, service: str, most: int | None) -> Iterator[tuple[SnapshotRun, ServiceSnapshot]]:
    """Yield a service's snapshots, the latest published first, until those to compare with have been read."""
    needed = None if most is None else {one.run_id for one in index.last_snapshots(service, most + MOST_RUNS)}
    count = 0
    for run in iterate_runs(index, _PAGE):
        for snapshot in run.services:
            if snapshot.service.name == service:
                count += 1
                yield run, snapshot
        if needed is not None and most is not None:
            needed -= {run.run_id} | {record.name.id for record in index.unreadable()}
            if not needed and count >= most:
                return


def last_profiles(index: SnapshotIndex, service: str) -> list[Mapping[str, float]]:
    """Return the profiles of the snapshots of a service that captured last, the oldest first."""
    return [snapshot.profile for snapshot in index.last_snapshots(service, MOST_RUNS) if snapshot.profile][::-1]


def _expected(history: NDArray[np.float64], share: bool) -> tuple[float, float]:
    """Return the range for the next value: the trend's, widened by the noise and by how few runs there are."""
    n = len(history)
    at = np.arange(n)
    slope = _slope(history)
    start = np.median(history - slope * at)
    # The line goes through one of the points, with a slope through two: those say nothing about the noise.
    residuals = np.sort(np.abs(history - start - slope * at))[1 if slope == 0 else 2 :]
    expected = float(start + slope * n)
    noise = float(np.median(residuals)) * _MAD_TO_DEVIATION * _WIDTH * n / (n - _UNCERTAIN)
    reach = max(noise, _FLOOR_OF_SHARE if share else _FLOOR_OF_VALUE * abs(expected))
    low, high = max(expected - reach, 0.0), expected + reach
    return (min(low, 1.0), min(high, 1.0)) if share else (low, max(high, 0.0))


def _slope(history: NDArray[np.float64]) -> float:
    """Return the Theil–Sen slope, the median of all pairs', if Kendall's test finds a trend; otherwise 0."""
    n = len(history)
    first, second = np.triu_indices(n, 1)
    rises = history[second] - history[first]
    rising = abs(float(np.sign(rises).sum()))
    if rising <= _SIGNIFICANT * (n * (n - 1) * (2 * n + 5) / 18) ** 0.5:
        return 0.0
    return float(np.median(rises / (second - first)))


def _is_share(measure: str) -> bool:
    return measure == "confidence" or "share" in measure.partition("(")[0]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
