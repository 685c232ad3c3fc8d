"""A test of a project: its declaration is recorded once, and its analysis reads the exposure log and local tables."""

import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ab_world import CELLS, DAY, HOURS, START, declared, world
from click.testing import CliRunner
from exposure_rows import exposure, write_exposures

from delorean.ab_tests.analysis import analyse
from delorean.ab_tests.declaration import Cell
from delorean.ab_tests.interleaving_analysis import Preference
from delorean.ab_tests.metrics import InterleavingSpec
from delorean.ab_tests.plan_spec import PlanSpec
from delorean.ab_tests.recorded import require_unchanged, start_test
from delorean.ab_tests.result import Verdict
from delorean.ab_tests.stored import (
    analyse_interleaved,
    analyse_test,
    peek,
    plan_from_history,
)
from delorean.cli.commands import cli
from delorean.display.text import to_text
from schemas.errors import AbTestError, CorruptFileError
from snapshotter.storage import open_storage

END = START + 12 * DAY
FILE = """
name = "homepage-2"
unit = "profile_id"
start = 2026-01-05T00:00:00Z
end = 2026-01-15T00:00:00Z
[cells.control]
package = "registry:production"
share = 0.5
[cells.candidate]
package = "packages/new"
share = 0.5
[tables.plays]
path = "plays.parquet"
[metrics.hours]
table = "plays"
within = "P2D"
before = "P7D"
[plan]
effect = 0.1
"""


def log(storage, test, truth):
    """Write a world's exposures as a scorer would."""
    rows = []
    for number, row in enumerate(truth.exposures.to_pylist()):
        micros = int(row["time"].timestamp() * 1e6 + 0.5)
        unit = row["context"]["profile_id"]
        context = pa.table({"cell": pa.array([None], pa.string()), "profile_id": [unit]})
        rows.append(exposure(number, time=micros, test=test.name, cell=row["cell"], context=context))
    write_exposures(storage, rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A project with a test that ran, and its outcomes."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "delorean.toml").write_text('storage = "data"\n')
    (folder / "homepage-2.toml").write_text(FILE)
    test = declared()
    truth = world(test, 1_500, effect=0.5)
    pq.write_table(truth.outcomes, folder / "plays.parquet")
    log(open_storage(f"file://{folder}/data"), test, truth)
    return folder


@pytest.fixture
def storage(folder):
    return open_storage(f"file://{folder}/data")


@pytest.fixture
def test(folder):
    return declared(folder=str(folder))


@pytest.fixture
def run(folder, monkeypatch):
    monkeypatch.chdir(folder)

    def run(*arguments, code=0):
        done = CliRunner().invoke(cli, arguments, prog_name="delorean")
        assert done.exit_code == code, done.output + str(done.exception)
        return done.output

    return run


def test_the_analysis_of_the_log_is_that_of_its_rows(test, storage):
    truth = world(test, 1_500, effect=0.5)
    found = analyse_test(test, storage, END)
    expected = analyse(test, truth.data(test, END), END)
    assert [(each.cell, each.units) for each in found.health.cells] == [
        (each.cell, each.units) for each in expected.health.cells
    ]  # exposures of units that entered before are not read after the end
    assert found.verdict is expected.verdict is Verdict.SHIP
    assert found.candidates[0].metrics[0].last.z == pytest.approx(expected.candidates[0].metrics[0].last.z)


def test_an_earlier_analysis_reads_nothing_later(test, storage):
    early = START + 6 * DAY
    found = analyse_test(test, storage, early)
    expected = analyse(test, world(test, 1_500, effect=0.5).data(test, early), early)
    assert found.look == 2
    assert found.health == expected.health
    assert found.candidates[0].metrics[0].last.z == pytest.approx(expected.candidates[0].metrics[0].last.z)


def test_health_may_be_seen_before_the_first_look(test, storage):
    health = peek(test, storage, START + DAY)
    assert 0 < sum(cell.units for cell in health.cells) < 300
    assert health.next_look == START + 4 * DAY
    assert not health.broken
    with pytest.raises(AbTestError, match="starts at 2026-01-05 00:00 UTC: it has no units yet"):
        peek(test, storage, START)


def test_a_test_without_exposures_says_so(storage, test):
    with pytest.raises(AbTestError, match="there are no exposures of test 'other'"):
        analyse_test(replace(test, name="other"), storage, END)


def test_a_test_that_changes_after_its_start_is_refused_by_field(storage, test):
    test = replace(test, name="started")
    assert start_test(test, storage)
    assert not start_test(test, storage)
    for changed, field in (
        (replace(test, seed=3), "seed changed; seed was 0, is 3"),
        (replace(test, end=END), "end changed"),
        (replace(test, plan=PlanSpec(effect=0.2), seed=1), "plan, seed changed"),
        (
            replace(test, cells={**CELLS, "control": Cell(0.5, "other")}),
            r"cells changed; cells\.control\.package was .*, is .other.",
        ),
    ):
        for use in (start_test, require_unchanged, lambda each, where: analyse_test(each, where, END)):
            with pytest.raises(AbTestError, match=field):
                use(changed, storage)
    require_unchanged(replace(test, folder="moved"), storage)


def test_a_recorded_declaration_of_an_older_release_still_fits(storage, test):
    test = replace(test, name="older")
    fields = test.to_json()
    del fields["holdout"], fields["metrics"]["hours"]["winsorise"], fields["plan"]["futility"]
    assert storage.create("ab_tests/older/declaration.json", json.dumps(fields).encode())
    require_unchanged(test, storage)
    with pytest.raises(AbTestError, match="seed"):
        require_unchanged(replace(test, seed=1), storage)


def test_a_damaged_declaration_is_named(storage, test):
    test = replace(test, name="damaged")
    storage.create("ab_tests/damaged/declaration.json", b"{")
    with pytest.raises(CorruptFileError, match=r"ab_tests/damaged/declaration.json"):
        require_unchanged(test, storage)


def test_a_query_without_a_session_says_what_it_needs(storage, test):
    query = replace(test, metrics={"hours": replace(HOURS, table=None, query="SELECT 1")})
    with pytest.raises(AbTestError, match="measures a query, which needs Spark → pass a session, or name a table"):
        analyse_test(query, storage, END)


def test_a_query_gives_the_same_as_its_table(spark, storage, test):
    query = replace(HOURS, table=None, query="SELECT profile_id, outcome_at, value, 1 AS other FROM plays")
    through_spark = analyse_test(replace(test, metrics={"hours": query}), storage, END, spark=spark)
    direct = analyse_test(test, storage, END)
    assert through_spark.candidates[0].metrics[0].last.z == pytest.approx(direct.candidates[0].metrics[0].last.z)
    assert list(storage.list("ab_tests/_queries")) == []
    wrong = replace(test, metrics={"hours": replace(query, query="SELECT profile_id, outcome_at FROM plays")})
    with pytest.raises(AbTestError, match="unknown column of the query 'value'"):
        analyse_test(wrong, storage, END, spark=spark)


def test_interleaved_rankings_of_the_log_are_analysed_with_choices_of_a_table(folder, storage, test):
    cells = {name: replace(cell, share=0.1) for name, cell in CELLS.items()}
    cells["mixed"] = Cell(0.8, interleave=("control", "candidate"))
    spec = InterleavingSpec("video_id", timedelta(hours=1), table="choices", time_unit="us")
    tables = {**test.tables, "choices": replace(test.tables["plays"], path="choices.parquet")}
    mixed = replace(test, name="mixed", cells=cells, metrics={}, interleaving=spec, tables=tables)
    begin = int(START.timestamp()) * 10**6
    shown = {"positions": np.arange(2, dtype=np.int32), "scores": np.ones(2, np.float32), "propensities": None}
    rows = [
        exposure(
            10_000 + number,
            time=begin + number,
            test="mixed",
            cell="mixed",
            context=pa.table({"cell": pa.array([None], pa.string()), "profile_id": [number % 200]}),
            items=pa.table({"video_id": [5, 6]}),
            team=np.array([0, 1] if number % 2 else [1, 0], np.int8),
            seed=number,
            **shown,
        )
        for number in range(400)
    ]
    write_exposures(storage, rows)
    # Every unit chooses the item of the first ranking, and once one that it was not shown.
    units = np.arange(200)
    chosen = {
        "profile_id": np.r_[units, units],
        "video_id": np.r_[np.where(units % 2 == 1, 5, 6), np.full(200, 9)],
        "outcome_at": np.full(400, begin + 1_000_000),
    }
    pq.write_table(pa.table(chosen), folder / "choices.parquet")
    (found,) = analyse_interleaved(mixed, storage, END).cells
    assert (found.requests, found.units, found.first_credit, found.second_credit) == (400, 200, 200, 0)
    assert found.verdict is Preference.FIRST
    assert "the first is preferred" in to_text(analyse_interleaved(mixed, storage, END))


def test_interleaving_is_refused_where_nothing_interleaves(test, storage):
    with pytest.raises(AbTestError, match="has no cell that interleaves"):
        analyse_interleaved(test, storage, END)


def test_a_plan_reads_the_past_before_the_start(folder, test):
    seconds = np.sort(np.random.default_rng(0).uniform(-40, -0.01, 30_000)) * 86_400
    at = (seconds * 1e6).astype(np.int64) + int(START.timestamp()) * 10**6
    rows = pa.table(
        {
            "profile_id": np.random.default_rng(1).integers(0, 900, len(at)),
            "outcome_at": pa.array(at).cast(pa.timestamp("us", "UTC")),
            "value": np.random.default_rng(2).exponential(1, len(at)),
        }
    )
    pq.write_table(rows, folder / "past.parquet")
    metric = replace(HOURS, table="past")
    tables = {"past": replace(test.tables["plays"], path="past.parquet")}
    plan = plan_from_history(replace(test, metrics={"hours": metric}, tables=tables))
    assert plan.metrics[0].units == 900
    assert plan.looks[-1].units == plan.units
    with pytest.raises(AbTestError, match=r"has 10\.\d days of history"):
        plan_from_history(replace(test, metrics={"hours": metric}, tables=tables), None, START - timedelta(days=30))


def test_the_commands_print_one_object_and_exit_by_the_verdict(run, folder):
    found = json.loads(run("ab", "analyse", "homepage-2.toml", "--at", "2026-01-17T00:00:00Z", "--json"))
    assert found["verdict"] == "ship"
    assert found["candidates"][0]["metrics"][0]["looks"][-1]["units"] > 1_000
    text = run("ab", "analyse", "homepage-2.toml", "--at", "2026-01-17T00:00:00Z")
    assert "candidate: ship" in text
    assert "Without the bias of stopping early" in text
    peeked = json.loads(run("ab", "analyse", "homepage-2.toml", "--peek", "--at", "2026-01-06T00:00:00Z", "--json"))
    assert peeked["problems"] == []
    too_early = run("ab", "analyse", "homepage-2.toml", "--at", "2026-01-06T00:00:00Z", code=2)
    assert "before its first look at 2026-01-09 00:00 UTC" in too_early
    worse = FILE.replace('within = "P2D"', 'within = "P2D"\nbetter = "lower"')
    (folder / "worse").mkdir(exist_ok=True)
    (folder / "worse" / "homepage-2.toml").write_text(worse.replace("plays.parquet", "../plays.parquet"))
    lost = json.loads(run("ab", "analyse", "worse/homepage-2.toml", "--at", "2026-01-17T00:00:00Z", "--json", code=3))
    assert lost["verdict"] == "do not ship"


def test_cells_are_looked_up_for_a_unit_and_written_for_a_table(run, folder, test):
    other = folder / "assigned"
    other.mkdir(exist_ok=True)
    (other / "assigned.toml").write_text(FILE.replace('"homepage-2"', '"assigned"'))
    units = pa.table({"profile_id": np.arange(100), "country": ["US"] * 100})
    pq.write_table(units, other / "units.parquet")
    expected = [list(CELLS)[cell] for cell in replace(test, name="assigned").allocate(units)]
    one = json.loads(run("ab", "assign", "assigned/assigned.toml", "--unit", "7", "--json"))
    assert one == {"test": "assigned", "profile_id": 7, "in_test": True, "cell": expected[7]}
    target = str(other / "cells.parquet")
    counted = json.loads(
        run("ab", "assign", "assigned/assigned.toml", str(other / "units.parquet"), "--to", target, "--json")
    )
    assert counted["cells"] == {name: expected.count(name) for name in CELLS}
    assert pq.read_table(target).to_pydict() == {**units.to_pydict(), "cell": expected}
    assert sorted(path.name for path in other.iterdir()) == ["assigned.toml", "cells.parquet", "units.parquet"]
    assert "exists" in run(
        "ab", "assign", "assigned/assigned.toml", str(other / "units.parquet"), "--to", target, code=2
    )
    (other / "assigned.toml").write_text(FILE.replace('"homepage-2"', '"assigned"\nseed = 4'))
    assert "seed changed" in run("ab", "assign", "assigned/assigned.toml", "--unit", "7", code=2)


def test_an_unknown_unit_is_refused(run, folder):
    other = folder / "unknown"
    other.mkdir(exist_ok=True)
    (other / "unknown.toml").write_text(FILE.replace('"homepage-2"', '"unknown"'))
    pq.write_table(pa.table({"profile": [1]}), other / "units.parquet")
    assert "did you mean 'profile'" in run("ab", "assign", "unknown/unknown.toml", str(other / "units.parquet"), code=2)
