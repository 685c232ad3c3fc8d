"""The commands in the order of the work, over a project with a live service."""

import json
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from delorean.cli.commands import cli
from delorean.demo.processes import Processes

DAY, LATER = "2026-01-05", "2099-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def done():
    """What has been done already: each step rests on those before, whichever test is run alone."""
    return {}


@pytest.fixture
def step(run, done):
    def step(name):
        if name not in done:
            arguments, *before = STEPS[name]
            for earlier in before:
                step(earlier)
            done[name] = run(*arguments)
        return done[name]

    return step


STEPS = {
    "select": (["select", "experiments.toml", "--date", DAY],),
    "snapshot": (["snapshot", "--date", DAY], "select"),
    "publish": (
        ["publish", "films", "films.parquet", "--valid-from", "2026-01-05T00:00:00+01:00", "--version-id", "v1"],
    ),
    "generate": (["generate", "home.toml"], "snapshot", "publish"),
    "experiment": (["experiment", "run", "home.toml"], "snapshot", "publish"),
    "train": (["train", "home.toml", "--package", "packages/home"], "generate"),
}


def test_select_reports_each_stratum(step):
    chosen = step("select")
    assert chosen["contexts"] == 120
    assert {row["stratum"]: (row["taken"], row["filled"]) for row in chosen["strata"]} == {
        "BR": (40, False),
        "US": (80, False),
    }


def test_snapshot_reports_each_service_and_publishes_once(step, run):
    taken = step("snapshot")
    assert taken["run"] == DAY
    assert [(row["service"], row["asked"], row["confidence"]) for row in taken["services"]] == [("history", 120, 1.0)]
    assert run("snapshot", "--date", DAY) == taken


def test_publish_says_whether_the_version_is_new(step, run):
    assert step("publish") == {"element": "films", "version": "v1", "rows": 20, "new": True}
    assert run(*STEPS["publish"][0])["new"] is False


def test_index_lists_what_is_published(step, run):
    step("generate")
    assert [(row["run"], row["service"], row["asked"]) for row in run("index", "runs")["runs"]] == [
        (DAY, "history", 120)
    ]
    [chosen] = run("index", "contexts")["context_sets"]
    assert (chosen["date"], chosen["contexts"], chosen["unfilled"]) == (DAY, 120, 2)
    assert run("index", "contexts", "--experiment", "nobody")["context_sets"] == []
    [version] = run("index", "globals", "films")["versions"]
    assert version["valid_from"] == "2026-01-04T23:00:00+00:00"


def test_index_shows_what_snapshots_looked_like(step, run):
    step("snapshot")
    [row] = run("index", "quality")["runs"]
    assert (row["service"], row["run"], row["rows"], row["confidence"], row["unusual"]) == ("history", DAY, 120, 1, [])
    [row] = run("index", "quality", "history")["runs"]
    assert (row["mean_length(value[])"], row["null_share(value[].minutes)"]) == (4.0, 0.0)
    assert "did you mean 'history'" in run("index", "quality", "histroy", code=2)


def test_travel_shows_some_rows_and_writes_all(step, run, folder):
    step("snapshot")
    seen = run("travel", "history", "--at", LATER, "--limit", 2, "--to", "seen.parquet")
    assert (seen["count"], seen["coverage"], len(seen["rows"])) == (120, 1.0, 2)
    assert seen["rows"][0]["history"][0] == {"video_id": 0, "minutes": 30.0}
    assert pq.read_table(folder / "seen.parquet").num_rows == 120


def test_nothing_can_be_seen_before_it_was_captured(step, run):
    step("snapshot")
    error = run("travel", "history", "--at", "2026-01-01T00:00:00Z", code=2)
    assert error.startswith("error: unknown data key at 2026-01-01T00:00:00+00:00 'history'")
    assert error.count("\n") == 1


def test_generate_makes_the_features_of_the_projects_own_encoders(step):
    made = step("generate")
    assert (made["contexts"], made["items"]) == (120, 2400)
    assert made["features"] == ["films", "seen"]
    assert made["rows_without"] == {"history": 0, "films": 0}


def test_train_packages_a_model_that_beats_its_control(step, folder):
    trained = step("train")
    assert trained["test"]["model"]["ndcg@10"] > trained["test"]["shuffled"]["ndcg@10"]
    assert Path(folder, trained["package"], "model.onnx").exists()


def test_train_refuses_features_that_other_encoders_made(step, run, folder):
    step("generate")
    spec = (folder / "home.toml").read_text()
    (folder / "other.toml").write_text('name = "home"\n' + spec.replace("at_least = 10", "at_least = 11"))
    assert "encoders[1].parameters.at_least was 10, is 11 → generate again" in run(
        "train", "other.toml", "--package", "p", code=2
    )


def test_an_experiment_runs_whole_and_is_listed_shown_replayed_and_compared(step, run):
    first = step("experiment")
    assert first["contexts"] == 120
    assert first["test"]["model"]["ndcg@10"] > first["test"]["shuffled"]["ndcg@10"]
    assert first["run"] in [row["run"] for row in run("experiment", "list", "--name", "home")["runs"]]
    shown = run("experiment", "show", first["run"])
    assert shown["snapshots"] == {"history": [DAY]}
    assert shown["spec"]["labels"]["items"] == ["video_id"]
    again = run("experiment", "replay", first["run"], "--buckets", "4", "--cores", "0")
    assert again["identical"] is True
    assert again["differing"] == []
    second = run("experiment", "run", "home.toml")
    difference = run("experiment", "diff", first["run"], second["run"])
    assert difference["same"] is True
    assert "did you mean 'home'" in run("experiment", "show", "hoem", code=2)


def test_generate_records_a_run_that_can_be_replayed(step, run):
    made = step("generate")
    assert run("experiment", "replay", made["run"])["identical"] is True


def test_generate_under_a_run_id_makes_nothing_twice(step, run):
    step("snapshot")
    step("publish")
    made = run("generate", "home.toml", "--run-id", "2026-01-05")
    assert made["run"].endswith("-2026-01-05")
    assert run("generate", "home.toml", "--run-id", "2026-01-05") == made
    assert "cannot name a folder" in run("generate", "home.toml", "--run-id", "../x", code=2)


def test_text_output_has_the_same_content(step, folder, monkeypatch):
    step("snapshot")
    monkeypatch.chdir(folder)
    shown = CliRunner().invoke(cli, ["index", "runs"]).stdout
    assert "history" in shown
    assert DAY in shown
    assert not shown.startswith("{")


def test_a_package_is_served_through_the_live_services(step, folder, monkeypatch):
    step("train")
    monkeypatch.chdir(folder)
    with Processes(folder / "logs") as processes:
        scorer = processes.start("scorer", ["-m", "delorean", "serve", "packages/home", "--port", "0"])
        url = scorer.wait_for(r"ready: POST (\S+)")
        body = {"context": {"profile_id": 7, "country": "US"}, "candidates": list(range(10))}
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            ranked = json.load(answer)
    assert {entry["item"]["video_id"] for entry in ranked["ranked"][:2]} == {3, 8}


def test_prana_serve_says_when_it_is_ready_and_refuses_a_port_in_use(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with Processes(folder / "logs") as processes:
        proxy = processes.start("proxy", ["-m", "delorean", "prana", "serve", "--port", "0"])
        port = proxy.wait_for(r"ready on \S+:(\d+)")
        command = [sys.executable, "-m", "delorean", "prana", "serve", "--port", port]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1  # it may be free the next time
    assert second.stderr.count("\n") == 1
    assert port in second.stderr
    assert second.stderr.startswith("error: ")


MORE = """
[tables]
profiles = { path = "profiles.parquet" }

[experiments.some]
query = "SELECT profile_id, country FROM profiles"
key = ["profile_id", "country"]
fraction = 0.5

[experiments.by_profile]
query = "SELECT profile_id FROM profils"
key = ["profile_id"]
fraction = 1
"""


def test_an_experiment_that_fails_costs_no_other_and_is_added_once_it_is_repaired(run, folder, monkeypatch, caplog):
    monkeypatch.chdir(folder)
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    Path("more.toml").write_text(MORE)
    select = ["select", "more.toml", "--date", today, "--json"]
    partial = CliRunner().invoke(cli, select)
    assert partial.exit_code == 1
    [logged] = caplog.records
    assert (logged.levelname, logged.getMessage()[:52]) == (
        "error",
        "experiment 'by_profile': [TABLE_OR_VIEW_NOT_FOUND] T",
    )
    first = json.loads(partial.stdout)
    assert (first["contexts"], first["revision"], [each["id"] for each in first["failed"]]) == (60, 1, ["by_profile"])
    again = CliRunner().invoke(cli, select)
    assert (again.exit_code, json.loads(again.stdout)) == (1, first)  # what the day has can be captured
    assert "error: experiment 'by_profile': [TABLE_OR_VIEW_NOT_FOUND]" in again.stderr
    taken = run("snapshot", "--date", today)
    assert ([row["asked"] for row in taken["services"]], "revisions" in taken) == ([60], False)

    Path("more.toml").write_text(MORE.replace("profils", "profiles"))
    second = run(*select[:-1])
    assert (second["revision"], second["contexts"], second["failed"]) == (2, 120, [])
    assert run(*select[:-1]) == second
    grown = run("snapshot", "--date", today)
    [later] = grown.pop("revisions")
    assert grown == taken
    assert (later["run"], [row["asked"] for row in later["services"]]) == (f"{today}.r2", [60])
    listed = run("index", "contexts")["context_sets"]
    assert [(row["revision"], row["experiments"]) for row in listed if row["date"] == today] == [
        (2, ["by_profile"]),
        (1, ["some"]),
    ]
    Path("other.toml").write_text(MORE)
    twice = run("select", "more.toml", "other.toml", "--date", today, code=2)
    assert "error: experiment 'some' is in more.toml and in other.toml → rename one" in twice
    run("index", "withdraw", "context-set", today, "--revision", 2, "--reason", "too many")
    assert run("index", "contexts", "--experiment", "by_profile")["context_sets"] == []


def test_a_past_day_that_has_contexts_grows_no_more(step, run, folder, monkeypatch):
    step("select")
    monkeypatch.chdir(folder)
    Path("more.toml").write_text(MORE)
    refused = run("select", "more.toml", "--date", DAY, code=2)
    assert f"error: {DAY} is past, and its contexts were selected without 'some', 'by_profile': services" in refused
