"""Descriptions by type: as HTML, text and JSON; nothing planted in data gets out of any of them."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delorean.display.description import DESCRIBED, describe, describes, is_described
from delorean.display.formats import value_text
from delorean.display.html import part_html, to_html, to_page
from delorean.display.parts import (
    MOST_ROWS,
    Code,
    Facts,
    Graph,
    GraphNode,
    HeatCell,
    HeatMap,
    Histogram,
    Note,
    ShareBar,
    Table,
)
from delorean.display.text import show, to_text
from schemas.data_keys import context_variable
from schemas.errors import ConfigError
from snapshotter.records import ContextGroup, ContextSet, FailedExperiment, SelectedExperiment, SnapshotRun

PLANTED = '<script>alert("x")</script>'
VOID = {"path", "rect", "meta", "br"}


class Balance(HTMLParser):
    """Refuses elements that are not closed in order, and keeps the names of those it met."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attrs):
        self.seen |= {tag, *(name for name, _ in attrs if name != "class")}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def tags_of(html):
    balance = Balance()
    balance.feed(html)
    assert not balance.open
    return balance.seen


@dataclass(frozen=True)
class Thing:
    name: str
    parts: tuple[Any, ...] = ()
    breaks: bool = False

    def __repr__(self):
        return f"thing {self.name}: is shown"


@describes(Thing, lambda thing: {"name": thing.name})
def parts_of_a_thing(thing):
    yield from thing.parts
    if thing.breaks:
        raise ConfigError.because("its file is gone", "restore it")
    yield Note("the end")


def everything(text):
    return Thing(
        text,
        (
            Facts({text: text, "code": Code(text)}),
            Note(text, strong=True),
            Table(
                [{text: text, "share": ShareBar(0.5), "nested": {text: [text]}, "histogram": Histogram([1, 2], text)}],
                text,
            ),
            HeatMap(text, [text], {(text, text): {text: HeatCell(0.5, text, text)}}),
            HeatMap(text, [f"{text}{n}" for n in range(40)], {(text, None): {f"{text}1": HeatCell(0.5, tooltip=text)}}),
            Graph([(text, [GraphNode("a", text, text)]), (text, [GraphNode("b", text, text, "code")])], [("a", "b")]),
        ),
    )


@pytest.mark.parametrize(("place", "area"), DESCRIBED.items(), ids=lambda each: each[1] if len(each) == 2 else each)
def test_every_type_that_is_named_exists_and_is_described_by_the_module_that_is_named(place, area):
    module, name = place
    described = getattr(import_module(module), name)
    assert described.__module__ == module
    import_module(f"delorean.display.descriptions.{area}")
    assert described in describe.registry


def test_a_thing_of_another_type_is_shown_by_its_repr():
    assert not is_described(3)
    assert to_text(3) == "3"
    assert to_text([Thing("it")]) == "[thing it: is shown]"


@given(st.text(alphabet=st.sampled_from("<>&\"'/abc \n"), min_size=1, max_size=12))
def test_no_text_changes_what_html_is_made_of(text):
    assert tags_of(to_html(everything(text))) == tags_of(to_html(everything("plain")))


def test_what_is_planted_in_data_is_shown_as_text():
    html = to_html(everything(PLANTED))
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert PLANTED in to_text(everything(PLANTED))


def test_show_prints_all_of_a_thing_of_which_repr_is_the_first_line(capsys):
    thing = Thing("it", (Facts({"rows": 1_234}),))
    show(thing)
    assert capsys.readouterr().out == "thing it: is shown\n\nrows  1,234\n\nthe end\n"
    assert to_text(thing).splitlines()[0] == repr(thing)


def test_what_cannot_be_shown_is_reported_instead_of_raised():
    thing = Thing("it", (Note("first"),), breaks=True)
    for text in (to_text(thing), to_html(thing)):
        assert "first" in text
        assert "the rest cannot be shown: its file is gone → restore it" in text


def test_long_tables_and_values_are_cut_and_say_so():
    rows = [{"number": n, "text": "x" * 5_000} for n in range(500)]
    table = Thing("it", (Table(rows),))
    for drawn in (part_html(Table(rows)), to_text(table)):
        assert f"… and {500 - MOST_ROWS:,} more" in drawn
        assert len(drawn) < 12_000
    assert to_text(Thing("it", (Table(rows, most=None),))).count("x…") == 500
    assert len(part_html(Facts({"value": "y" * 100_000}))) < 500


def test_empty_parts_are_rendered():
    assert part_html(Table([])) == ""
    empty = Table([{"a": ShareBar(None), "b": Histogram(()), "c": Histogram((0, 0)), "d": "d"}])
    thing = Thing("it", (Table([]), Facts({}), HeatMap("", [], {}), Graph([], []), empty))
    assert tags_of(to_html(thing))
    assert to_text(thing).splitlines()[-3:] == ["-   -   -   d", "", "the end"]


def test_columns_without_a_value_are_left_out_and_numbers_are_aligned_to_the_right():
    table = Table([{"name": "a", "why": None, "count": 5}, {"name": "b", "why": "", "count": 1_000}])
    assert to_text(Thing("it", (table,))).splitlines()[2:6] == [
        "name   count",
        "────────────",
        "a          5",
        "b      1,000",
    ]
    assert "why" not in part_html(table)
    assert part_html(table).count('class="dl-n"') == 3


def test_values_are_formatted_for_people():
    assert value_text(None) == "-"
    assert value_text(True) == "yes"
    assert value_text(1234567) == "1,234,567"
    assert value_text(0.123456) == "0.1235"
    assert value_text(datetime(2026, 1, 5, 12, tzinfo=UTC)) == "2026-01-05 12:00:00Z"
    assert value_text(["a", "b"]) == "a, b"
    assert value_text({"days": 3}) == '{"days": 3}'


def test_a_page_needs_no_other_file_and_escapes_its_title():
    page = to_page(everything("x"), "<b>")
    assert page.startswith("<!doctype html>")
    assert "<b>" not in page
    assert "<link" not in page


def test_text_has_the_pages_own_colour_so_that_it_is_readable_on_any_ground():
    style = re.search("<style>(.*?)</style>", to_html(Thing("it")), re.DOTALL)[1]
    on_the_page = [rule for rule in style.split("}") if re.search(r"[^-]color: *#", rule)]
    assert all(".dl-heat td" in rule or ".dl-key" in rule for rule in on_the_page)  # which have a ground of their own


def test_a_thing_has_the_document_of_its_type():
    assert describe(Thing("it")).document() == {"name": "it"}
    assert describe(3).document is None


def test_a_document_is_facts_and_tables_and_itself():
    document = {"run": "r1", "rows": [{"a": 1}], "by_name": {"x": {"count": 1}}, "empty": []}
    found = describe(document)
    assert found.document() is document
    assert list(found) == [
        Facts({"run": "r1"}),
        Table([{"a": 1}], "rows", most=None),
        Table([{"": "x", "count": 1}], "by name", most=None),
        Note("empty: none"),
    ]


def test_what_an_experiment_could_not_select_and_what_is_not_applicable_is_shown():
    group = ContextGroup((context_variable("profile_id", "int64"),), (SelectedExperiment("home"),), ())
    failed = (FailedExperiment("search", f"experiment 'search': {PLANTED}", final=False),)
    chosen = ContextSet("set-2", date(2026, 1, 5), (group,), (), failed, 2, "set-1")
    text = to_text(chosen)
    for part in ("set-2", "profile_id: int64", "home", "search selected nothing: experiment 'search'", "set-1"):
        assert part in text
    assert PLANTED not in to_html(chosen)
    document = describe(chosen).document()
    assert (document["revision"], document["failed"][0]["id"]) == (2, "search")

    run = SnapshotRun(
        "r.r2", "set-2", datetime(2026, 1, 5, tzinfo=UTC), (), None, {"history": ("search",), "lists": ()}
    )
    text = to_text(run)
    assert "history: not applicable to search" in text
    assert "lists: no experiment needs it" in text
    assert describe(run).document()["not_applicable"] == {"history": ["search"], "lists": []}
