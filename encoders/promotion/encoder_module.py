"""Writes an encoder as a module: its own source, and the imports, constants, helpers and data keys that it uses."""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from encoders.encoder import FeatureEncoder
from encoders.fingerprint.self_contained import OWN_FUNCTIONS, SourceCollector
from encoders.source.function_source import FunctionSource, source_of
from encoders.source.function_tree import clean_tree, global_names, resolve
from encoders.source.parsing import parse
from encoders.vocabulary import Vocabulary
from schemas.arrow_types import parse_type, type_text
from schemas.data_keys import DataKey, Kind
from schemas.errors import DataKeyError, EncoderError

_CONSTRUCTORS = {Kind.SERVICE_ELEMENT: "service_element", Kind.GLOBAL_ELEMENT: "global_element"}
_INSTALLED = ("encoders", "numba", "numpy", "pyarrow", "schemas")


def encoder_module(encoder: FeatureEncoder) -> str:
    """Write the module. Raises EncoderError if the encoder uses a value that cannot be written as text."""
    _ = encoder.fingerprint  # raises for such values
    writer = _ModuleWriter(encoder)
    name = encoder.function.__name__
    keys = [writer.key(key) for key in encoder.data]
    body = writer.function(encoder.function, name, is_encoder=True)
    declared = [f"data=[{', '.join(keys)}]"] if keys else []
    declared.append(f"features=[{', '.join(writer.feature(feature) for feature in encoder.written)}]")
    declared += [] if encoder.compiled else ["compiled=False"]
    renamed = f"\n\n{name} = {name}.configured(rename={dict(encoder.rename)!r})\n" if encoder.rename else ""
    summary = (encoder.function.__doc__ or f"The feature encoder {name}.").strip().splitlines()[0]
    parts = [
        f'"""{summary}"""\n\nfrom __future__ import annotations\n\n{writer.import_lines()}',
        "".join(f"{line}\n" for line in writer.definitions),
        *(f"\n{helper}" for helper in writer.helpers),
        f"\n@feature_encoder({', '.join(declared)})\n{body}{renamed}",
    ]
    return "\n".join(part for part in parts if part)


class _ModuleWriter:
    """Collects what a function uses, keeping its original formatting and comments."""

    def __init__(self, encoder: FeatureEncoder) -> None:
        self.encoder = encoder
        self.collector = SourceCollector(encoder.title, compiled=False)  # constants are written as in plain Python
        self.modules: set[tuple[str, str]] = set()
        self.imported: defaultdict[str, set[str]] = defaultdict(set, encoders={"feature_encoder"})
        self.definitions: list[str] = []
        self.helpers: list[str] = []
        self.names: set[str] = set()

    def function(self, function: FunctionType, name: str, is_encoder: bool = False) -> str:
        """Write a function under a name, after collecting what it uses."""
        source = source_of(function)
        used = global_names(ast.unparse(clean_tree(source.tree, is_encoder)))
        for each in sorted(used - {function.__name__, name}):
            defined, value = resolve(function, each)
            if defined:
                self.add(each, value)
        for each in _annotation_names(source.tree):
            defined, value = resolve(function, each)
            if defined:
                with suppress(EncoderError):  # annotations are never evaluated
                    self.import_value(each, value)
        text = _with_defaults(source, self.encoder) if is_encoder else source.text
        return re.sub(rf"^def {function.__name__}\b", f"def {name}", _without_decorators(text), flags=re.MULTILINE)

    def add(self, name: str, value: Any) -> None:
        if name in self.names:
            return
        self.names.add(name)
        function = getattr(value, "py_func", value)  # the function in a Numba dispatcher
        if self.import_value(name, value):
            return
        if isinstance(function, FunctionType):
            self.helpers.append(self.function(function, name))
            return
        literal = self.collector.literal(name, value)
        if literal.startswith("__import__('re')."):
            self.modules.add(("re", "re"))
            literal = literal.removeprefix("__import__('re').").replace("compile", "re.compile", 1)
        self.definitions.append(f"{name} = {literal}")

    def import_value(self, name: str, value: Any) -> bool:
        """Import a value under a name, if it can be imported."""
        if isinstance(value, ModuleType):
            self.modules.add((value.__name__, name))
        elif any(value is each for each in OWN_FUNCTIONS):
            self.import_name("encoders", value.__name__, name)
        elif (origin := self.collector.origin_of(value)) is not None:
            self.import_name(*origin, name)
        elif _importable(getattr(value, "__module__", None), getattr(value, "__name__", ""), value):
            self.import_name(value.__module__, value.__name__, name)
        else:
            return False
        return True

    def import_name(self, module: str, name: str, alias: str) -> None:
        self.imported[module].add(name if alias == name else f"{name} as {alias}")

    def feature(self, name: str) -> str:
        """Write a feature as the decorator declares it."""
        width = self.encoder.widths.get(name)
        if width is None:
            return _quoted(name)
        self.import_name("encoders", "Vector", "Vector")
        return f"Vector({_quoted(name)}, {width})"

    def import_lines(self) -> str:
        """Write all imports, in groups: the standard library's, installed packages' and the project's."""
        groups: list[list[str]] = [[], [], []]
        for module, alias in sorted(self.modules):
            groups[_group(module)].append(f"import {module}" if alias == module else f"import {module} as {alias}")
        for module in sorted(self.imported):
            groups[_group(module)].append(f"from {module} import {', '.join(sorted(self.imported[module]))}")
        return "\n".join("".join(f"{line}\n" for line in group) for group in groups if group)

    def key(self, key: DataKey) -> str:
        """Import or define a data key, and give its name."""
        globals_ = self.encoder.function.__globals__
        names = [name for name, value in globals_.items() if isinstance(value, DataKey) and value == key]
        decorators = [ast.unparse(each) for each in source_of(self.encoder.function).tree.decorator_list]
        names.sort(key=lambda name: (not re.search(rf"\b{name}\b", " ".join(decorators)), name.startswith("_"), name))
        name = names[0] if names else key.name.upper()
        for module in sorted(sys.modules):
            if names and _importable(module, name, globals_[name]) and _assigns(module, name):
                self.import_name(module, name, name)
                return name
        constructor = _CONSTRUCTORS[key.kind]
        self.import_name("schemas.data_keys", constructor, constructor)
        declared = [f"{what}={dict(of_key)!r}" for what in ("defaults", "aliases") if (of_key := getattr(key, what))]
        arguments = ", ".join([_quoted(key.name), _quoted(_type_text(key)), *declared])
        self.definitions.append(f"{name} = {constructor}({arguments})")
        return name


def _group(module: str) -> int:
    top = module.partition(".")[0]
    return 0 if top in sys.stdlib_module_names else 1 if top in _INSTALLED else 2


def _importable(module: str | None, name: str, value: Any) -> bool:
    """Whether importing a name from a module's file gives exactly this value."""
    loaded = sys.modules.get(module or "")
    if loaded is None or module == "__main__" or not name.isidentifier() or vars(loaded).get(name) is not value:
        return False
    with suppress(ImportError, ValueError, AttributeError):
        spec = find_spec(loaded.__name__)
        return spec is not None and spec.origin is not None and spec.origin == getattr(loaded, "__file__", None)
    return False


def _assigns(module: str, name: str) -> bool:
    """Whether a module assigns a name itself, instead of importing it."""
    try:
        tree = parse(Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return False
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _type_text(key: DataKey) -> str:
    whole = type_text(key.type)
    short = whole.replace("item: ", "").replace("tz=", "")
    with suppress(DataKeyError):  # a field's name may contain what was removed
        return short if parse_type(short) == key.type else whole
    return whole


def _quoted(value: str) -> str:
    return '"' + repr(value + "'")[1:-2] + '"' if '"' not in value else repr(value)


def _without_decorators(text: str) -> str:
    function = parse(text).body[0]
    return "\n".join(text.rstrip().splitlines()[function.lineno - 1 :]) + "\n"


def _with_defaults(source: FunctionSource, encoder: FeatureEncoder) -> str:
    """Replace the defaults in the source with the encoder's current parameters."""
    lines = [line.encode() for line in source.text.splitlines()]
    arguments = parse(source.text).body[0].args  # type: ignore[attr-defined]  # a function
    for argument, default in reversed(list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))):
        expression = lines[default.lineno - 1][default.col_offset : default.end_col_offset].decode()
        value = encoder.parameters[argument.arg]
        with suppress(ValueError, SyntaxError):
            current = ast.literal_eval(expression)
            same_type = type(current) is type(value) or isinstance(value, Vocabulary)
            if same_type and current == value:
                continue
        before, after = (
            lines[default.lineno - 1][: default.col_offset],
            lines[default.end_lineno - 1][default.end_col_offset :],
        )
        lines[default.lineno - 1 : default.end_lineno] = [before + repr(value).encode() + after]
    return b"\n".join(lines).decode() + "\n"


def _annotation_names(tree: ast.FunctionDef) -> set[str]:
    nodes = [getattr(node, field, None) for node in ast.walk(tree) for field in ("annotation", "returns")]
    return {name.id for node in nodes if node is not None for name in ast.walk(node) if isinstance(name, ast.Name)}
