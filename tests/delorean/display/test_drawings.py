"""Drawings: bars, histograms, heat maps and graphs, in figures, shades and lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delorean.display.drawings import colour
from delorean.display.formats import bytes_text
from delorean.display.html import part_html
from delorean.display.parts import Graph, GraphNode, HeatCell, HeatMap, Histogram, ShareBar
from delorean.display.text import cell_text, renderables

DAYS = [f"2026-01-{day:02d}" for day in range(1, 32)]


def text(part):
    from rich.console import Console

    console = Console(width=200, color_system=None)
    with console.capture() as captured:
        for each in renderables(part):
            console.print(each, soft_wrap=True)
    return [line.rstrip() for line in captured.get().splitlines()]


def heat(columns, shares):
    cells = {day: HeatCell(share) for day, share in zip(columns, shares, strict=False) if share != "none"}
    return HeatMap("share", columns, {("history", None): cells})


def test_few_columns_of_a_heat_map_have_figures_and_many_are_shades():
    lines = text(heat(DAYS[:3], [1.0, 0.995, "none"]))
    assert [line.split() for line in lines[-2:]] == [["2026-01-01", "100%"], ["2026-01-02", "99.5%"]]
    lines = text(heat(DAYS, [1.0, 0.95, 0.7, 0.2, 0.0, None]))
    assert lines[-1] == "history █▓▒░·"
    assert "2026-01-01 … 2026-01-31" in lines[-2]
    assert "dl-squares" in part_html(heat(DAYS, [1.0]))
    assert "dl-squares" not in part_html(heat(DAYS[:3], [1.0]))


def test_details_and_groups_of_a_heat_map_are_rows_of_text():
    cells = {("history", "US"): {"today": HeatCell(0.5, "1 h")}, ("mood", "US"): {"today": HeatCell(None)}}
    lines = text(HeatMap("each cell", ["today", "tomorrow"], cells))
    assert lines[0] == "each cell"
    assert lines[-1].split("  ") == ["today", " US", " 50.0% · 1 h", " -"]


def test_many_columns_are_headed_by_what_differs():
    drawn = part_html(heat(DAYS, [1.0]))
    assert '<th title="2026-01-01"><span class="dl-up">2026-01-01</span>' in drawn
    assert '<th title="2026-01-02"><span>02</span>' in drawn


def test_a_cell_is_described_where_the_mouse_points_at_it():
    drawn = part_html(HeatMap("", ["today"], {("history", None): {"today": HeatCell(0.5, "too old", "1 of 2")}}))
    assert 'title="today: 1 of 2"' in drawn
    assert "<small>too old</small>" in drawn


@given(st.floats(0, 1))
def test_every_share_has_a_colour_on_which_dark_text_can_be_read(share):
    red, green, blue = (int(colour(share)[at : at + 2], 16) for at in (1, 3, 5))
    assert 0.299 * red + 0.587 * green + 0.114 * blue > 140


@pytest.mark.parametrize(("share", "short"), [(0.89, True), (0.9, False)])
def test_a_share_that_falls_short_is_drawn_as_such(share, short):
    assert ("dl-short" in part_html(ShareBar(share, enough=0.9))) is short


def test_a_histogram_shows_every_count_above_0():
    assert cell_text(Histogram([0, 1, 1_000_000]), 80) == " ▁█"
    assert part_html(Histogram([0, 1, 1_000_000], "<from>")).count("<rect") == 2


def test_a_graph_is_drawn_once_for_each_node_and_edge():
    columns = [
        ("state", [GraphNode("h", "history"), GraphNode("v", "videos")]),
        ("encoders", [GraphNode("e", "minutes", kind="code")]),
        ("features", [GraphNode("f", "minutes_watched"), GraphNode("l", "labels")]),
        ("model", [GraphNode("m", "trees")]),
    ]
    edges = [("h", "e"), ("v", "e"), ("e", "f"), ("f", "m"), ("l", "m"), ("x", "e")]
    graph = Graph(columns, edges)
    assert text(graph) == ["history, videos → minutes → minutes_watched", "minutes_watched, labels → trees"]
    assert part_html(graph).count("<g ") == 6
    assert part_html(graph).count("<path ") == 5  # none from a node that is missing


def test_sizes_are_in_their_units():
    assert [bytes_text(size) for size in (0, 1023, 1024, 10**15)] == ["0 B", "1023 B", "1 KiB", "909 TiB"]
