"""Draws the report's plots as inline SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from delorean.display.bins import bin_edges
from delorean.evaluation.calibration import CalibrationBin
from delorean.evaluation.estimate import Estimate

INK: Final = "#1f2933"
SOFT: Final = "#7b8794"
BLUE: Final = "#2563a8"
AMBER: Final = "#d9822b"
PALE: Final = "#f0c48f"
GREY: Final = "#b8c2cc"
_WIDTH: Final = 4.4  # inches: the width of a phone, so that text keeps its size on the page
_SHARES: Final = LinearSegmentedColormap.from_list("shares", ["#d9822b", "#f4e3c8", "#d6e6f4", "#7fb0dc"])
_MOST_POINTS: Final = 1000  # of a scatter plot: those furthest from the diagonal


def shares_by_day(title: str, shares: Mapping[str, Sequence[float]]) -> Markup:
    """Draw a grid of shares in [0, 1], NaN for days without one: a row for each name, a column for each day."""
    names = list(shares)
    values = np.array([shares[name] for name in names], dtype=np.float64)
    with _plot(0.62 + 0.38 * len(names)) as (figure, axes):
        axes.pcolormesh(values, cmap=_SHARES, vmin=0.6, vmax=1.0, edgecolors="white", linewidth=2)
        for (row, day), share in np.ndenumerate(values):
            axes.text(day + 0.5, row + 0.5, _share_in_words(share), ha="center", va="center", fontsize=8)
        axes.set_yticks(np.arange(len(names)) + 0.5, [_words(name) for name in names])
        axes.set_xticks(np.arange(values.shape[1]) + 0.5, [f"day {day + 1}" for day in range(values.shape[1])])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.invert_yaxis()
    return _svg(figure, title)


def _share_in_words(share: float) -> str:
    """Write a share so that only 1 looks like all.

    >>> [_share_in_words(share) for share in (1.0, 0.99999, 0.5, float("nan"))]
    ['100%', '99.99%', '50.0%', '-']
    """
    if np.isnan(share):
        return "-"
    return "100%" if share == 1 else f"{min(share, 0.9999):.2%}" if share > 0.999 else f"{share:.1%}"


def time_line(title: str, days: Sequence[int], plays: Sequence[int], snapshots: Sequence[int]) -> Markup:
    """Draw the plays of each day; days with snapshots are coloured."""
    with _plot(1.9) as (figure, axes):
        marked = set(snapshots)
        axes.bar(days, plays, width=0.8, color=[BLUE if day in marked else GREY for day in days])
        axes.set_xlabel("days from the first snapshot")
        axes.set_ylabel("plays")
        _bare(axes)
    return _svg(figure, title)


def distribution(name: str, values: NDArray[np.float32], positive: NDArray[np.bool_]) -> Markup:
    """Draw the distributions of a feature over played and over unplayed items."""
    finite = np.isfinite(values)
    with _plot(1.35, width=2.9) as (figure, axes):
        if finite.any():
            edges = bin_edges(values[finite])
            for chosen, colour, filled in ((~positive, GREY, True), (positive, BLUE, False)):
                shown = np.clip(values[finite & chosen].astype(np.float64), edges[0], edges[-1])
                shares = np.histogram(shown, edges)[0] / max(len(shown), 1)
                axes.stairs(shares, edges, fill=filled, color=colour, linewidth=1.5)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        _bare(axes)
    return _svg(figure, f"distribution of {name}")


def bars(title: str, groups: Sequence[str], values: Mapping[str, Sequence[float]]) -> Markup:
    """Draw grouped bars: a group for each measure, in it a bar for each ranker."""
    colours = [BLUE, AMBER, PALE, GREY]
    with _plot(2.3) as (figure, axes):
        width = 0.8 / len(values)
        for nth, (name, heights) in enumerate(values.items()):
            places = np.arange(len(groups)) + (nth - (len(values) - 1) / 2) * width
            drawn = axes.bar(places, heights, width * 0.92, label=name, color=colours[nth % len(colours)])
            axes.bar_label(drawn, fmt="%.2f", fontsize=7, padding=1)
        axes.set_xticks(range(len(groups)), groups)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.margins(y=0.12)
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(-0.02, 1.0))
        _bare(axes)
    return _svg(figure, title)


def ranked(title: str, values: Mapping[str, float], unit: str) -> Markup:
    """Draw one horizontal bar for each name, the largest first."""
    order = sorted(values, key=lambda name: values[name])
    with _plot(0.5 + 0.19 * len(order)) as (figure, axes):
        axes.barh([_words(name) for name in order], [values[name] for name in order], color=BLUE, height=0.7)
        axes.set_xlabel(unit)
        axes.tick_params(axis="y", length=0, labelsize=8)
        axes.margins(y=0.01)
        axes.axvline(0, color=SOFT, linewidth=0.8)
        _bare(axes)
    return _svg(figure, title)


def intervals(title: str, values: Mapping[str, Estimate], unit: str) -> Markup:
    """Draw one value with its confidence interval for each name, from top to bottom.

    Names without a value are left out. Values without an interval, of groups that are too small for one, are grey.
    """
    shown = [(name, value) for name, value in reversed(list(values.items())) if value.value is not None]
    with _plot(0.5 + 0.22 * len(shown)) as (figure, axes):
        for place, (_, each) in enumerate(shown):
            ends = _numbers((each.low, each.high))
            axes.plot(ends, [place, place], color=BLUE, linewidth=1.5, solid_capstyle="butt")
            axes.plot(_numbers([each.value]), [place], "o", color=GREY if each.low is None else BLUE, markersize=4.5)
        axes.set_yticks(range(len(shown)), [_words(name) for name, _ in shown])
        axes.tick_params(axis="y", length=0, labelsize=8)
        axes.set_xlabel(unit)
        axes.margins(x=0.05, y=0.1)
        if axes.get_xlim()[0] < 0 < axes.get_xlim()[1]:
            axes.axvline(0, color=SOFT, linewidth=0.8)
        _bare(axes)
    return _svg(figure, title)


def reliability(title: str, bins: Sequence[CalibrationBin]) -> Markup:
    """Draw what scores claim against what happened: points on the diagonal are calibrated."""
    with _plot(3.0) as (figure, axes):
        axes.axline((0, 0), slope=1, color=GREY, linewidth=1)
        for each in bins:
            share = each.positives
            axes.plot([each.mean_score] * 2, _numbers((share.low, share.high)), color=BLUE, linewidth=1.2)
            axes.plot([each.mean_score], _numbers([share.value]), "o", color=BLUE, markersize=4.5)
        axes.set_xlabel("mean score")
        axes.set_ylabel("share of positives")
        _bare(axes)
    return _svg(figure, title)


def learning_curve(title: str, contexts: Sequence[int], values: Sequence[Estimate], unit: str) -> Markup:
    """Draw a metric by the number of contexts that a model has learned from."""
    with _plot(2.2) as (figure, axes):
        drawn = [(x, y) for x, y in zip(contexts, values, strict=True) if y.value is not None]
        places, middles = [x for x, _ in drawn], _numbers(y.value for _, y in drawn)
        axes.fill_between(
            places,
            _numbers(y.low for _, y in drawn),
            _numbers(y.high for _, y in drawn),
            color=BLUE,
            alpha=0.15,
            linewidth=0,
        )
        axes.plot(places, middles, "o-", color=BLUE, markersize=4.5, linewidth=1.5)
        axes.set_xlabel("contexts learned from")
        axes.set_ylabel(unit)
        _bare(axes)
    return _svg(figure, title)


def agreement(title: str, offline: NDArray[np.float32], online: NDArray[np.float32]) -> Markup:
    """Draw pairs of scores that must be equal: a point off the diagonal is a difference."""
    furthest = np.argsort(-np.abs(offline - online), kind="stable")[:_MOST_POINTS]
    offline, online = offline[furthest], online[furthest]
    with _plot(3.2) as (figure, axes):
        axes.axline((0, 0), slope=1, color=GREY, linewidth=1)
        axes.scatter(offline, online, s=6, color=BLUE, alpha=0.5, linewidths=0, rasterized=False)
        axes.set_xlabel("from the snapshots, offline")
        axes.set_ylabel("from the live services")
        _bare(axes)
    return _svg(figure, title)


@contextmanager
def _plot(height: float, width: float = _WIDTH) -> Iterator[tuple[Figure, Axes]]:
    """Provide axes in the report's style; matplotlib's global settings are restored."""
    style: Any = {
        "font.family": "sans-serif",
        "font.size": 8.5,
        "text.color": INK,
        "axes.edgecolor": GREY,
        "axes.labelcolor": SOFT,
        "xtick.color": SOFT,
        "ytick.color": INK,
        "xtick.labelcolor": INK,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.add_subplot()


def _numbers(values: Iterable[float | None]) -> NDArray[np.float64]:
    """Return values as an array, NaN, which is not drawn, for None."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _svg(figure: Figure, title: str) -> Markup:
    """Render a figure as an SVG element as wide as its container."""
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{escape(title)}"', svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return Markup(svg.strip())  # noqa: S704  # drawn by matplotlib, which escapes text
