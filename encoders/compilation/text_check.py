"""Checks when a compiled encoder is declared that it only compares texts: compiled code sees only their codes."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import Any

import pyarrow as pa

from encoders.compilation.rewriting import NotMachineCodeError
from encoders.compilation.rewriting.text_flow import MANY, ONE, TextFlow
from encoders.layout import is_list, stored_type
from encoders.source.function_source import FunctionSource, source_of
from encoders.source.function_tree import assignment_pairs, global_names, resolve
from encoders.source.parsing import parse
from schemas.data_keys import DataKey
from schemas.errors import EncoderError
from schemas.nulls import is_text

_OWN = ("encoders.hash_index", "encoders.vocabulary", "schemas.hashing")  # whose functions take texts
_MOST_CALLS = 30  # calls with texts that are followed


def check_text_use(
    name: str, function: FunctionType, source: FunctionSource, data: Sequence[DataKey], parameters: Mapping[str, Any]
) -> None:
    """Raise EncoderError if a compiled encoder, or a helper that it passes texts to, does more than compare a text.

    The types of context and item variables are not known yet: those that are compared with a text count as texts.
    Compilation checks again, with all types known.
    """
    _TextCheck(name).function(function, source, {**_texts_of(data), **_texts_in(parameters)})


class _TextCheck:
    """Follows texts from function to function. checked: functions, each with the kinds of its arguments."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.checked: set[tuple[FunctionType, frozenset[tuple[str, str]]]] = set()

    def function(self, function: FunctionType, source: FunctionSource, texts: dict[str, str]) -> None:
        key = (function, frozenset(texts.items()))
        if key in self.checked or len(self.checked) > _MOST_CALLS:
            return
        self.checked.add(key)
        globals_ = _global_names(source)
        named = {name: value for name in globals_ for exists, value in [resolve(function, name)] if exists}

        def follow(called: str, kinds: Mapping[str, str], _node: ast.AST) -> None:
            helper = getattr(named.get(called), "py_func", named.get(called))
            if isinstance(helper, FunctionType) and helper.__module__ not in _OWN:
                self.helper(helper, kinds)

        try:
            TextFlow(source.tree, {**_texts_in(named), **_aliased(source.tree, texts)}, follow).check()
        except NotMachineCodeError as error:
            raise EncoderError.because(
                f"encoder '{self.name}' at {source.place(error.line)}: {error.problem}", error.hint
            ) from error

    def helper(self, function: FunctionType, kinds: Mapping[str, str]) -> None:
        """Check a helper. kinds: the kinds of its arguments, by position or name."""
        source = source_of(function)
        parameters = [each.arg for each in [*source.tree.args.posonlyargs, *source.tree.args.args]]
        texts = {
            parameters[int(place)] if place.isdigit() else place: kind
            for place, kind in kinds.items()
            if not place.isdigit() or int(place) < len(parameters)
        }
        self.function(function, source, texts)


def _global_names(source: FunctionSource) -> set[str]:
    tree = parse(source.text).body[0]
    if isinstance(tree, ast.FunctionDef):
        tree.decorator_list, tree.returns = [], None
        for argument in ast.walk(tree.args):
            if isinstance(argument, ast.arg):
                argument.annotation = None
    return global_names(ast.unparse(tree))


def _texts_in(values: Mapping[str, Any]) -> dict[str, str]:
    texts = {name: ONE for name, value in values.items() if isinstance(value, str)}
    many = (tuple, list, set, frozenset)
    texts |= {n: MANY for n, v in values.items() if isinstance(v, many) and any(isinstance(each, str) for each in v)}
    return texts


def _texts_of(data: Sequence[DataKey]) -> dict[str, str]:
    """Give the kinds of the paths in data elements that are texts."""
    kinds: dict[str, str] = {}
    for key in data:
        _add(kinds, f"data.{key.name}", stored_type(key), listed=False, outermost=True)
    return kinds


def _add(kinds: dict[str, str], path: str, type: pa.DataType, listed: bool, outermost: bool = False) -> None:  # noqa: A002  # the field's own name
    while is_list(type):
        inner = type.value_type
        if is_list(inner) or not pa.types.is_struct(inner):
            path = f"{path}.values"
            outermost = False
        type, listed = inner, True  # noqa: A001
    if pa.types.is_struct(type):
        for field in type:
            _add(kinds, f"{path}.{field.name}", field.type, listed)
    elif is_text(type):
        kinds[f"{path}.value" if outermost else path] = MANY if listed else ONE


def _aliased(tree: ast.FunctionDef, texts: Mapping[str, str]) -> dict[str, str]:
    """Add the paths through local variables: after `history = data.viewing_history` also `history.…`."""
    kinds = dict(texts)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or len(node.targets) > 1:
            continue
        for target, value in assignment_pairs(node.targets[0], node.value):
            if isinstance(target, ast.Name) and isinstance(value, ast.Attribute):
                start = f"{ast.unparse(value)}."
                inside = {path.removeprefix(start): kind for path, kind in texts.items() if path.startswith(start)}
                kinds |= {f"{target.id}.{path}": kind for path, kind in inside.items()}
    return kinds
