"""Describes feature encoders and feature models, and draws the graph of what features are computed from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from delorean.display.description import describes
from delorean.display.parts import Code, Facts, Graph, GraphNode, Note, Part, Table
from encoders import FeatureEncoder, FeatureModel
from encoders.compilation.compile import is_compiled
from encoders.source.declared_reads import ARGUMENTS

_MOST_IN_GRAPH = 24
_MOST_TEXTS = 6  # of a vocabulary
_FINGERPRINT = 12  # characters of it that are enough to compare by eye


@describes(FeatureEncoder)
def _encoder(encoder: FeatureEncoder) -> Iterator[Part]:
    docstring = (encoder.function.__doc__ or "").strip().splitlines()
    if docstring:
        yield Note(docstring[0])
    reads = encoder.reads
    facts: dict[str, Any] = {
        "signature": Code(_signature(encoder)),
        "features": ", ".join(
            (feature if feature == written else f"{feature} (written as {written})")
            + (f" of {encoder.vectors[feature]} components" if feature in encoder.vectors else "")
            for feature, written in zip(encoder.features, encoder.written, strict=True)
        ),
        "of the context": "anything" if reads.context is None else ", ".join(sorted(reads.context)) or None,
        "of the items": "anything" if reads.items is None else ", ".join(sorted(reads.items)) or None,
        "fingerprint": Code(encoder.fingerprint[:_FINGERPRINT]),
        "state": _state(encoder),
    }
    yield Facts({name: value for name, value in facts.items() if value is not None})
    yield Table(
        [
            {
                "data_key": key.name,
                "kind": key.kind.value.replace("_", " "),
                "type": Code(str(key.type)),
                "fields_read": ", ".join(sorted(reads.fields.get(key.name) or ())) or "all",
            }
            for key in encoder.data
        ]
    )


def _signature(encoder: FeatureEncoder) -> str:
    """How the function is declared, with the values that its parameters have."""
    parameters = [f"{name}: {type(value).__name__} = {_value(value)}" for name, value in encoder.parameters.items()]
    return f"{encoder.function.__name__}({', '.join([*ARGUMENTS, *(['*'] if parameters else []), *parameters])})"


def _state(encoder: FeatureEncoder) -> str:
    if not encoder.compiled:
        return "not compiled: it runs as plain Python"
    return "compiled in this process" if is_compiled(encoder.captured().text) else "compiled when it is first used"


@describes(FeatureModel)
def _model(model: FeatureModel) -> Iterator[Part]:
    kinds = {name: key.kind.value.removesuffix("_element") for name, key in model.elements.items()}
    yield feature_graph([EncoderNode.of(encoder) for encoder in model.encoders], kinds)
    yield Table(
        [
            {
                "encoder": encoder.name,
                "parameters": _parameters(encoder),
                "features": encoder.features,
                "fingerprint": Code(encoder.fingerprint[:_FINGERPRINT]),
                "state": _state(encoder),
            }
            for encoder in model.encoders
        ]
    )


def _parameters(encoder: FeatureEncoder) -> str:
    return ", ".join(f"{name} = {_value(value)}" for name, value in encoder.parameters.items())


def _value(value: object) -> str:
    """Return a parameter's value; of a long vocabulary, its first texts."""
    if not isinstance(value, tuple) or len(value) <= _MOST_TEXTS:
        return repr(value)
    return f"({', '.join(map(repr, value[:_MOST_TEXTS]))}, … {len(value):,} texts)"


@dataclass(frozen=True)
class EncoderNode:
    """An encoder in a graph. reads: names of elements; tooltip: added to its name where the mouse points at it."""

    name: str
    reads: Sequence[str]
    features: Sequence[str]
    tooltip: str = ""

    @classmethod
    def of(cls, encoder: FeatureEncoder) -> EncoderNode:
        """The node of an encoder that could be imported."""
        return cls(encoder.name, [key.name for key in encoder.data], encoder.features, _parameters(encoder))

    @property
    def label(self) -> str:
        """The encoder's name without its module."""
        return self.name.rpartition(":")[2].rpartition(".")[2]


def feature_graph(
    encoders: Sequence[EncoderNode],
    elements: Mapping[str, str],
    labels: str | None = None,
    model: str | None = None,
) -> Graph:
    """Draw what features are computed from: elements → encoders → features, and the model trained on them.

    elements: name → what stands beside it, such as "6 snapshots"; other elements that encoders read are added
    labels, model: what is trained, and on which labels; None: neither is drawn
    """
    drawn = encoders[:_MOST_IN_GRAPH]
    names = list(dict.fromkeys([*elements, *(name for encoder in drawn for name in encoder.reads)]))
    inputs = [GraphNode(f"data/{name}", " · ".join(filter(None, [name, elements.get(name, "")]))) for name in names]
    code, results = [], []
    edges: list[tuple[str, str]] = []
    for place, encoder in enumerate(drawn):
        code.append(GraphNode(f"code/{place}", encoder.label, f"{encoder.name} {encoder.tooltip}".strip(), kind="code"))
        features = ", ".join(encoder.features)
        results.append(GraphNode(f"features/{place}", features, features, kind="result"))
        edges += [(f"data/{name}", f"code/{place}") for name in encoder.reads]
        edges.append((f"code/{place}", f"features/{place}"))
    if len(encoders) > _MOST_IN_GRAPH:
        code.append(GraphNode("code/more", f"… and {len(encoders) - _MOST_IN_GRAPH} more", kind="code"))
    columns = [("state", inputs), ("encoders", code), ("features", results)]
    if labels is not None and model is not None:
        edges += [(node.name, "model") for node in results]
        results.append(GraphNode("labels", labels))
        edges.append(("labels", "model"))
        columns[2] = ("features and labels", results)
        columns.append(("model", [GraphNode("model", model, kind="code")]))
    return Graph(columns, edges)
