"""Writes the test of a promoted encoder: the features that it computes from example data."""

from __future__ import annotations

from typing import Any

from encoders.encoder import FeatureEncoder
from encoders.feature_model import FeatureModel
from encoders.promotion.example_data import CONTEXTS, ITEMS, NOW, ExampleData, example_data
from schemas.data_keys import DataKey, Kind
from schemas.errors import DeloreanError

_VARIABLE_TYPES = ("int64", "string", "double")  # tried in turn for variables whose type is unknown
_TEST = '''"""Features of {name} from example data.

The expected values are those that it computed when it was promoted: replace them with cases that show its purpose.
"""

{setup}

def test_features_are_those_at_promotion():
    features = FeatureModel([{name}]).bind(CONTEXT, ITEMS).encode(data_maps())
{assertions}


def test_compiled_and_plain_python_give_the_same_bits():
    bound = FeatureModel([{name}]).bind(CONTEXT, ITEMS)
    compiled, plain = bound.encode(data_maps()), bound.interpret(data_maps())
    for feature in {name}.features:
        assert compiled[feature].tobytes() == plain[feature].tobytes()
'''
_SETUP = '''import datetime

import numpy as np
import pyarrow as pa

from encoders import DataMaps, Element, FeatureModel
from schemas.data_keys import {constructors}

{own_import}

CONTEXT = [{context}]
ITEMS = [{items}]


def data_maps():
    """Give {contexts} contexts with {item_count} items each; the second has no state of services."""
{types}    time = pa.array([{now!r}] * {contexts}, pa.timestamp("us", "UTC"))
    return DataMaps(
        contexts=pa.table({{"time": time, {context_columns}}}),
        items=pa.table({{{item_columns}}}),
        item_offsets=np.arange(0, {last_offset} + 1, {item_count}),
        elements={{{elements}}},
    )

'''
_FAILING_TEST = '''"""Features of {name}."""

import pytest

from {module} import {name}


def test_features():
    assert {name}.features
    pytest.fail({problem!r})
'''


def example_test(encoder: FeatureEncoder, module: str, name: str) -> str:
    """Write the test. It fails until it is completed if no example data suits the encoder.

    module, name: the promoted encoder's
    """
    problem = ""
    for default_type in _VARIABLE_TYPES:
        try:
            example = example_data(encoder, default_type)
            features = _features(encoder, name, _setup(encoder, name, example, own_import=""))
        except DeloreanError as error:
            problem = f"no example data suits it, so write some: {error}"
            continue
        assertions = "\n".join(
            f"    np.testing.assert_array_equal(features[{feature!r}], np.array({values}, np.float32))"
            for feature, values in features.items()
        )
        setup = _setup(encoder, name, example, own_import=f"from {module} import {name}")
        return _TEST.format(name=name, setup=setup, assertions=assertions)
    return _FAILING_TEST.format(name=name, module=module, problem=problem)


def _features(encoder: FeatureEncoder, name: str, setup: str) -> dict[str, str]:
    """Compute the features from the test's own data maps, as text."""
    namespace: dict[str, Any] = {name: encoder}
    exec(setup, namespace)  # noqa: S102  # generated above
    model = FeatureModel([encoder]).bind(namespace["CONTEXT"], namespace["ITEMS"])
    return {feature: _written(values.tolist()) for feature, values in model.encode(namespace["data_maps"]()).items()}


def _written(values: Any) -> str:
    """Write nested lists of numbers as source."""
    if isinstance(values, list):
        return f"[{', '.join(map(_written, values))}]"
    return "np.nan" if values != values else repr(values)


def _setup(encoder: FeatureEncoder, name: str, example: ExampleData, own_import: str) -> str:
    elements = []
    for key in encoder.data:
        values, rows = example.elements[key.name]
        is_table = key.kind is Kind.GLOBAL_ELEMENT
        type_ = f"pa.list_(types[{key.name!r}])" if is_table else f"types[{key.name!r}]"
        elements.append(f"{key.name!r}: Element(pa.array({values!r}, {type_}), np.array({rows!r}))")
    return _SETUP.format(
        constructors=", ".join(sorted({_constructor(key) for key in (*example.context, *example.items)})),
        own_import=own_import,
        types=f"    types = {{key.name: key.type for key in {name}.data}}\n" if encoder.data else "",
        context=", ".join(map(_declaration, example.context)),
        items=", ".join(map(_declaration, example.items)),
        contexts=CONTEXTS,
        item_count=ITEMS,
        last_offset=CONTEXTS * ITEMS,
        now=NOW,
        context_columns=_columns(example, example.context),
        item_columns=_columns(example, example.items),
        elements=", ".join(elements),
    )


def _columns(example: ExampleData, keys: tuple[DataKey, ...]) -> str:
    return ", ".join(f"{key.name!r}: pa.array({example.variables[key.name]!r}, {str(key.type)!r})" for key in keys)


def _constructor(key: DataKey) -> str:
    return "item" if key.kind is Kind.ITEM else "context_variable"


def _declaration(key: DataKey) -> str:
    return f"{_constructor(key)}({key.name!r}, {str(key.type)!r})"
