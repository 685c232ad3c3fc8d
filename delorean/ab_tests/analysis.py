"""Analyses a test at its planned looks, from what was shown and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from delorean.ab_tests.candidates import candidate_result
from delorean.ab_tests.declaration import AbTest
from delorean.ab_tests.exposed_units import exposed_units
from delorean.ab_tests.health import HealthCounts
from delorean.ab_tests.look_moments import TestData, look_moments
from delorean.ab_tests.looks import looks_until, planned_looks
from delorean.ab_tests.result import AbAnalysis, CandidateResult, Health
from delorean.ab_tests.unit_rows import UnitRows, parts_of


def health_of(test: AbTest, exposures: UnitRows, at: datetime, next_look: datetime | None) -> Health:
    """Check that a test was run as declared. exposures: see `collect_exposures`."""
    counts = HealthCounts(test)
    for (part,) in parts_of([exposures]):
        counts.add(exposed_units(part))
    return counts.result(at, next_look)


def analyse(test: AbTest, data: TestData, at: datetime) -> AbAnalysis:
    """Analyse a test at its last look before a moment.

    data: exposures before that moment, and outcomes that were known then

    Only the health is computed where the test was not run as declared. Raises AbTestError before the first look.
    """
    looks, following = looks_until(test, at)
    next_look = None if following is None else following.at
    health = health_of(test, data.exposures, at, next_look)
    candidates: tuple[CandidateResult, ...] = ()
    if not health.broken:
        moments = look_moments(test, data, looks)
        names = [name for name, cell in test.cells.items() if cell.interleave is None and name != test.control]
        candidates = tuple(candidate_result(test, name, len(names), moments, looks) for name in names)
    return AbAnalysis(
        test=test.name,
        control=test.control,
        design=test.plan.design,
        level=1 - test.plan.alpha,
        at=looks[-1].at,
        look=looks[-1].number,
        looks=len(planned_looks(test)),
        next_look=next_look,
        health=health,
        candidates=candidates,
        notes=tuple(_notes(health, candidates)),
    )


def _notes(health: Health, candidates: tuple[CandidateResult, ...]) -> Iterator[str]:
    if health.mixed:
        yield f"{health.mixed:,} units saw several cells and are not analysed"
    if health.misplaced and not health.broken:
        yield f"{health.misplaced:,} units were shown another cell than the declaration gives them"
    if any(each.look < each.metrics[0].last.look for each in candidates):
        yield "the verdict is that of the look at which the test ended; later looks do not change it"
