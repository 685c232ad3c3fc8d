"""Makes up a small data map for an encoder: values of its keys' types that meet each other, as history meets items."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from encoders.data_map import ABSENT, DataMaps, Element
from encoders.encoder import FeatureEncoder
from encoders.feature_model import FeatureModel
from encoders.source.function_source import source_of
from encoders.source.function_tree import resolve
from schemas.data_keys import DataKey, Kind, context_variable, item
from schemas.errors import DeloreanError, EncoderError

NOW = datetime(2026, 1, 5, 20, tzinfo=UTC)
ITEMS = 3  # of each context
CONTEXTS = 2  # the second has no state of services
_GUESSES = ("int64", "string", "double")  # of what a variable is that no data key tells


@dataclass(frozen=True)
class Sample:
    """A data map as plain values, and what the encoder gives for it.

    context, items: the variables that are read, with guessed types; variables: their values, items end to end
    elements: element → values, and for each context which of them it has
    found: feature → values
    """

    context: tuple[DataKey, ...]
    items: tuple[DataKey, ...]
    variables: dict[str, list[Any]]
    elements: dict[str, tuple[list[Any], list[int]]]
    found: dict[str, NDArray[np.float32]]


def sample_of(encoder: FeatureEncoder) -> Sample:
    """Make up values on which an encoder runs, and run it. Raises EncoderError where none were found."""
    told: DeloreanError = EncoderError("nothing was tried")
    for guess in _GUESSES:
        try:
            return _sample(encoder, guess)
        except DeloreanError as error:
            told = error
    raise told


def _sample(encoder: FeatureEncoder, guess: str) -> Sample:
    known = dict(field for key in encoder.data for field in _fields(key.type))
    known |= dict.fromkeys(_text_variables(encoder), pa.string())
    texts = _texts(encoder)
    context = tuple(
        context_variable(n, known.get(n, guess)) for n in sorted((encoder.reads.context or set()) - {"time"})
    )
    items = tuple(item(name, known.get(name, guess)) for name in sorted(encoder.reads.items or {"item_id"}))
    variables = {key.name: [_value(key.type, i, texts) for i in range(CONTEXTS)] for key in context}
    variables |= {key.name: [_value(key.type, i, texts) for i in range(CONTEXTS * ITEMS)] for key in items}
    elements = {}
    for key in encoder.data:
        table = key.kind is Kind.GLOBAL_ELEMENT
        one = _value(pa.list_(key.type) if table else key.type, 0, texts)
        elements[key.name] = ([one], [0, 0 if table else ABSENT])
    given = data_maps(encoder, context, items, variables, elements)
    found = FeatureModel([encoder]).bind(context, items).encode(given)
    return Sample(context, items, variables, elements, found)


def data_maps(
    encoder: FeatureEncoder,
    context: tuple[DataKey, ...],
    items: tuple[DataKey, ...],
    variables: dict[str, list[Any]],
    elements: dict[str, tuple[list[Any], list[int]]],
) -> DataMaps:
    """Make data maps of plain values."""
    times = pa.array([NOW] * CONTEXTS, pa.timestamp("us", "UTC"))
    types = {key.name: pa.list_(key.type) if key.kind is Kind.GLOBAL_ELEMENT else key.type for key in encoder.data}
    return DataMaps(
        pa.table({"time": times, **{key.name: pa.array(variables[key.name], key.type) for key in context}}),
        pa.table({key.name: pa.array(variables[key.name], key.type) for key in items}),
        np.arange(0, CONTEXTS * ITEMS + 1, ITEMS),
        {name: Element(pa.array(values, types[name]), np.array(rows)) for name, (values, rows) in elements.items()},
    )


def _value(type: pa.DataType, n: int, texts: list[str]) -> Any:  # noqa: A002  # Arrow's own word
    """Make the n-th value of a type; few are different, so that some are equal elsewhere."""
    if pa.types.is_struct(type):
        return {field.name: _value(field.type, n, texts) for field in type}
    if pa.types.is_list(type) or pa.types.is_large_list(type):
        return [_value(type.value_type, n + i, texts) for i in range(3)]
    if pa.types.is_dictionary(type):
        return _value(type.value_type, n, texts)
    if pa.types.is_timestamp(type):
        return NOW - timedelta(hours=1 + 5 * n)
    if pa.types.is_date32(type):
        return (NOW - timedelta(days=1 + n)).date()
    if pa.types.is_integer(type):
        return 1 + n % 3
    if pa.types.is_floating(type):
        return 0.5 + n
    if pa.types.is_boolean(type):
        return n % 2 == 0
    return texts[n % len(texts)] if pa.types.is_string(type) or pa.types.is_large_string(type) else None


def _fields(type: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:  # noqa: A002
    for i in range(type.num_fields):
        field = type.field(i)
        yield field.name, field.type
        yield from _fields(field.type)


def _texts(encoder: FeatureEncoder) -> list[str]:
    """Texts that the encoder compares with, and some that it does not."""
    compared = [text for node in _comparisons(encoder) for text in _texts_in(node, encoder)]
    return list(dict.fromkeys([*compared, "a", "b", "c"]))


def _text_variables(encoder: FeatureEncoder) -> set[str]:
    """Name the variables that are compared with text, so they must be text."""
    return {
        read.attr
        for node in _comparisons(encoder)
        if any(True for _ in _texts_in(node, encoder))
        for read in ast.walk(node)
        if isinstance(read, ast.Attribute)
        and isinstance(read.value, ast.Name)
        and read.value.id in ("context", "items")
    }


def _comparisons(encoder: FeatureEncoder) -> list[ast.Compare]:
    return [node for node in ast.walk(source_of(encoder.function).tree) if isinstance(node, ast.Compare)]


def _texts_in(node: ast.AST, encoder: FeatureEncoder) -> Iterator[str]:
    for part in ast.walk(node):
        value = part.value if isinstance(part, ast.Constant) else None
        if isinstance(part, ast.Name):
            value = encoder.parameters.get(part.id, resolve(encoder.function, part.id)[1])
        yield from (each for each in (value if isinstance(value, tuple) else (value,)) if isinstance(each, str))
