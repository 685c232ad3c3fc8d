"""Follows texts through a function, to reject uses that codes of texts cannot support when an encoder is declared."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from encoders.compilation.rewriting.names import NotMachineCodeError
from encoders.source.function_tree import assignment_pairs

ONE, MANY = "text", "texts"  # the kind of a path: a text, or a container of texts
_ORDER = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_NOT_OF_TEXT = "len abs sum int float round sorted min max hash ord str repr divmod pow sqrt exp log"
_NO_TEXT = frozenset(_NOT_OF_TEXT.split())
_NO_TEXTS = frozenset(["sorted", "min", "max", "sum"])
_HINT = (
    "machine code sees a text as a code that is only equal or not; compare it with ==, != or in, "
    "or declare compiled=False"
)

FollowCall = Callable[[str, Mapping[str, str], ast.AST], None]  # (function's name, kinds of its arguments, call)


@dataclass
class TextFlow:
    """The paths in a function that are texts, such as `context.country` or a variable.

    kinds: path → ONE or MANY, for the paths whose types are known before the function is read
    follow: called for each call that passes texts, to check the called function
    """

    function: ast.FunctionDef
    kinds: dict[str, str]
    follow: FollowCall

    def check(self) -> None:
        """Raise NotMachineCodeError for the first use of a text other than comparing it."""
        nodes = [node for statement in self.function.body for node in _computed(statement)]
        before = -1
        while before < len(self.kinds):
            before = len(self.kinds)
            for node in nodes:
                self.learn(node)
        for node in nodes:
            problem = self.problem(node)
            if problem is not None:
                raise NotMachineCodeError(node, problem, _HINT)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                self.follow_call(node.func.id, node)

    def __post_init__(self) -> None:
        """Collect the values that are assigned to each variable."""
        self.assigned: dict[str, list[tuple[ast.expr, bool]]] = {}
        for node in ast.walk(self.function):
            for target, value, each in _assignments(node):
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        whole = value if name is target and value is not None else None
                        self.assigned.setdefault(name.id, []).append((whole or target, whole is not None and each))

    def learn(self, node: ast.AST) -> None:
        """Derive from an assignment, a loop or a comparison which other paths are texts."""
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            kinds = {self.assigned_kind(*value) for value in self.assigned.get(node.id, [])}
            if len(kinds) == 1 and (kind := kinds.pop()) is not None:  # all its values have this kind
                self.kinds.setdefault(node.id, kind)
        elif isinstance(node, ast.Compare):
            for operator, left, right in _comparisons(node):
                if isinstance(operator, ast.In | ast.NotIn):
                    if self.kind(right) == MANY:
                        self.note(left, ONE)
                elif ONE in (self.kind(left), self.kind(right)):
                    for side in (left, right):
                        self.note(side, ONE)

    def assigned_kind(self, value: ast.expr, each: bool) -> str | None:
        kind = self.kind(value)
        return (ONE if kind == MANY else None) if each else kind

    def note(self, node: ast.expr, kind: str) -> None:
        path = _path(node)
        if path in self.assigned:
            return
        if path is not None:
            self.kinds.setdefault(path, kind)
        elif isinstance(node, ast.Subscript) and kind == ONE and (inside := _path(node.value)) is not None:
            self.kinds.setdefault(inside, MANY)

    def kind(self, node: ast.expr) -> str | None:
        """Give the kind of an expression, None if it is not known to be text."""
        path = _path(node)
        if path is not None:
            return self.kinds.get(path)
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            return ONE
        if isinstance(node, ast.Subscript):
            inside = self.kind(node.value)
            return inside if isinstance(node.slice, ast.Slice) else (ONE if inside == MANY else None)
        if isinstance(node, ast.IfExp):
            return self.kind(node.body) or self.kind(node.orelse)
        if isinstance(node, ast.BoolOp):
            return next(filter(None, map(self.kind, node.values)), None)
        if isinstance(node, ast.NamedExpr):
            return self.kind(node.value)
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            return MANY if ONE in map(self.kind, node.elts) else None
        return MANY if isinstance(node, ast.ListComp) and self.kind(node.elt) == ONE else None

    def problem(self, node: ast.AST) -> str | None:
        """Describe what is wrong with a use of text, None if nothing is."""
        if isinstance(node, ast.Compare):
            for operator, left, right in _comparisons(node):
                if type(operator) in _ORDER and ONE in (self.kind(left), self.kind(right)):
                    return f"it compares texts by `{_ORDER[type(operator)]}`, and codes have no order"
        elif isinstance(node, ast.BinOp | ast.AugAssign):
            sides = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.target, node.value)
            if ONE in map(self.kind, sides):
                return "it computes with a text"
        elif isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.Not) and self.kind(node.operand) == ONE:
            return "it computes with a text"
        elif isinstance(node, ast.FormattedValue):
            return "it builds a text"
        elif isinstance(node, ast.Call):
            return self.wrong_call(node)
        return self.wrong_part(node)

    def wrong_part(self, node: ast.AST) -> str | None:
        """Describe a use of a text's characters, None if there is none."""
        if isinstance(node, ast.Subscript) and self.kind(node.value) == ONE:
            return "it takes a part of a text"
        if isinstance(node, ast.Attribute) and self.kind(node.value) == ONE:
            return f"it reads .{node.attr} of a text"
        if isinstance(node, ast.For | ast.comprehension) and self.kind(node.iter) == ONE:
            return "it goes through the characters of a text"
        return None

    def wrong_call(self, node: ast.Call) -> str | None:
        if any(isinstance(argument, ast.Constant) for argument in node.args):
            return None  # float("nan")
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        kinds = list(map(self.kind, node.args))
        if (name in _NO_TEXT and ONE in kinds) or (name in _NO_TEXTS and MANY in kinds):
            return f"it calls {name}() with text"
        return None

    def follow_call(self, name: str, node: ast.Call) -> None:
        kinds: dict[str, str | None] = {str(place): self.kind(argument) for place, argument in enumerate(node.args)}
        kinds |= {str(keyword.arg): self.kind(keyword.value) for keyword in node.keywords}
        texts = {parameter: kind for parameter, kind in kinds.items() if kind is not None}
        if texts:
            self.follow(name, texts, node)


def _computed(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a statement without the messages of exceptions, which only Python builds."""
    if isinstance(node, ast.Raise):
        return
    yield node
    for child in [node.test] if isinstance(node, ast.Assert) else ast.iter_child_nodes(node):
        yield from _computed(child)


def _assignments(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr | None, bool]]:
    """Give targets and values, and whether the target is each element of the value."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from ((left, right, False) for left, right in assignment_pairs(target, node.value))
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
        yield node.target, node.value, False
    elif isinstance(node, ast.AugAssign):
        yield node.target, None, False
    elif isinstance(node, ast.For | ast.comprehension):
        yield node.target, node.iter, True


def _path(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inside = _path(node.value)
        return None if inside is None else f"{inside}.{node.attr}"
    return None


def _comparisons(node: ast.Compare) -> Iterator[tuple[ast.cmpop, ast.expr, ast.expr]]:
    yield from zip(node.ops, [node.left, *node.comparators], node.comparators, strict=False)
