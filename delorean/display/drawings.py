"""Draws bars, histograms, heat maps and graphs as HTML or SVG that is readable on light and dark pages.

By hand rather than by matplotlib, whose import takes half a second and whose figures fit neither a cell nor the
page's colours.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from delorean.display.formats import cut, escape, share_text
from delorean.display.parts import Graph, HeatCell, HeatMap, Histogram, IntervalMark, ShareBar

# Colours at these shares, interpolated between them; dark text is readable on all of them.
_SHARES: Final = (0.0, 0.6, 0.9, 1.0)
_COLOURS: Final = ((224, 141, 60), (244, 212, 168), (226, 236, 245), (139, 186, 226))
_MOST_WIDE_COLUMNS: Final = 14  # more columns are drawn as small squares

_ROW: Final = 25  # pixels between a graph's nodes, vertically
_GAP: Final = 46  # and horizontally
_LONGEST_LABEL: Final = 30


def share_bar_html(bar: ShareBar) -> str:
    """Draw a bar with its percentage."""
    if bar.value is None:
        return "-"
    short = "" if bar.value >= bar.enough else " dl-short"
    filled = f'<span class="dl-bar{short}"><span style="width:{min(max(bar.value, 0), 1):.1%}"></span></span>'
    return f"{filled} {share_text(bar.value)}"


def interval_svg(mark: IntervalMark) -> str:
    """Draw a dot with its interval that fit a table's cell, and a line where the scale has 0."""
    value, zero = (round(160 * mark.place(each), 1) for each in (mark.value, 0.0))
    drawn = [f'<path class="dl-zero" d="M{zero} 0V16"/>'] if mark.start < 0 < mark.end else []
    text = f"{mark.value:+.4g}" if mark.compared else f"{mark.value:.4g}"
    if mark.low is not None and mark.high is not None:
        low, high = (round(160 * mark.place(each), 1) for each in (mark.low, mark.high))
        drawn.append(f'<path d="M{low} 8H{high}M{low} 5V11M{high} 5V11"/>')
        text += f" [{mark.low:.4g}, {mark.high:.4g}]"
    side = {1: " dl-better", -1: " dl-worse"}.get(mark.side, "")
    return (
        f'<svg class="dl-interval{side}" viewBox="-4 0 168 16" width="168" height="16" role="img">'
        f'<title>{escape(text)}</title>{"".join(drawn)}<circle cx="{value}" cy="8" r="3.5"/></svg>'
    )


def histogram_svg(histogram: Histogram) -> str:
    """Draw a histogram that fits a table's cell; every count above 0 is visible."""
    most = max(histogram.counts, default=0)
    if not most:
        return "-"
    width = 120 / len(histogram.counts)
    bars = "".join(
        f'<rect x="{place * width:.1f}" y="{26 - height:.1f}" width="{width - 0.8:.1f}" height="{height:.1f}"/>'
        for place, count in enumerate(histogram.counts)
        if (height := max(24 * count / most, 1.0 if count else 0.0))
    )
    return (
        f'<svg class="dl-histogram" viewBox="0 0 120 28" width="120" height="28" role="img">'
        f'<title>{escape(histogram.tooltip)}</title>{bars}<path d="M0 26.5H120"/></svg>'
    )


def heat_map_html(heat: HeatMap) -> str:
    """Draw a heat map as a table, with figures where there is room for them."""
    wide = len(heat.columns) <= _MOST_WIDE_COLUMNS or heat.has_details
    key = "".join(
        f'<span class="dl-key" style="background:{colour(share)}">{share_text(share)}</span>' for share in _SHARES
    )
    head = "".join(f"<th>{escape(name)}</th>" for name in heat.columns) if wide else _short_head(heat)
    rows = "".join(
        f"<tr><th>{escape(name)}{'' if group is None else f' <small>{escape(group)}</small>'}</th>"
        + "".join(_heat_cell(row.get(column), column, wide) for column in heat.columns)
        + "</tr>"
        for (name, group), row in heat.cells.items()
    )
    return (
        f'<p><span class="dl-soft">{escape(heat.caption)}</span> <span class="dl-keys">{key}</span></p>'
        f'<div class="dl-scroll"><table class="{"dl-heat" if wide else "dl-heat dl-squares"}">'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _short_head(heat: HeatMap) -> str:
    """Head each column by what differs from the column before: of days mostly the last two digits."""
    head, before = [], ""
    for name in heat.columns:
        short = name if name[:-2] != before else name[-2:]
        rotated = ' class="dl-up"' if len(short) > 2 else ""
        head.append(f'<th title="{escape(name)}"><span{rotated}>{escape(short)}</span></th>')
        before = name[:-2]
    return "".join(head)


def _heat_cell(cell: HeatCell | None, column: str, wide: bool) -> str:
    tooltip = escape(f"{column}: " + ("no data" if cell is None else cell.tooltip or share_text(cell.share)))
    if cell is None or cell.share is None:
        return f'<td class="dl-none" title="{tooltip}">{"-" if wide else ""}</td>'
    share = f"<span>{share_text(cell.share)}</span>" if wide else ""
    detail = f"<small>{escape(cell.detail)}</small>" if cell.detail else ""
    return f'<td style="background:{colour(cell.share)}" title="{tooltip}">{share}{detail}</td>'


def colour(share: float) -> str:
    """The colour of a share, as #rrggbb."""
    upper = min(max(bisect_left(_SHARES, share), 1), len(_SHARES) - 1)
    low, high = _SHARES[upper - 1], _SHARES[upper]
    part = min(max((share - low) / (high - low), 0.0), 1.0)
    mixed = (round(a + (b - a) * part) for a, b in zip(_COLOURS[upper - 1], _COLOURS[upper], strict=True))
    return "#" + "".join(f"{each:02x}" for each in mixed)


def graph_svg(graph: Graph) -> str:
    """Draw a graph: a column of boxes for each of its columns, a curve for each edge between them."""
    widths = [
        20 + max([6.8 * len(cut(node.label, _LONGEST_LABEL)) for node in nodes] + [6 * len(title)], default=40)
        for title, nodes in graph.columns
    ]
    lefts = [2 + sum(widths[:place]) + place * _GAP for place in range(len(widths))]
    most = max((len(nodes) for _, nodes in graph.columns), default=0)
    boxes: dict[str, tuple[float, float, float]] = {}  # node → its left, right and middle
    drawn = []
    for (title, nodes), left, width in zip(graph.columns, lefts, widths, strict=True):
        drawn.append(f'<text class="dl-title" x="{left}" y="12">{escape(title)}</text>')
        top = 22 + (most - len(nodes)) * _ROW / 2
        for number, node in enumerate(nodes):
            middle = top + number * _ROW + _ROW / 2
            boxes[node.name] = left, left + width, middle
            drawn.append(
                f'<g class="dl-{node.kind}"><title>{escape(node.tooltip or node.label)}</title>'
                f'<rect x="{left}" y="{middle - 10}" width="{width}" height="20" rx="4"/>'
                f'<text x="{left + 9}" y="{middle + 4}">{escape(cut(node.label, _LONGEST_LABEL))}</text></g>'
            )
    curves = [_curve(boxes[start], boxes[end]) for start, end in graph.edges if start in boxes and end in boxes]
    width, height = (lefts[-1] + widths[-1] + 2 if widths else 10), 26 + most * _ROW
    return (
        f'<div class="dl-scroll"><svg class="dl-graph" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">{"".join(curves)}{"".join(drawn)}</svg></div>'
    )


def _curve(start: tuple[float, float, float], end: tuple[float, float, float]) -> str:
    (_, right, y), (left, _, to) = start, end
    bend = (left - right) / 2
    return f'<path d="M{right} {y}C{right + bend} {y} {left - bend} {to} {left} {to}"/>'
