"""The parity replay finds every difference, down to the last bit, and says nothing differs when nothing does."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from delorean.demo.parity import RecordedTasks, replay_requests
from delorean.feature_sets.digest import FeatureDigest
from delorean.feature_sets.table import FeatureSet
from delorean.state.provenance import SpreadReport
from delorean.tasks.task_set import Task, TaskSet
from prana_proxy.clock import FileClock
from schemas.errors import ServiceError

NOON = datetime(2025, 10, 20, 16, tzinfo=UTC)
NAN = float("nan")
VALUES = {1: (0.1, NAN), 2: (-0.0, 3.5), 3: (float("inf"), 16777217.0)}  # video → its two features
TIME = pa.timestamp("us", "UTC")


@pytest.fixture
def features(tmp_path: Path) -> FeatureSet:
    """Six rows over two days; on one of them the services were captured at different moments."""
    moments = [NOON, NOON, NOON, *[NOON + timedelta(days=1)] * 3]
    rows = {
        "profile_id": pa.array(range(6), pa.int64()),
        "time": pa.array([moment + timedelta(hours=n) for n, moment in enumerate(moments, 1)], TIME),
        "video_id": pa.array([list(VALUES)] * 6, pa.list_(pa.int64())),
        "one": pa.array([[VALUES[v][0] for v in VALUES]] * 6, pa.list_(pa.float32())),
        "two": pa.array([[VALUES[v][1] for v in VALUES]] * 6, pa.list_(pa.float32())),
        "history_captured_at": pa.array(moments, TIME),
        "list_captured_at": pa.array([*moments[:-1], NOON], TIME),
    }
    write_deltalake(tmp_path / "set", pa.table(rows))
    return FeatureSet(
        uri=str(tmp_path / "set"),
        version=0,
        features=("one", "two"),
        items=("video_id",),
        context=("profile_id",),
        rows=6,
        item_count=18,
        absent={},
        spread=SpreadReport(),
        dropped=0,
        leaks=None,
        digest=FeatureDigest.empty(("one", "two")),
        seconds={},
        lineage={"snapshots": {"history": [], "list": []}},
        notes=(),
    )


@pytest.fixture
def clock(tmp_path: Path) -> FileClock:
    clock = FileClock(tmp_path / "clock")
    clock.set(NOON + timedelta(days=9))
    return clock


@dataclass
class Scorer:
    """Answers as the live scorer does, from VALUES; keeps the requests and the times of the clock."""

    clock: FileClock
    spoil: Callable[[dict[str, Any], int], None] = lambda answer, nth: None
    status: int = 200
    asked: list[dict[str, Any]] = field(default_factory=list)
    clocks: list[int] = field(default_factory=list)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        self.clocks.append(self.clock())
        ranked = [
            {
                "item": item,
                "position": position,
                "score": 0.5,
                "features": {
                    name: _written(np.float32(value))
                    for name, value in zip(("one", "two"), VALUES[item["video_id"]], strict=True)
                },
            }
            for position, item in enumerate(request["candidates"])
        ]
        answer = {"ranked": ranked[::-1], "services": {"history": {"status": "ok"}}}
        self.spoil(answer, len(self.asked))
        return answer


def _written(value: np.float32) -> float | str | None:
    if np.isnan(value):
        return None
    return float(value) if np.isfinite(value) else "Infinity"


@contextmanager
def _running(scorer: Scorer) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            text = json.dumps(scorer.answer(json.loads(body))).encode()
            self.send_response(scorer.status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def _replay(features: FeatureSet, scorer: Scorer, requests: int = 100) -> Any:
    with _running(scorer) as url:
        return replay_requests(features, scorer.clock, url, requests, 1, lambda done, of: None)


def test_equal_bits_are_no_mismatch_nor_are_two_nans(features: FeatureSet, clock: FileClock) -> None:
    found = _replay(features, Scorer(clock))
    assert (found.requests, found.values, found.mismatches, found.examples) == (5, 30, 0, [])


def test_the_clock_stands_at_each_rows_own_snapshot_and_its_time_is_asked_for(
    features: FeatureSet, clock: FileClock
) -> None:
    scorer = Scorer(clock)
    found = _replay(features, scorer)
    micros = {int(moment.timestamp()) * 1_000_000 for moment in (NOON, NOON + timedelta(days=1))}
    assert set(scorer.clocks) == micros
    assert found.moments == 2
    for request, now in zip(scorer.asked, scorer.clocks, strict=True):
        assert now < datetime.fromisoformat(request["time"]).timestamp() * 1e6
        assert request["explain"] is True
        assert set(request["context"]) == {"profile_id"}
    assert sorted(request["context"]["profile_id"] for request in scorer.asked) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("position", "feature", "value"),
    [
        (0, "one", struct.unpack("f", struct.pack("I", 0x3DCCCCCE))[0]),  # the next float32 after 0.1
        (1, "one", 0.0),  # not −0.0
        (0, "two", 0.0),  # known, where offline it is not
        (2, "one", None),  # not known, where offline it is
        (2, "two", 16777218.0),
    ],
)
def test_a_single_bit_is_found_and_told(
    features: FeatureSet, clock: FileClock, position: int, feature: str, value: float | None
) -> None:
    def spoil(answer: dict[str, Any], nth: int) -> None:
        if nth == 2:
            entry = next(entry for entry in answer["ranked"] if entry["position"] == position)
            entry["features"][feature] = value

    found = _replay(features, Scorer(clock, spoil))
    assert found.mismatches == 1
    assert len(found.examples) == 1
    assert found.examples[0].startswith(f"{feature} of ")


def test_a_service_that_did_not_answer_is_asked_again(features: FeatureSet, clock: FileClock) -> None:
    def spoil(answer: dict[str, Any], nth: int) -> None:
        if nth == 1:
            answer["services"]["history"]["status"] = "timeout"
            for entry in answer["ranked"]:
                entry["features"] = {"one": None, "two": None}

    scorer = Scorer(clock, spoil)
    found = _replay(features, scorer)
    assert (found.requests, found.mismatches, len(scorer.asked)) == (5, 0, 6)


def test_a_service_that_never_answers_counts_as_difference(features: FeatureSet, clock: FileClock) -> None:
    def spoil(answer: dict[str, Any], nth: int) -> None:
        answer["services"]["history"]["status"] = "timeout"
        for entry in answer["ranked"]:
            entry["features"]["two"] = None

    assert _replay(features, Scorer(clock, spoil)).mismatches == 5 * 2


def test_fewer_requests_are_drawn_by_seed(features: FeatureSet, clock: FileClock) -> None:
    one, same = Scorer(clock), Scorer(clock)
    _replay(features, one, requests=3)
    _replay(features, same, requests=3)
    assert one.asked == same.asked
    assert len(one.asked) == 3


TASKS = TaskSet(
    (Task("home", ("profile_id",), ("video_id",)), Task("similar", ("seed_id",), ("video_id",))),
    sentinels={"profile_id": -1, "seed_id": -1},
)
KEYS = {"history": ["profile_id"], "list": ["seed_id"]}


@pytest.fixture
def of_tasks(features: FeatureSet) -> FeatureSet:
    """The same rows: four of the one task, two of the other, each with nothing of the other's service."""
    home = [True, True, False, True, True, False]
    rows = DeltaTable(features.uri).to_pyarrow_table()
    columns = {
        "task_type": pa.array(["home" if each else "similar" for each in home]),
        "profile_id": pa.array([i if each else -1 for i, each in enumerate(home)], pa.int64()),
        "seed_id": pa.array([-1 if each else i for i, each in enumerate(home)], pa.int64()),
        "history_captured_at": pa.array([NOON if each else None for each in home], TIME),
        "list_captured_at": pa.array([None if each else NOON for each in home], TIME),
    }
    for name, values in columns.items():
        rows = rows.drop_columns(name) if name in rows.column_names else rows
        rows = rows.append_column(name, values)
    write_deltalake(features.uri, rows, mode="overwrite", schema_mode="overwrite")
    return replace(features, version=1, context=("profile_id", "seed_id", "task_type"))


def _replay_tasks(features: FeatureSet, scorer: Scorer, requests: int) -> Any:
    with _running(scorer) as url:
        recorded = RecordedTasks(TASKS, KEYS)
        return replay_requests(features, scorer.clock, url, requests, 1, lambda done, of: None, recorded)


def test_each_task_is_replayed_with_its_own_variables_and_services(of_tasks: FeatureSet, clock: FileClock) -> None:
    scorer = Scorer(clock)
    found = _replay_tasks(of_tasks, scorer, 100)
    assert (found.requests, found.mismatches, found.tasks) == (6, 0, {"home": 4, "similar": 2})
    asked = {(request["task"], *request["context"].items()) for request in scorer.asked}
    assert asked == {
        *(("home", ("profile_id", i)) for i in (0, 1, 3, 4)),
        *(("similar", ("seed_id", i)) for i in (2, 5)),
    }


def test_tasks_have_equal_shares_of_the_requests(of_tasks: FeatureSet, clock: FileClock) -> None:
    assert _replay_tasks(of_tasks, Scorer(clock), 4).tasks == {"home": 2, "similar": 2}


def test_a_difference_in_one_task_is_named_with_its_own_context(of_tasks: FeatureSet, clock: FileClock) -> None:
    def spoil(answer: dict[str, Any], nth: int) -> None:
        answer["ranked"][0]["features"]["one"] = 0.25

    found = _replay_tasks(of_tasks, Scorer(clock, spoil), 2)
    assert found.mismatches == 2
    assert sorted("seed_id" in example for example in found.examples) == [False, True]


def test_a_scorer_that_fails_or_answers_something_else_is_one_clear_error(
    features: FeatureSet, clock: FileClock
) -> None:
    with pytest.raises(ServiceError, match="answered 500"):
        _replay(features, Scorer(clock, status=500))
    with pytest.raises(ServiceError, match="other candidates"):
        _replay(features, Scorer(clock, lambda answer, nth: answer["ranked"].pop()))
    with pytest.raises(ServiceError, match="does not answer"):
        replay_requests(features, clock, "http://127.0.0.1:1", 1, 1, lambda done, of: None)
