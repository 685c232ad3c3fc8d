"""The five services over HTTP, in processes of their own, on the company's clock."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from delorean.demo.company import open_company, start_services
from delorean.demo.folder import CompanyFolder
from delorean.demo.processes import Processes
from delorean.demo.services import LARGEST_BATCH, SERVICES
from delorean.demo.simulation import generate_world
from delorean.demo.state import CompanyState
from delorean.demo.world import World
from prana_proxy.client import PranaClient
from prana_proxy.clock import FileClock
from snapshotter.records import to_micros

HOST = "127.0.0.2"  # not the default: they listen on the address they are given


@pytest.fixture(scope="module")
def world() -> World:
    return generate_world(seed=6, days=3, profiles=40, videos=200)


@pytest.fixture(scope="module")
def clock(world: World, tmp_path_factory: pytest.TempPathFactory) -> FileClock:
    clock = FileClock(tmp_path_factory.mktemp("clock") / "clock")
    clock.set(world.snapshot_moment(0))
    return clock


@pytest.fixture(scope="module")
def ports(world: World, clock: FileClock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    folder = tmp_path_factory.mktemp("services")
    world.write(folder / "world")
    with Processes(folder / "logs") as processes:
        arguments = ["--world", str(folder / "world"), "--clock", str(clock.path), "--host", HOST]
        started = {name: processes.start(name, ["-m", "delorean.demo.services", name, *arguments]) for name in SERVICES}
        yield {name: int(running.wait_for(r"port (\d+)")) for name, running in started.items()}
    assert all(running.process.poll() == 0 for running in started.values()), "SIGTERM ends them in order"


def _ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=30) as answer:
        return json.load(answer)


SEARCHES = [("drama", "US"), ("CITY", "JP"), ("drama", "nowhere"), ("no such word", "US"), ("", "US")]


def _answers(ports: dict[str, int], profiles: list[int], seeds: list[int]) -> dict[str, list[Any]]:
    searches = {"contexts": [{"query": query, "country": country} for query, country in SEARCHES]}
    contexts = {"contexts": [{"profile_id": profile} for profile in profiles]}
    history = f"http://{HOST}:{ports['viewing_history']}/history"
    batches = {
        "my_list": _ask(f"http://{HOST}:{ports['my_list']}/lists", contexts),
        "predicted_ratings": _ask(f"http://{HOST}:{ports['predicted_ratings']}/ratings", contexts),
        "search_results": _ask(f"http://{HOST}:{ports['search_results']}/search", searches),
        "similar_videos": _ask(
            f"http://{HOST}:{ports['similar_videos']}/similar", {"contexts": [{"seed_id": seed} for seed in seeds]}
        ),
    }
    return {
        "viewing_history": [_ask(f"{history}/{profile}")["history"] for profile in profiles],
        **{name: [answer["value"] for answer in answers["answers"]] for name, answers in batches.items()},
    }


def _expected(world: World, profiles: list[int], seeds: list[int], moment: datetime) -> dict[str, list[Any]]:
    state, now = CompanyState(world), to_micros(moment)
    searches = [state.search_results(query, country, now) for query, country in SEARCHES]
    of_profiles = [name for name in SERVICES if name not in ("search_results", "similar_videos")]
    return {
        **{name: [getattr(state, name)(profile, now) for profile in profiles] for name in of_profiles},
        "search_results": searches,
        "similar_videos": [state.similar_videos(seed, now) for seed in seeds],
    }


def test_services_answer_with_the_state_at_the_clock_and_with_an_earlier_one_when_it_goes_back(
    world: World, clock: FileClock, ports: dict[str, int]
) -> None:
    profiles = world.profiles["profile_id"].to_pylist()[:15]
    seeds = world.plays["video_id"].to_pylist()[:15]
    moments = [world.snapshot_moment(day) for day in (0, 2)]
    moments += [moments[0] + timedelta(hours=3, microseconds=1), moments[0]]
    seen = []
    for moment in moments:
        clock.set(moment)
        seen.append(_answers(ports, profiles, seeds))
        assert seen[-1] == _expected(world, profiles, seeds, moment)
    assert seen[0] == seen[3]
    assert all(seen[0][name] != seen[1][name] for name in SERVICES)


def test_the_next_release_of_a_service_answers_with_its_new_field_while_the_proxy_serves(tmp_path: Path) -> None:
    world = generate_world(seed=6, days=3, profiles=40, videos=200)
    folder = CompanyFolder(tmp_path)
    folder.prepare(world)
    clock = world.snapshot_moment(2)
    folder.clock.set(clock)
    profiles = world.profiles["profile_id"]
    with Processes(tmp_path / "logs") as processes:
        company = open_company(world, folder, start_services(folder, processes), processes)
        answers = []
        for _ in range(2):
            with PranaClient([company.proxy]) as client:
                service = client.services()["my_list"]
                answers.append(client.fetch(service, pa.table({"profile_id": profiles}), timedelta(seconds=60)))
            company.deploy_lists_with_devices()
    old, new = (answer["value"].to_pylist() for answer in answers)
    state, now = CompanyState(world), to_micros(clock)
    devices = dict(zip(profiles.to_pylist(), world.profiles["device"].to_pylist(), strict=True))
    assert [len(entries) for entries in old] == [len(state.my_list(profile, now)) for profile in devices]
    assert [
        [{**entry, "device": device} for entry in entries]
        for entries, device in zip(old, devices.values(), strict=True)
    ] == new


def test_one_bad_context_does_not_spoil_a_batch(world: World, ports: dict[str, int]) -> None:
    good = world.profiles["profile_id"][0].as_py()
    contexts = [{"profile_id": good}, {"profile_id": "x"}, {"profile_id": 2**70}, {"profile_id": -1}]
    answers = _ask(f"http://{HOST}:{ports['my_list']}/lists", {"contexts": contexts})["answers"]
    assert ["error" in answer for answer in answers] == [False, True, True, False]


def test_a_search_that_is_none_does_not_spoil_the_others(ports: dict[str, int]) -> None:
    contexts = [{"query": 7, "country": "US"}, {"query": "drama", "country": None}, {"query": "drama", "country": "US"}]
    answers = _ask(f"http://{HOST}:{ports['search_results']}/search", {"contexts": contexts})["answers"]
    assert ["error" in answer for answer in answers] == [True, True, False]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ([1], 400),
        ({"contexts": 3}, 400),
        ({"contexts": [{}]}, 400),
        ({"contexts": [{"profile_id": 1}] * (LARGEST_BATCH + 1)}, 413),
    ],
)
def test_a_request_that_is_none_is_refused(ports: dict[str, int], body: Any, status: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        _ask(f"http://{HOST}:{ports['my_list']}/lists", body)
    refused.value.close()
    assert refused.value.code == status


def test_a_service_that_serves_is_healthy(ports: dict[str, int]) -> None:
    for port in ports.values():
        with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=30) as answer:
            assert answer.read() == b"alive\n"


def test_a_service_without_world_or_clock_says_so_in_one_line(tmp_path: Path) -> None:
    clock = FileClock(tmp_path / "clock")
    command = [sys.executable, "-m", "delorean.demo.services", "my_list", "--world", str(tmp_path), "--clock"]
    missing = subprocess.run([*command, str(clock.path)], capture_output=True, text=True, timeout=60, check=False)
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert "clock" in missing.stderr
    clock.set(datetime.fromisoformat("2025-10-20T00:00:00Z"))
    missing = subprocess.run([*command, str(clock.path)], capture_output=True, text=True, timeout=60, check=False)
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert "profiles.parquet" in missing.stderr
