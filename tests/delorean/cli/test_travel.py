"""Travelling from the command line: to a moment, and looking at where one could go."""

import json
from datetime import date, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from delorean.cli.commands import cli
from delorean.coverage import day_coverage
from delorean.display.description import describe
from delorean.project.config import load_project
from snapshotter.index import open_index
from snapshotter.storage import open_storage


def say(*arguments, code=0):
    result = CliRunner().invoke(cli, ["travel", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stderr if code else result.stdout


@pytest.fixture
def travel(demo, monkeypatch, tmp_path):
    """Runs `delorean travel …` over the demo's project, of which nothing is changed."""
    monkeypatch.chdir(tmp_path)

    return lambda *arguments, code=0: say(*arguments, "--config", demo.folder / "delorean.toml", code=code)


@pytest.fixture
def opened(demo):
    project = load_project(demo.folder / "delorean.toml")
    with open_index(project.index) as index:
        yield index, open_storage(project.storage)


def test_the_word_show_may_be_left_out_wherever_options_stand(travel, opened):
    moment = opened[0].runs()[-1].services[0].captured_to.isoformat()
    shown = travel("show", "my_list", "--at", moment, "--json")
    assert json.loads(shown)["count"] > 0
    assert travel("my_list", "--at", moment, "--json") == shown
    assert travel("--at", moment, "--json", "my_list") == shown


def test_help_is_of_the_group_and_of_each_of_its_commands():
    assert "KEY --at TIME" in say("--help")
    assert "coverage" in say("-h")
    shown = say("show", "--help")
    assert say("my_list", "--help") == shown
    assert "--limit" in shown
    assert "--max-age" in say("coverage", "-h")


def test_coverage_of_days_is_what_the_api_gives(travel, opened):
    shown = json.loads(
        travel("coverage", "--experiment", "homepage", "--max-age", "PT12H", "--by", "country", "--json")
    )
    found = day_coverage(*opened, experiment="homepage", max_age=timedelta(hours=12), by="country")
    assert shown == describe(found).document()
    services = {"my_list", "predicted_ratings", "search_results", "similar_videos", "viewing_history"}
    assert {cell["service"] for cell in shown["cells"]} == {*services, None}


def test_options_choose_days_services_and_the_time_of_day(travel, opened):
    day = opened[0].context_sets(date.max)[-1].date.isoformat()
    asked = ("coverage", "--from", day, "--to", day, "--service", "my_list", "--at-time-of-day", "00:00", "--json")
    [cell] = json.loads(travel(*asked))["cells"]
    assert (cell["day"], cell["element"]) == (day, "my_list")
    assert cell["found"] == 0  # captured later that day


def test_people_see_a_row_for_each_day_and_group(travel, opened):
    shown = travel("coverage", "--experiment", "homepage", "--by", "country")
    assert "for the contexts of homepage, by country" in shown
    assert shown.count(" US ") >= len(opened[0].context_set_dates())
    days = travel("coverage")
    for day in opened[0].context_set_dates():
        assert day.isoformat() in days
    assert "100% · 1 · " in days


def test_a_picture_is_written_as_one_file(travel, tmp_path):
    travel("coverage", "--html", "coverage.html")
    page = (tmp_path / "coverage.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "viewing_history" in page


@pytest.mark.usefixtures("spark")
def test_a_specs_labels_are_looked_at_before_anything_is_generated(travel, demo):
    def generated():
        return sorted(Path(demo.folder, "data", "feature_sets").rglob("*"))

    before = generated()
    assert before
    shown = json.loads(travel("coverage", "--spec", demo.folder / "homepage.toml", "--json"))
    assert generated() == before
    assert shown["rows"] == shown["complete"] == demo.summary["rows"]
    services = {"viewing_history", "my_list", "predicted_ratings"}
    assert {cell["element"] for cell in shown["elements"]} == {*services, "videos"}
    shown = travel("coverage", "--spec", demo.folder / "homepage.toml")
    assert f"{demo.summary['rows']:,} would find every element" in shown
    assert "captures that serve one row are apart by" in shown


def test_a_spec_brings_its_own_days(travel):
    assert "leave out the options" in travel("coverage", "--spec", "s.toml", "--max-age", "PT1H", code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["coverage", "--max-age", "36h"], "'36h' is not a duration, expected one such as PT36H"),
        (["coverage", "--max-age", "-PT1H"], "'-PT1H' is negative"),
        (["coverage", "--at-time-of-day", "noon"], "'noon' is not a time of day, expected one such as 16:30"),
        (["coverage", "--at-time-of-day", "12:00+02:00"], "is not in UTC"),
        (["coverage", "--from", "monday"], "is not a day"),
    ],
)
def test_a_wrong_option_says_what_is_expected(arguments, message):
    assert message in say(*arguments, code=2)
