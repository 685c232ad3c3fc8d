"""Describes A/B tests: their declarations, plans, health and analyses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from delorean.ab_tests.assignment import Assignment
from delorean.ab_tests.declaration import AbTest
from delorean.ab_tests.interleaving_analysis import InterleavingAnalysis
from delorean.ab_tests.plan import TestPlan
from delorean.ab_tests.result import AbAnalysis, CandidateResult, Health, MetricAtLook, MetricResult
from delorean.display.description import describes
from delorean.display.parts import Code, Facts, IntervalMark, Note, Part, ShareBar, Table

_WEEK = 7
_TIME = "%Y-%m-%d %H:%M"


def _fields(thing: Any) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(thing)
    return fields


@describes(AbTest, lambda test: {**test.to_json(), "digest": test.digest}, lambda test: f"A/B test {test.name}")
def _test(test: AbTest) -> Iterator[Part]:
    yield Facts(
        {
            "unit": test.unit,
            "units enter": None if test.start is None else f"{test.start:{_TIME}} to {_time(test.end)} UTC",
            "of all units": f"{test.share:.1%}",
            "design": test.plan.design,
        }
    )
    rows = [
        {
            "cell": name,
            "share": f"{cell.share:.1%}",
            "package": cell.package or f"{cell.method} of {' and '.join(cell.interleave or ())}",
            "explores": f"{cell.explore:.1%}" if cell.explore else None,
        }
        for name, cell in test.cells.items()
    ]
    yield Table(rows, "cells", most=None)
    metrics = [
        {"metric": name, "decides": "yes" if place == 0 else None, "better": each.better, "within": str(each.within)}
        for place, (name, each) in enumerate(test.metrics.items())
    ]
    yield Table(metrics, "metrics", most=None)


def _plan_document(plan: TestPlan) -> dict[str, Any]:
    return {**_fields(plan), "toml": plan.toml}


@describes(TestPlan, _plan_document)
def _plan(plan: TestPlan) -> Iterator[Part]:
    days = "more than ever enter, at the rate of the last week" if plan.days is None else plan.days
    yield Facts(
        {
            "units": f"{plan.units:,}",
            "days in which they enter": days,
            "units a day": f"{plan.arrivals:,.0f}",
            "last look": None if plan.ends is None else f"{plan.ends:{_TIME}} UTC",
            "finds": f"a change of {plan.effect:.2%} with a probability of {plan.power:.0%}, alpha {plan.alpha:g}",
            "looks cost": f"{plan.inflation - 1:.1%} more units than one look at the end ({plan.design})",
        }
    )
    looks = [
        {
            "look": look.number,
            "at": None if look.at is None else f"{look.at:{_TIME}}",
            "units": look.units,
            "|z| must reach": None if look.bound is None else round(look.bound, 3),
            "a change of": None if look.change is None else f"{look.change:.2%}",
        }
        for look in plan.looks
    ]
    yield Table(looks, "looks")
    metrics = [
        {
            "metric": each.metric,
            "mean of a unit": f"{each.mean:.4g}",
            "deviation": f"{each.deviation:.4g}",
            "explained by the past": ShareBar(max(each.explained, 0.0)),
            "units in the past": each.units,
            "finds": f"{each.finds:.2%}",
        }
        for each in plan.metrics
    ]
    yield Table(metrics, "from the metrics' past", most=None)
    others = [{"effect": effect, "days": days} for effect, days in plan.other_effects.items()]
    yield Table(others, "days for other effects", most=None)
    if plan.days is not None:
        if plan.days < _WEEK:
            yield Note(
                f"{plan.days} days do not see all days of the week: let units enter for whole weeks", strong=True
            )
        yield Note("write into the test's file:")
        written = {} if plan.end is None else {"end": Code(f"{plan.end:%Y-%m-%dT%H:%M:%SZ}")}
        yield Facts({**written, "[plan] units": Code(str(plan.units))})


@describes(Health, _fields)
def _health(health: Health) -> Iterator[Part]:
    yield from (Note(problem, strong=True) for problem in health.problems)
    yield Facts(
        {
            "as of": f"{health.at:{_TIME}} UTC",
            "divided as planned": f"p = {health.p:.3g} (chi-square; below 0.0005 the test is broken)",
            "units that saw several cells": health.mixed,
            "units in another cell than declared": health.misplaced,
            "next look": None if health.next_look is None else f"{health.next_look:{_TIME}} UTC",
        }
    )
    rows = [
        {
            "cell": cell.cell,
            "units": cell.units,
            "exposures": cell.exposures,
            "share": f"{cell.share:.2%}",
            "planned": f"{cell.planned:.2%}",
            "of the plan": ShareBar(min(cell.share / cell.planned, 1.0), 0.98),
        }
        for cell in health.cells
    ]
    yield Table(rows, "cells", most=None)


def _analysis_document(analysis: AbAnalysis) -> dict[str, Any]:
    return {"verdict": analysis.verdict.value, "loses": analysis.loses, **_fields(analysis)}


@describes(AbAnalysis, _analysis_document)
def _analysis(analysis: AbAnalysis) -> Iterator[Part]:
    for candidate in analysis.candidates:
        yield Note(f"{candidate.cell}: {candidate.verdict}. {' '.join(candidate.reasons)}", strong=True)
        if candidate.adjusted is not None:
            found = candidate.adjusted
            yield Note(
                f"Without the bias of stopping early: {found.value:+.2%}, {analysis.level:.0%} interval "
                f"{found.low:+.2%} to {found.high:+.2%} (median-unbiased, stagewise ordering)."
            )
    next_look = None if analysis.next_look is None else f"{analysis.next_look:{_TIME}} UTC"
    yield Facts({"look": f"{analysis.look} of {analysis.looks}, {analysis.at:{_TIME}} UTC", "next look": next_look})
    for candidate in analysis.candidates:
        versus = f"{candidate.cell} against {analysis.control}"
        yield Table(_metric_rows(candidate), f"{versus}: relative changes at look {candidate.look}", most=None)
        yield Table(
            _look_rows(candidate.metrics[0]), f"{versus}: {candidate.metrics[0].metric} at each look", most=None
        )
    yield from _health(analysis.health)
    yield from (Note(note) for note in analysis.notes)


def _metric_rows(candidate: CandidateResult) -> list[dict[str, Any]]:
    at_look = [metric.looks[_index(metric, candidate.look)] for metric in candidate.metrics]
    return [
        {
            "metric": metric.metric,
            "role": "decides" if metric.decides else f"guardrail, {metric.margin:.1%}",
            "control": _number(at.control),
            "candidate": _number(at.candidate),
            "change": None if at.relative is None else f"{at.relative:+.2%}",
            "interval": _interval(at),
            "": mark,
            "explained by the past": f"{at.explained:.0%}",
        }
        for metric, at, mark in zip(candidate.metrics, at_look, _marks(at_look), strict=True)
    ]


def _index(metric: MetricResult, number: int) -> int:
    return next(i for i, at in enumerate(metric.looks) if at.look == number)


def _look_rows(metric: MetricResult) -> list[dict[str, Any]]:
    return [
        {
            "look": at.look,
            "at": f"{at.at:{_TIME}}",
            "units": at.units,
            "z": None if at.z is None else round(at.z, 2),
            "must reach": None if at.bound is None else round(at.bound, 2),
            "change": None if at.relative is None else f"{at.relative:+.2%}",
            "interval": _interval(at),
            "": mark,
        }
        for at, mark in zip(metric.looks, _marks(metric.looks), strict=True)
    ]


def _interval(at: MetricAtLook) -> str | None:
    return None if at.low is None else f"{at.low:+.2%} to {at.high:+.2%}"


def _marks(looks: Sequence[MetricAtLook]) -> list[IntervalMark | None]:
    """Draw relative changes with their intervals on one scale around 0."""
    ends = [abs(end) for at in looks for end in (at.relative, at.low, at.high) if end is not None]
    bound = max(ends, default=1.0)
    return [
        None if at.relative is None else IntervalMark(at.relative, at.low, at.high, -bound, bound, compared=True)
        for at in looks
    ]


@describes(InterleavingAnalysis, _fields)
def _interleaving(analysis: InterleavingAnalysis) -> Iterator[Part]:
    for cell in analysis.cells:
        yield Note(f"{cell.first} (first) or {cell.second} (second): {cell.verdict}", strong=True)
    rows = [
        {
            "cell": cell.cell,
            "requests": cell.requests,
            "units that chose": cell.units,
            "credit of the first": cell.first_credit,
            "of the second": cell.second_credit,
            "preference": None if cell.preference is None else f"{cell.preference:+.3f}",
            "interval": None if cell.low is None else f"{cell.low:+.3f} to {cell.high:+.3f}",
            "": None
            if cell.preference is None
            else IntervalMark(cell.preference, cell.low, cell.high, -1.0, 1.0, compared=True),
            "units for first, second": f"{cell.units_first:,}, {cell.units_second:,}",
            "sign test p": f"{cell.p:.3g}",
            "requests needed": cell.requests_needed,
        }
        for cell in analysis.cells
    ]
    yield Table(rows, "interleaved rankings", most=None)
    yield Note(f"{analysis.level:.0%} intervals hold at all times together; the sign test's p is for one look only")


@describes(Assignment, _fields)
def _assignment(assignment: Assignment) -> Iterator[Part]:
    total = max(1, sum(assignment.cells.values()))
    rows = [{"cell": name, "rows": count, "share": ShareBar(count / total)} for name, count in assignment.cells.items()]
    yield Table(rows, "cells", most=None)
    yield Facts({"outside the test": assignment.outside, "written to": assignment.path})


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"


def _time(moment: Any) -> str:
    return "an open end" if moment is None else f"{moment:{_TIME}}"
