"""The names around a function, and what they mean in machine code."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

MACHINE = "_machine"  # the name of the package of operations in rewritten code
PYTHON = "declare compiled=False"


class NotMachineCodeError(Exception):
    """A function does something that machine code cannot do as Python does. line: its line in the tree."""

    def __init__(self, node: ast.AST, problem: str, hint: str = PYTHON) -> None:
        super().__init__(problem)
        self.line: int = getattr(node, "lineno", 1)
        self.problem, self.hint = problem, hint


@dataclass
class Names:
    """The names around a function.

    modules: name → "math" or "numpy"
    functions: name → module and name, for functions of these modules, `lookup` and `text_code`
    own: all other names that are defined around it
    """

    modules: dict[str, str] = field(default_factory=dict)
    functions: dict[str, tuple[str, str]] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)

    @classmethod
    def of_module(cls, tree: ast.Module) -> Names:
        """Read the names from the top level of a module."""
        names = cls()
        for node in tree.body:
            if isinstance(node, ast.Import):
                names.modules |= {each.asname or each.name: each.name for each in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.functions |= {each.asname or each.name: (node.module or "", each.name) for each in node.names}
            elif isinstance(node, ast.FunctionDef):
                names.own.add(node.name)
            elif isinstance(node, ast.Assign):
                names.own |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        return names


def call(function: str, *arguments: ast.expr, at: ast.AST) -> ast.Call:
    """Build a call of an operation."""
    name = ast.Attribute(ast.Name(MACHINE, ast.Load()), function, ast.Load())
    node = ast.Call(name, list(arguments), [])
    for part in (node, name, name.value):
        ast.copy_location(part, at)
    return node


def is_pure(node: ast.expr) -> bool:
    """Whether an expression can be evaluated twice: it only reads names and attributes."""
    inside = (ast.Name, ast.Attribute, ast.Constant, ast.expr_context)
    return all(isinstance(part, inside) for part in ast.walk(node))
