"""Tests that a scorer serves: who is answered by which cell, with which package, and what is refused at the start."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import company
import numpy as np
import pyarrow as pa
import pytest

from delorean.ab_tests.allocation import LayerPart
from delorean.ab_tests.declaration import AbTest, Cell, Holdout
from delorean.ab_tests.interleaving import team_draft
from delorean.exposures import ExposureLog, read_exposures
from delorean.packaging.package import ModelPackage
from delorean.serving import GlobalVersions, PackagedTest, Ranker, load_tests
from delorean.serving.orders import best_first, explored, seed_of
from encoders.library.keys import VIDEOS
from prana_proxy.clock import FileClock
from prana_proxy.config.services_file import gateway_config
from prana_proxy.gateway import Gateway
from schemas.data_keys import context_variable
from schemas.errors import AbTestError, ConfigError, DataKeyError, GoldenRowsError, PackageError

CELLS = {"control": Cell(0.5, "control"), "candidate": Cell(0.5, "candidate")}
TEST = AbTest("homepage", "profile_id", CELLS)
MERGED = {"control": Cell(0.1, "control"), "candidate": Cell(0.1, "candidate")}
CANDIDATES = [12, 59, 7, 30, 41, 2]
Opened = Callable[..., Any]


@pytest.fixture
def packages(company_package: ModelPackage, candidate_package: ModelPackage) -> dict[str, ModelPackage]:
    return {"control": company_package, "candidate": candidate_package}


@pytest.fixture
def ranker(packages: dict[str, ModelPackage], services: Any, published: Any, tmp_path: Path) -> Iterator[Opened]:
    """Open a scorer of tests whose log is written to the storage when the block ends."""
    clock = FileClock(tmp_path / "clock")
    clock.set(company.NOW)

    @contextmanager
    def opened(*tests: AbTest, at: datetime = company.NOW) -> Iterator[Ranker]:
        clock.set(at)
        packaged = [
            PackagedTest(test, {name: packages[cell.package] for name, cell in test.cells.items() if cell.package})
            for test in tests
        ]
        with ExitStack() as opened:
            log = opened.enter_context(ExposureLog(published.storage, company.CONTEXT, company.ITEMS))
            gateway = opened.enter_context(Gateway(gateway_config(services.config())))
            versions = opened.enter_context(GlobalVersions([VIDEOS], published.index, published.storage, clock))
            yield Ranker(packages["control"], gateway, versions, clock, timedelta(seconds=30), tests=packaged, log=log)

    return opened


def body(profile: int, country: str | None = "US", **more: Any) -> bytes:
    context = {"profile_id": profile, "country": country}
    return json.dumps({"context": context, "candidates": CANDIDATES, "request_id": f"r{profile}", **more}).encode()


def logged(published: Any, test: str | None) -> list[dict[str, Any]]:
    return read_exposures(published.storage, test).read_all().to_pylist()


def offline(package: ModelPackage, profile: int) -> list[float]:
    """Scores of the candidates, from the company's known state."""
    maps = company.data_maps([profile])
    contexts = maps.contexts.set_column(1, "country", pa.array(["US"]))
    elements = {name: maps.elements[name] for name in package.feature_model.elements}
    items = pa.table({"video_id": CANDIDATES})
    offsets = np.array([0, len(CANDIDATES)])
    maps = replace(maps, contexts=contexts, items=items, item_offsets=offsets, elements=elements)
    return package.score(package.bound.encode(maps)).tolist()


def test_each_unit_is_answered_by_its_cell_s_package_and_no_service_is_asked_for_another(
    ranker: Opened, packages: dict[str, ModelPackage], services: Any, published: Any
) -> None:
    profiles = range(6, 26)
    cells = TEST.allocate(pa.table({"profile_id": profiles})).tolist()
    assert {*cells} == {0, 1}
    with ranker(TEST) as scorer:
        for profile, cell in zip(profiles, cells, strict=True):
            services.asked.clear()
            answer = scorer.rank(body(profile))
            name = ("control", "candidate")[cell]
            assert (answer["test"], answer["cell"]) == ("homepage", name)
            assert (answer["package"], answer["request_id"]) == (packages[name].digest, f"r{profile}")
            by_position = {entry["position"]: entry["score"] for entry in answer["ranked"]}
            assert [by_position[n] for n in range(len(CANDIDATES))] == offline(packages[name], profile)
            asked = {"control": {"/lists", f"/history/{profile}"}, "candidate": {"/lists"}}
            assert {*services.asked} == asked[name]
            assert {*answer["services"]} == ({"my_list", "viewing_history"} if name == "control" else {"my_list"})
    rows = {row["request_id"]: row for row in logged(published, "homepage")}
    assert len(rows) == len(profiles)
    for profile, cell in zip(profiles, cells, strict=True):
        row, name = rows[f"r{profile}"], ("control", "candidate")[cell]
        scores = offline(packages[name], profile)
        order = best_first(np.array(scores, np.float32)).tolist()
        assert (row["cell"], row["package"], row["time"]) == (name, packages[name].digest, company.NOW)
        assert row["context"] == {"profile_id": profile, "country": "US"}
        assert row["items"] == {"video_id": [CANDIDATES[position] for position in order]}
        assert row["positions"] == order
        assert row["scores"] == [scores[position] for position in order]
        assert row["propensities"] == [1.0] * len(order)
        assert (row["team"], row["seed"], row["task_type"]) == (None, None, None)


def test_who_is_in_no_test_is_answered_by_the_default_package(
    ranker: Opened, packages: dict[str, ModelPackage], published: Any
) -> None:
    half = replace(TEST, layer=LayerPart("ranking", (0.0, 0.5)), holdout=Holdout(0.2))
    profiles = range(6, 36)
    cells = half.allocate(pa.table({"profile_id": profiles})).tolist()
    assert {*cells} == {-1, 0, 1}
    with ranker(half) as scorer:
        for profile, cell in zip(profiles, cells, strict=True):
            answer = scorer.rank(body(profile))
            if cell < 0:
                assert (answer["test"], answer["cell"], answer["package"]) == (None, None, packages["control"].digest)
    outside = [f"r{profile}" for profile, cell in zip(profiles, cells, strict=True) if cell < 0]
    assert sorted(row["request_id"] for row in logged(published, None)) == sorted(outside)
    assert {row["cell"] for row in logged(published, None)} == {None}


def test_a_test_serves_only_from_its_start_until_its_end(ranker: Opened) -> None:
    hour = timedelta(hours=1)
    test = replace(TEST, start=company.NOW, end=company.NOW + hour)
    served = {}
    for at in (-1e-6 * timedelta(seconds=1), timedelta(0), hour - 1e-6 * timedelta(seconds=1), hour):
        with ranker(test, at=company.NOW + at) as scorer:
            served[at] = scorer.rank(body(7))["test"]
    assert list(served.values()) == [None, "homepage", "homepage", None]


def test_two_tests_of_a_layer_never_share_a_unit(ranker: Opened) -> None:
    first, second = (
        replace(TEST, name=name, layer=LayerPart("ranking", part))
        for name, part in (("first", (0.0, 0.4)), ("second", (0.4, 0.8)))
    )
    with ranker(first, second) as scorer:
        for profile in range(6, 40):
            inside = [test for test in (first, second) if test.allocate(pa.table({"profile_id": [profile]}))[0] >= 0]
            assert len(inside) <= 1
            assert scorer.rank(body(profile))["test"] == (inside[0].name if inside else None)


def test_a_null_unit_is_in_no_test(ranker: Opened) -> None:
    with ranker(replace(TEST, unit="country")) as scorer:
        assert scorer.rank(body(7, None))["test"] is None
        assert scorer.rank(body(7, "US"))["test"] == "homepage"


def test_an_interleaved_cell_fetches_once_and_can_be_replayed_from_the_log(
    ranker: Opened, packages: dict[str, ModelPackage], services: Any, published: Any
) -> None:
    cells = {**MERGED, "merged": Cell(0.8, interleave=("control", "candidate"))}
    test = replace(TEST, cells=cells, seed=5)
    merged = [p for p in range(6, 30) if test.allocate(pa.table({"profile_id": [p]}))[0] == 2]
    assert len(merged) > 5
    with ranker(test) as scorer:
        for profile in merged:
            services.asked.clear()
            answer = scorer.rank(body(profile, k=4, explain=True))
            assert sorted(services.asked) == sorted(["/lists", f"/history/{profile}"])
            assert (answer["cell"], len(answer["ranked"])) == ("merged", 4)
            assert answer["package"] == f"{packages['control'].digest}+{packages['candidate'].digest}"
            for entry in answer["ranked"]:  # each has the features of the package that gave it
                assert {*entry["features"]} in [{*package.features} for package in packages.values()]
    rows = {row["request_id"]: row for row in logged(published, "homepage")}
    teams = set()
    for profile in merged:
        row = rows[f"r{profile}"]
        scores = [np.array(offline(packages[name], profile), np.float32) for name in ("control", "candidate")]
        order, team = team_draft(best_first(scores[0]), best_first(scores[1]), row["seed"], 4)
        assert (row["positions"], row["team"]) == (order.tolist(), team.tolist())
        assert row["seed"] == seed_of("homepage", 5, f"r{profile}")
        assert row["propensities"] is None
        assert row["scores"] == [float(scores[max(of, 0)][item]) for item, of in zip(order, team, strict=True)]
        teams |= {*team.tolist()}
    assert {0, 1} <= teams


def test_an_explored_cell_shuffles_the_places_asked_for_and_logs_their_propensities(
    ranker: Opened, packages: dict[str, ModelPackage], published: Any
) -> None:
    test = replace(TEST, cells={"control": Cell(0.01, "control"), "explored": Cell(0.99, "control", explore=0.5)})
    profiles = [p for p in range(6, 40) if test.allocate(pa.table({"profile_id": [p]}))[0] == 1]
    with ranker(test) as scorer:
        answers = {profile: scorer.rank(body(profile, k=3)) for profile in profiles}
        assert scorer.rank(body(profiles[0], k=3))["ranked"] == answers[profiles[0]]["ranked"]  # the same request
    rows = {row["request_id"]: row for row in logged(published, "homepage")}
    shuffled = 0
    for profile in profiles:
        scores = np.array(offline(packages["control"], profile), np.float32)
        order = explored(scores, 3, 0.5, seed_of("homepage", 0, f"r{profile}"))
        row = rows[f"r{profile}"]
        assert row["positions"] == order.rows.tolist() == [e["position"] for e in answers[profile]["ranked"]]
        assert order.propensities is not None
        assert row["propensities"] == order.propensities.tolist()
        shuffled += row["positions"] != best_first(scores)[:3].tolist()
    assert 0 < shuffled < len(profiles)


def test_replays_are_not_logged_and_a_request_without_an_id_gets_a_new_one(ranker: Opened, published: Any) -> None:
    request = {"context": {"profile_id": 7, "country": "US"}, "candidates": [1, 2]}
    with ranker(TEST) as scorer:
        replayed = scorer.rank(json.dumps({**request, "time": company.NOW.isoformat()}).encode())
        assert replayed["test"] == "homepage"
        new = {scorer.rank(json.dumps(request).encode())["request_id"] for _ in range(3)}
        for wrong in ("", "x" * 129, 7):
            with pytest.raises(DataKeyError, match="request_id"):
                scorer.rank(json.dumps({**request, "request_id": wrong}).encode())
        assert scorer.rank(json.dumps({**request, "request_id": "x" * 128}).encode())["request_id"] == "x" * 128
    assert {row["request_id"] for row in logged(published, "homepage")} == {*new, "x" * 128}
    assert len(new) == 3


def refused(ranker: Opened, *tests: AbTest) -> str:
    with pytest.raises((AbTestError, ConfigError)) as error, ranker(*tests):
        pass
    return str(error.value)


def test_tests_that_cannot_be_served_together_are_refused(ranker: Opened) -> None:
    first, second = (replace(TEST, name=name, layer=LayerPart("ranking", (0.0, 0.5))) for name in ("first", "second"))
    apart = replace(second, layer=LayerPart("ranking", (0.5, 1.0)))
    assert "two tests are named 'first' → " in refused(ranker, first, first)
    assert "overlapping parts or different hold-outs of layer 'ranking' → " in refused(ranker, first, second)
    assert "different hold-outs" in refused(ranker, first, replace(apart, holdout=Holdout(0.1)))
    assert "in different layers, so a unit could be in both" in refused(ranker, first, replace(second, layer=None))
    assert "with different units, 'profile_id' and 'country'" in refused(ranker, first, replace(apart, unit="country"))
    assert "unknown unit of the test" in refused(ranker, replace(TEST, unit="device"))
    explored = {**CELLS, "candidate": Cell(0.5, interleave=("control", "other"), explore=0.1)}
    cells = {**explored, "control": Cell(0.25, "control"), "other": Cell(0.25, "candidate")}
    assert "cell 'candidate': it interleaves and explores" in refused(ranker, replace(TEST, cells=cells))
    later = replace(second, start=datetime(2027, 1, 1, tzinfo=UTC))
    with ranker(replace(first, end=datetime(2027, 1, 1, tzinfo=UTC)), later):
        pass  # one after the other


def test_packages_of_other_variables_are_refused(ranker: Opened, packages: dict[str, ModelPackage]) -> None:
    trained = packages["candidate"]
    packages["candidate"] = replace(trained, context=(*trained.context, context_variable("device", "string")))
    problem = refused(ranker, TEST)
    assert "test 'homepage', cell 'candidate': its package has the context variables" in problem
    assert "'device': 'string'" in problem
    packages["candidate"] = replace(trained, items=(context_variable("video_id", "int32"),))
    assert "item variables {'video_id': 'int32'}, the default package {'video_id': 'int64'}" in refused(ranker, TEST)


def test_no_package_is_served_whose_golden_rows_differ(ranker: Opened, packages: dict[str, ModelPackage]) -> None:
    golden = packages["candidate"].golden
    packages["candidate"] = replace(
        packages["candidate"], golden=replace(golden, scores=golden.scores + np.float32(1)), digest="other"
    )
    with ranker(TEST) as scorer:
        with pytest.raises(GoldenRowsError):
            scorer.warm_up()
        assert not scorer.warm


def test_packages_are_loaded_once_each_beside_the_test_s_file_and_errors_name_the_cell(tmp_path: Path) -> None:
    asked: list[str | Path] = []

    def load(place: str | Path) -> Any:
        asked.append(place)
        if "missing" in str(place):
            raise PackageError("there is no package")
        return place

    cells = {"a": Cell(0.3, "one"), "b": Cell(0.3, "one"), "c": Cell(0.4, "registry:production")}
    packaged = load_tests([replace(TEST, cells=cells, folder="/tests")], load)
    assert asked == [Path("/tests/one"), "registry:production"]
    assert {*packaged[0].packages} == {"a", "b", "c"}
    with pytest.raises(PackageError, match="test 'homepage', cell 'b': there is no package"):
        load_tests([replace(TEST, cells={"a": Cell(0.5, "one"), "b": Cell(0.5, "missing")})], load)
