"""Rewrites calls: supported functions become operations, all others are rejected by name."""

from __future__ import annotations

import ast
from typing import Any

from encoders.compilation.rewriting.names import Names, NotMachineCodeError, call

_KEPT = {"len": (1, 1), "range": (1, 3), "enumerate": (1, 2), "zip": (1, 9), "reversed": (1, 1), "list": (0, 1)}
_ONE_ARGUMENT = {
    "abs": "absolute",
    "int": "to_int",
    "float": "to_float",
    "bool": "truth",
    "sorted": "ordered",
    "any": "any_of",
    "all": "all_of",
}
_PAIRS = {"min": ("least", "least_of_two"), "max": ("greatest", "greatest_of_two")}
_LIST_METHODS = {"append", "pop", "extend", "insert", "reverse", "clear", "copy", "count", "index", "remove"}
_REDUCTIONS = {"sum": "array_total", "mean": "array_mean", "min": "array_least", "max": "array_greatest"}
_MATH_OF_TWO = {"atan2", "copysign", "fmod", "pow"}
_MATH_OF_ONE = (
    "sqrt exp expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh fabs "
    "floor ceil trunc isnan isinf isfinite"
)
_MATH = _MATH_OF_TWO.union(_MATH_OF_ONE.split())
_MATH_CONSTANTS = {"pi", "e", "tau", "inf", "nan"}
_ELEMENTWISE = {"sqrt", "floor", "ceil", "fabs", "abs", "absolute", "isnan", "isinf", "isfinite", "minimum", "maximum"}
_MAKERS = {"zeros": 2, "ones": 2, "empty": 2, "full": 3}
_WIDE = {"int64", "float64", "bool_", "int", "float", "bool"}
_NUMPY_CONSTANTS = {"pi", "e", "inf", "nan", "newaxis"} | _WIDE


class Calls(ast.NodeTransformer):
    """Rewrites calls. scopes: local names of the functions being rewritten, the innermost last."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.scopes: list[set[str]] = []

    def is_local(self, name: str) -> bool:
        return any(name in scope for scope in self.scopes)

    def module_of(self, node: ast.expr) -> str | None:
        """Give the name of the module that an expression refers to, if any."""
        is_module = isinstance(node, ast.Name) and not self.is_local(node.id)
        return self.names.modules.get(node.id) if is_module and isinstance(node, ast.Name) else None

    def visit_Call(self, node: ast.Call) -> Any:  # ast's naming
        if any(isinstance(argument, ast.Starred) for argument in node.args) or any(
            k.arg is None for k in node.keywords
        ):
            raise NotMachineCodeError(node, "it calls a function with *arguments", "write them out")
        function = node.func
        if isinstance(function, ast.Attribute):
            module = self.module_of(function.value)
            if module is not None:
                return self.library_call(module, function.attr, node)
            return self.method_call(function, node)
        if isinstance(function, ast.Name) and not self.is_local(function.id):
            if function.id in self.names.functions:
                return self.library_call(*self.names.functions[function.id], node)
            if function.id not in self.names.own:
                return self.builtin_call(function.id, node)
        return self.generic_visit(node)

    def arguments(self, node: ast.Call, what: str, least: int, most: int) -> list[ast.expr]:
        """Rewrite a call's arguments; reject keywords and other numbers of arguments."""
        if node.keywords or not least <= len(node.args) <= most:
            with_what = f"{node.keywords[0].arg}=…" if node.keywords else f"{len(node.args)} arguments"
            raise NotMachineCodeError(node, f"machine code has no {what}() with {with_what}")
        return [self.visit(argument) for argument in node.args]

    def builtin_call(self, name: str, node: ast.Call) -> Any:
        if name in _KEPT:
            node.args = self.arguments(node, name, *_KEPT[name])
            return node
        text = node.args[0].value if len(node.args) == 1 and isinstance(node.args[0], ast.Constant) else None
        if name == "float" and isinstance(text, str):
            try:
                return ast.copy_location(ast.Constant(float(text)), node)
            except ValueError:
                pass
        if name in _ONE_ARGUMENT:
            return call(_ONE_ARGUMENT[name], *self.arguments(node, name, 1, 1), at=node)
        if name in _PAIRS:
            of_series, of_two = _PAIRS[name]
            first, *others = self.arguments(node, name, 1, 50)
            for other in others:
                first = call(of_two, first, other, at=node)
            return first if others else call(of_series, first, at=node)
        if name == "sum":
            series, *start = self.arguments(node, name, 1, 2)
            return call("total", series, *(start or [ast.copy_location(ast.Constant(0), node)]), at=node)
        if name == "round":
            value, *digits = self.arguments(node, name, 1, 2)
            return call("rounded_to", value, *digits, at=node) if digits else call("rounded", value, at=node)
        return self.division_or_power(name, node)

    def division_or_power(self, name: str, node: ast.Call) -> Any:
        if name == "divmod":
            pair = self.arguments(node, name, 2, 2)
            parts: list[ast.expr] = [call(each, *pair, at=node) for each in ("floor_divide", "remainder")]
            return ast.copy_location(ast.Tuple(parts, ast.Load()), node)
        if name == "pow":
            return self.visit(ast.copy_location(ast.BinOp(node.args[0], ast.Pow(), node.args[1]), node))
        raise NotMachineCodeError(node, f"machine code has no {name}()")

    def library_call(self, module: str, name: str, node: ast.Call) -> Any:
        if name == "lookup" and module.startswith("encoders"):
            return call("lookup", *self.arguments(node, name, 2, 2), at=node)
        if name == "code_of" and module.startswith("encoders"):
            return call("code_of", *self.arguments(node, name, 2, 2), at=node)
        if name == "text_code" and module.startswith(("schemas", "encoders")):
            return call("text_code", *self.arguments(node, name, 1, 1), at=node)
        if module == "math" and name in _MATH:
            arity = 2 if name in _MATH_OF_TWO else 1
            return call(f"math_{name}", *self.arguments(node, f"math.{name}", arity, arity), at=node)
        if module == "numpy":
            return self.numpy_call(name, node)
        raise NotMachineCodeError(node, f"machine code has no {module}.{name}() that gives what Python's does")

    def numpy_call(self, name: str, node: ast.Call) -> Any:
        if name in _ELEMENTWISE:
            count = 2 if name in ("minimum", "maximum") else 1
            return call(f"numpy_{name}", *self.arguments(node, f"numpy.{name}", count, count), at=node)
        if name in _REDUCTIONS:
            return call(_REDUCTIONS[name], *self.arguments(node, f"numpy.{name}", 1, 1), at=node)
        if name in _MAKERS and len(node.args) <= _MAKERS[name] and all(k.arg == "dtype" for k in node.keywords):
            dtypes = [*node.args[_MAKERS[name] - 1 :], *(keyword.value for keyword in node.keywords)]
            for dtype in dtypes:
                self.check_dtype(dtype)
            if all(not isinstance(part, ast.Tuple) for part in node.args[:1]):
                node.args = [each if each in dtypes else self.visit(each) for each in node.args]
                return node
        raise NotMachineCodeError(node, f"machine code has no numpy.{name}() that gives what NumPy's does")

    def check_dtype(self, node: ast.expr) -> None:
        name = getattr(node, "attr", getattr(node, "id", getattr(node, "value", None)))
        if name not in _WIDE or (isinstance(node, ast.Name) and node.id not in ("int", "float", "bool")):
            raise NotMachineCodeError(
                node, f"it makes an array of {ast.unparse(node)}", "use numpy.int64, numpy.float64 or numpy.bool_"
            )

    def method_call(self, function: ast.Attribute, node: ast.Call) -> Any:
        if function.attr in _REDUCTIONS:
            if node.args or node.keywords:
                raise NotMachineCodeError(node, f"machine code has no .{function.attr}() with arguments")
            return call(_REDUCTIONS[function.attr], self.visit(function.value), at=node)
        if function.attr not in _LIST_METHODS:
            raise NotMachineCodeError(node, f"machine code has no .{function.attr}()")
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        module = self.module_of(node.value)
        if module is not None and node.attr not in (_MATH_CONSTANTS if module == "math" else _NUMPY_CONSTANTS):
            raise NotMachineCodeError(node, f"machine code has no {module}.{node.attr}")
        return node if module is not None else self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> Any:
        function = self.names.functions.get(node.id)
        constant = function is not None and function[1] in _MATH_CONSTANTS
        is_value = node.id in self.names.own or node.id in self.names.modules or self.is_local(node.id) or constant
        if isinstance(node.ctx, ast.Load) and not is_value:
            raise NotMachineCodeError(node, f"machine code cannot use {node.id} as a value")
        return node
