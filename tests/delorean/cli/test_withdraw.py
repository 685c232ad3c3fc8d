"""What is wrong is withdrawn with a reason, and one broken record hides no other, at the command line."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from project_at_rest import Project

from delorean import open_project
from delorean.cli.commands import cli
from delorean.display.text import to_text

Run = Callable[..., Result]
AT = "2099-01-01T00:00:00Z"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Commands in a project with three snapshot runs and three versions of a global element."""
    (tmp_path / "delorean.toml").write_text('storage = "store"\nindex = "index.db"\n')
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Result:
        return CliRunner().invoke(cli, list(words))

    with open_project(tmp_path) as project:
        at_rest = Project(project.storage, project.index)
        for number in range(3):
            at_rest.history([((1,), 5 + number, [{"video_id": number, "minutes": 2.0}])], f"r{number}")
    for number in range(3):
        pq.write_table(pa.table({"id": [1], "n": [number]}), "p.parquet")
        since = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)).isoformat()
        words = ("p", "p.parquet", "--version-id", f"v{number}", "--valid-from", since)
        assert run("publish", *words).exit_code == 0
    return run


def shown(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def break_records(where: dict[str, str]) -> None:
    with closing(sqlite3.connect("index.db")) as connection:
        for table, condition in where.items():
            connection.execute(f"UPDATE {table} SET record = '{{' WHERE {condition}")
        connection.commit()


def test_a_withdrawn_version_is_told_with_its_reason_and_not_seen(run: Run) -> None:
    words = ("index", "withdraw", "global", "p", "v2", "--reason", "half of it", "--by", "ann", "--json")
    assert shown(run(*words)) == {
        "withdrawn": "version 'v2' of global element 'p'",
        "by": "ann",
        "reason": "half of it",
        "new": True,
    }
    assert shown(run(*words))["new"] is False
    assert shown(run("travel", "p", "--at", AT, "--json"))["rows"] == [{"id": 1, "n": 1}]
    listed = shown(run("index", "globals", "p", "--json"))
    assert [row["version"] for row in listed["versions"]] == ["v1", "v0"]
    assert [(row["id"], row["by"], row["reason"]) for row in listed["withdrawn"]] == [("v2", "ann", "half of it")]
    (row,) = shown(run("index", "withdrawals", "--json"))["withdrawals"]
    assert (row["kind"], row["element"], row["id"]) == ("global", "p", "v2")
    again = run("publish", "p", "p.parquet", "--version-id", "v2")
    assert again.exit_code == 2
    assert "version 'v2' of global element 'p' was withdrawn" in again.output
    assert "half of it → publish it again under another id" in again.output
    assert shown(run("publish", "p", "p.parquet", "--version-id", "v3", "--json"))["new"] is True


def test_a_withdrawn_run_is_told_and_its_files_go_with_the_next_vacuum(run: Run, tmp_path: Path) -> None:
    done = run("index", "withdraw", "run", "r1", "--reason", "asked the staging service", "--json")
    assert shown(done)["by"]
    listed = shown(run("index", "runs", "--json"))
    assert [row["run"] for row in listed["runs"]] == ["r2", "r0"]
    assert [row["id"] for row in listed["withdrawn"]] == ["r1"]
    assert [row["run"] for row in shown(run("index", "runs", "--limit", "1", "--json"))["runs"]] == ["r2"]
    with open_project(tmp_path) as project:
        assert list(project.snapshots) == ["r2", "r0"]
        assert "2" in repr(project.snapshots)
    unknown = run("index", "withdraw", "run", "r9", "--reason", "x")
    assert (unknown.exit_code, "no run 'r9' is published" in unknown.output) == (1, True)
    assert run("index", "withdraw", "run", "r0", "--reason", " ").exit_code == 2
    assert run("index", "withdraw", "run", "r0").exit_code == 2


def test_what_cannot_be_read_is_named_and_hides_nothing_until_it_is_withdrawn(run: Run, tmp_path: Path) -> None:
    break_records({"snapshots": "run_id = 'r1'", "global_versions": "version_id = 'v2'"})
    runs = shown(run("index", "runs", "--json"))
    assert [row["run"] for row in runs["runs"]] == ["r2", "r0"]
    assert [row["id"] for row in runs["unreadable"]] == ["r1"]
    assert "→ withdraw it: delorean index withdraw run r1" in runs["unreadable"][0]["problem"]
    versions = shown(run("index", "globals", "p", "--json"))
    assert [row["version"] for row in versions["versions"]] == ["v1", "v0"]
    assert [row["id"] for row in versions["unreadable"]] == ["v2"]
    assert shown(run("travel", "p", "--at", "2026-01-02T12:00:00Z", "--json"))["rows"] == [{"id": 1, "n": 1}]
    assert shown(run("publish", "p", "p.parquet", "--version-id", "v3", "--if-changed", "--json"))["new"] is True
    assert run("index", "quality").exit_code == 0
    assert "were kept" in run("vacuum", "--dry-run").output
    blocked = run("travel", "p", "--at", "2026-01-03T12:00:00Z")
    assert blocked.exit_code == 1
    assert "delorean index withdraw global p v2" in blocked.output
    with open_project(tmp_path) as project:
        assert "3" in repr(project.snapshots)
        assert "r1" in to_text(project)
        then = project.machine.at("2026-01-03T12:00:00Z")
        assert "p" in then.keys()  # noqa: SIM118  # no mapping
        assert "delorean index withdraw global p v2" in to_text(then)
        assert "valid from" in to_text(project.machine)
    for words in (("run", "r1"), ("global", "p", "v2")):
        assert run("index", "withdraw", *words, "--reason", "cannot be read").exit_code == 0
    assert shown(run("travel", "p", "--at", "2026-01-03T12:00:00Z", "--json"))["rows"] == [{"id": 1, "n": 1}]
    assert "were kept" not in run("vacuum", "--dry-run").output


def test_a_broken_record_of_an_experiment_is_named_and_hides_no_other(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "store/experiments/3f2a91c04b7e"
    folder.mkdir(parents=True)
    (folder / "3f2a91c04b7e-1.json").write_bytes(b"\xff{")
    (folder / "3f2a91c04b7e-2.json").write_text("[" * 100_000)
    listed = shown(run("experiment", "list", "--json"))
    assert listed["runs"] == []
    assert sorted(Path(row["path"]).name for row in listed["broken"]) == [
        "3f2a91c04b7e-1.json",
        "3f2a91c04b7e-2.json",
    ]
    assert run("experiment", "list").exit_code == run("index", "features").exit_code == 0
    named = run("experiment", "show", "3f2a91c04b7e-1")
    assert "record experiments/3f2a91c04b7e/3f2a91c04b7e-1.json cannot be read" in named.output
    assert "delete it: delorean experiment forget 3f2a91c04b7e-1" in named.output
    with open_project(tmp_path) as project:
        assert repr(project.runs) == "runs: 2"  # names are listed, and no record is read
        assert "runs" in to_text(project)
    assert run("vacuum").exit_code == 0
    for number in (1, 2):
        assert run("experiment", "forget", f"3f2a91c04b7e-{number}").exit_code == 0
    assert shown(run("experiment", "list", "--json")) == {"runs": []}
