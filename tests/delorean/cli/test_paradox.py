"""`delorean paradox`: the verdict first, and exit codes that a pipeline can stop at."""

import json
import re

import feature_sets_by_hand as by_hand
import numpy as np
import pytest
from click.testing import CliRunner
from project_at_rest import minutes

from delorean.cli.commands import cli


def run(*arguments):
    result = CliRunner().invoke(cli, ["paradox", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def rows_of(first, result):
    """The rows of tables that begin with a cell, as their cells."""
    return [re.split("  +", line.strip()) for line in result.stdout.splitlines() if line.startswith(first)]


@pytest.fixture
def stored(tmp_path):
    """Writes the honest feature set, changed, and gives its place; no project is around it."""

    def stored(change=lambda rows: None, uri=str(tmp_path / "f")):
        rows, lineage = by_hand.honest()
        change(rows)
        return by_hand.write(uri, rows, lineage)

    return stored


def leaky(rows):
    rng = np.random.default_rng(2)
    for row in rows:
        row["label"] = rng.integers(0, 2, len(row["label"])).astype(float).tolist()
        row["year"] = [1.0 - label for label in row["label"]]


def test_a_clean_feature_set_ends_with_0_and_says_so_first(stored):
    result = run(stored())
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("CLEAN: 10 rules hold in all 40 rows")
    assert "without an index" in result.stdout
    assert rows_of("outcomes come later than the row's time", result) == [
        ["outcomes come later than the row's time", "holds"]
    ]


def test_a_paradox_ends_with_3_and_says_what_and_where(stored):
    result = run(stored(lambda rows: rows[1].update(outcome_at=minutes(81), country="[red]")))
    assert result.exit_code == 3
    assert result.stdout.startswith("PARADOX: 1 of 10 rules are broken")
    finding, rule = rows_of("outcomes come later than the row's time", result)
    assert finding[1:3] == ["the outcome is not later than the row's time", "1"]
    assert finding[3].startswith("profile_id 0, country [red] at 2026-05-01 01:21:00Z")
    assert rule[1] == "BROKEN"


def test_suspicious_features_fail_only_when_asked_to(stored):
    place = stored(leaky)
    result = run(place)
    assert result.exit_code == 0
    assert "suspicious: year puts a positive below a negative" in result.stdout
    assert run(place, "--fail-on-leaks").exit_code == 3
    assert run(place, "--fail-on-leaks", "--auc", 1, "--p-value", 0.001, "--permutations", 2000).exit_code == 3
    assert run(stored(uri=place + "2"), "--fail-on-leaks").exit_code == 0


def test_programs_read_all_of_it(stored):
    result = run(stored(lambda rows: rows[1].update(outcome_at=minutes(81))), "--json")
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert (document["clean"], document["rows"], document["version"]) == (False, 40, 2)
    assert document["leaks"]["thresholds"]["auc"] == 0.95
    assert len(document["checks"]) == 10


def test_a_name_is_looked_up_in_the_projects_storage_and_index(stored, tmp_path):
    stored(uri=str(tmp_path / "data" / "feature_sets" / "homepage"))
    (tmp_path / "delorean.toml").write_text('storage = "data"\nindex = "index.db"\n')
    result = run("homepage", "--config", tmp_path / "delorean.toml", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 3
    assert {finding["what"] for finding in document["findings"]} == {
        "the index has no run that captured history under the id it names",
        "the index has no run that captured mood under the id it names",
        "videos is of a version that the index does not have",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["homepage"], "there is no project file"),
        (["./nothing"], "there is no feature set at ./nothing"),
        (["./nothing", "--auc", "0.2"], "auc is 0.2, expected more than 0.5"),
        (["./nothing", "--p-value", "0.001"], "permutations is 200, expected 1999 or more"),
    ],
)
def test_wrong_arguments_end_with_2_and_say_what_is_expected(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ")


def test_help_says_the_exit_codes():
    assert "with 3 if it is not" in " ".join(run("--help").stdout.split())
