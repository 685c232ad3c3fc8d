"""Serving one model for several tasks: each request has its task's variables, features, services and trees only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import company
import company_tasks
import numpy as np
import pytest
from company_tasks import CONTEXT, ITEMS, PER_CONTEXT, SENTINELS, TASKS, bits
from company_tasks import request as body

from delorean.ab_tests.declaration import AbTest, Cell
from delorean.exposures import ExposureLog, read_exposures
from delorean.packaging.package import ModelPackage
from delorean.serving import GlobalVersions, PackagedTest, Ranker
from encoders.library.keys import VIDEOS
from prana_proxy.clock import FileClock
from prana_proxy.config.services_file import gateway_config
from prana_proxy.gateway import Gateway
from schemas.errors import AbTestError, ConfigError, DataKeyError

REQUESTS = [(task, number) for number in (7, 8, 3, 5, 21) for task in TASKS.names]  # 3 has no history, 5 no list
CELLS = {"control": Cell(0.5, "tasks"), "explored": Cell(0.5, "tasks", explore=1.0)}
TEST = AbTest("members", "profile_id", CELLS)


@pytest.fixture
def ranker(tasks_package: ModelPackage, services: Any, published: Any, tmp_path: Path) -> Iterator[Ranker]:
    clock = FileClock(tmp_path / "clock")
    clock.set(company.NOW)
    with ExitStack() as opened:
        log = opened.enter_context(ExposureLog(published.storage, CONTEXT, ITEMS))
        gateway = opened.enter_context(Gateway(gateway_config(services.config())))
        versions = opened.enter_context(GlobalVersions([VIDEOS], published.index, published.storage, clock))
        test = PackagedTest(TEST, dict.fromkeys(CELLS, tasks_package))
        budget = timedelta(seconds=30)
        yield Ranker(tasks_package, gateway, versions, clock, budget, tests=[test], log=log)


def rank(ranker: Ranker, request: Any) -> dict[str, Any]:
    return ranker.rank(json.dumps(request).encode())


@pytest.mark.parametrize(("task", "number"), REQUESTS)
def test_features_scores_and_probabilities_are_those_of_generation_bit_for_bit(
    ranker: Ranker, tasks_package: ModelPackage, task: str, number: int
) -> None:
    answer = rank(ranker, body(task, number, explain=True))
    maps = company_tasks.data_maps([(task, number)])
    features = tasks_package.bound.encode(maps)
    scores = tasks_package.score(features, task)
    probabilities = tasks_package.probabilities(scores, task)
    assert probabilities is not None
    by_position = sorted(answer["ranked"], key=lambda entry: entry["position"])
    for name in TASKS.task(task).without:
        expected = [TASKS.defaults.get(name, np.nan)] * PER_CONTEXT
        assert features[name].tolist() == pytest.approx(expected, nan_ok=True)
    for name in tasks_package.features:
        expected = [None if np.isnan(v) else float(v) for v in features[name]]
        assert bits([entry["features"][name] for entry in by_position]) == bits(expected), name
    assert bits([entry["score"] for entry in by_position]) == scores.view(np.uint32).tolist()
    assert bits([entry["probability"] for entry in by_position]) == probabilities.view(np.uint32).tolist()
    item = TASKS.task(task).items[0]
    assert [entry["item"] for entry in by_position] == [{item: value} for value in body(task, number)["candidates"]]
    assert answer["task"] == task


def test_services_that_no_feature_of_a_task_is_computed_from_are_not_asked(ranker: Ranker, services: Any) -> None:
    not_applicable = {"status": "not_applicable", "captured_at": None, "reason": None}
    # The one lacks the services' key, the other the item that the encoders of their state read.
    for task, number in (("similar", 7), ("rows", 3)):
        answer = rank(ranker, body(task, number))
        assert services.asked == [], task
        assert answer["services"] == {"my_list": not_applicable, "viewing_history": not_applicable}
        assert answer["missing"] == []  # what is not applicable is not missing
    answer = rank(ranker, body("home", 7))
    assert sorted(services.asked) == ["/history/7", "/lists"]
    assert {status["status"] for status in answer["services"].values()} == {"ok"}
    assert rank(ranker, body("home", 3))["missing"] == ["viewing_history"]


def test_requests_that_do_not_fit_their_task_are_refused_by_name(ranker: Ranker, services: Any) -> None:
    def refused(**changes: Any) -> str:
        with pytest.raises(DataKeyError) as error:
            rank(ranker, {**body("similar", 7), **changes})
        return str(error.value)

    without = body("home", 7)
    del without["task"]
    with pytest.raises(DataKeyError, match="missing required field `task`.*known tasks: home, similar, rows|`task`"):
        rank(ranker, without)
    assert "'serach' - at `$.task` (known tasks: home, similar, rows)" in refused(task="serach")
    assert "unknown field `profile_id` - at `$.context`" in refused(
        context={"seed_id": 3, "country": "US", "profile_id": 7}
    )
    assert "missing required field `seed_id`" in refused(context={"country": "US"})
    assert "unknown field `task_type`" in refused(context={"seed_id": 3, "country": "US", "task_type": "home"})
    assert "'seed_id' is -1, which stands for it in the requests of tasks that lack it" in refused(
        context={"seed_id": -1, "country": "US"}
    )
    assert "'video_id' is -1, which stands for it" in refused(candidates=[5, -1])
    assert "`row_id`" in refused(candidates=[{"row_id": 3}])
    assert "`row_id`" in refused(candidates=[{"video_id": 5, "row_id": 3}])
    assert services.asked == []


def test_a_request_whose_task_lacks_the_test_s_unit_is_in_no_test(ranker: Ranker, published: Any) -> None:
    for number in range(6, 14):
        assert rank(ranker, body("home", number))["test"] == "members"
        assert rank(ranker, body("similar", number))["test"] is None
    ranker.log.close()  # type: ignore[union-attr]  # which this fixture opens
    inside, outside = (read_exposures(published.storage, test).read_all() for test in ("members", None))
    assert {*inside["task_type"].to_pylist()} == {"home"}
    assert {*outside["task_type"].to_pylist()} == {"similar"}
    assert len(inside) == len(outside) == 8
    for row in outside.to_pylist():
        number = int(row["request_id"].removeprefix("similar-"))
        assert row["context"] == company_tasks.context("similar", number)  # with sentinels, as in feature sets
        assert {*row["items"]["row_id"]} == {SENTINELS["row_id"]}
        candidates = body("similar", number)["candidates"]
        assert row["items"]["video_id"] == [candidates[position] for position in row["positions"]]


def test_packages_without_tasks_refuse_to_be_asked_for_one(live: Any) -> None:
    request = {"task": "home", "context": {"profile_id": 7, "country": "US"}, "candidates": [1]}
    status, answer, _ = live.call("POST", "/rank", request)
    assert status == 422
    assert "unknown field `task`" in answer["error"]


def test_packages_of_other_tasks_are_not_served_together(ranker: Ranker, tasks_package: ModelPackage) -> None:
    for changed in (
        replace_tasks(tasks_package, sentinels={**SENTINELS, "profile_id": -2}),
        replace_tasks(tasks_package, tasks=TASKS.tasks[:2]),
        replace(tasks_package, tasks=None),
    ):
        test = PackagedTest(TEST, {"control": tasks_package, "explored": changed})
        with pytest.raises(AbTestError, match="cell 'explored': its package has the tasks .* need the same tasks"):
            Ranker(tasks_package, ranker._gateway, ranker._default.versions, company.NOW.timestamp, tests=[test])


def test_sentinels_that_are_missing_or_of_another_type_are_refused_at_the_start(
    ranker: Ranker, tasks_package: ModelPackage
) -> None:
    missing = {name: value for name, value in SENTINELS.items() if name != "seed_id"}
    for sentinels, problem in (
        (missing, "task '(home|rows)' lacks 'seed_id', which has no sentinel"),
        ({**SENTINELS, "seed_id": "none"}, "the sentinel of 'seed_id' is 'none', and the variable is int64"),
    ):
        package = replace_tasks(tasks_package, sentinels=sentinels)
        with pytest.raises(ConfigError, match=problem):
            Ranker(package, ranker._gateway, ranker._default.versions, company.NOW.timestamp)


def replace_tasks(package: ModelPackage, **changes: Any) -> ModelPackage:
    fields = {"tasks": TASKS.tasks, "sentinels": TASKS.sentinels, "defaults": TASKS.defaults}
    return replace(package, tasks=type(TASKS)(**{**fields, **changes}))
