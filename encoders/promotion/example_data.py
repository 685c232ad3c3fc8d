"""Example data for an encoder: values of its keys' types that overlap, so that history and items have ids in common."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from encoders.data_map import ABSENT
from encoders.encoder import FeatureEncoder
from encoders.source.function_source import source_of
from encoders.source.function_tree import resolve
from encoders.vocabulary import code_of
from schemas.data_keys import DataKey, Kind, context_variable, item
from schemas.nulls import is_text, value_type

NOW = datetime(2026, 1, 5, 20, tzinfo=UTC)
CONTEXTS = 2  # the second has no state of services
ITEMS = 3  # of each context


@dataclass(frozen=True)
class ExampleData:
    """The content of a data map as plain values.

    context, items: the variables that the encoder reads; variables: their values, for all contexts and items
    elements: element → distinct values, and for each context the position of its value
    """

    context: tuple[DataKey, ...]
    items: tuple[DataKey, ...]
    variables: dict[str, list[Any]]
    elements: dict[str, tuple[list[Any], list[int]]]


def example_data(encoder: FeatureEncoder, default_type: str) -> ExampleData:
    """Give values for everything that an encoder reads.

    default_type: of variables whose type follows neither from a data key nor from a comparison with text
    """
    field_types = dict(field for key in encoder.data for field in _fields(key.type))
    field_types |= dict.fromkeys(_text_variables(encoder), pa.string())
    texts = _texts(encoder)
    read = sorted((encoder.reads.context or set()) - {"time"})
    context = tuple(context_variable(name, field_types.get(name, default_type)) for name in read)
    read = sorted(encoder.reads.items or {"item_id"})
    items = tuple(item(name, field_types.get(name, default_type)) for name in read)
    variables = {key.name: [_value(key.type, i, texts) for i in range(CONTEXTS)] for key in context}
    variables |= {key.name: [_value(key.type, i, texts) for i in range(CONTEXTS * ITEMS)] for key in items}
    elements = {}
    for key in encoder.data:
        is_table = key.kind is Kind.GLOBAL_ELEMENT
        value = _value(pa.list_(key.type) if is_table else key.type, 0, texts)
        elements[key.name] = ([value], [0, 0 if is_table else ABSENT])
    return ExampleData(context, items, variables, elements)


def _value(type: pa.DataType, n: int, texts: list[str]) -> Any:  # noqa: A002  # the field's own name
    """Give the n-th example of a type; examples repeat, so that values are equal to others elsewhere."""
    type = value_type(type)  # noqa: A001
    if pa.types.is_struct(type):
        return {field.name: _value(field.type, n, texts) for field in type}
    if pa.types.is_list(type) or pa.types.is_large_list(type):
        return [_value(type.value_type, n + i, texts) for i in range(3)]
    if is_text(type):
        return texts[n % len(texts)]
    for matches, value in (
        (pa.types.is_timestamp, NOW - timedelta(hours=1 + 5 * n)),
        (pa.types.is_date32, (NOW - timedelta(days=1 + n)).date()),
        (pa.types.is_integer, 1 + n % 3),
        (pa.types.is_floating, 0.5 + n),
        (pa.types.is_boolean, n % 2 == 0),
    ):
        if matches(type):
            return value
    return None


def _fields(type: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:  # noqa: A002
    for i in range(type.num_fields):
        field = type.field(i)
        yield field.name, field.type
        yield from _fields(field.type)


def _texts(encoder: FeatureEncoder) -> list[str]:
    """Give the texts that the encoder compares with, and some others."""
    compared = [text for node in _comparisons(encoder) for text in _texts_in(node, encoder)]
    return list(dict.fromkeys([*compared, "a", "b", "c"]))


def _text_variables(encoder: FeatureEncoder) -> set[str]:
    """Give the variables that the encoder compares with text, which must be text."""
    return {
        read.attr
        for node in _comparisons(encoder)
        if any(True for _ in _texts_in(node, encoder))
        for read in ast.walk(node)
        if isinstance(read, ast.Attribute)
        and isinstance(read.value, ast.Name)
        and read.value.id in ("context", "items")
    }


def _comparisons(encoder: FeatureEncoder) -> list[ast.AST]:
    """Give the expressions in which texts are compared with each other, or looked up in a vocabulary."""
    return [node for node in ast.walk(source_of(encoder.function).tree) if _compares(node, encoder)]


def _compares(node: ast.AST, encoder: FeatureEncoder) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return resolve(encoder.function, node.func.id)[1] is code_of
    return isinstance(node, ast.Compare)


def _texts_in(node: ast.AST, encoder: FeatureEncoder) -> Iterator[str]:
    for part in ast.walk(node):
        value = part.value if isinstance(part, ast.Constant) else None
        if isinstance(part, ast.Name):
            value = encoder.parameters.get(part.id, resolve(encoder.function, part.id)[1])
        yield from (each for each in (value if isinstance(value, tuple) else (value,)) if isinstance(each, str))
