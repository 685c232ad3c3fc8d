"""Finds variables that may be read before they are assigned: Python raises, machine code would read zeros."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from encoders.compilation.rewriting.names import NotMachineCodeError

AssignedNames = frozenset[str] | None  # None where execution never arrives
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def refuse_unassigned(function: ast.FunctionDef) -> None:
    """Raise NotMachineCodeError for the first variable that some path reads before it is assigned."""
    arguments = {each.arg for each in ast.walk(function.args) if isinstance(each, ast.arg)}
    own = {node.id for node in _within(function.body) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.name for node in function.body if isinstance(node, ast.FunctionDef)}
    _Paths(own - arguments).through(function.body, frozenset(arguments))


def _within(nodes: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """Walk nodes, but not into functions and comprehensions, which have variables of their own."""
    for node in nodes:
        yield node
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            continue
        if isinstance(node, _COMPREHENSIONS):
            yield from _within([node.generators[0].iter])
            continue
        yield from _within(list(ast.iter_child_nodes(node)))


class _Paths:
    """Follows every path through a function. own: its variables; breaks: per loop, the names assigned at its breaks."""

    def __init__(self, own: set[str]) -> None:
        self.own = own
        self.breaks: list[list[AssignedNames]] = []

    def through(self, body: Sequence[ast.stmt], state: AssignedNames) -> AssignedNames:
        for statement in body:
            if state is None:
                return None
            state = self.after(statement, state)
        return state

    def after(self, node: ast.stmt, state: frozenset[str]) -> AssignedNames:
        if isinstance(node, ast.If):
            state = self.read(node.test, state)
            return _both(self.through(node.body, state), self.through(node.orelse, state))
        if isinstance(node, ast.For):
            state = self.read(node.iter, state)
            self.breaks.append([])
            self.through(node.body, state | _names(node.target))
            left = self.through(node.orelse, state)
            return _all([left, *self.breaks.pop()])
        if isinstance(node, ast.While):
            state = self.read(node.test, state)
            self.breaks.append([])
            self.through(node.body, state)
            endless = isinstance(node.test, ast.Constant) and bool(node.test.value)
            return _all([None if endless else self.through(node.orelse, state), *self.breaks.pop()])
        if isinstance(node, ast.FunctionDef):
            return state | {node.name}
        if isinstance(node, ast.Match):
            state = self.read(node.subject, state)
            return _all([state, *(self.through(case.body, state) for case in node.cases)])
        state = self.read(node, state)
        if isinstance(node, ast.Break) and self.breaks:
            self.breaks[-1].append(state)
        if isinstance(node, ast.Return | ast.Raise | ast.Break | ast.Continue):
            return None
        return state

    def read(self, node: ast.AST, state: frozenset[str]) -> frozenset[str]:
        """Check the names that a node reads, and add those that it assigns."""
        nodes = [part for part in _within([node]) if isinstance(part, ast.Name)]
        assigned = frozenset(name.id for name in nodes if isinstance(name.ctx, ast.Store))
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            nodes.append(ast.copy_location(ast.Name(node.target.id, ast.Load()), node))
        walrus = {part.target.id for part in _within([node]) if isinstance(part, ast.NamedExpr)}
        for name in nodes:
            assigned_before = name.id in state or name.id in walrus or name.id not in self.own
            if isinstance(name.ctx, ast.Load) and not assigned_before:
                raise NotMachineCodeError(
                    name,
                    f"'{name.id}' may be read before it has a value",
                    f"give '{name.id}' one before the loop or the condition, or declare compiled=False",
                )
        return state | assigned


def _names(target: ast.expr) -> frozenset[str]:
    return frozenset(node.id for node in ast.walk(target) if isinstance(node, ast.Name))


def _both(one: AssignedNames, other: AssignedNames) -> AssignedNames:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _all(states: Sequence[AssignedNames]) -> AssignedNames:
    common: AssignedNames = None
    for state in states:
        common = _both(common, state)
    return common
