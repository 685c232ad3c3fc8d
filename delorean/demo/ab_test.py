"""The demo's tests of two models: interleaved homepages on one evening, then two cells of members on three."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import numpy as np

from delorean.ab_tests.files import read_test
from delorean.ab_tests.interleaving_analysis import InterleavingAnalysis
from delorean.ab_tests.result import AbAnalysis
from delorean.ab_tests.stored import analyse_interleaved, analyse_test
from delorean.demo.audience import Audience
from delorean.demo.folder import CompanyFolder
from delorean.demo.live_scorer import LiveScorer
from delorean.demo.trial import Visits, true_rates, visit, write_outcomes
from delorean.demo.world import World
from delorean.packaging.package import ModelPackage
from snapshotter.storage import Storage

CONTROL, CANDIDATE = "task_type", "trunk"  # the cells of both tests
_EVENINGS: Final = 3  # of the A/B test
ALL_EVENINGS: Final = 1 + _EVENINGS


@dataclass(frozen=True)
class TestFiles:
    """The declarations of both tests."""

    __test__ = False  # it is no test of pytest's

    interleaved: Path
    sharing: Path

    @property
    def paths(self) -> tuple[Path, ...]:
        """Both files."""
        return self.interleaved, self.sharing


@dataclass(frozen=True)
class Visited:
    """The visits of all evenings, and the truth.

    true_rates: cell → the share of all visits with a start if its model had ranked them all
    """

    visits: Visits
    true_rates: Mapping[str, float]

    @property
    def true_change(self) -> float:
        """The relative change of the share of visits with a start."""
        return self.true_rates[CANDIDATE] / self.true_rates[CONTROL] - 1


@dataclass(frozen=True)
class AnalysedTests:
    """The visits, and what both tests say of them."""

    visited: Visited
    analysis: AbAnalysis
    interleaved: InterleavingAnalysis


def declare_tests(folder: CompanyFolder, world: World) -> TestFiles:
    """Write the declarations of both tests: one evening after the world's last day, then three."""
    end = world.starts_at + timedelta(days=world.days)
    switch = end + timedelta(days=1)
    return TestFiles(
        folder.write_test("sharing-interleaved", end, switch),
        folder.write_test("sharing-test", switch, switch + timedelta(days=_EVENINGS)),
    )


def run_visits(
    folder: CompanyFolder,
    audience: Audience,
    url: str,
    packages: Mapping[str, ModelPackage],
    seed: int,
    progress: Callable[[int, int], None],
) -> Visited:
    """Let members visit their homepages on the tests' evenings, and write what they start.

    url: of a scorer that serves both tests
    packages: cell → its package
    seed: draws who comes and what they start
    """
    rng = np.random.default_rng([seed, _EVENINGS])
    days = range(audience.world.days, audience.world.days + ALL_EVENINGS)
    past = audience.past(rng)
    evenings = [audience.evening(day, rng) for day in days]
    with LiveScorer(url) as scorer:
        features = packages[CANDIDATE].features
        visits = visit(evenings, audience, scorer, folder.clock, features, rng, progress)
    write_outcomes(folder.world, visits, past)
    return Visited(visits, true_rates(visits, packages))


def analyse_tests(tests: TestFiles, storage: Storage, visited: Visited) -> AnalysedTests:
    """Analyse the tests once the outcomes of everybody in them are complete."""
    test, interleaved = read_test(tests.sharing), read_test(tests.interleaved)
    assert test.end is not None  # the declaration has one
    last = test.end + max(metric.matures for metric in test.metrics.values())
    return AnalysedTests(visited, analyse_test(test, storage, last), analyse_interleaved(interleaved, storage, last))
