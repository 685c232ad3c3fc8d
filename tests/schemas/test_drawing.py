"""Small drawings: what they show, in figures, shades and lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.drawing import Cell, Graph, HeatMap, Histogram, Node, Share, bytes_text, colour

DAYS = [f"2026-01-{day:02d}" for day in range(1, 32)]


def heat(columns, shares):
    cells = {day: Cell(share) for day, share in zip(columns, shares, strict=False) if share != "none"}
    return HeatMap("share", columns, {("history", None): cells})


def test_few_columns_of_a_heat_map_have_figures_and_many_are_shades():
    assert heat(DAYS[:3], [1.0, 0.995, "none"]).text().splitlines()[1:] == [
        "        2026-01-01 2026-01-02 2026-01-03",
        "history       100%      99.5%          -",
    ]
    lines = heat(DAYS, [1.0, 0.95, 0.7, 0.2, 0.0, None]).text().splitlines()
    assert lines[-1] == "history █▓▒░·"
    assert "2026-01-01 … 2026-01-31" in lines[-2]
    assert "dl-squares" in heat(DAYS, [1.0]).html()
    assert "dl-squares" not in heat(DAYS[:3], [1.0]).html()


def test_many_columns_are_headed_by_what_differs():
    drawn = heat(DAYS, [1.0]).html()
    assert '<th title="2026-01-01"><span class="dl-up">2026-01-01</span>' in drawn
    assert '<th title="2026-01-02"><span>02</span>' in drawn


def test_a_cell_tells_what_it_is_when_pointed_at():
    drawn = HeatMap("", ["today"], {("history", None): {"today": Cell(0.5, "too old", "1 of 2")}}).html()
    assert 'title="today: 1 of 2"' in drawn
    assert "<small>too old</small>" in drawn


@given(st.floats(0, 1))
def test_every_share_has_a_colour_on_which_dark_ink_can_be_read(share):
    red, green, blue = (int(colour(share)[at : at + 2], 16) for at in (1, 3, 5))
    assert 0.299 * red + 0.587 * green + 0.114 * blue > 140


@pytest.mark.parametrize(("share", "short"), [(0.89, True), (0.9, False)])
def test_a_share_that_falls_short_is_drawn_as_such(share, short):
    assert ("dl-short" in Share(share, enough=0.9).html()) is short


def test_a_histogram_shows_every_value_that_there_is():
    assert Histogram([0, 1, 1_000_000]).text() == " ▁█"
    assert Histogram([0, 1, 1_000_000], "<from>").html().count("<rect") == 2


def test_a_graph_is_drawn_once_for_each_node_and_edge():
    columns = [
        ("state", [Node("h", "history"), Node("v", "videos")]),
        ("encoders", [Node("e", "minutes", kind="code")]),
        ("features", [Node("f", "minutes_watched"), Node("l", "labels")]),
        ("model", [Node("m", "trees")]),
    ]
    edges = [("h", "e"), ("v", "e"), ("e", "f"), ("f", "m"), ("l", "m"), ("x", "e")]
    graph = Graph(columns, edges)
    assert graph.text() == "history, videos → minutes → minutes_watched\nminutes_watched, labels → trees"
    assert graph.html().count("<g ") == 6
    assert graph.html().count("<path ") == 5  # none from what is not there


def test_sizes_are_said_in_their_units():
    assert [bytes_text(size) for size in (0, 1023, 1024, 10**15)] == ["0 B", "1023 B", "1 KiB", "909 TiB"]
