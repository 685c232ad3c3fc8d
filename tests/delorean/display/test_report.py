"""The report: one file that stands alone and says what it was given."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from delorean.display.report import (
    Candidate,
    CellTest,
    Feature,
    Parity,
    ReportData,
    SharedModel,
    render,
    write_report,
)
from snapshotter.records import StratumReport

_VOID = {"meta", "br", "img", "link", "input", "hr"}


def report_data(**changes: Any) -> ReportData:
    rng = np.random.default_rng(1)
    positive = rng.random(400) < 0.1
    known = rng.normal(positive, 1).astype(np.float32)
    sparse = np.where(rng.random(400) < 0.4, np.nan, known).astype(np.float32)
    scores = rng.random(200).astype(np.float32)
    features = [
        Feature("genre_affinity", known, positive),
        Feature("days_in_my_list", sparse, positive),
        Feature("always_one", np.ones(400, np.float32), positive),
        Feature("never_known", np.full(400, np.nan, np.float32), positive),
    ]
    services = ["viewing_history", "my_list", "predicted_ratings"]
    given: dict[str, Any] = {
        "title": "A <generated> company & its features",
        "summary": {
            "contexts": 2940,
            "snapshots": 18,
            "rows": 3012,
            "features": 21,
            "model": {"ndcg@10": 0.523, "baseline_ndcg@10": 0.341, "shuffled_ndcg@10": 0.262},
            "paradoxes": 0,
        },
        "notes": ["Popularity drifts.", "Nothing knows the future."],
        "plays_by_day": {day: 700 + 10 * day for day in range(-45, 7)},
        "snapshot_days": list(range(6)),
        "strata": [
            StratumReport("homepage", "US", 168, 120, 120),
            StratumReport("small_screens", "phone", 210, 105, 105),
        ],
        "confidence": {name: [1.0, 0.9996, 0.98, 1.0, 0.75, 1.0] for name in services},
        "coverage": {name: [1.0, 1.0, 0.99, 1.0, 1.0, 1.0] for name in services},
        "features": features,
        "metrics": {
            "model": {"NDCG@10": 0.523, "MRR": 0.5, "recall@10": 0.8},
            "popularity in training": {"NDCG@10": 0.341, "MRR": 0.33, "recall@10": 0.6},
            "shuffled labels": {"NDCG@10": 0.262, "MRR": 0.26, "recall@10": 0.5},
        },
        "candidate": Candidate({"trials": 8}, {"rounds": 40}, {"verdict": "better <than> before"}, "homepage-2"),
        "sizes": {
            part: {"contexts": 1000, "items": 20000, "positives": 1200} for part in ("train", "validation", "test")
        },
        "importances": {"genre_affinity": 0.11, "in_my_list": 0.05, "plays_7d": -0.002},
        "parity": Parity(240, 100_800, 0, (), {"homepage": 120, "more_like_this": 120}, scores, scores),
        "shared": SharedModel(
            {"shares": "60 % homepages"},
            {"outcome": "gains"},
            {"rounds": 12},
            ["notifications"],
            {"rows": 4},
            {"rounds": 9},
            ["16 copied"],
        ),
        "test": CellTest({"verdict": "no <difference>"}, {"wins": 0.52}, 1560, {"task_type": 0.64, "trunk": 0.62}),
        "seconds": {"world": 2.0, "snapshot": 21.5},
    }
    return ReportData(**{**given, **changes})


@pytest.fixture(scope="module")
def page() -> str:
    return render(report_data())


class _Balance(HTMLParser):
    """Checks that every element that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(page: str) -> None:
    balance = _Balance()
    balance.feed(page)
    assert balance.open == []
    assert "<script" not in page
    sources = re.findall(r"""(?:src|(?<!xlink:)href)\s*=\s*["']([^"'#][^"']*)""", page)
    assert sources == [], "no image, style, font or page from elsewhere"
    assert not re.search(r"@import|url\((?!#)", page)


def test_what_people_wrote_is_text_and_no_markup(page: str) -> None:
    assert "A &lt;generated&gt; company &amp; its features" in page
    assert "<generated>" not in page


def test_each_plot_is_an_image_with_a_name_and_ids_of_its_own_meaning(page: str) -> None:
    plots = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(plots) == 6 + len(report_data().features)
    meanings: dict[str, str] = {}
    for plot in plots:
        root = ET.fromstring(plot)
        assert root.get("aria-label")
        assert root.get("width") is None, "it fills the width it is given"
        for element in root.iter("{http://www.w3.org/2000/svg}clipPath"):
            shape = ET.tostring(element).decode()
            assert meanings.setdefault(str(element.get("id")), shape) == shape


def test_numbers_are_said_as_they_are(page: str) -> None:
    for text in ("2,940", "0.523", "0 of 100,800", "75.0%", "99.96%", "21.5 s", "genre_affinity", "unknown"):
        assert text in page
    assert 'class="tile bad"' not in page


def test_what_went_wrong_is_marked_and_shown() -> None:
    scores = np.zeros(3, np.float32)
    parity = Parity(200, 4000, 2, ["popularity of video 7: 1.5 online, 1.25 offline"], {}, scores, scores)
    summary = {**report_data().summary, "paradoxes": 3}
    page = render(report_data(parity=parity, summary=summary))
    assert page.count('class="tile bad"') == 2
    assert "popularity of video 7: 1.5 online, 1.25 offline" in page


def test_equal_data_gives_equal_bytes(tmp_path: Path, page: str) -> None:
    write_report(tmp_path / "report.html", report_data())
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


def test_it_shows_the_new_model_beside_production_with_everything_escaped() -> None:
    page = render(report_data())
    assert "In production now: <b>homepage-2</b>" in page
    assert "better &lt;than&gt; before" in page
    assert page.index("trials") < page.index("rounds")


def test_it_shows_the_shared_model_the_added_task_and_the_test_beside_its_truth(page: str) -> None:
    for text in ("60 % homepages", "<b>notifications</b>", "16 copied", "no &lt;difference&gt;", "wins"):
        assert text in page
    assert "1,560 homepages" in page
    assert "64.0 % with task type and 62.0 % with trunk" in " ".join(page.split())
    assert "a change by -3.1 %" in page
    assert "120 of homepage, 120 of more like this" in page
