"""Writes an encoder as a module: its own source, with the imports, constants, helpers and data keys that it uses."""

from __future__ import annotations

import ast
import re
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from encoders.encoder import FeatureEncoder
from encoders.fingerprint.self_contained import SourceCollector
from encoders.hash_index import lookup
from encoders.promotion.imports import Imports
from encoders.source.function_source import FunctionSource, source_of
from encoders.source.function_tree import clean_tree, global_names, resolve
from encoders.source.parsing import parse
from schemas.arrow_types import parse_type, type_text
from schemas.data_keys import DataKey, Kind
from schemas.errors import DataKeyError, EncoderError
from schemas.hashing import text_code

_MAKERS = {Kind.SERVICE_ELEMENT: "service_element", Kind.GLOBAL_ELEMENT: "global_element"}


def module_text(encoder: FeatureEncoder) -> str:
    """Write the module. Raises EncoderError for what cannot be written as text."""
    _ = encoder.fingerprint  # which refuses what cannot
    writer = _Writer(encoder)
    keys = [writer.key(key) for key in encoder.data]
    body = writer.function(encoder.function, encoder.function.__name__, is_encoder=True)
    declared = [f"data=[{', '.join(keys)}]"] if keys else []
    declared.append(f"features=[{', '.join(_text(feature) for feature in encoder.written)}]")
    declared += [] if encoder.compiled else ["compiled=False"]
    renamed = (
        f"\n\n{encoder.function.__name__} = {encoder.function.__name__}.configured(rename={dict(encoder.rename)!r})\n"
        if encoder.rename
        else ""
    )
    said = (encoder.function.__doc__ or f"The feature encoder {encoder.function.__name__}.").strip().splitlines()[0]
    parts = [
        f'"""{said}"""\n\nfrom __future__ import annotations\n\n{writer.imports.text()}',
        "".join(f"{line}\n" for line in writer.definitions),
        *(f"\n{helper}" for helper in writer.helpers),
        f"\n@feature_encoder({', '.join(declared)})\n{body}{renamed}",
    ]
    return "\n".join(part for part in parts if part)


class _Writer:
    """Gathers what a function uses, in its original words."""

    def __init__(self, encoder: FeatureEncoder) -> None:
        self.encoder = encoder
        self.plain = SourceCollector(encoder.title, compiled=False)  # what a module sees of text is text
        self.imports = Imports()
        self.imports.add("encoders", "feature_encoder")
        self.definitions: list[str] = []
        self.helpers: list[str] = []
        self.known: set[str] = set()

    def function(self, function: FunctionType, name: str, is_encoder: bool = False) -> str:
        """Write a function under a name, after gathering what it uses."""
        source = source_of(function)
        used = global_names(ast.unparse(clean_tree(source.tree, is_encoder)))
        for each in sorted(used - {function.__name__, name}):
            found, value = resolve(function, each)
            if found:
                self.add(each, value)
        for each in _annotated(source.tree):
            found, value = resolve(function, each)
            if found:
                with suppress(EncoderError):  # nobody evaluates annotations
                    self.import_of(each, value)
        text = _with_defaults(source, self.encoder) if is_encoder else source.text
        return re.sub(rf"^def {function.__name__}\b", f"def {name}", _without_decorators(text), flags=re.MULTILINE)

    def add(self, name: str, value: Any) -> None:
        if name in self.known:
            return
        self.known.add(name)
        function = getattr(value, "py_func", value)  # of a function that Numba wrapped
        if self.import_of(name, value):
            return
        if isinstance(function, FunctionType):
            self.helpers.append(self.function(function, name))
            return
        literal = self.plain.literal(name, value)
        if literal.startswith("__import__('re')."):
            self.imports.add("re")
            literal = literal.removeprefix("__import__('re').").replace("compile", "re.compile", 1)
        self.definitions.append(f"{name} = {literal}")

    def import_of(self, name: str, value: Any) -> bool:
        """Import what a name means, if it can be imported."""
        if isinstance(value, ModuleType):
            self.imports.add(value.__name__, alias=name)
        elif value is lookup or value is text_code:
            self.imports.add("encoders", value.__name__, name)
        elif (line := self.plain.import_of(name, value)) is not None:
            module, own = re.fullmatch(r"from (\S+) import (\w+) as \w+", line).groups()  # type: ignore[union-attr]  # as it writes it
            self.imports.add(module, own, name)
        elif _importable(getattr(value, "__module__", None), getattr(value, "__name__", ""), value):
            self.imports.add(value.__module__, value.__name__, name)
        else:
            return False
        return True

    def key(self, key: DataKey) -> str:
        """Give the name of a data key, after importing or defining it."""
        around = self.encoder.function.__globals__
        names = [name for name, value in around.items() if isinstance(value, DataKey) and value == key]
        decorators = [ast.unparse(each) for each in source_of(self.encoder.function).tree.decorator_list]
        names.sort(key=lambda name: (not re.search(rf"\b{name}\b", " ".join(decorators)), name.startswith("_"), name))
        name = names[0] if names else key.name.upper()
        for module in sorted(sys.modules):
            if names and _importable(module, name, around[name]) and _assigns(module, name):
                self.imports.add(module, name)
                return name
        self.imports.add("schemas.data_keys", _MAKERS[key.kind])
        self.definitions.append(f"{name} = {_MAKERS[key.kind]}({_text(key.name)}, {_text(_type_text(key))})")
        return name


def _importable(module: str | None, name: str, value: Any) -> bool:
    """Whether a module that lies in a file gives this very value."""
    loaded = sys.modules.get(module or "")
    if loaded is None or module == "__main__" or not name.isidentifier() or vars(loaded).get(name) is not value:
        return False
    with suppress(ImportError, ValueError, AttributeError):
        spec = find_spec(loaded.__name__)
        return spec is not None and spec.origin is not None and spec.origin == getattr(loaded, "__file__", None)
    return False


def _assigns(module: str, name: str) -> bool:
    """Whether a name is a module's own, not only imported there."""
    try:
        tree = parse(Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return False
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _type_text(key: DataKey) -> str:
    whole = type_text(key.type)
    short = whole.replace("item: ", "").replace("tz=", "")
    with suppress(DataKeyError):  # a field's name may look like what is left out
        return short if parse_type(short) == key.type else whole
    return whole


def _text(value: str) -> str:
    return '"' + repr(value + "'")[1:-2] + '"' if '"' not in value else repr(value)


def _without_decorators(text: str) -> str:
    function = parse(text).body[0]
    return "\n".join(text.rstrip().splitlines()[function.lineno - 1 :]) + "\n"


def _with_defaults(source: FunctionSource, encoder: FeatureEncoder) -> str:
    """Put the encoder's parameters as they are now in place of its source's defaults."""
    lines = [line.encode() for line in source.text.splitlines()]
    arguments = parse(source.text).body[0].args  # type: ignore[attr-defined]  # a function
    for argument, default in reversed(list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))):
        said = lines[default.lineno - 1][default.col_offset : default.end_col_offset].decode()
        value = encoder.parameters[argument.arg]
        with suppress(ValueError, SyntaxError):
            said_value = ast.literal_eval(said)
            if type(said_value) is type(value) and said_value == value:
                continue
        before, after = (
            lines[default.lineno - 1][: default.col_offset],
            lines[default.end_lineno - 1][default.end_col_offset :],
        )
        lines[default.lineno - 1 : default.end_lineno] = [before + repr(value).encode() + after]
    return b"\n".join(lines).decode() + "\n"


def _annotated(tree: ast.FunctionDef) -> set[str]:
    nodes = [getattr(node, field, None) for node in ast.walk(tree) for field in ("annotation", "returns")]
    return {name.id for node in nodes if node is not None for name in ast.walk(node) if isinstance(name, ast.Name)}
