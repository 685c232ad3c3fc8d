"""Rewrites statements: assignments to elements convert as Python does, and raising makes Python run the context."""

from __future__ import annotations

import ast
import copy
from typing import Any

from encoders.compilation.rewriting.expressions import BINARY, Expressions
from encoders.compilation.rewriting.names import NotMachineCodeError, call, is_pure
from encoders.compilation.rewriting.unassigned import refuse_unassigned

_NO_EXCEPTIONS = ("machine code catches no exceptions", "test for it before, or declare compiled=False")
_NO_IMPORTS = ("it imports a module inside", "import it above, where the encoder is defined")
_NO_OUTER_VARIABLES = ("it changes variables outside it", "write only to out")
_NO_ASYNC = ("machine code has no async", "declare compiled=False")
_REFUSED: dict[type[ast.AST], tuple[str, str]] = {
    ast.Try: _NO_EXCEPTIONS,
    ast.TryStar: _NO_EXCEPTIONS,
    ast.With: ("machine code has no `with`", "declare compiled=False"),
    ast.Import: _NO_IMPORTS,
    ast.ImportFrom: _NO_IMPORTS,
    ast.ClassDef: ("machine code has no classes", "declare compiled=False"),
    ast.Delete: ("machine code has no `del`", "declare compiled=False"),
    ast.Global: _NO_OUTER_VARIABLES,
    ast.Nonlocal: _NO_OUTER_VARIABLES,
    ast.AsyncFunctionDef: _NO_ASYNC,
    ast.AsyncFor: _NO_ASYNC,
    ast.AsyncWith: _NO_ASYNC,
}


class Statements(Expressions):
    """Rewrites functions."""

    def visit(self, node: ast.AST) -> Any:
        """Rewrite a node; reject statements that machine code does not have."""
        if type(node) in _REFUSED:
            raise NotMachineCodeError(node, *_REFUSED[type(node)])
        return super().visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:  # ast's naming
        refuse_unassigned(node)
        if node.decorator_list:
            raise NotMachineCodeError(node, f"'{node.name}' has a decorator", "declare compiled=False")
        if node.args.vararg or node.args.kwarg:
            raise NotMachineCodeError(node, f"'{node.name}' takes any number of arguments", "name each of them")
        node.args.defaults = [self.visit(default) for default in node.args.defaults]
        node.args.kw_defaults = [None if each is None else self.visit(each) for each in node.args.kw_defaults]
        names = {
            each.id for each in ast.walk(node) if isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Load)
        }
        names |= {each.arg for each in ast.walk(node) if isinstance(each, ast.arg)}
        names |= {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
        self.scopes.append(names)
        node.body = self.body(node.body)
        node.returns = None
        self.scopes.pop()
        return node

    def body(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        rewritten: list[ast.stmt] = []
        for statement in statements:
            new = self.visit(statement)
            rewritten += new.body if isinstance(new, ast.Module) else [new]
        return rewritten

    def visit_Expr(self, node: ast.Expr) -> Any:
        if isinstance(node.value, ast.Constant):  # a docstring
            return ast.copy_location(ast.Pass(), node)
        node.value = self.visit(node.value)
        return node

    def visit_Raise(self, node: ast.Raise) -> Any:
        """Raise anything: Python runs this context again and raises the real error."""
        return _raising(node)

    def visit_Assert(self, node: ast.Assert) -> Any:
        fails = ast.UnaryOp(ast.Not(), self.test(node.test))
        return ast.copy_location(ast.If(ast.copy_location(fails, node), [_raising(node)], []), node)

    def visit_If(self, node: ast.If) -> Any:
        node.test, node.body, node.orelse = self.test(node.test), self.body(node.body), self.body(node.orelse)
        return node

    def visit_While(self, node: ast.While) -> Any:
        node.test, node.body, node.orelse = self.test(node.test), self.body(node.body), self.body(node.orelse)
        return node

    def visit_For(self, node: ast.For) -> Any:
        if not all(isinstance(part, ast.Name | ast.Tuple | ast.expr_context) for part in ast.walk(node.target)):
            raise NotMachineCodeError(node, "a loop writes to something else than a name", "assign it inside the loop")
        node.iter, node.body, node.orelse = self.visit(node.iter), self.body(node.body), self.body(node.orelse)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return self.visit(ast.copy_location(ast.Assign([node.target], node.value), node))

    def visit_Assign(self, node: ast.Assign) -> Any:
        if len(node.targets) > 1:
            return self.chain(node)
        target = node.targets[0]
        if isinstance(target, ast.Tuple | ast.List) and any(not isinstance(each, ast.Name) for each in target.elts):
            return self.unpacked(node, target)
        if isinstance(target, ast.Subscript):
            container = copy.deepcopy(target.value)
            self.refuse_impure(container)
            node.value = call("fit", self.visit(container), self.visit(node.value), at=node)
            node.targets = [self.visit(target)]
            return node
        if not isinstance(target, ast.Name | ast.Tuple | ast.List):
            raise NotMachineCodeError(
                node, f"it assigns to {ast.unparse(target)}", "assign to a name, or to an element"
            )
        node.value = self.visit(node.value)
        return node

    def chain(self, node: ast.Assign) -> ast.AST:
        """A = b = value."""
        name = self.temporary()
        self.scopes[-1].add(name)
        single = [ast.Assign([ast.Name(name, ast.Store())], node.value)]
        single += [ast.Assign([target], ast.Name(name, ast.Load())) for target in node.targets]
        return self.several(single, node)

    def unpacked(self, node: ast.Assign, target: ast.Tuple | ast.List) -> ast.AST:
        """a[i], a[j] = a[j], a[i]: evaluate all values before assigning any."""
        if not isinstance(node.value, ast.Tuple) or len(node.value.elts) != len(target.elts):
            raise NotMachineCodeError(node, "it assigns to several elements at once", "assign them one by one")
        names = [self.temporary() for _ in target.elts]
        self.scopes[-1].update(names)
        first = [ast.Assign([ast.Name(n, ast.Store())], v) for n, v in zip(names, node.value.elts, strict=True)]
        then = [ast.Assign([each], ast.Name(n, ast.Load())) for n, each in zip(names, target.elts, strict=True)]
        return self.several([*first, *then], node)

    def several(self, statements: list[ast.Assign], node: ast.AST) -> ast.Module:
        for each in statements:
            ast.copy_location(each, node)
            ast.fix_missing_locations(each)
        return ast.Module(self.body(list(statements)), [])

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        if type(node.op) not in BINARY:
            raise NotMachineCodeError(node, "machine code has no @")
        name = f"{BINARY[type(node.op)]}_in_place"
        old = copy.deepcopy(node.target)
        for part in ast.walk(old):
            if part is old:
                part.ctx = ast.Load()
        if isinstance(node.target, ast.Subscript):
            self.refuse_impure(node.target)
            changed = call(name, self.visit(old), self.visit(node.value), at=node)
            value = call("fit", self.visit(copy.deepcopy(node.target.value)), changed, at=node)
            return ast.copy_location(ast.Assign([self.visit(node.target)], value), node)
        if not isinstance(node.target, ast.Name):
            raise NotMachineCodeError(node, f"it changes {ast.unparse(node.target)}", "write only to out")
        value = call(name, self.visit(old), self.visit(node.value), at=node)
        return ast.copy_location(ast.Assign([node.target], value), node)

    def refuse_impure(self, node: ast.expr) -> None:
        pure = is_pure(node) or all(
            not isinstance(part, ast.Call | ast.NamedExpr | ast.ListComp) for part in ast.walk(node)
        )
        if not pure:
            raise NotMachineCodeError(node, "it calls a function to find what it writes to", "give that a name before")

    def visit_Match(self, node: ast.Match) -> Any:
        """Rewrite cases of plain values as a chain of if and elif."""
        subject = self.temporary()
        self.scopes[-1].add(subject)
        kept = ast.copy_location(ast.Assign([ast.Name(subject, ast.Store())], node.subject), node)
        chain: list[ast.stmt] = []
        for case in reversed(node.cases):
            test = _case_test(case.pattern, ast.Name(subject, ast.Load()))
            if case.guard is not None:
                test = case.guard if test is None else ast.BoolOp(ast.And(), [test, case.guard])
            chain = (
                list(case.body) if test is None else [ast.copy_location(ast.If(test, case.body, chain), case.pattern)]
            )
        whole = ast.Module([kept, *(chain or [ast.Pass()])], [])
        for part in whole.body:
            ast.copy_location(part, node)
            ast.fix_missing_locations(part)
        return ast.Module(self.body(whole.body), [])


def _case_test(pattern: ast.pattern, subject: ast.expr) -> ast.expr | None:
    """Convert a pattern to a condition; None for one that always matches."""
    if isinstance(pattern, ast.MatchAs) and pattern.pattern is None and pattern.name is None:
        return None
    if isinstance(pattern, ast.MatchValue):
        return ast.copy_location(ast.Compare(subject, [ast.Eq()], [pattern.value]), pattern)
    if isinstance(pattern, ast.MatchSingleton) and pattern.value is None:
        return ast.copy_location(ast.Compare(subject, [ast.Is()], [ast.Constant(None)]), pattern)
    if isinstance(pattern, ast.MatchOr):
        tests = [_case_test(each, subject) for each in pattern.patterns]
        if all(test is not None for test in tests):
            return ast.copy_location(ast.BoolOp(ast.Or(), [test for test in tests if test is not None]), pattern)
    raise NotMachineCodeError(pattern, "machine code matches plain values only", "write if and elif")


def _raising(node: ast.stmt) -> ast.stmt:
    name = ast.Name("RuntimeError", ast.Load())
    raised = ast.Raise(ast.Call(name, [ast.Constant("raised")], []), None)
    ast.copy_location(raised, node)
    return ast.fix_missing_locations(raised)
