"""Pictures of an evaluation are well-formed SVG with what they are about as text."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from delorean.display.drawings import interval_svg
from delorean.display.html import to_html
from delorean.display.parts import IntervalMark, Table
from delorean.display.plots import intervals, learning_curve, reliability
from delorean.display.text import renderables
from delorean.evaluation.calibration import CalibrationBin
from delorean.evaluation.estimate import Estimate

SURE, FEW, NONE = Estimate(0.5, 0.4, 0.7, 100), Estimate(0.25, None, None, 3), Estimate(None, None, None, 0)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def test_groups_are_drawn_with_their_names_and_those_without_a_value_left_out() -> None:
    drawn = intervals("by country", {"<US>": SURE, "DE": FEW, "FR": NONE}, "NDCG@10")
    assert {"<US>", "DE", "NDCG@10"} <= set(texts(drawn))
    assert "FR" not in texts(drawn)


def test_nothing_to_draw_is_drawn_empty() -> None:
    assert "<svg" in intervals("by country", {"FR": NONE}, "NDCG@10")
    assert "<svg" in reliability("calibration", [])
    assert "<svg" in learning_curve("curve", [10], [NONE], "NDCG@10")


def test_reliability_and_learning_curve_name_their_axes() -> None:
    drawn = reliability("calibration", [CalibrationBin(10, 0.4, SURE), CalibrationBin(3, 0.1, FEW)])
    assert {"mean score", "share of positives"} <= set(texts(drawn))
    curve = learning_curve("curve", [10, 50], [FEW, SURE], "NDCG@10")
    assert {"contexts learned from", "NDCG@10"} <= set(texts(curve))


@pytest.mark.parametrize(
    ("mark", "text"),
    [
        (IntervalMark(0.5, 0.25, 0.75, 0.0, 1.0), " " * 5 + "─────●─────" + " " * 5),
        (IntervalMark(1.0, None, None, 0.0, 1.0), " " * 20 + "●"),
        (IntervalMark(0.3, 0.3, 0.3, 0.3, 0.3), " " * 10 + "●" + " " * 10),
    ],
)
def test_an_interval_is_a_dot_on_a_line_in_text_and_in_html(mark: IntervalMark, text: str) -> None:
    rendered = renderables(Table([{"interval": mark}]))
    assert [str(cell) for cell in rendered[0].columns[0].cells] == [text]
    svg = ElementTree.fromstring(interval_svg(mark))
    assert svg.find("circle") is not None
    assert "dl-interval" in to_html({"marks": [{"interval": mark}]})


def test_a_scale_that_contains_zero_shows_where_it_is() -> None:
    assert "dl-zero" in interval_svg(IntervalMark(0.1, -0.1, 0.3, -0.2, 0.4))
    assert "dl-zero" not in interval_svg(IntervalMark(0.1, 0.05, 0.3, 0.0, 0.4))
