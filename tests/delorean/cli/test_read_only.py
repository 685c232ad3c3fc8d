"""In a project that may only be read, as in a restricted container, each command that only reads works."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from project_at_rest import Project

from delorean import open_project
from delorean.cli.commands import cli

NOBODY = 65_534
AT = "2099-01-01T00:00:00Z"
READING = [
    ("index", "runs"),
    ("index", "globals", "p"),
    ("index", "contexts"),
    ("index", "features"),
    ("index", "quality"),
    ("index", "withdrawals"),
    ("index", "init"),
    ("travel", "p", "--at", AT),
    ("travel", "history", "--at", AT),
    ("travel", "coverage"),
    ("experiment", "list"),
    ("vacuum", "--dry-run"),
    ("publish", "p", "p.parquet", "--version-id", "v1"),  # which is there
]


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words))


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:  # pytest's own folders are closed to other users
        folder = Path(made) / "project"
        folder.mkdir()
        Path(made).chmod(0o755)
        (folder / "delorean.toml").write_text('storage = "store"\nindex = "index.db"\n')
        monkeypatch.chdir(folder)
        with open_project(folder) as opened:
            at_rest = Project(opened.storage, opened.index)
            at_rest.history([((1,), 5, [{"video_id": 1, "minutes": 2.0}])], "r0")
        pq.write_table(pa.table({"id": [1]}), "p.parquet")
        assert run("publish", "p", "p.parquet", "--version-id", "v1").exit_code == 0
        yield folder


@contextmanager
def only_reading(folder: Path) -> Iterator[None]:
    """Be somebody who may read all of a folder and write nothing; the modes say nothing to root."""
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
    for path in modes:
        path.chmod(0o555 if path.is_dir() else 0o444)
    root = os.geteuid() == 0
    try:
        if root:
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
        yield
    finally:
        if root:
            os.seteuid(0)
            os.setegid(0)
        for path, mode in modes.items():
            path.chmod(mode)


def test_each_command_that_only_reads_says_the_same_where_nothing_can_be_written(project: Path) -> None:
    before = {words: run(*words, "--json").output for words in READING}
    assert not [message for message in before.values() if "error" in message.lower()]
    with only_reading(project):
        assert {words: run(*words, "--json").output for words in READING} == before


def test_a_command_that_writes_says_plainly_that_it_may_not(project: Path) -> None:
    with only_reading(project):
        withdrawn = run("index", "withdraw", "run", "r0", "--reason", "x")
        published = run("publish", "p", "p.parquet", "--version-id", "v2")
    assert withdrawn.exit_code == published.exit_code == 1
    assert "index.db is read-only for this process: it may not write" in withdrawn.output
    assert "Permission denied → give this user access" in published.output
