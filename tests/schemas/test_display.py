"""Displays: one description, as HTML and as text, that nothing planted in data gets out of."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.display import MOST_ROWS, Code, Displayed, Facts, Headline, Note, Table, framed, value_text
from schemas.drawing import Cell, Graph, HeatMap, Histogram, Node, Share
from schemas.errors import ConfigError

PLANTED = '<script>alert("x")</script>'
VOID = {"path", "rect", "meta", "br"}


class Balance(HTMLParser):
    """Refuses elements that are not closed in order, and keeps what there is."""

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


@dataclass(frozen=True, repr=False)
class Shown(Displayed):
    name: str
    parts: tuple[Any, ...] = ()
    breaks: bool = False

    def _headline(self):
        return Headline("thing", self.name, "is shown")

    def _parts(self):
        yield from self.parts
        if self.breaks:
            raise ConfigError.because("its file is gone", "restore it")
        yield Note("the end")


def everything(text):
    return Shown(
        text,
        (
            Facts({text: text, "code": Code(text)}),
            Note(text, strong=True),
            Table(
                [{text: text, "share": Share(0.5), "nested": {text: [text]}, "histogram": Histogram([1, 2], text)}],
                text,
            ),
            HeatMap(text, [text], {(text, text): {text: Cell(0.5, text, text)}}),
            HeatMap(text, [f"{text}{n}" for n in range(40)], {(text, None): {f"{text}1": Cell(0.5, said=text)}}),
            Graph([(text, [Node("a", text, text)]), (text, [Node("b", text, text, "code")])], [("a", "b")]),
        ),
    )


@given(st.text(alphabet=st.sampled_from("<>&\"'/abc \n"), min_size=1, max_size=12))
def test_no_text_changes_what_a_display_is_made_of(text):
    assert tags_of(everything(text)._repr_html_()) == tags_of(everything("plain")._repr_html_())


def test_what_is_planted_in_data_is_shown_as_text():
    html = everything(PLANTED)._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert PLANTED in str(everything(PLANTED))


def test_a_display_is_a_line_for_repr_and_all_of_it_for_print():
    shown = Shown("it", (Facts({"rows": 1_234}),))
    assert repr(shown) == "thing it: is shown"
    assert str(shown) == "thing it: is shown\n\nrows  1,234\n\nthe end"


def test_what_cannot_be_shown_is_said_instead_of_raised():
    shown = Shown("it", (Note("first"),), breaks=True)
    for text in (str(shown), shown._repr_html_()):
        assert "first" in text
        assert "the rest cannot be shown: its file is gone → restore it" in text


def test_ipython_writes_all_of_a_thing_and_a_line_of_one_among_others():
    from IPython.lib.pretty import pretty

    shown = Shown("it")
    assert pretty(shown) == str(shown)
    assert pretty([shown]) == "[thing it: is shown]"


def test_long_tables_and_values_are_cut_and_say_so():
    rows = [{"number": n, "text": "x" * 5_000} for n in range(5_000)]
    table = Table(rows)
    for drawn in (table.html(), table.text()):
        assert f"… and {5_000 - MOST_ROWS:,} more" in drawn
        assert len(drawn) < 12_000
    assert len(framed(Facts({"value": "y" * 100_000}))) < 8_000


def test_empty_things_are_shown_without_fuss():
    assert Table([]).html() == Table([]).text() == ""
    for part in (Facts({}), HeatMap("", [], {}), Graph([], []), Histogram(()), Histogram((0, 0)), Share(None)):
        assert isinstance(part.html(), str)
        assert isinstance(part.text(), str)


def test_columns_without_a_value_are_left_out_and_numbers_stand_right():
    rows = [{"name": "a", "why": None, "count": 5}, {"name": "b", "why": "", "count": 1_000}]
    assert Table(rows).text() == "name  count\na         5\nb     1,000"
    assert "why" not in Table(rows).html()


def test_values_are_written_for_people():
    assert value_text(None) == "-"
    assert value_text(True) == "yes"
    assert value_text(1234567) == "1,234,567"
    assert value_text(0.123456) == "0.1235"
    assert value_text(datetime(2026, 1, 5, 12, tzinfo=UTC)) == "2026-01-05 12:00:00"
    assert value_text(["a", "b"]) == "a, b"
    assert value_text({"days": 3}) == '{"days": 3}'


def test_text_is_of_the_pages_own_colour_so_that_it_reads_on_any_ground():
    style = re.search("<style>(.*?)</style>", framed(), re.DOTALL)[1]
    on_the_page = [rule for rule in style.split("}") if re.search(r"[^-]color: *#", rule)]
    assert all(".dl-heat td" in rule or ".dl-key" in rule for rule in on_the_page)  # which have a ground of their own
