"""The demo's tests of two models: interleaved homepages on one evening, then two cells of members on three."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import numpy as np

from delorean.demo.audience import Audience
from delorean.demo.folder import CompanyFolder
from delorean.demo.live_scorer import LiveScorer
from delorean.demo.trial import Visits, true_rates, visit, write_outcomes
from delorean.packaging.package import ModelPackage

BEFORE, AFTER = "before", "after"  # the cells of both tests
_EVENINGS: Final = 3  # of the A/B test


@dataclass(frozen=True)
class TestFiles:
    """The declarations of both tests."""

    __test__ = False  # it is no test of pytest's

    interleaved: Path
    added_task: Path


@dataclass(frozen=True)
class Tested:
    """What the tests found, and the truth.

    visits: of all evenings
    true_rates: cell → the share of all visits with a start if its model had ranked them all
    """

    visits: Visits
    true_rates: Mapping[str, float]

    @property
    def true_change(self) -> float:
        """The relative change of the share of visits with a start."""
        return self.true_rates[AFTER] / self.true_rates[BEFORE] - 1


def declare_tests(folder: CompanyFolder, audience: Audience) -> TestFiles:
    """Write the declarations of both tests: one evening after the world's last day, then three."""
    end = audience.world.starts_at + timedelta(days=audience.world.days)
    switch = end + timedelta(days=1)
    return TestFiles(
        folder.write_test("interleaved", end, switch),
        folder.write_test("added-task", switch, switch + timedelta(days=_EVENINGS)),
    )


def run_tests(
    folder: CompanyFolder,
    audience: Audience,
    url: str,
    packages: Mapping[str, ModelPackage],
    seed: int,
    progress: Callable[[int, int], None],
) -> Tested:
    """Let members visit their homepages on the tests' evenings, and write what they start.

    url: of a scorer that serves both tests
    packages: cell → its package
    seed: draws who comes and what they start
    """
    rng = np.random.default_rng([seed, _EVENINGS])
    days = range(audience.world.days, audience.world.days + 1 + _EVENINGS)
    past = audience.past(rng)
    evenings = [audience.evening(day, rng) for day in days]
    with LiveScorer(url) as scorer:
        features = packages[AFTER].features
        visits = visit(evenings, audience, scorer, folder.clock, features, rng, progress)
    write_outcomes(folder.world, visits, past)
    return Tested(visits, true_rates(visits, packages))
