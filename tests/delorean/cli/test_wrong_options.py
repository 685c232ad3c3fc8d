"""Options that no command can use are refused as such, before anything is started or written."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from delorean.cli.commands import cli


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "delorean.toml").write_text("")
    return tmp_path


@pytest.mark.parametrize("budget", ["nan", "inf", "1e300", "0", "-1", "soon"])
@pytest.mark.parametrize("command", [["snapshot", "--date", "2026-01-05"], ["serve", "package"]])
def test_a_budget_that_is_no_time_is_refused(folder, command, budget):
    ran = CliRunner().invoke(cli, [*command, "--budget", budget])
    assert ran.exit_code == 2
    assert "Invalid value for '--budget'" in ran.stderr
    assert [path.name for path in Path(folder).iterdir()] == ["delorean.toml"]


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-05:00", "0001-01-01T00:00:00+05:00"])
def test_a_moment_that_utc_cannot_name_is_refused(folder, moment):
    ran = CliRunner().invoke(cli, ["travel", "history", "--at", moment])
    assert (ran.exit_code, "is outside the years 1 to 9999 in UTC" in ran.stderr) == (2, True)


@pytest.mark.parametrize("span", ["P999999999D", "P40000D"])
def test_a_span_that_reaches_before_all_times_is_refused(folder, span):
    ran = CliRunner().invoke(cli, ["vacuum", "--older-than", span])
    assert (ran.exit_code, "is longer than 100 years" in ran.stderr) == (2, True)


def test_a_snapshot_without_contexts_starts_no_spark(folder, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    ran = CliRunner().invoke(cli, ["snapshot", "--date", "2026-01-05"])
    assert (ran.exit_code, "no context set of 2026-01-05" in ran.stderr) == (1, True)
