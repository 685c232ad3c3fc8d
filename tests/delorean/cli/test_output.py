import io
import json
import math
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delorean.cli.output import Output
from delorean.display.formats import escape
from schemas.plain_text import plain_text
from schemas.services import Status
from schemas.strict_json import json_text

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


def strictly(text):
    def refuse(name):
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        (-math.inf, None),
        (np.float32("nan"), None),
        (np.float64(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.array([1.0, np.nan]), [1.0, None]),
        (np.datetime64("2026-01-05T00:00:00", "us"), "2026-01-05T00:00:00"),
        (pa.scalar([1.5, math.inf]), [1.5, None]),
        (pa.array([1, None]), [1, None]),
        (Decimal("1.10"), "1.10"),
        (timedelta(hours=1), "1:00:00"),
        (b"\x01", "01"),
        ({1: {None: math.nan, Status.OK: (2,)}}, {"1": {"null": None, "ok": [2]}}),
        ({"a"}, ["a"]),
        (Path("/a"), "/a"),
        ("half \ud800", "half ?"),
    ],
)
def test_json_is_strict_whatever_is_in_it(value, expected, capsys):
    Output(as_json=True).show({"value": value, "rows": [{"deep": [value]}]})
    found = strictly(capsys.readouterr().out)
    assert found == {"value": expected, "rows": [{"deep": [expected]}]}


@given(st.recursive(st.none() | st.floats() | st.text() | st.integers(), lambda inner: st.lists(inner)))
def test_any_nesting_is_strict_json(value):
    strictly(json_text(value))


def test_json_is_written_to_a_stream_that_takes_only_ascii(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    Output(as_json=True).show({"name": "ü → 日本"})
    stream.flush()
    assert json.loads(stream.buffer.getvalue()) == {"name": "ü → 日本"}


@pytest.mark.parametrize(
    "name", ["a[/b]", "[/]", "[red]", "a[b", "\\[x]", "[link=http://x]y[/link]", "a\x1b[31mb", ":smile:"]
)
def test_no_name_of_a_column_or_field_is_markup(name, capsys):
    Output(as_json=False).show({name: 1, f"{name} rows": [{name: 1, "x": [name]}], f"{name} none": []})
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert shown.count(name.replace("\x1b", "\\x1b")) == 5


@given(st.text())
def test_text_from_data_controls_neither_a_terminal_nor_a_page(text):
    shown = plain_text(text)
    assert all(letter in "\n\t" or (ord(letter) >= 32 and not 0x7F <= ord(letter) < 0xA0) for letter in shown)
    shown.encode()
    assert not set(escape(text)) & set("<>\"'")
