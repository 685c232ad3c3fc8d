"""Whatever fails at whatever moment of a job: nothing is half-visible, nothing is lost, and its rerun finishes it.

One stack serves both tables, of snapshots and of generations. Most cells run in a plain driver process; those whose
fault strikes Spark's own processes, and one of each other fault of a snapshot, run on Spark. The outcome of each cell
is printed as a table at the end of the tests.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from fault_stack import (
    DIES,
    FULL,
    GOES_ON,
    NOT_WRITTEN,
    PROFILES,
    VIDEOS,
    Failure,
    Stack,
    Stage,
    cells,
    in_words,
)

FAILING = {str(profile) for profile in range(PROFILES) if profile % 10 == 3}
NO_PROXY, NO_NODE = "ProxyUnavailableError: no proxy answers", "SnapshotIndexError: index cassandra://"
FULL_OR_NOT = f"{FULL}|{GOES_ON}"  # SQLite may have room in its log
OF_SPARK = (Failure.WORKER, Failure.EXECUTOR, Failure.HANGING)  # its own processes: the same job goes on
ON_SPARK_MIDWAY = (Failure.DRIVER, Failure.PROXY, Failure.STORAGE)  # at other stages the driver asks by itself
STAGES_OF_SNAPSHOT = (Stage.BEFORE, Stage.MIDWAY, Stage.HELD, Stage.PUBLISHING, Stage.DONE)
SNAPSHOT = {
    Failure.DRIVER: (DIES, DIES, DIES, DIES, DIES),
    Failure.WORKER: (GOES_ON, GOES_ON, GOES_ON, GOES_ON, GOES_ON),
    Failure.EXECUTOR: (GOES_ON, GOES_ON, GOES_ON, None, None),
    Failure.HANGING: (None, GOES_ON, None, None, None),
    Failure.PROXY: (NO_PROXY, NO_PROXY, GOES_ON, GOES_ON, GOES_ON),
    Failure.NODE: (None, None, None, NO_NODE, GOES_ON),
    Failure.HUNG_NODE: (NO_NODE, NO_NODE, NO_NODE, None, None),
    Failure.STORAGE: (NOT_WRITTEN, NOT_WRITTEN, GOES_ON, GOES_ON, GOES_ON),
    Failure.DISK: (NOT_WRITTEN, NOT_WRITTEN, FULL, FULL_OR_NOT, GOES_ON),
}

NOT_COMMITTED = "StorageError: .* could not be committed"
FULL_ALREADY = f"{NOT_WRITTEN}|{FULL}"
STAGES_OF_GENERATION = (Stage.BEFORE, Stage.MIDWAY, Stage.HELD, Stage.PUBLISHING, Stage.UNANSWERED, Stage.DONE)
GENERATION = {
    Failure.WORKER: (GOES_ON, GOES_ON, GOES_ON, None, None, None),
    Failure.EXECUTOR: (GOES_ON, GOES_ON, GOES_ON, None, None, None),
    Failure.HANGING: (None, GOES_ON, None, None, None, None),
    Failure.NODE: (None, None, None, GOES_ON, None, None),  # it has read the index when it begins
    Failure.HUNG_NODE: (GOES_ON, None, None, None, None, None),
    Failure.STORAGE: (NOT_WRITTEN, NOT_WRITTEN, NOT_COMMITTED, NOT_COMMITTED, GOES_ON, GOES_ON),
    Failure.DISK: (FULL_ALREADY, NOT_WRITTEN, NOT_COMMITTED, None, None, GOES_ON),
    Failure.DRIVER: (DIES, DIES, DIES, DIES, DIES, DIES),  # last: it ends the session of the others
}


@pytest.mark.parametrize(("failure", "stage", "outcome"), cells(STAGES_OF_SNAPSHOT, SNAPSHOT))
def test_a_snapshot_is_whole_or_absent_and_its_rerun_requests_only_what_is_missing(
    stack: Stack, failure: Failure, stage: Stage, outcome: str, cell: list[str]
) -> None:
    """A snapshot: how it ends, what it leaves, and what its rerun requests."""
    run_id = f"{failure}-{stage}".replace(" ", "-")
    stack.company.asked.clear()
    spark = failure in OF_SPARK or (failure in ON_SPARK_MIDWAY and stage == Stage.MIDWAY)
    stack.begin_snapshot(run_id, stage, patience(failure), spark=spark)
    kept = stack.kept(run_id) if failure in OF_SPARK else {}
    stack.strike(failure, stage)
    ended = stack.release(stage)
    assert re.match(outcome, ended), ended
    stack.heal()
    once = Counter(path.rsplit("/", 1)[1] for path in stack.company.asked)
    assert {once[profile] for profile in kept} <= {1}

    runs, left = stack.look(run_id)
    published = runs.pop(run_id, None)
    assert published or ended != GOES_ON
    assert runs == stack.published
    stack.company.asked.clear()
    assert stack.driver.run("snapshot", proxies=[stack.prana], run_id=run_id, spark=spark, **stack.place) == run_id

    stack.published, _ = stack.look(run_id)
    run = stack.published[run_id]
    assert run == (published or run)
    assert {profile: value for profile, (_, value) in run["rows"].items()} == answers(stack)
    assert (run["counts"], run["confidence"]) == ({"ok": PROFILES - len(FAILING), "error": len(FAILING)}, 0.9)
    if failure not in (
        Failure.EXECUTOR,
        Failure.HANGING,
    ):  # two attempts may both have captured what neither had written
        kept |= left
    assert {profile: run["rows"][profile] for profile in kept} == kept  # captured once, and kept as it was
    asked = Counter(path.rsplit("/", 1)[1] for path in stack.company.asked)
    assert set(asked).isdisjoint(left)
    assert set(asked.values()) <= {1}
    assert (asked == {}) if published else (set(asked) >= FAILING)
    cell[3] = f"{in_words(ended)}: {'published' if published else f'{len(left)} kept, {len(asked)} asked again'}"


def answers(stack: Stack) -> dict[str, Any]:
    profiles = sorted({str(profile) for profile in range(PROFILES)} - FAILING)
    return {profile: stack.company.answer(f"/history/{profile}")[1] for profile in profiles}


def patience(failure: Failure) -> int:
    """Seconds that a driver waits for Cassandra: short where it is lost."""
    return 6 if failure in (Failure.NODE, Failure.HUNG_NODE) else 60


@pytest.mark.parametrize(("failure", "stage", "outcome"), cells(STAGES_OF_GENERATION, GENERATION))
def test_a_feature_set_is_whole_or_absent_and_its_rerun_gives_the_same(
    stack: Stack, failure: Failure, stage: Stage, outcome: str, cell: list[str], expected: dict[str, Any]
) -> None:
    """A generation: how it ends, and what is visible afterwards."""
    name = f"{failure}-{stage}".replace(" ", "-")
    stack.begin_generation(name, stage, spark=failure in OF_SPARK)
    stack.strike(failure, stage)
    ended = stack.release(stage)
    assert re.match(outcome, ended), ended
    stack.heal()

    seen = stack.driver.run("look at features", name=name, **stack.place)
    published = seen["version"] is not None
    assert published or (ended != GOES_ON and stage not in (Stage.UNANSWERED, Stage.DONE))
    assert not published or seen == {"version": 0, "features": expected["features"]}
    again = stack.driver.run("generate", name=name, run_id=name, **stack.place)
    assert again == {"version": 0, "digest": expected["digest"]}
    seen = stack.driver.run("look at features", name=name, **stack.place)
    assert seen == {"version": 0, "features": expected["features"]}
    cell[3] = f"{in_words(ended)}: {'committed' if published else 'nothing visible'}"


@pytest.fixture(scope="module")
def undisturbed(in_production: Stack) -> dict[str, Any]:
    generated = in_production.driver.run("generate", name="expected", run_id="expected", **in_production.place)
    return {**in_production.driver.run("look at features", name="expected", **in_production.place), **generated}


@pytest.fixture
def expected(undisturbed: dict[str, Any]) -> dict[str, Any]:
    """The features that a generation without faults gives."""
    minutes = {p: [float(v) if v < p % 5 else 0.0 for v in range(VIDEOS)] for p in range(PROFILES)}
    assert undisturbed["features"] == minutes
    return undisturbed
