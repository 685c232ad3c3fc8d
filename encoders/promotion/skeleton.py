"""Writes the test of an encoder that was promoted: what it gives today for made-up state, to be made into cases."""

from __future__ import annotations

from encoders.encoder import FeatureEncoder
from encoders.promotion.imports import Imports
from encoders.promotion.sample import CONTEXTS, ITEMS, NOW, Sample, sample_of
from schemas.data_keys import DataKey, Kind
from schemas.errors import DeloreanError


def skeleton(encoder: FeatureEncoder, module: str, name: str) -> str:
    """Write the test.

    module, name: where the encoder is now
    """
    try:
        sample = sample_of(encoder)
    except DeloreanError as error:
        return _to_be_written(module, name, error)
    imports = Imports()
    for each in ("datetime", "numpy as np", "pyarrow as pa"):
        imports.add(each.partition(" ")[0], alias=each.rpartition(" ")[2])
    for each in ("DataMaps", "Element", "FeatureModel"):
        imports.add("encoders", each)
    imports.add(module, name)
    for key in (*sample.context, *sample.items):
        imports.add("schemas.data_keys", _maker(key))
    return "\n".join(
        [
            f'"""What {name} gives, for made-up state.\n\nThe values are those that it gave when it was promoted: '
            'put cases in their place that say what it is for.\n"""\n',
            imports.text(),
            f"CONTEXT = [{', '.join(map(_key, sample.context))}]",
            f"ITEMS = [{', '.join(map(_key, sample.items))}]",
            *_data_maps(encoder, sample, name),
            *_tests(sample, name),
        ]
    )


def _to_be_written(module: str, name: str, error: DeloreanError) -> str:
    return (
        f'"""What {name} gives."""\n\nimport pytest\n\nfrom {module} import {name}\n\n\n'
        f"def test_it_gives_what_it_should():\n    assert {name}.features\n"
        f"    pytest.fail({'no made-up state suits it, so write some: ' + str(error)!r})\n"
    )


def _data_maps(encoder: FeatureEncoder, sample: Sample, name: str) -> list[str]:
    elements = []
    for key in encoder.data:
        values, rows = sample.elements[key.name]
        stored = f"pa.list_(types[{key.name!r}])" if key.kind is Kind.GLOBAL_ELEMENT else f"types[{key.name!r}]"
        elements.append(f"{key.name!r}: Element(pa.array({values!r}, {stored}), np.array({rows!r})),")
    variables = {key.name: f"pa.array({sample.variables[key.name]!r}, {str(key.type)!r})" for key in _all(sample)}
    context = ", ".join(f"{key.name!r}: {variables[key.name]}" for key in sample.context)
    items = ", ".join(f"{key.name!r}: {variables[key.name]}" for key in sample.items)
    return [
        "\n\ndef data_maps():",
        f'    """Give {CONTEXTS} contexts with {ITEMS} items each; the second has no state of services."""',
        *([f"    types = {{key.name: key.type for key in {name}.data}}"] if encoder.data else []),
        f"    time = pa.array([{NOW!r}] * {CONTEXTS}, pa.timestamp('us', 'UTC'))",
        "    return DataMaps(",
        f"        contexts=pa.table({{'time': time, {context}}}),",
        f"        items=pa.table({{{items}}}),",
        f"        item_offsets=np.arange(0, {CONTEXTS * ITEMS + 1}, {ITEMS}),",
        f"        elements={{{' '.join(elements)}}},",
        "    )",
    ]


def _tests(sample: Sample, name: str) -> list[str]:
    found = {
        feature: "[" + ", ".join("np.nan" if value != value else repr(float(value)) for value in values) + "]"
        for feature, values in sample.found.items()
    }
    return [
        "\n\ndef test_it_gives_what_it_gave_when_it_was_promoted():",
        f"    found = FeatureModel([{name}]).bind(CONTEXT, ITEMS).encode(data_maps())",
        *(
            f"    np.testing.assert_array_equal(found[{feature!r}], np.array({values}, np.float32))"
            for feature, values in found.items()
        ),
        "\n\ndef test_compiled_and_interpreted_it_gives_the_same_bits():",
        f"    bound = FeatureModel([{name}]).bind(CONTEXT, ITEMS)",
        "    compiled, interpreted = bound.encode(data_maps()), bound.interpret(data_maps())",
        f"    for feature in {name}.features:",
        "        assert compiled[feature].tobytes() == interpreted[feature].tobytes()",
        "",
    ]


def _all(sample: Sample) -> tuple[DataKey, ...]:
    return (*sample.context, *sample.items)


def _maker(key: DataKey) -> str:
    return "item" if key.kind is Kind.ITEM else "context_variable"


def _key(key: DataKey) -> str:
    return f"{_maker(key)}({key.name!r}, {str(key.type)!r})"
