"""Checks that a test was run as declared, before any of its metrics is read."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import chi2

from delorean.ab_tests.declaration import AbTest
from delorean.ab_tests.exposed_units import ExposedUnits
from delorean.ab_tests.result import CellHealth, Health

MISMATCH = 0.0005
"""A sample-ratio mismatch of a smaller probability is no chance (Fabijan et al. 2019)."""
_MOST_MIXED = 0.01  # share of units that may have seen several cells


class HealthCounts:
    """Counts units of a test by cell, part by part."""

    def __init__(self, test: AbTest) -> None:
        self._test = test
        self.units = np.zeros(len(test.cells), np.int64)
        self.exposures = np.zeros(len(test.cells), np.int64)
        self.mixed = self.misplaced = 0

    def add(self, exposed: ExposedUnits) -> None:
        """Count some of the units."""
        clean = ~exposed.mixed
        self.units += np.bincount(exposed.cells[clean], minlength=len(self.units))
        self.exposures += np.bincount(exposed.cells[clean], exposed.exposures[clean], len(self.units)).astype(np.int64)
        self.mixed += int(exposed.mixed.sum())
        declared = self._test.allocate(pa.table({self._test.unit: exposed.units}))
        self.misplaced += int((clean & (declared != exposed.cells)).sum())

    def result(self, at: datetime, next_look: datetime | None) -> Health:
        """Return the health at a moment."""
        planned = np.array([cell.share for cell in self._test.cells.values()])
        total = int(self.units.sum())
        p = sample_ratio_p(self.units, planned)
        cells = tuple(
            CellHealth(name, int(units), int(exposures), int(units) / max(total, 1), float(share))
            for name, units, exposures, share in zip(self._test.cells, self.units, self.exposures, planned, strict=True)
        )
        problems = []
        if p < MISMATCH:
            problems.append(
                f"units are not divided as planned (sample-ratio mismatch, p = {p:.1g}): some are missing, for reasons "
                "that may differ between cells"
            )
        if self.mixed > _MOST_MIXED * (total + self.mixed):
            problems.append(
                f"{self.mixed:,} of {total + self.mixed:,} units saw several cells: the unit is not kept, or the "
                "declaration changed"
            )
        if self.misplaced > _MOST_MIXED * max(total, 1):
            problems.append(f"{self.misplaced:,} units were shown another cell than the declaration gives them")
        return Health(self._test.name, at, cells, p, self.mixed, self.misplaced, next_look, tuple(problems))


def sample_ratio_p(units: NDArray[np.int64], shares: NDArray[np.float64]) -> float:
    """Return the probability that chance divides units at least as far from their shares (chi-square test).

    >>> round(sample_ratio_p(np.array([5100, 4900]), np.array([0.5, 0.5])), 4)
    0.0455
    """
    expected = units.sum() * shares / shares.sum()
    if units.sum() == 0:
        return 1.0
    return float(chi2.sf(((units - expected) ** 2 / expected).sum(), len(units) - 1))
