"""What docs/SERVING.md shows is read as it is written, and does what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from exposure_rows import write_exposures

from delorean.ab_tests.files import read_test
from delorean.cli.commands import cli
from delorean.exposures import ExposureLimits
from delorean.exposures.table_format import COLUMNS
from delorean.serving.request import RequestReader
from delorean.serving.request_shape import LONGEST_REQUEST_ID, MOST_CANDIDATES
from delorean.tasks.task_set import TASK_VARIABLE, Task, TaskSet
from schemas.data_keys import context_variable, item
from snapshotter.storage import open_storage

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "SERVING.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
VARIABLES = {"profile_id": "int64", "country": "string", "query": "string", TASK_VARIABLE: "string"}
VIDEO = [item("video_id", "int64")]


def blocks(language: str) -> list[str]:
    return [code for each, code in BLOCKS if each == language]


def test_the_requests_are_read_and_have_the_fields_that_the_page_lists() -> None:
    home = [context_variable(name, VARIABLES[name]) for name in ("profile_id", "country")]
    plain, of_task = (code.encode() for code in blocks("json"))
    request = RequestReader(home, VIDEO).read(plain)
    assert (request.k, request.request_id, len(request.items)) == (2, "a-7f3", 3)
    context = [context_variable(name, type_) for name, type_ in VARIABLES.items()]
    tasks = TaskSet(
        (Task("home", ("profile_id", "country"), ("video_id",)), Task("search", ("query", "country"), ("video_id",))),
        {"profile_id": -1, "query": ""},
    )
    search = RequestReader(context, VIDEO, tasks).read(of_task)
    assert search.context.to_pylist() == [
        {"profile_id": -1, "country": "US", "query": "alien", TASK_VARIABLE: "search"}
    ]
    fields = {*request.shape.body.__struct_fields__}
    listed = {*re.findall(r"^\| `(\w+)` \|", TEXT.partition("## A model of several tasks")[0], re.MULTILINE)}
    assert listed == fields | {"task"}
    assert f"1 to {MOST_CANDIDATES:,} items" in TEXT
    assert f"up to {LONGEST_REQUEST_ID} characters" in TEXT


def test_the_test_is_one_that_can_be_declared(tmp_path: Path) -> None:
    path = tmp_path / "homepage-2.toml"
    path.write_text(blocks("toml")[0])
    test = read_test(path)
    assert [*test.cells] == ["control", "candidate", "explored", "merged"]
    assert test.cells["merged"].interleave == ("control", "candidate")
    assert test.cells["explored"].explore == 0.2
    assert test.allocate(pa.table({"profile_id": range(100)})).max() == 3


def test_the_commands_exist_with_the_options_that_are_shown() -> None:
    commands = [line.split() for code in blocks("sh") for line in code.splitlines()]
    assert {command[1] for command in commands} == {"serve", "exposures"}
    for command in commands:
        shown = CliRunner().invoke(cli, [command[1], "--help"]).output
        assert all(option in shown for option in command if option.startswith("--"))


def test_the_log_s_columns_and_limits_are_those_of_the_page() -> None:
    log = TEXT.partition("## The exposure log")[2]
    cells = re.findall(r"^\| (`[^|]*) \|", log, re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == {*COLUMNS, "context", "items"}
    limits = ExposureLimits()
    assert limits.file_seconds == 300
    assert f"every five minutes, at {limits.file_rows:,} rows" in log
    assert f"({limits.rows:,}\nrows)" in log


def test_the_code_runs_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "delorean.toml").write_text('storage = "storage"\nindex = "index.db"\n')
    write_exposures(open_storage(f"file://{tmp_path}/storage"), range(10), test="homepage-2")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in blocks("python"):
        exec(compile(code, "SERVING.md", "exec"), names)
    names["project"].close()
    assert names["shown"] == {"control": 10, "candidate": 9}
