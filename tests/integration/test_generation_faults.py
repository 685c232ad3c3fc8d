"""Whatever fails at whatever moment of a generation: no version is half-visible, and its rerun gives the same, once.

The outcome of each cell is printed as a table at the end of the tests.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from fault_stack import DIES, FULL, GOES_ON, NOT_WRITTEN, PROFILES, VIDEOS, Failure, Stack, Stage, cells, in_words

NOT_COMMITTED = "StorageError: .* could not be committed"
FULL_ALREADY = f"{NOT_WRITTEN}|{FULL}"
STAGES = (Stage.BEFORE, Stage.MIDWAY, Stage.HELD, Stage.PUBLISHING, Stage.UNANSWERED, Stage.DONE)
ON_SPARK = (Failure.WORKER, Failure.EXECUTOR, Failure.HANGING)
GENERATION = {
    Failure.DRIVER: (DIES, DIES, DIES, DIES, DIES, DIES),
    Failure.WORKER: (GOES_ON, GOES_ON, GOES_ON, None, None, None),
    Failure.EXECUTOR: (GOES_ON, GOES_ON, GOES_ON, None, None, None),
    Failure.HANGING: (None, GOES_ON, None, None, None, None),
    Failure.NODE: (None, None, None, GOES_ON, None, None),  # it has read the index when it begins
    Failure.HUNG_NODE: (GOES_ON, None, None, None, None, None),
    Failure.STORAGE: (NOT_WRITTEN, NOT_WRITTEN, NOT_COMMITTED, NOT_COMMITTED, GOES_ON, GOES_ON),
    Failure.DISK: (FULL_ALREADY, NOT_WRITTEN, NOT_COMMITTED, None, None, GOES_ON),
}


@pytest.mark.parametrize(("failure", "stage", "outcome"), cells(STAGES, GENERATION))
def test_a_feature_set_is_whole_or_absent_and_its_rerun_gives_the_same(
    stack: Stack, failure: Failure, stage: Stage, outcome: str, cell: list[str], expected: dict[str, Any]
) -> None:
    """A generation: how it ends, and what is visible afterwards."""
    name = f"{failure}-{stage}".replace(" ", "-")
    stack.begin_generation(name, stage, spark=failure in ON_SPARK)
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


@pytest.fixture(scope="session")
def undisturbed(in_production: Stack) -> dict[str, Any]:
    generated = in_production.driver.run("generate", name="expected", run_id="expected", **in_production.place)
    return {**in_production.driver.run("look at features", name="expected", **in_production.place), **generated}


@pytest.fixture
def expected(undisturbed: dict[str, Any]) -> dict[str, Any]:
    """The features that a generation without faults gives."""
    minutes = {p: [float(v) if v < p % 5 else 0.0 for v in range(VIDEOS)] for p in range(PROFILES)}
    assert undisturbed["features"] == minutes
    return undisturbed
