"""The company's files, made once for a stack in which its services are containers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from delorean.demo.folder import CompanyFolder
from delorean.demo.prepare import main, prepare
from delorean.demo.simulation import STARTS_AT
from delorean.demo.world import read_world

SIZE = {"profiles": 10, "videos": 100}
LATER = datetime(2025, 10, 21, 16, tzinfo=UTC)


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_company_is_made_once_and_its_clock_stands_at_the_first_snapshot(tmp_path: Path) -> None:
    at = prepare(tmp_path, days=1, **SIZE)
    layout, made = CompanyFolder(tmp_path), content(tmp_path)
    assert at == read_world(layout.world).snapshot_moment(0) == STARTS_AT.replace(hour=16)
    assert {found.id for found in layout.selection()} == {"homepage", "small_screens"}
    assert layout.experiment().name == "homepage"
    assert prepare(tmp_path, days=2, **SIZE) == at
    assert content(tmp_path) == made


def test_the_clock_alone_is_moved(tmp_path: Path) -> None:
    prepare(tmp_path, days=1, **SIZE)
    before = content(tmp_path)
    assert prepare(tmp_path, **SIZE, at=LATER) == LATER
    assert prepare(tmp_path, **SIZE) == LATER
    after = content(tmp_path)
    assert {path for path in after if after[path] != before[path]} == {tmp_path / "clock"}


def test_a_company_that_was_left_half_made_is_made_again(tmp_path: Path) -> None:
    prepare(tmp_path, days=1, **SIZE)
    whole = content(tmp_path)
    (tmp_path / "clock").unlink()  # what is written last
    (tmp_path / "world" / "plays.parquet").write_bytes(b"half")
    prepare(tmp_path, days=1, **SIZE)
    assert content(tmp_path) == whole


@pytest.mark.parametrize(
    ("given", "problem"),
    [(["/proc/company", "--days", "0"], "too small"), (["{folder}", "--at", "2025-10-21T16:00:00"], "no time zone")],
)
def test_what_cannot_be_made_is_one_line(
    given: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path, days=1, **SIZE)
    assert main([word.format(folder=tmp_path) for word in given]) == 1
    message = capsys.readouterr().err
    assert problem in message
    assert message.count("\n") == 1
