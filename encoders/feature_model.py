"""Feature models: the encoders of an experiment, with a fingerprint and as JSON."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from encoders.bound_encoder import BoundEncoder
from encoders.bound_model import BoundModel, ColumnPlan, ElementPlan, ExecutionMode
from encoders.compilation.batch_module import module_text
from encoders.compilation.code_cache import configured_cache_folder
from encoders.encoder import FeatureEncoder, ParameterValue
from encoders.layout import (
    ScalarLayout,
    element_layout,
    outer_fields,
    scalar_dtype,
    stored_type,
    variable_layout,
)
from encoders.packaged_source import encoder_from_source, source_to_json
from encoders.project_modules import refuse_hidden
from encoders.vector import columns_of
from schemas.data_keys import DataKey, Kind, by_name
from schemas.errors import DataKeyError, EncoderError, EncoderOutputError, FingerprintError, UndeclaredKeyError
from schemas.nulls import is_text
from schemas.tables import TIME

Encoders: TypeAlias = "FeatureModel | FeatureEncoder | Sequence[FeatureEncoder]"
FORMAT = 1  # version of the JSON text
LIBRARY = "encoders.library"
_LARGEST_JSON = 4_000_000  # characters
_TIME = DataKey("time", Kind.CONTEXT, TIME)


@dataclass(frozen=True, repr=False)
class FeatureModel:
    """The encoders of an experiment, or one encoder.

    Raises EncoderOutputError if two write the same feature, DataKeyError if two declare a key with different meanings.
    """

    encoders: tuple[FeatureEncoder, ...]

    def __init__(self, encoders: Encoders) -> None:
        if isinstance(encoders, FeatureModel | FeatureEncoder):
            encoders = encoders.encoders if isinstance(encoders, FeatureModel) else [encoders]
        if not isinstance(encoders, Iterable):
            raise EncoderError.because(f"{encoders!r} is not a feature encoder", "put @feature_encoder on it")
        writers: dict[str, str] = {}
        for encoder in encoders:
            if not isinstance(encoder, FeatureEncoder):
                raise EncoderError.because(f"{encoder!r} is not a feature encoder", "put @feature_encoder on it")
            for feature in encoder.features:
                if feature in writers:
                    raise EncoderOutputError.because(
                        f"the feature '{feature}' is written by '{writers[feature]}' and by '{encoder.title}'",
                        f'rename one: .configured(rename={{"{feature}": "…"}})',
                    )
                writers[feature] = encoder.title
        by_name(key for encoder in encoders for key in encoder.data)
        object.__setattr__(self, "encoders", tuple(encoders))

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(feature for encoder in self.encoders for feature in encoder.features)

    @property
    def vectors(self) -> dict[str, int]:
        """The widths of the features that are vectors."""
        return {name: width for encoder in self.encoders for name, width in encoder.vectors.items()}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of a model's inputs, in order: each feature, or each component of a vector, such as `factors[0]`."""
        return columns_of(self.features, self.vectors)

    @property
    def elements(self) -> dict[str, DataKey]:
        """The data elements that the encoders read, by name."""
        return by_name(key for encoder in self.encoders for key in encoder.data)

    def with_source(self) -> FeatureModel:
        """Give the same model with its encoders' source as it is now, which takes milliseconds for each encoder."""
        return FeatureModel([encoder.with_source() for encoder in self.encoders])

    @property
    def fingerprint(self) -> str:
        """A hash of what the model computes."""
        prints = [encoder.fingerprint for encoder in self.encoders]
        return hashlib.sha256(json.dumps([FORMAT, prints]).encode()).hexdigest()

    def __repr__(self) -> str:
        """One line for people."""
        return (
            f"feature model of {len(self.encoders)} encoders: "
            f"{len(self.features)} features from {len(self.elements)} data elements"
        )

    def to_json(self, *, with_source: bool = False) -> str:
        """Write the model as JSON text, with references to its encoders instead of their code.

        with_source: also with their captured source, see `from_json`
        """
        encoders = [
            {
                "encoder": encoder.name,
                "parameters": dict(encoder.parameters),
                "rename": dict(encoder.rename),
                "features": list(encoder.features),
                "fingerprint": encoder.fingerprint,
                **({"vectors": encoder.vectors} if encoder.vectors else {}),
                **_resolved_keys(encoder),
                **({"source": source_to_json(encoder)} if with_source else {}),
            }
            for encoder in self.encoders
        ]
        return json.dumps({"format": FORMAT, "encoders": encoders}, indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, modules: Sequence[str] = (LIBRARY,), allow: Collection[str] = ()) -> FeatureModel:
        """Read a model that `to_json` wrote.

        modules: the modules and packages from which encoders may be imported
        allow: fingerprints of encoders whose source in the text may be executed where the installed one is another
        Raises EncoderError for invalid text or other modules, FingerprintError if an encoder has changed since.
        """
        return cls([_read_encoder(fields, modules, allow) for fields in _read_list(text)])

    def bind(
        self, context: Sequence[DataKey], items: Sequence[DataKey], cache_folder: Path | str | None = None
    ) -> BoundModel:
        """Bind the encoders to the variables of label data or of a request.

        context: the context's variables; `time` is always added
        items: the items' variables
        cache_folder: where compiled code is cached; None: the project's folder, else ~/.cache/delorean/encoders of the
            user who runs the model, or nowhere if that folder cannot be used

        Raises UndeclaredKeyError for a variable that an encoder reads and that is in neither.
        """
        contexts, item_keys = {**by_name(context), "time": _TIME}, by_name(items)
        plans = {
            mode: ColumnPlan({}, {}, self._element_plans(mode is ExecutionMode.MACHINE))
            for mode in (ExecutionMode.MACHINE, ExecutionMode.PLAIN)
        }
        bound: list[BoundEncoder] = []
        variables: dict[tuple[str, str], DataKey] = {}
        for encoder in self.encoders:
            read_context = _variables(encoder, "context", encoder.reads.context, contexts)
            read_items = _variables(encoder, "items", encoder.reads.items, item_keys)
            mode = ExecutionMode.MACHINE if encoder.compiled else ExecutionMode.PLAIN
            plan = plans[mode]
            plans[mode] = ColumnPlan({**plan.context, **read_context}, {**plan.items, **read_items}, plan.elements)
            variables |= {("context", n): contexts[n] for n in read_context}
            variables |= {("items", n): item_keys[n] for n in read_items}
            bound.append(_bind(encoder, read_context, read_items))
        plans[ExecutionMode.ORACLE] = plans[ExecutionMode.MACHINE].in_python()
        chosen = configured_cache_folder() if cache_folder is None else str(cache_folder)
        return BoundModel(tuple(bound), variables, plans, chosen)

    def _element_plans(self, compiled: bool) -> dict[str, ElementPlan]:
        """Combine what the encoders read of each element."""
        read: dict[str, set[str] | None] = {}
        indexed: set[str] = set()
        for encoder in self.encoders:
            if encoder.compiled is compiled:
                indexed |= _indexed(encoder)
                for name, fields in encoder.reads.fields.items():
                    before = read.get(name, set())
                    read[name] = None if fields is None or before is None else before | fields
        keys = self.elements
        return {
            name: ElementPlan(
                keys[name],
                element_layout(keys[name], compiled, _names(keys[name], fields)),
                name in indexed,
                stored_type(keys[name]),
            )
            for name, fields in read.items()
        }


def _bind(
    encoder: FeatureEncoder, context: Mapping[str, ScalarLayout], items: Mapping[str, ScalarLayout]
) -> BoundEncoder:
    keys, indexed = by_name(encoder.data), _indexed(encoder)
    elements = {
        name: (keys[name], element_layout(keys[name], encoder.compiled, _names(keys[name], fields)), name in indexed)
        for name, fields in encoder.reads.fields.items()
    }
    captured = encoder.captured()
    text, columns = module_text(captured.text, context, items, elements, encoder.written, encoder.parameters)
    return BoundEncoder(
        name=encoder.title,
        text=text,
        columns=tuple(columns),
        features=encoder.features,
        parameters=tuple(encoder.parameters.values()),
        compiled=encoder.compiled,
        declared=tuple(keys),
        widths=encoder.vectors,
        places=captured.places,
    )


def _names(key: DataKey, fields: set[str] | None) -> set[str] | None:
    """Give the fields that are read; None: everything, as of an element without fields."""
    return None if outer_fields(key) is None else fields


def _indexed(encoder: FeatureEncoder) -> set[str]:
    """Give the global elements in which an encoder looks up rows. Raises EncoderError for a wrong key type."""
    keys = by_name(encoder.data)
    for name in encoder.reads.indexed:
        first = keys[name].type.field(0)
        if not (is_text(first.type) or scalar_dtype(first.type, True) == "int64"):
            raise EncoderError.because(
                f"encoder '{encoder.title}' looks up rows of '{name}' by '{first.name}', a {first.type}",
                "make the first field an integer or text",
            )
    return encoder.reads.indexed


def _variables(
    encoder: FeatureEncoder, group: str, read: set[str] | None, available: Mapping[str, DataKey]
) -> dict[str, ScalarLayout]:
    for name in sorted(read or ()):
        if name not in available:
            what = "context variable" if group == "context" else "item variable"
            unknown = UndeclaredKeyError.unknown(what, name, available)
            raise UndeclaredKeyError.because(f"encoder '{encoder.title}' reads {group}.{name}: {unknown}")
    names = available if read is None else sorted(read)
    return {name: variable_layout(available[name], encoder.compiled) for name in names}


def _resolved_keys(encoder: FeatureEncoder) -> dict[str, Any]:
    """Give the keys whose types a project declares, if there are any: it may declare other types later."""
    resolved = [key.to_json() for key in encoder.data if key.resolved]
    return {"resolved_keys": resolved} if resolved else {}


def _with_resolved_keys(encoder: FeatureEncoder, fields: Mapping[str, Any]) -> FeatureEncoder:
    """Give an imported encoder the types that its keys had when the model was created."""
    recorded = {key.name: key for key in map(DataKey.from_json, fields.get("resolved_keys", ()))}
    data = [recorded.get(key.name, key) if key.resolved else key for key in encoder.data]
    if data == list(encoder.data):
        return encoder
    return encoder.reading([replace(key, resolved=key.name in recorded) for key in data])


def _read_list(text: str) -> list[dict[str, Any]]:
    if len(text) > _LARGEST_JSON:
        raise EncoderError.because(f"feature model has {len(text)} characters, expected at most {_LARGEST_JSON}")
    try:
        model = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EncoderError.because(f"feature model is not JSON: {error}") from error
    expected = {"encoder": str, "parameters": dict, "rename": dict, "fingerprint": str}
    entries = model.get("encoders") if isinstance(model, dict) and model.get("format") == FORMAT else None
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in expected.items())
        for entry in entries
    ):
        raise EncoderError.because(
            f"this is not a feature model of format {FORMAT}", "write it with FeatureModel.to_json"
        )
    return entries


def _read_encoder(fields: Mapping[str, Any], modules: Sequence[str], allow: Collection[str]) -> FeatureEncoder:
    """Give the installed encoder, or the one of the model's own source if that is allowed."""
    try:
        return _installed_encoder(fields, modules)
    except EncoderError:
        if fields["fingerprint"] not in allow:
            raise
    return encoder_from_source(fields)


def _installed_encoder(fields: Mapping[str, Any], modules: Sequence[str]) -> FeatureEncoder:
    reference: str = fields["encoder"]
    module, _, name = reference.partition(":")
    if not any(module == allowed or module.startswith(f"{allowed}.") for allowed in modules):
        raise EncoderError.because(
            f"encoder '{reference}' lies outside the modules it may be imported from ({', '.join(modules)})",
            "move it there, or allow its module if you trust it: modules=(…)",
        )
    refuse_hidden(module)
    try:
        imported = getattr(importlib.import_module(module), name, None)
    except (ImportError, DataKeyError) as error:
        raise EncoderError.because(f"encoder '{reference}' cannot be imported: {error}") from error
    if not isinstance(imported, FeatureEncoder):
        raise EncoderError.because(f"'{reference}' is not a feature encoder")
    parameters: dict[str, ParameterValue] = fields["parameters"]
    encoder = _with_resolved_keys(imported, fields).configured(rename=fields["rename"], **parameters)
    if encoder.fingerprint != fields["fingerprint"]:
        raise FingerprintError.because(
            f"encoder '{reference}' is not the one this model was created with "
            f"(fingerprint {encoder.fingerprint[:12]}, expected {fields['fingerprint'][:12]})",
            "use the version of the code that it was created with, or train again; to execute the package's own source "
            f'beside the installed one, add to delorean.toml: [packages] allow = ["{fields["fingerprint"]}"]',
        )
    return encoder
