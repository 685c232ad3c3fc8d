"""Tests, plans and analyses are shown in notebooks, terminals and `--json` alike, with their pictures."""

import json
import re
from dataclasses import replace

import pytest
from ab_world import DAY, HOURS, START, declared, world

from delorean.ab_tests.analysis import analyse, health_of
from delorean.ab_tests.plan import MetricPlan, PlannedLook, TestPlan
from delorean.ab_tests.plan_spec import PlanSpec
from delorean.display.description import describe
from delorean.display.html import to_html
from delorean.display.parts import IntervalMark, ShareBar, Table
from delorean.display.text import to_text
from schemas.strict_json import json_text

END = START + 12 * DAY
PLAN = TestPlan(
    test="homepage-2",
    design="group-sequential",
    power=0.8,
    alpha=0.05,
    effect=0.02,
    units=1_000,
    days=10,
    end=START + 10 * DAY,
    ends=END,
    inflation=1.025,
    arrivals=100.0,
    looks=(PlannedLook(1, None, 500, 0.5, None, None), PlannedLook(2, END, 1_000, 1.0, 1.97, 0.015)),
    metrics=(MetricPlan("hours", 2.0, 1.5, 0.3, 900, 0.02),),
    other_effects={"+4.00%": 3, "+1.00%": None},
)


def shown(thing):
    """As text and as the JSON of a command; HTML must render."""
    assert "<" in to_html(thing)
    return to_text(thing), json.loads(json_text(describe(thing).document()))


@pytest.fixture(scope="module")
def analysis():
    guarded = declared(metrics={"hours": HOURS, "plays": replace(HOURS, value=None, better="lower")})
    return analyse(guarded, world(guarded, 1_500, effect=0.4).data(guarded, END), END)


def test_an_analysis_shows_its_verdict_first_and_intervals_as_pictures(analysis):
    text, document = shown(analysis)
    assert text.index(f"candidate: {analysis.candidates[0].verdict}") < text.index("relative changes at look")
    assert document["verdict"] == analysis.verdict.value
    tables = [part for part in describe(analysis).parts if isinstance(part, Table)]
    forest, looks, cells = tables
    assert [row["metric"] for row in forest.rows] == ["hours", "plays"]
    assert isinstance(forest.rows[0][""], IntervalMark)
    assert [row["look"] for row in looks.rows] == [1, 2, 3, 4, 5]
    assert isinstance(cells.rows[0]["of the plan"], ShareBar)


def test_a_broken_test_shows_why_and_no_metric():
    test = declared()
    result = analyse(replace(test, seed=1), world(test, 1_000).data(test, END), END)
    text, document = shown(result)
    assert "another cell than the declaration gives them" in text
    assert (document["verdict"], document["candidates"]) == ("broken: do not read its metrics", [])
    assert "relative changes" not in text


def test_health_shows_units_beside_their_planned_shares():
    test = declared()
    health = health_of(test, world(test, 500).data(test, END).exposures, END, None)
    text, document = shown(health)
    assert "50.00%" in text
    assert [cell["planned"] for cell in document["cells"]] == [0.5, 0.5]


def test_a_plan_shows_what_to_write_into_the_file():
    text, document = shown(PLAN)
    assert re.search(r"end +2026-01-15T00:00:00Z\n\[plan\] units +1000$", text)
    assert "whole weeks" not in text
    assert "5 days do not see all days of the week" in shown(replace(PLAN, days=5))[0]
    assert document["toml"] == "end = 2026-01-15T00:00:00Z\n\n[plan]\nunits = 1000"
    without_end, _ = shown(replace(PLAN, days=None, end=None, ends=None))
    assert "more than ever enter" in without_end
    assert "[plan] units" not in without_end


def test_a_declaration_shows_its_cells_and_metrics():
    text, document = shown(declared(plan=PlanSpec(design="always-valid")))
    assert "registry:production" in text
    assert "always-valid" in text
    assert document["digest"] == declared(plan=PlanSpec(design="always-valid")).digest
    shown(declared(start=None, end=None, metrics={}))
