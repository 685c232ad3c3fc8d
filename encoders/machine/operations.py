"""Everything that the code of a compiled encoder calls, under the names that `rewrite` puts into it."""

from __future__ import annotations

from encoders.machine.arithmetic import (
    IN_PLACE,
    add,
    bit_and,
    bit_or,
    bit_xor,
    floor_divide,
    invert,
    multiply,
    negative,
    positive,
    power,
    remainder,
    shift_left,
    shift_right,
    subtract,
    true_divide,
)
from encoders.machine.arrays import OF_NUMPY, array_greatest, array_least
from encoders.machine.comparison import (
    CHAINS,
    contains,
    equal,
    greater,
    greater_equal,
    less,
    less_equal,
    missing,
    present,
    unequal,
)
from encoders.machine.conversion import (
    as_text,
    borrow,
    borrow_texts,
    fit,
    item,
    text_code,
    to_float,
    to_int,
    truth,
)
from encoders.machine.functions import (
    absolute,
    all_of,
    any_of,
    greatest,
    greatest_of_two,
    least,
    least_of_two,
    lookup,
    ordered,
    rounded,
    rounded_to,
)
from encoders.machine.kinds import Text
from encoders.machine.mathematics import OF_MATH, array_mean, array_total, total

globals().update(IN_PLACE)
globals().update(CHAINS)
globals().update({f"numpy_{name}": function for name, function in OF_NUMPY.items()})
globals().update({f"math_{name}": function for name, function in OF_MATH.items()})

__all__ = [
    "Text",
    "absolute",
    "add",
    "all_of",
    "any_of",
    "array_greatest",
    "array_least",
    "array_mean",
    "array_total",
    "as_text",
    "bit_and",
    "bit_or",
    "bit_xor",
    "borrow",
    "borrow_texts",
    "contains",
    "equal",
    "fit",
    "floor_divide",
    "greater",
    "greater_equal",
    "greatest",
    "greatest_of_two",
    "invert",
    "item",
    "least",
    "least_of_two",
    "less",
    "less_equal",
    "lookup",
    "missing",
    "multiply",
    "negative",
    "ordered",
    "positive",
    "power",
    "present",
    "remainder",
    "rounded",
    "rounded_to",
    "shift_left",
    "shift_right",
    "subtract",
    "text_code",
    "to_float",
    "to_int",
    "total",
    "true_divide",
    "truth",
    "unequal",
]
