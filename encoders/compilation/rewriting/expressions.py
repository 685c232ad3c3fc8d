"""Rewrites expressions: operators become operations that compute as Python does, texts become comparable codes."""

from __future__ import annotations

import ast
import copy
from typing import Any

from encoders.compilation.rewriting.calls import Calls
from encoders.compilation.rewriting.names import Names, NotMachineCodeError, call
from schemas.hashing import text_code

BINARY = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
    ast.Div: "true_divide",
    ast.FloorDiv: "floor_divide",
    ast.Mod: "remainder",
    ast.Pow: "power",
    ast.LShift: "shift_left",
    ast.RShift: "shift_right",
    ast.BitAnd: "bit_and",
    ast.BitOr: "bit_or",
    ast.BitXor: "bit_xor",
}
_COMPARISONS = {
    ast.Eq: "equal",
    ast.NotEq: "unequal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}
_UNARY = {ast.USub: "negative", ast.UAdd: "positive", ast.Invert: "invert"}
_REFUSED = {
    ast.Dict: "a dictionary",
    ast.DictComp: "a dictionary",
    ast.Set: "a set",
    ast.SetComp: "a set",
    ast.GeneratorExp: "a generator",
    ast.Await: "await",
    ast.Yield: "yield",
    ast.YieldFrom: "yield",
    ast.Starred: "*",
}
_HINTS: dict[type[ast.AST], str] = {ast.GeneratorExp: "write a list, as [… for … in …]"}


class Expressions(Calls):
    """Rewrites expressions. texts: code → the name of the constant for that text."""

    def __init__(self, names: Names) -> None:
        super().__init__(names)
        self.texts: dict[int, str] = {}
        self.temporaries = 0

    def visit(self, node: ast.AST) -> Any:
        """Rewrite a node; reject what machine code does not have."""
        if type(node) in _REFUSED:
            hint = _HINTS.get(type(node), "use lists and arrays, or declare compiled=False")
            raise NotMachineCodeError(node, f"machine code has no {_REFUSED[type(node)]} as Python has", hint)
        return super().visit(node)

    def temporary(self) -> str:
        """Give a new name for a temporary variable."""
        self.temporaries += 1
        return f"_kept_{self.temporaries}"

    def visit_Constant(self, node: ast.Constant) -> Any:  # ast's naming
        value = node.value
        if isinstance(value, str):
            code = text_code(value)
            name = self.texts.setdefault(code, f"_text_{len(self.texts)}")
            return ast.copy_location(ast.Name(name, ast.Load()), node)
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise NotMachineCodeError(node, f"the integer {value} has more than 64 bits")
        if value is not None and not isinstance(value, int | float):
            raise NotMachineCodeError(node, f"machine code has no {value!r}")
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> Any:
        parts = [part.value if isinstance(part, ast.Constant) else None for part in node.values]
        if any(part is None for part in parts):
            raise NotMachineCodeError(node, "it builds a text, which machine code cannot: it only compares texts")
        return self.visit(ast.copy_location(ast.Constant("".join(map(str, parts))), node))

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        if type(node.op) not in BINARY:
            raise NotMachineCodeError(node, "machine code has no @")
        left, right = self.visit(node.left), self.visit(node.right)
        value = right.value if isinstance(right, ast.Constant) else None
        if isinstance(node.op, ast.Pow) and type(value) is int and value < 0:  # a float in Python, for any base
            left, right = call("to_float", left, at=node), ast.copy_location(ast.Constant(float(value)), right)
        return call(BINARY[type(node.op)], left, right, at=node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        if isinstance(node.op, ast.Not):
            node.operand = self.test(node.operand)
            return node
        number = node.operand.value if isinstance(node.operand, ast.Constant) else None
        if isinstance(node.op, ast.USub) and isinstance(number, int | float) and not isinstance(number, bool):
            return self.visit_Constant(ast.copy_location(ast.Constant(-number), node))
        return call(_UNARY[type(node.op)], self.visit(node.operand), at=node)

    def test(self, node: ast.expr) -> ast.expr:
        """Rewrite a condition, as the truth of its value."""
        decided = isinstance(node, ast.Compare | ast.BoolOp | ast.Constant)
        negated = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
        value: ast.expr = self.visit(node)
        return value if (decided and not isinstance(value, ast.Name)) or negated else call("truth", value, at=node)

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        node.test, node.body, node.orelse = self.test(node.test), self.visit(node.body), self.visit(node.orelse)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> Any:
        node.iter, node.ifs = self.visit(node.iter), [self.test(each) for each in node.ifs]
        return node

    def visit_Lambda(self, node: ast.Lambda) -> Any:
        self.scopes.append({each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg)})
        self.generic_visit(node)
        self.scopes.pop()
        return node

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        self.generic_visit(node)
        sliced = any(isinstance(part, ast.Slice) for part in ast.walk(node.slice))
        return call("item", node, at=node) if isinstance(node.ctx, ast.Load) and not sliced else node

    def visit_Compare(self, node: ast.Compare) -> Any:
        kinds = [_COMPARISONS.get(type(operator)) for operator in node.ops]
        if len(kinds) == 2 and all(kinds):
            sides = [self.visit(each) for each in (node.left, *node.comparators)]
            return call(f"{kinds[0]}_then_{kinds[1]}", *sides, at=node)
        lefts = [node.left, *node.comparators[:-1]]
        if any(isinstance(part, ast.Call | ast.NamedExpr) for side in lefts[1:] for part in ast.walk(side)):
            raise NotMachineCodeError(
                node, "a chain of comparisons calls a function in its middle", "name its result before"
            )
        pairs = zip(lefts, node.ops, node.comparators, strict=True)
        comparisons = [self.comparison(node, *each) for each in pairs]
        if len(comparisons) == 1:
            return comparisons[0]
        return ast.copy_location(ast.BoolOp(ast.And(), comparisons), node)

    def comparison(self, node: ast.Compare, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> ast.expr:
        if isinstance(operator, ast.Is | ast.IsNot):
            sides = [side for side in (left, right) if not (isinstance(side, ast.Constant) and side.value is None)]
            if len(sides) != 1:
                raise NotMachineCodeError(node, "machine code compares only with None by `is`", "write ==")
            name = "missing" if isinstance(operator, ast.Is) else "present"
            return call(name, self.visit(_copied(sides[0])), at=node)
        if isinstance(operator, ast.In | ast.NotIn):
            if isinstance(right, ast.List | ast.Set):
                right = ast.copy_location(ast.Tuple(right.elts, ast.Load()), right)
            contained = call("contains", self.visit(right), self.visit(_copied(left)), at=node)
            negation = ast.copy_location(ast.UnaryOp(ast.Not(), contained), node)
            return contained if isinstance(operator, ast.In) else negation
        return call(_COMPARISONS[type(operator)], self.visit(_copied(left)), self.visit(_copied(right)), at=node)


def _copied(node: ast.expr) -> ast.expr:
    """Copy an expression before rewriting it: the middle of a chain is part of two comparisons."""
    return copy.deepcopy(node)
