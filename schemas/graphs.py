"""Graphs of what is made from what, from left to right, as SVG or as lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from schemas.plain_text import escape, plain_text

_ROW: Final = 25  # pixels between nodes of a graph, down
_GAP: Final = 46  # and across
_FEW: Final = 5


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
        return "\n".join(plain_text(" → ".join(filter(None, line))) for line in lines)

    def _beside(self, node: Node, end: int) -> str:
        """Name what leads to a node (1) or from it (0), the first few."""
        labels = {each.name: each.label for _, nodes in self.columns for each in nodes}
        found = [labels[edge[1 - end]] for edge in self.edges if edge[end] == node.name and edge[1 - end] in labels]
        return ", ".join(found if len(found) <= _FEW else [*found[:_FEW], f"{len(found) - _FEW} more"])


def _cut(label: str, longest: int = 30) -> str:
    return label if len(label) <= longest else label[: longest - 1] + "…"
