"""Encoders as packages carry them: their own captured source, which runs only if its fingerprint is allowed.

So two versions of an encoder work side by side in one process. A fingerprint covers all that is executed, and is
verified before: whoever allows one allows exactly that text.
"""

from __future__ import annotations

import linecache
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from types import FunctionType
from typing import Any

from encoders.compilation.text_check import check_text_use
from encoders.encoder import FeatureEncoder, ParameterValue, fingerprint_of
from encoders.fingerprint.self_contained import ENTRY, CapturedSource
from encoders.hash_index import lookup
from encoders.source.declared_reads import check_source
from encoders.source.function_source import source_of
from encoders.vector import Vector
from encoders.vocabulary import Vocabulary
from schemas.data_keys import DataKey, by_name
from schemas.errors import DataKeyError, EncoderError, FingerprintError


def source_to_json(encoder: FeatureEncoder) -> dict[str, Any]:
    """Write what `encoder_from_source` needs besides an encoder's entry in a feature model."""
    captured = encoder.captured()
    return {
        "text": captured.text,
        "versions": captured.versions,
        "compiled": encoder.compiled,
        "written": list(encoder.written),
        "data": [key.to_json() for key in encoder.data],
        **({"widths": dict(encoder.widths)} if encoder.widths else {}),
    }


def encoder_from_source(fields: Mapping[str, Any]) -> FeatureEncoder:
    """Build an encoder from its packaged source, by executing it: only for a fingerprint that the project allows.

    fields: the encoder's entry in a feature model
    Raises EncoderError for an entry without source, FingerprintError for a source that is not the one of its
    fingerprint, or was captured with other versions of the distributions that it imports. Neither is executed.
    """
    name, expected = fields["encoder"], fields["fingerprint"]
    source, data, written, compiled, widths = _read(name, fields.get("source"))
    parameters = _parameters(fields["parameters"])
    actual = fingerprint_of(source, compiled, written, fields["rename"], parameters, data, widths)
    if actual != expected:
        raise FingerprintError.because(
            f"the packaged source of encoder '{name}' is of fingerprint {actual[:12]}, expected {expected[:12]}",
            "package the model again",
        )
    for distribution, captured in source.versions.items():
        if _installed(distribution) != captured:
            raise FingerprintError.because(
                f"the packaged source of encoder '{name}' was captured with {distribution} {captured}, installed is "
                f"{_installed(distribution)}",
                f"install {distribution}=={captured}, or train again",
            )
    function = _execute(name, source.text, expected)
    title, tree = name.removeprefix("__main__:"), source_of(function)
    lookups = frozenset(each for each, value in function.__globals__.items() if value is lookup)
    reads = check_source(title, tree, by_name(data), written, lookups, widths)
    if compiled:
        check_text_use(title, function, tree, data, parameters)
    return FeatureEncoder(function, data, written, compiled, parameters, dict(fields["rename"]), reads, source, widths)


def _parameters(fields: Mapping[str, Any]) -> dict[str, ParameterValue]:
    """Read parameters from JSON, in which a vocabulary is a list. Raises EncoderError."""
    return {name: Vocabulary(value) if isinstance(value, list) else value for name, value in fields.items()}


def _read(name: str, fields: Any) -> tuple[CapturedSource, tuple[DataKey, ...], tuple[str, ...], bool, dict[str, int]]:
    """Read what `source_to_json` wrote. Raises EncoderError."""
    if fields is None:
        raise EncoderError.because(
            f"the package has no source of encoder '{name}'", "install its code, or package the model again"
        )
    try:
        text, versions, compiled = fields["text"], fields["versions"], fields["compiled"]
        written, data = tuple(fields["written"]), tuple(DataKey.from_json(key) for key in fields["data"])
        texts = [text, *versions, *versions.values(), *written]
        if not all(isinstance(each, str) for each in texts) or not isinstance(compiled, bool):
            raise TypeError("a field is not text")
        widths = {vector: Vector(vector, width).width for vector, width in fields.get("widths", {}).items()}
        if not widths.keys() <= {*written}:
            raise ValueError("a vector is no feature")
    except (KeyError, TypeError, AttributeError, ValueError, DataKeyError, EncoderError) as error:
        raise EncoderError.because(
            f"the packaged source of encoder '{name}' is malformed: {error!r}", "package the model again"
        ) from error
    lines = enumerate(text.splitlines(), 1)
    places = {line: f"line {line} of the packaged source (`{written_there.strip()}`)" for line, written_there in lines}
    return CapturedSource(text, places, dict(versions)), data, written, compiled, widths


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _execute(name: str, text: str, fingerprint: str) -> FunctionType:
    """Execute a source and give its encoder, which has the name that it had where it was written."""
    file = f"<packaged {name} {fingerprint[:12]}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)  # so that its source is found
    module, _, qualified_name = name.partition(":")
    namespace: dict[str, Any] = {"__name__": f"packaged_{fingerprint[:12]}"}
    exec(compile(text, file, "exec", dont_inherit=True), namespace)  # noqa: S102  # the project allows this fingerprint
    function: FunctionType = namespace[ENTRY]
    function.__module__, function.__qualname__ = module, qualified_name
    return function
