"""The graph of what features are made from: elements → encoders → features, and what stands before and behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas.drawing import Graph, Node

_MOST = 24  # encoders drawn; how many more there are is said


@dataclass(frozen=True)
class EncoderNode:
    """An encoder as a graph shows it. reads: names of elements; said: what is told where one points at it."""

    name: str
    reads: Sequence[str]
    features: Sequence[str]
    said: str = ""

    @property
    def label(self) -> str:
        """Its name without the module, which pointing at it tells."""
        return self.name.rpartition(":")[2].rpartition(".")[2]


def feature_graph(
    encoders: Sequence[EncoderNode],
    elements: Mapping[str, str],
    labels: str | None = None,
    model: str | None = None,
) -> Graph:
    """Draw what features are made from.

    elements: name → what stands beside it, such as "6 snapshots"; those that encoders read besides are drawn too
    labels, model: what labels and features meet in; None: neither is drawn
    """
    shown = encoders[:_MOST]
    names = list(dict.fromkeys([*elements, *(name for encoder in shown for name in encoder.reads)]))
    inputs = [Node(f"data/{n}", " · ".join(filter(None, [n, elements.get(n, "")]))) for n in names]
    code, results = [], []
    edges: list[tuple[str, str]] = []
    for place, encoder in enumerate(shown):
        told = f"{encoder.name} {encoder.said}".strip()
        code.append(Node(f"code/{place}", encoder.label, told, "code"))
        made = ", ".join(encoder.features)
        results.append(Node(f"features/{place}", made, made, "result"))
        edges += [(f"data/{name}", f"code/{place}") for name in encoder.reads]
        edges.append((f"code/{place}", f"features/{place}"))
    if len(encoders) > _MOST:
        code.append(Node("code/more", f"… and {len(encoders) - _MOST} more", kind="code"))
    columns = [("state", inputs), ("encoders", code), ("features", results)]
    if labels is not None and model is not None:
        edges += [(node.name, "model") for node in results]
        results.append(Node("labels", labels))
        edges.append(("labels", "model"))
        columns[2] = ("features and labels", results)
        columns.append(("model", [Node("model", model, kind="code")]))
    return Graph(columns, edges)
