"""Whatever fails at whatever moment of a job: nothing is half-visible, nothing is lost, and its rerun finishes it.

One stack serves all tables: of snapshots, of generations, of days of a feature set and of revisions of contexts. Most
cells run in a plain driver process; those whose fault strikes Spark's own processes, and one of each other fault of a
snapshot, run on Spark. Contexts are selected on a Spark Connect server, which outlives the drivers. The outcome of each
cell is printed as a table at the end of the tests.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Any

import pytest
from driver_process import Driver
from fault_stack import PROFILES, VIDEOS, Stack
from fault_table import DIES, FULL, GOES_ON, NOT_WRITTEN, Failure, Stage, cells, in_words

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
    Failure.HUNG_NODE: (NO_NODE, None, NO_NODE, None, None),
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
    Failure.HUNG_NODE: (GOES_ON, None, None, None, None, None),  # it has read the index when it begins
    Failure.STORAGE: (None, None, None, NOT_COMMITTED, GOES_ON, None),
    Failure.DISK: (None, None, NOT_COMMITTED, None, None, GOES_ON),
    Failure.DRIVER: (None, DIES, None, None, DIES, None),  # last: it ends the session of the others
}

# What is written and committed for a day, too, is hidden until it is whole: the other moments are in this table.
STAGES_OF_DAY = (
    *(Stage.LABELS, Stage.BEFORE, Stage.MIDWAY, Stage.HELD),
    *(Stage.PUBLISHING, Stage.UNANSWERED, Stage.RECORDING, Stage.DONE),
)
DAY = {
    Failure.ANOTHER: (None, None, None, GOES_ON, None, None, None, None),
    Failure.CUT: (None, None, GOES_ON, None, GOES_ON, GOES_ON, None, None),
    Failure.STORAGE: (NOT_WRITTEN, None, NOT_WRITTEN, None, NOT_COMMITTED, None, None, None),
    Failure.DISK: (None, FULL_ALREADY, NOT_WRITTEN, NOT_COMMITTED, None, None, None, None),
    Failure.DRIVER: (DIES, DIES, DIES, DIES, DIES, DIES, None, DIES),
    Failure.SPARK_DRIVER: (None, None, DIES, None, None, None, DIES, None),
}

STAGES_OF_SELECTION = (Stage.MIDWAY, Stage.TABLE, Stage.HELD, Stage.PUBLISHING, Stage.DONE)
SELECTION = {
    Failure.ANOTHER: (None, None, GOES_ON, None, None),
    Failure.HUNG_NODE: (None, None, None, GOES_ON, None),  # it answers again in time
    Failure.STORAGE: (rf"{NOT_WRITTEN} [^\n]+\Z", NOT_COMMITTED, None, None, None),
    Failure.DRIVER: (DIES, DIES, DIES, DIES, DIES),
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
    stack.settle()
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
    stack.begin_generation(name, stage, run_id=name, spark=failure in OF_SPARK)
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


@pytest.mark.parametrize(("failure", "stage", "outcome"), cells(STAGES_OF_DAY, DAY))
def test_a_day_is_added_once_or_not_and_its_rerun_gives_what_all_days_at_once_give(
    stack: Stack, failure: Failure, stage: Stage, outcome: str, cell: list[str], days: Counter[str], request: Any
) -> None:
    """A day of a feature set: how it ends, and whether its part is visible afterwards."""
    name, day_job = day_by(failure, request)
    before, today = days[name], days[name] + 1
    job = {**day_job, "name": name, "day": today, "run_id": f"day-{today}"}
    stack.begin_generation(stage=stage, **job)
    stack.strike(failure, stage)
    ended = stack.release(stage)
    assert re.match(outcome, ended), ended
    stack.heal()

    published = check_days(stack, name, before, today)
    assert published or (ended != GOES_ON and stage not in (Stage.UNANSWERED, Stage.RECORDING, Stage.DONE))
    again = stack.driver.run(job.pop("job"), **job, **stack.place)
    assert again["version"] == before
    days[name] = today
    assert check_days(stack, name, today, today)
    cell[3] = f"{in_words(ended)}: {'a part' if published else 'nothing visible'}"


def day_by(failure: Failure, request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Give the feature set of a cell, and the job that generates a day of it."""
    if failure == Failure.SPARK_DRIVER:
        spec, connect = request.getfixturevalue("spec"), request.getfixturevalue("connect")
        return "scheduled", {"job": "run a day", "spec": str(spec), "connect": connect}
    return "daily", {"job": "generate a day", "profiles": PROFILES, "videos": VIDEOS}


def check_days(stack: Stack, name: str, before: int, today: int) -> bool:
    """Check that a feature set has all of so many days, or of the next one too, each once; say whether it has that."""
    seen = stack.driver.run("look at days", name=name, **stack.place)
    if seen["version"] is None:
        assert before == 0
        return False
    days = seen["version"] + 1
    assert days in (before, today)
    assert seen["parts"] == [[day or None, day + 1] for day in range(days)]
    rows = seen["rows"]
    assert rows["profile_id"].to_pylist() == [*range(PROFILES)] * days
    assert rows["minutes_watched"].to_pylist() == [
        [float(v + day) if v < p % 5 else 0.0 for v in range(VIDEOS)] for day in range(days) for p in range(PROFILES)
    ]
    return days == today


@pytest.mark.parametrize("failure", [Failure.DRIVER])
def test_a_backfill_by_two_drivers_of_which_one_is_killed_gives_what_each_day_at_once_gives(
    stack: Stack, days: Counter[str]
) -> None:
    first, second = Driver(stack.environment), Driver(stack.environment)
    job = {"name": "backfill", "profiles": PROFILES, "videos": VIDEOS, **stack.place}
    given = defaultdict(list)
    for together in ((3, 4), (1, 2), (5, 5), (2, 1), (4, 3)):  # days out of order, at once, and again
        for driver, day in zip((first, second), together, strict=True):
            driver.start("generate a day", day=day, run_id=f"day-{day}", **job)
        if together == (1, 2):
            second.kill()
            second = Driver(stack.environment)
            second.start("generate a day", day=2, run_id="day-2", **job)
        for driver, day in zip((first, second), together, strict=True):
            ended = driver.next_event()
            assert ended["event"] == "done", ended
            given[day].append(ended["result"])
    second.kill()
    assert sorted(each["version"] for each, *_ in given.values()) == [*range(5)]
    for day, results in given.items():
        assert all(each == results[0] for each in results)
        assert first.run("generate all days", days=day, **job | {"name": f"all-{day}"}) == results[0]["digest"]
    if days["daily"]:  # all that was struck by faults
        seen = first.run("look at days", name="daily", **stack.place)
        assert first.run("generate all days", days=days["daily"], **job | {"name": "all"}) == seen["digest"]
    first.kill()


@pytest.mark.parametrize(("failure", "stage", "outcome"), cells(STAGES_OF_SELECTION, SELECTION))
def test_a_revision_is_selected_once_or_not_and_its_rerun_gives_the_same(
    stack: Stack, failure: Failure, stage: Stage, outcome: str, cell: list[str], date: dict[str, Any]
) -> None:
    """A revision of contexts: how its selection ends, and whether it is visible afterwards."""
    wanted = [*stack.experiments, f"{failure}, {stage}".replace(" ", "_").replace(",", "")]
    stack.begin_selection(stage, experiments=wanted, **date)
    stack.strike(failure, stage)
    ended = stack.release(stage)
    assert re.match(outcome, ended), ended
    stack.heal()

    published = len(check_revisions(stack, date["day"])) == len(wanted)
    assert published or ended != GOES_ON
    again = stack.driver.run("select", experiments=wanted, **date, **stack.place)
    stack.experiments = wanted
    assert check_revisions(stack, date["day"])[-1] == again
    cell[3] = f"{in_words(ended)}: {'a revision' if published else 'nothing visible'}"


def check_revisions(stack: Stack, day: Any) -> list[str]:
    """Check that a date's revisions have one experiment each, in order, with the same contexts; give their ids."""
    seen = stack.driver.run("look at revisions", day=day, **stack.place)
    ids = [each["id"] for each in seen]
    assert [each["number"] for each in seen] == [*range(1, len(seen) + 1)]
    assert [each["after"] for each in seen] == [None, *ids[:-1]]
    names = [name for each in seen for name in each["contexts"]]
    assert len(names) == len(seen)
    assert names[: len(stack.experiments)] == stack.experiments
    samples = [each["contexts"][name] for each, name in zip(seen, names, strict=True)]
    assert all(sample == samples[0] for sample in samples)
    assert len(set(samples[0])) == len(samples[0]) == 14
    return ids
