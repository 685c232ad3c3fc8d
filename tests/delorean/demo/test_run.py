"""The whole demo, small, with real services, proxy, snapshots, scorer: and nothing of it left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from delorean.ab_tests.files import read_test
from delorean.ab_tests.result import Verdict
from delorean.demo.folder import CompanyFolder
from delorean.demo.outcome import DemoResult
from delorean.demo.run import Size, run_demo
from delorean.demo.simulation import STARTS_AT
from delorean.demo.summary import show
from delorean.exposures import read_exposures
from delorean.project.config import load_project
from delorean.time_travel import TimeMachine
from schemas.errors import ConfigError, SetupError
from snapshotter.index import open_index
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import read_parquet

DAYS = 3


@pytest.fixture(scope="module")
def result(demo: DemoResult) -> DemoResult:
    return demo


TASKS = ("homepage", "search", "more_like_this", "notifications")


def _members(result: DemoResult, version: int) -> pa.Table:
    return DeltaTable(str(result.folder / "data" / "feature_sets" / "members"), version=version).to_pyarrow_table()


def test_every_replayed_feature_of_every_task_is_equal_bit_for_bit(result: DemoResult) -> None:
    parity = result.summary["parity"]
    assert parity["tasks"] == dict.fromkeys(TASKS, 15)
    assert (parity["requests"], parity["mismatches"]) == (60, 0)
    assert parity["values"] > 60 * 8 * 20


def test_a_task_is_added_by_configuration_alone_and_the_others_rows_stay(result: DemoResult) -> None:
    before, after = (_members(result, version) for version in (0, 1))
    assert {*before["task_type"].to_pylist()} == {*TASKS[:3]}
    assert {*after["task_type"].to_pylist()} == {*TASKS}
    assert result.summary["tasks"]["added"] == ["notifications"]
    assert result.summary["tasks"]["rows"] == len(after)
    spec = tomllib.loads((result.folder / "members.toml").read_text())
    assert list(spec["tasks"]) == [*TASKS]
    values = [name for name in before.column_names if pa.types.is_floating(_value_type(before.schema.field(name).type))]
    keys = ["task_type", "profile_id", "query", "seed_id", "country", "device", "time"]
    sets = [
        rows.filter(pc.not_equal(rows["task_type"], "notifications")).sort_by([(key, "ascending") for key in keys])
        for rows in (before, after)
    ]
    assert len(values) > 20
    for name in [*keys, *values]:
        one, other = (_bits(rows[name]) for rows in sets)
        assert one == other, name


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_list(kind) else kind


def _bits(column: pa.ChunkedArray) -> bytes:
    """The values as bytes, in which NaN equals itself."""
    flat = pc.list_flatten(column) if pa.types.is_list(column.type) else column
    return repr(flat.to_pylist()).encode() if pa.types.is_string(flat.type) else np.asarray(flat).tobytes()


def test_what_a_task_cannot_have_is_missing_there(result: DemoResult) -> None:
    rows = _members(result, 1)
    known = {
        task: {
            name
            for name in ("minutes_watched", "search_rank", "co_watched_rank", "short_enough_for_device", "popularity")
            if not np.isnan(np.asarray(pc.list_flatten(rows.filter(pc.equal(rows["task_type"], task))[name]))).all()
        }
        for task in TASKS
    }
    assert known == {
        "homepage": {"minutes_watched", "short_enough_for_device", "popularity"},
        "search": {"minutes_watched", "search_rank", "popularity"},
        "more_like_this": {"co_watched_rank", "popularity"},
        "notifications": {"minutes_watched", "popularity"},
    }


def test_each_task_is_compared_with_a_model_of_its_own(result: DemoResult) -> None:
    differences = result.summary["tasks"]["ndcg@10"]
    assert [*differences] == [*TASKS[:3]]
    for value, low, high in differences.values():
        assert low <= value <= high


def test_members_see_the_cell_that_the_test_gives_them_and_all_that_they_see_is_logged(result: DemoResult) -> None:
    storage, test = (
        open_storage(CompanyFolder(result.folder).storage_uri),
        read_test(result.folder / "sharing-test.toml"),
    )
    shown = read_exposures(storage, "sharing").read_all()
    cells = [list(test.cells)[number] for number in test.allocate(pa.Table.from_struct_array(shown["context"]))]
    assert shown["cell"].to_pylist() == cells
    assert {*cells} == {"task_type", "trunk"}
    visits = pq.read_table(result.folder / "world" / "visits.parquet")
    during = pc.and_(pc.greater_equal(visits["outcome_at"], test.start), pc.less(visits["outcome_at"], test.end))
    assert len(shown) == pc.sum(during).as_py() > 200
    merged = read_exposures(storage, "sharing-interleaved").read_all()
    assert {"merged"} <= {*merged["cell"].to_pylist()}
    assert len({*shown["request_id"].to_pylist(), *merged["request_id"].to_pylist()}) == len(shown) + len(merged)


def test_the_analysis_is_of_all_members_and_is_told_beside_the_truth(result: DemoResult) -> None:
    test = result.summary["test"]
    assert test["verdict"] in {verdict.value for verdict in Verdict} - {Verdict.BROKEN.value, Verdict.CONTINUE.value}
    low, high = test["interval"]
    assert low < test["change"] < high
    assert -0.5 < test["truth"] < 0.5
    assert test["members"] > 100


def test_no_row_knows_the_future(result: DemoResult) -> None:
    assert result.summary["paradoxes"] == 0
    rows = DeltaTable(str(result.folder / "data" / "feature_sets" / "homepage")).to_pyarrow_table()
    assert rows.num_rows == result.summary["rows"] > 200
    assert pc.all(pc.less_equal(rows["latest_input_at"], rows["time"])).as_py()
    assert pc.all(pc.less(rows["time"], rows["outcome_at"])).as_py()
    for service in result.summary["confidence"].keys() - {"search_results", "similar_videos"}:
        captured = rows[f"{service}_captured_at"]
        assert captured.null_count == 0
        age = pc.subtract(rows["time"], captured).to_pylist()
        assert timedelta(0) < min(age)
        assert max(age) <= timedelta(days=1)


def test_the_model_beats_popularity_and_shuffled_labels(result: DemoResult) -> None:
    model = result.summary["model"]
    assert model["ndcg@10"] > model["baseline_ndcg@10"]
    assert model["ndcg@10"] > model["shuffled_ndcg@10"]


def test_everything_asked_was_answered_and_counted(result: DemoResult) -> None:
    assert result.summary["snapshots"] == 4 * DAYS + 3 + 1  # the last: of searches
    services = ("my_list", "predicted_ratings", "search_results", "similar_videos", "viewing_history")
    assert result.summary["confidence"] == dict.fromkeys(services, 1.0)
    assert result.summary["features"] >= 12
    assert all(seconds >= 0 for seconds in result.summary["seconds"].values())


def test_the_folder_is_a_project_in_which_one_can_travel(result: DemoResult) -> None:
    project = load_project(result.folder / "delorean.toml")
    moment = STARTS_AT + timedelta(days=1, hours=17)
    with open_index(project.index) as index:
        view = TimeMachine(index, open_storage(project.storage)).at(moment)["my_list"]
        assert view.coverage == 1.0


def test_searches_are_captured_from_the_second_day_on_without_asking_anything_twice(result: DemoResult) -> None:
    project = load_project(result.folder / "delorean.toml")
    day = (STARTS_AT + timedelta(days=1)).date()
    with open_index(project.index) as index:
        first, second = index.context_sets_of(day)
        assert (first.experiments, second.experiments) == (
            ("homepage", "small_screens", "members-more_like_this"),
            ("members-search",),
        )
        runs = [index.run(name) for name in ("day-2", "day-2.r2")]
        keys = []
        for run in runs:
            [history] = [each for each in run.services if each.service.name == "viewing_history"]
            files = [read_parquet(open_storage(project.storage), file, ["profile_id"]) for file in history.files]
            keys.append({key for file in files for key in file["profile_id"].to_pylist()})
            assert len(keys[-1]) == history.asked
    assert not keys[0] & keys[1]
    assert {each.service.name for each in runs[1].services} == {
        "predicted_ratings",
        "search_results",
        "viewing_history",
    }


def test_services_are_never_asked_for_what_a_task_lacks(result: DemoResult) -> None:
    sentinels = {
        "viewing_history": -1,
        "my_list": -1,
        "predicted_ratings": -1,
        "search_results": "",
        "similar_videos": -1,
    }
    for service, sentinel in sentinels.items():
        logs = [*(result.folder / "logs").glob(f"{service}*.log")]
        lines = [line for log in logs for line in log.read_text().splitlines() if line.startswith("{")]
        asked = [key for line in lines for key in json.loads(line)["asked"]]
        assert len(asked) > 20, service
        assert not [key for key in asked if sentinel in key], service


def test_the_report_tells_what_the_summary_says(result: DemoResult) -> None:
    page = result.report.read_text(encoding="utf-8")
    assert f"{result.summary['rows']:,}" in page
    assert f"{result.summary['model']['ndcg@10']:.3f}" in page
    assert "viewing history" in page
    assert "genre_affinity" in page


def test_the_last_line_of_output_is_one_json_object(result: DemoResult, capsys: pytest.CaptureFixture[str]) -> None:
    show(result)
    lines = capsys.readouterr().out.rstrip("\n").split("\n")
    assert json.loads(lines[-1]) == result.summary
    assert lines[-2] == f"Report: {result.report}"
    assert list(result.summary) == [
        *("contexts", "snapshots", "confidence", "rows", "features", "model", "comparison"),
        *("tasks", "test", "parity", "paradoxes", "seconds"),
    ]


def test_nothing_is_left_running(result: DemoResult) -> None:
    assert _ends(lambda: not _of(result.folder))


def test_two_days_are_too_few(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 days are too few"):
        run_demo(tmp_path, days=2)


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="choose another with --output"):
        run_demo(tmp_path / "file", size=Size(profiles=20, videos=100))


def test_a_second_run_leaves_the_first_alone(tmp_path: Path) -> None:
    from delorean.demo.folder import new_folder

    one, other = new_folder(tmp_path, "now"), new_folder(tmp_path, "now")
    assert (one.name, other.name) == ("now", "now-2")


INTERRUPTED = """
import sys
from pathlib import Path
from delorean.demo.run import Size, run_demo
run_demo(Path(sys.argv[1]), size=Size(profiles=100, videos=300))
"""


def test_ctrl_c_in_the_middle_leaves_nothing_running(tmp_path: Path) -> None:
    """The whole process group gets the signal, as from a terminal, while snapshots are taken."""
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as demo:
        try:
            assert _ends(lambda: demo.poll() is not None or any(tmp_path.glob("*/data/snapshots/*/*")), 240)
            started = psutil.Process(demo.pid).children(recursive=True)
            names = " ".join(" ".join(_command(process)) for process in started)
            assert all(part in names for part in ("java", "predicted_ratings", "prana")), names
            assert _of(tmp_path), "what is looked for in the end is there to be found"
            os.killpg(demo.pid, signal.SIGINT)
            output, _ = demo.communicate(timeout=60)
        finally:
            _kill(demo.pid)
    assert demo.returncode != 0
    assert b"KeyboardInterrupt" in output
    assert _ends(lambda: not any(process.is_running() for process in started))
    assert not _of(tmp_path)


def _of(folder: Path) -> list[list[str]]:
    """Give the command lines of processes that belong to a demo's folder."""
    lines = [_command(process) for process in psutil.process_iter()]
    return [line for line in lines if any(str(folder) in part for part in line)]


def _command(process: psutil.Process) -> list[str]:
    try:
        line: list[str] = process.cmdline()
    except psutil.Error:
        line = []
    return line


def _kill(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _ends(condition: Callable[[], Any], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return bool(condition())
