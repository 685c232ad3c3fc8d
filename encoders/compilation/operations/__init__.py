"""The operations that compiled encoders are made of: each gives what plain Python gives, or gives up.

Machine numbers have limits that Python's do not have. An operation that reaches one raises, and the context is computed
by the plain Python function instead. What machine code cannot do at all has no operation, so it does not compile.
Only compilation imports this package, because importing Numba is slow.

Rewritten encoders call the operations as attributes of this module, by the names in each module's `OPERATIONS`.
"""

from encoders.compilation.operations import (
    arithmetic,
    arrays,
    builtin_functions,
    comparison,
    conversion,
    math_functions,
    vocabulary,
)
from encoders.compilation.operations.value_types import Text

__all__ = ["Text"]

for _module in (arithmetic, arrays, builtin_functions, comparison, conversion, math_functions, vocabulary):
    globals().update(_module.OPERATIONS)
