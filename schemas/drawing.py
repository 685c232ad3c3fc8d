"""Small drawings that stand in a page or a line of text: bars, histograms, heat maps, graphs.

Each is drawn as HTML or SVG that reads on light and dark ground alike, and as plain text for terminals.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

# Colours of these shares, and mixed between them; dark ink can be read on all of them.
_SHARES: Final = (0.0, 0.6, 0.9, 1.0)
_COLOURS: Final = ((224, 141, 60), (244, 212, 168), (226, 236, 245), (139, 186, 226))
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_SHADES: Final = ((1.0, "█"), (0.9, "▓"), (0.6, "▒"), (0.0, "░"))
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_WIDE_CELLS: Final = 14  # columns; more are drawn as small squares
_CELLS_OF_BAR: Final = 10
_FEW: Final = 5
_ROW: Final = 25  # pixels between nodes of a graph, down
_GAP: Final = 46  # and across


def share_text(share: float | None) -> str:
    """Write a share so that only all is 100 % and only nothing 0 %.

    >>> share_text(0.99999), share_text(1.0), share_text(0.00001), share_text(None)
    ('99.9%', '100%', '0.1%', '-')
    """
    if share is None:
        return "-"
    if share in (0, 1):
        return f"{share:.0%}"
    return f"{min(max(share, 0.001), 0.999):.1%}"


def span_text(seconds: float | None) -> str:
    """Write a span of time in the unit that suits it.

    >>> span_text(5400), span_text(0.25), span_text(None)
    ('1.5 h', '0.25 s', '-')
    """
    if seconds is None:
        return "-"
    size, unit = next((unit for unit in _UNITS if seconds >= unit[0]), _UNITS[-1])
    return f"{seconds / size:.3g} {unit}"


def bytes_text(size: int) -> str:
    """Write a size in the unit that suits it.

    >>> bytes_text(900), bytes_text(5_000_000)
    ('900 B', '4.77 MiB')
    """
    place = 0 if size < 1024 else min(4, int(math.log(size, 1024)))
    return f"{size} B" if place == 0 else f"{size / 1024**place:.3g} {('', 'Ki', 'Mi', 'Gi', 'Ti')[place]}B"


@dataclass(frozen=True)
class Share:
    """A share in [0, 1], as a bar.

    value: None: there is nothing to have a share of
    enough: a smaller share is drawn as one that falls short
    """

    value: float | None
    enough: float = 0.0

    def html(self) -> str:
        """Draw it."""
        if self.value is None:
            return "-"
        short = "" if self.value >= self.enough else " dl-short"
        filled = f'<span class="dl-bar{short}"><span style="width:{min(max(self.value, 0), 1):.1%}"></span></span>'
        return f"{filled} {share_text(self.value)}"

    def text(self) -> str:
        """Write it.

        >>> Share(0.85).text()
        '████████▌  85.0%'
        """
        if self.value is None:
            return "-"
        halves = round(min(max(self.value, 0), 1) * 2 * _CELLS_OF_BAR)
        return f"{('█' * (halves // 2) + '▌' * (halves % 2)).ljust(_CELLS_OF_BAR)} {share_text(self.value)}"


@dataclass(frozen=True)
class Histogram:
    """How many values lie in each of some equal parts of a range. said: what is told where one points at it."""

    counts: Sequence[int]
    said: str = ""

    def html(self) -> str:
        """Draw it as SVG."""
        most = max(self.counts, default=0)
        if not most:
            return "-"
        width = 120 / len(self.counts)
        drawn = "".join(
            f'<rect x="{place * width:.1f}" y="{26 - height:.1f}" width="{width - 0.8:.1f}" height="{height:.1f}"/>'
            for place, count in enumerate(self.counts)
            if (height := max(24 * count / most, 1.0 if count else 0.0))
        )
        return (
            f'<svg class="dl-histogram" viewBox="0 0 120 28" width="120" height="28" role="img"><title>'
            f'{escape(self.said)}</title>{drawn}<path d="M0 26.5H120"/></svg>'
        )

    def text(self) -> str:
        """Write it.

        >>> Histogram([0, 1, 4, 8]).text()
        ' ▁▄█'
        """
        most = max(self.counts, default=0)
        if not most:
            return "-"
        return "".join(_BLOCKS[math.ceil(count / most * 8) - 1] if count else " " for count in self.counts)


@dataclass(frozen=True)
class Cell:
    """A cell of a heat map: the share that colours it, a smaller line below it, and what pointing at it tells."""

    share: float | None
    small: str = ""
    said: str = ""


@dataclass(frozen=True)
class HeatMap:
    """Shares by row and column, such as by service and day.

    key: what a cell shows, in words
    cells: (name, group) of each row → column → its cell; of what is not there, nothing is known
    """

    key: str
    columns: Sequence[str]
    cells: Mapping[tuple[str, str | None], Mapping[str, Cell]]

    def html(self) -> str:
        """Draw it, with figures where there is room for them."""
        wide = len(self.columns) <= _WIDE_CELLS or any(
            cell.small for row in self.cells.values() for cell in row.values()
        )
        key = "".join(
            f'<span class="dl-key" style="background:{colour(share)}">{share_text(share)}</span>' for share in _SHARES
        )
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns) if wide else self._short_head()
        rows = "".join(
            f"<tr><th>{escape(name)}{'' if group is None else f' <small>{escape(group)}</small>'}</th>"
            + "".join(_cell(row.get(column), column, wide) for column in self.columns)
            + "</tr>"
            for (name, group), row in self.cells.items()
        )
        kind = "dl-heat" if wide else "dl-heat dl-squares"
        return (
            f'<p><span class="dl-soft">{escape(self.key)}</span> {key}</p><div class="dl-scroll"><table class="{kind}">'
            f"<thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        )

    def text(self) -> str:
        """Write it, as figures or, where there are many, as shades."""
        names = [" ".join(filter(None, key)) for key in self.cells]
        wide = max(map(len, names), default=0)
        lines = [self.key]
        if len(self.columns) <= _WIDE_CELLS:
            widths = [max(len(column), 5) for column in self.columns]
            lines.append(" ".join(["".ljust(wide), *(c.rjust(w) for c, w in zip(self.columns, widths, strict=True))]))
        else:
            lines.append(
                f"{''.ljust(wide)} {self.columns[0]} … {self.columns[-1]}  █ all ▓ ≥ 90% ▒ ≥ 60% ░ less · none"
            )
        for name, row in zip(names, self.cells.values(), strict=True):
            shares = [row[column].share if column in row else None for column in self.columns]
            if len(self.columns) <= _WIDE_CELLS:
                shown = " ".join(share_text(share).rjust(w) for share, w in zip(shares, widths, strict=True))
            else:
                shown = "".join(_shade(share) for share in shares)
            lines.append(f"{name.ljust(wide)} {shown}")
        return "\n".join(line.rstrip() for line in lines)

    def _short_head(self) -> str:
        """Say of each column only what differs from the one before it: of days mostly the last two digits."""
        head, before = [], ""
        for name in self.columns:
            short = name if name[:-2] != before else name[-2:]
            turned = ' class="dl-up"' if len(short) > 2 else ""
            head.append(f'<th title="{escape(name)}"><span{turned}>{escape(short)}</span></th>')
            before = name[:-2]
        return "".join(head)


def colour(share: float | None) -> str:
    """Give the colour of a share; of none, a shade that reads on any ground."""
    if share is None:
        return "rgba(128,128,128,.16)"
    upper = min(max(bisect_left(_SHARES, share), 1), len(_SHARES) - 1)
    low, high = _SHARES[upper - 1], _SHARES[upper]
    part = min(max((share - low) / (high - low), 0.0), 1.0)
    mixed = (round(a + (b - a) * part) for a, b in zip(_COLOURS[upper - 1], _COLOURS[upper], strict=True))
    return "#" + "".join(f"{each:02x}" for each in mixed)


def _cell(cell: Cell | None, column: str, wide: bool) -> str:
    said = f"{column}: " + ("nothing" if cell is None else cell.said or share_text(cell.share))
    if cell is None or cell.share is None:
        return f'<td class="dl-none" title="{escape(said)}">{"-" if wide else ""}</td>'
    shown = f"<span>{share_text(cell.share)}</span>" if wide else ""
    small = f"<small>{escape(cell.small)}</small>" if cell.small else ""
    return f'<td style="background:{colour(cell.share)}" title="{escape(said)}">{shown}{small}</td>'


def _shade(share: float | None) -> str:
    if share is None:
        return " "
    return next((shade for least, shade in _SHADES if share >= least and share > 0), "·")


@dataclass(frozen=True)
class Node:
    """Something in a graph. said: what is told where one points at it; kind: "data", "code" or "result"."""

    name: str
    label: str
    said: str = ""
    kind: str = "data"


@dataclass(frozen=True)
class Graph:
    """What is made from what, from left to right.

    columns: a title and the nodes of each
    edges: (from, to), by the nodes' names
    """

    columns: Sequence[tuple[str, Sequence[Node]]]
    edges: Sequence[tuple[str, str]]

    def html(self) -> str:
        """Draw it as SVG."""
        widths = [
            20 + max([6.8 * len(_cut(node.label)) for node in nodes] + [6 * len(title)], default=40)
            for title, nodes in self.columns
        ]
        lefts = [2 + sum(widths[:place]) + place * _GAP for place in range(len(widths))]
        most = max((len(nodes) for _, nodes in self.columns), default=0)
        places: dict[str, tuple[float, float, float]] = {}
        boxes = []
        for (title, nodes), left, width in zip(self.columns, lefts, widths, strict=True):
            boxes.append(f'<text class="dl-title" x="{left}" y="12">{escape(title)}</text>')
            top = 22 + (most - len(nodes)) * _ROW / 2
            for nth, node in enumerate(nodes):
                middle = top + nth * _ROW + _ROW / 2
                places[node.name] = left, left + width, middle
                boxes.append(
                    f'<g class="dl-{node.kind}"><title>{escape(node.said or node.label)}</title>'
                    f'<rect x="{left}" y="{middle - 10}" width="{width}" height="20" rx="4"/>'
                    f'<text x="{left + 9}" y="{middle + 4}">{escape(_cut(node.label))}</text></g>'
                )
        lines = []
        for start, end in self.edges:
            if start in places and end in places:
                (_, right, y), (left_of, _, to) = places[start], places[end]
                bend = (left_of - right) / 2
                lines.append(f'<path d="M{right} {y}C{right + bend} {y} {left_of - bend} {to} {left_of} {to}"/>')
        width, height = (lefts[-1] + widths[-1] + 2 if widths else 10), 26 + most * _ROW
        return (
            f'<div class="dl-scroll"><svg class="dl-graph" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img">{"".join(lines)}{"".join(boxes)}</svg></div>'
        )

    def text(self) -> str:
        """Write a line for each node of the second column, and of those from the fourth: what from, and what it gives.

        >>> data, code, made = Node("d", "history"), Node("c", "minutes"), Node("f", "minutes_watched")
        >>> Graph([("data", [data]), ("code", [code]), ("features", [made])], [("d", "c"), ("c", "f")]).text()
        'history → minutes → minutes_watched'
        """
        nodes = [node for place, (_, each) in enumerate(self.columns) if place == 1 or place > 2 for node in each]
        lines = [[self._beside(node, 1), node.label, self._beside(node, 0)] for node in nodes]
        return "\n".join(" → ".join(filter(None, line)) for line in lines)

    def _beside(self, node: Node, end: int) -> str:
        """Name what leads to a node (1) or from it (0), the first few."""
        labels = {each.name: each.label for _, nodes in self.columns for each in nodes}
        found = [labels[edge[1 - end]] for edge in self.edges if edge[end] == node.name and edge[1 - end] in labels]
        return ", ".join(found if len(found) <= _FEW else [*found[:_FEW], f"{len(found) - _FEW} more"])


def _cut(label: str, longest: int = 30) -> str:
    return label if len(label) <= longest else label[: longest - 1] + "…"
