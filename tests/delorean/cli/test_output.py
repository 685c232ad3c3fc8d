import json
from datetime import UTC, date, datetime

from delorean.cli.output import Output
from schemas.services import Status

DOCUMENT = {
    "run": "r1",
    "day": date(2026, 1, 5),
    "nothing": None,
    "share": 0.123456789,
    "names": ["a", "b"],
    "by_name": {"x": {"count": 1}, "y": {"count": 2}},
    "rows": [{"status": Status.OK, "at": datetime(2026, 1, 5, tzinfo=UTC), "nested": [{"a": 1}], "raw": b"\x01"}],
    "empty": [],
}


def test_json_is_one_object_and_nothing_else(capsys):
    Output(as_json=True).show(DOCUMENT)
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert (shown.out.count("\n"), shown.err) == (1, "")
    assert found["rows"] == [{"status": "ok", "at": "2026-01-05T00:00:00+00:00", "nested": [{"a": 1}], "raw": "01"}]
    assert found["day"] == "2026-01-05"
    assert found["share"] == DOCUMENT["share"]


def test_text_shows_fields_and_tables(capsys):
    Output(as_json=False).show(DOCUMENT)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["run", "r1"] in lines
    assert ["share", "0.1235"] in lines
    assert ["names", "a,", "b"] in lines
    assert ["x", "1"] in lines
    assert ["status", "at", "nested", "raw"] in lines
    assert ["ok", "2026-01-05", "00:00:00Z", '[{"a":', "1}]", "01"] in lines
    assert ["empty:", "none"] in lines


def test_text_from_outside_is_never_markup(capsys):
    Output(as_json=False).show({"name": "[red]x[/red]", "rows": [{"name": "[bold]y"}]})
    shown = capsys.readouterr().out
    assert "[red]x[/red]" in shown
    assert "[bold]y" in shown


def test_long_values_are_cut_in_tables_only(capsys):
    Output(as_json=False).show({"long": "x" * 300, "rows": [{"name": "y" * 300}]})
    shown = capsys.readouterr().out.replace("\n", "")
    assert shown.count("x") == 300
    assert shown.count("y") < 100


def test_progress_says_nothing_where_no_terminal_is(capsys):
    with Output(as_json=False).progress() as advance:
        advance("work", 1, 2)
    assert capsys.readouterr() == ("", "")
