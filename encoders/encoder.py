"""Feature encoders: declaring them, configuring them, and their fingerprints."""

from __future__ import annotations

import ast
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import Parameter, signature
from types import FunctionType
from typing import Any

from encoders.compilation.text_check import check_text_use
from encoders.fingerprint.self_contained import CapturedSource, capture
from encoders.hash_index import lookup
from encoders.layout import RESERVED, element_layout, outer_fields
from encoders.source.declared_reads import ARGUMENTS, Reads, check_source
from encoders.source.function_source import source_of
from encoders.vector import Vector, columns_of
from encoders.vocabulary import Vocabulary
from schemas.data_keys import DataKey, Kind, by_name
from schemas.errors import EncoderError, EncoderOutputError
from schemas.plain_text import plain_text

FORMAT = 2  # version of what a fingerprint covers
ParameterValue = int | float | bool | str | Vocabulary
_KINDS: dict[type, str] = {Vocabulary: "a list of texts"}  # of parameters, where the type's name would not say it


@dataclass(frozen=True, repr=False)
class FeatureEncoder:
    """The one implementation of some features, with its parameters.

    data: the data elements that it can read
    written: the features by their names in its source; `rename` maps them to their names in the feature set
    source: its captured text, if it was loaded from a package or by `with_source`; None: that of the function
    widths: of the features that are vectors, by their names in its source
    """

    function: FunctionType
    data: tuple[DataKey, ...]
    written: tuple[str, ...]
    compiled: bool
    parameters: Mapping[str, ParameterValue]
    rename: Mapping[str, str] = field(default_factory=dict)
    reads: Reads = field(default_factory=Reads, repr=False, compare=False)
    source: CapturedSource | None = field(default=None, repr=False, compare=False)
    widths: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its reference, as `module:name`."""
        return f"{self.function.__module__ or '__main__'}:{self.function.__qualname__}"

    @property
    def title(self) -> str:
        """Its name in messages: without the module if it was defined in a notebook."""
        return self.name.removeprefix("__main__:")

    @property
    def features(self) -> tuple[str, ...]:
        """The features it computes, by their names in the feature set."""
        return tuple(self.rename.get(feature, feature) for feature in self.written)

    @property
    def vectors(self) -> dict[str, int]:
        """The widths of those features that are vectors, by their names in the feature set."""
        return {self.rename.get(feature, feature): width for feature, width in self.widths.items()}

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of what a model sees of it: each feature, or each component of a vector, such as `factors[0]`."""
        return columns_of(self.features, self.vectors)

    def configured(
        self, *, rename: Mapping[str, str] | None = None, **parameters: ParameterValue | Sequence[str]
    ) -> FeatureEncoder:
        """Give the same encoder with other parameters or other names for its features.

        Raises EncoderError for an unknown parameter, or a value of the wrong type.
        """
        changed = {**self.parameters, **{n: self._checked(n, value) for n, value in parameters.items()}}
        names = {**self.rename, **(rename or {})}
        for old, new in names.items():
            if old not in self.written:
                raise EncoderError.unknown(f"feature of encoder '{self.title}'", old, self.written)
            _check_feature_name(self.title, new)
        names = {old: new for old, new in names.items() if old != new}
        configured = replace(self, parameters=changed, rename=names)
        _refuse_twice(self.title, configured.features)
        return configured

    def reading(self, data: Sequence[DataKey]) -> FeatureEncoder:
        """Give the same encoder with other declarations of its data elements. Raises what `feature_encoder` raises."""
        declared = _declared(self.function, data, self.written, self.widths, self.compiled)
        return replace(declared, parameters=self.parameters, rename=self.rename)

    def captured(self) -> CapturedSource:
        """Give its source as self-contained text, with its constants and helpers as they are now."""
        return capture(self.function, self.compiled) if self.source is None else self.source

    def with_source(self) -> FeatureEncoder:
        """Give the same encoder with its source as it is now: later changes of constants and helpers do not matter."""
        return replace(self, source=self.captured()) if self.source is None else self

    @property
    def fingerprint(self) -> str:
        """A hash of what it computes: source, constants, helpers, parameters, names, keys, types and versions."""
        return fingerprint_of(
            self.captured(), self.compiled, self.written, self.rename, self.parameters, self.data, self.widths
        )

    def __repr__(self) -> str:
        """One line for people."""
        elements = ", ".join(key.name for key in self.data) or "no data element"
        return plain_text(f"feature encoder {self.name}: {', '.join(self.features)} from {elements}")

    def __call__(self, context: Any, items: Any, data: Any, out: Any) -> None:
        """Run the plain Python function on one context, for example to debug it."""
        self.function(context, items, data, out, **self.parameters)

    def _checked(self, name: str, value: ParameterValue | Sequence[str]) -> ParameterValue:
        if name not in self.parameters:
            raise EncoderError.unknown(f"parameter of encoder '{self.title}'", name, self.parameters)
        expected = type(self.parameters[name])
        if expected is float and type(value) is int:
            value = float(value)
        if expected is Vocabulary and isinstance(value, list | tuple):
            return _vocabulary(self.title, name, value)
        if type(value) is not expected:
            raise EncoderError.because(
                f"encoder '{self.title}': parameter '{name}' is {value!r}, expected "
                + _KINDS.get(expected, expected.__name__)
            )
        return _finite(self.title, name, value)


def fingerprint_of(
    source: CapturedSource,
    compiled: bool,
    written: Sequence[str],
    rename: Mapping[str, str],
    parameters: Mapping[str, ParameterValue],
    data: Sequence[DataKey],
    widths: Mapping[str, int],
) -> str:
    """Hash all that decides what an encoder computes, see `FeatureEncoder`."""
    content = {
        "format": FORMAT,
        "text": source.text,
        "versions": source.versions,
        "compiled": compiled,
        "written": list(written),
        "rename": dict(rename),
        "parameters": {name: [type(value).__name__, repr(value)] for name, value in parameters.items()},
        "data": [key.to_json() for key in data],
        **({"widths": dict(widths)} if widths else {}),  # encoders of numbers keep their fingerprints
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def feature_encoder(
    *, data: Sequence[DataKey] = (), features: Sequence[str | Vector], compiled: bool = True
) -> Callable[[Callable[..., None]], FeatureEncoder]:
    """Declare a function `(context, items, data, out, *, parameters)` as the one implementation of some features.

    data: the service and global elements that it reads, as `data.<name>`
    features: the features that it writes, as `out.<feature>[i]` for item i; a feature not written is NaN. One that is a
        `Vector("factors", 16)` is written as `out.factors[i, j]`, or `out.factors[i] = …` from an array of 16 numbers
    compiled: False for functions that Numba cannot compile, such as those that process text

    A compiled encoder computes what plain Python computes, bit for bit: contexts in which a number leaves the range of
    machine numbers are computed by plain Python, which is slow. Code that cannot be compiled is rejected: texts can
    only be compared with ==, != and in, there are no dictionaries, sets or `try`, and every variable must be assigned
    before it is read. It may call the project's plain functions, and functions of math that give the same bits.

    A parameter's default is a number, a boolean, a text, or a tuple of texts: a vocabulary, in which `code_of` finds
    the category of a text.

    >>> from schemas.data_keys import service_element
    >>> RECENT = service_element("recent", "list<int64>")
    >>> @feature_encoder(data=[RECENT], features=["seen_before"])
    ... def seen_before(context, items, data, out, *, most_recent: int = 100):
    ...     for i in range(len(items.video_id)):
    ...         out.seen_before[i] = 0.0
    ...         for video_id in data.recent.values[:most_recent]:
    ...             if video_id == items.video_id[i]:
    ...                 out.seen_before[i] = 1.0
    >>> seen_before.configured(rename={"seen_before": "seen_lately"}, most_recent=5).features
    ('seen_lately',)

    Raises UndeclaredKeyError if the source reads an element that is not declared, EncoderOutputError if it returns a
    value or writes an undeclared feature, EncoderError for an invalid signature or key, and for a compiled encoder that
    does more with a text than compare it.
    """
    _check_declaration(data, features)
    names = [feature.name if isinstance(feature, Vector) else feature for feature in features]
    widths = {feature.name: feature.width for feature in features if isinstance(feature, Vector)}
    return lambda function: _declared(function, data, names, widths, compiled)


def _declared(
    function: Callable[..., None],
    data: Sequence[DataKey],
    features: Sequence[str],
    widths: Mapping[str, int],
    compiled: bool,
) -> FeatureEncoder:
    if not isinstance(function, FunctionType):
        raise EncoderError.because(f"{function!r} is not a plain function", "put @feature_encoder on a def")
    name = function.__qualname__
    _check_keys(name, data, compiled)
    for feature in features:
        _check_feature_name(name, feature)
    if not features:
        raise EncoderError.because(f"encoder '{name}' declares no feature", 'write features=["…"]')
    _refuse_twice(name, features)
    parameters = _parameters(name, function)
    lookups = frozenset(n for n, value in function.__globals__.items() if value is lookup)
    source = source_of(function)
    if any(isinstance(node, ast.Global | ast.Nonlocal) for node in ast.walk(source.tree)):
        raise EncoderError.because(f"encoder '{name}' changes variables outside it", "write only to out")
    reads = check_source(name, source, by_name(data), features, lookups, widths)
    if compiled:
        check_text_use(name, function, source, data, parameters)
    return FeatureEncoder(function, tuple(data), tuple(features), compiled, parameters, {}, reads, widths=dict(widths))


def _check_declaration(data: Any, features: Any) -> None:
    kinds = {
        "data": (data, DataKey, "write data=[VIEWING_HISTORY]"),
        "features": (features, str | Vector, 'write features=["f"]'),
    }
    for what, (values, kind, hint) in kinds.items():
        if not isinstance(values, list | tuple):
            raise EncoderError.mistaken(what, values, "a list", hint)
        for value in values:
            if not isinstance(value, kind):
                expected = "data keys" if kind is DataKey else "texts"
                raise EncoderError.because(f"{what} contains {value!r}, expected {expected}", hint)


def _check_keys(name: str, data: Sequence[DataKey], compiled: bool) -> None:
    for key in by_name(data).values():
        if key.kind not in (Kind.SERVICE_ELEMENT, Kind.GLOBAL_ELEMENT):
            raise EncoderError.because(
                f"encoder '{name}' declares '{key.name}', a {key.kind}, as data",
                f"read it as {'items' if key.kind is Kind.ITEM else 'context'}.{key.name}; it needs no declaration",
            )
        element_layout(key, compiled)
        reserved = sorted(RESERVED.intersection(outer_fields(key) or ()))
        if reserved:
            raise EncoderError.because(
                f"'{key.name}' has a field '{reserved[0]}', which is a reserved name", "rename it"
            )


def _parameters(name: str, function: FunctionType) -> dict[str, ParameterValue]:
    declared = list(signature(function).parameters.values())
    if tuple(p.name for p in declared[:4]) != ARGUMENTS or any(
        p.kind is not Parameter.POSITIONAL_OR_KEYWORD for p in declared[:4]
    ):
        raise EncoderError.because(
            f"encoder '{name}' takes {signature(function)}", "write (context, items, data, out, *, parameter=default)"
        )
    parameters: dict[str, ParameterValue] = {}
    for parameter in declared[4:]:
        value = parameter.default
        if isinstance(value, tuple) and any(isinstance(each, str) for each in value):
            value = _vocabulary(name, parameter.name, value)
        if parameter.kind is not Parameter.KEYWORD_ONLY or type(value) not in (int, float, bool, str, Vocabulary):
            raise EncoderError.because(
                f"encoder '{name}': parameter '{parameter.name}' must be keyword-only with a default that is an int, "
                "a float, a bool, a str or a tuple of str",
                f"write *, {parameter.name}=…",
            )
        parameters[parameter.name] = _finite(name, parameter.name, value)
    return parameters


def _vocabulary(encoder: str, name: str, texts: Sequence[str]) -> Vocabulary:
    try:
        return Vocabulary(texts)
    except EncoderError as error:
        raise EncoderError(f"encoder '{encoder}': parameter '{name}': {error}") from error


def _finite(encoder: str, name: str, value: ParameterValue) -> ParameterValue:
    if isinstance(value, float) and not math.isfinite(value):
        raise EncoderError.because(f"encoder '{encoder}': parameter '{name}' is {value}, expected a finite number")
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise EncoderError.because(f"encoder '{encoder}': parameter '{name}' does not fit 64 bits")
    return value


def _check_feature_name(encoder: str, name: str) -> None:
    if not name.isidentifier() or name.startswith("_"):
        raise EncoderError.because(
            f"encoder '{encoder}': '{name}' cannot name a feature", "use letters, digits and _, no digit first"
        )


def _refuse_twice(encoder: str, features: Sequence[str]) -> None:
    twice = sorted({feature for feature in features if list(features).count(feature) > 1})
    if twice:
        raise EncoderOutputError.because(f"encoder '{encoder}' writes the feature '{twice[0]}' twice")
