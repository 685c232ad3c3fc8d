"""The layout of Arrow types in flat columns, shared by conversion and generated code."""

from __future__ import annotations

import keyword
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa

from schemas.data_keys import DataKey, Kind
from schemas.errors import EncoderError
from schemas.nulls import is_text, value_type

ColumnPath = tuple[str, ...]
INTEGER, FLOAT, BOOLEAN, OBJECT, TEXT = "int64", "float64", "bool", "object", "text"
RESERVED = frozenset({"present", "offsets", "values", "value", "slots"})
MAX_DEPTH = 16


@dataclass(frozen=True)
class Column:
    """A flat array that is passed to an encoder.

    path: its origin, such as ("data", "viewing_history", "minutes"); a last part with a colon marks a computed column
    dtype: int64, float64 or bool; texts are text in compiled code and object in plain Python
    """

    path: ColumnPath
    dtype: str


@dataclass(frozen=True)
class ScalarLayout:
    """One column."""

    column: Column


@dataclass(frozen=True)
class StructLayout:
    """Columns side by side."""

    fields: dict[str, Layout]


@dataclass(frozen=True)
class ListLayout:
    """Lists of any length of what `child` describes, with the offsets of each list."""

    path: ColumnPath
    child: Layout

    @property
    def starts(self) -> Column:
        """The start of each list in the child's columns."""
        return Column((*self.path, ":starts"), INTEGER)

    @property
    def offsets(self) -> Column:
        """For lists within lists: the start of each, relative to the start of the context's value."""
        return Column((*self.path, ":offsets"), INTEGER)


Layout = ScalarLayout | StructLayout | ListLayout


def scalar_dtype(type: pa.DataType, compiled: bool) -> str | None:  # noqa: A002  # the field's own name
    """Give the dtype in which encoders read a scalar type, None if they cannot read it.

    As in plain Python there is one kind of integer and one kind of float. Narrower ones are widened, so that arithmetic
    does not depend on how a number was stored, and is the same in plain Python and compiled.
    """
    type = value_type(type)  # noqa: A001
    if pa.types.is_integer(type) or pa.types.is_timestamp(type) or pa.types.is_date32(type):
        return INTEGER
    if pa.types.is_floating(type):
        return FLOAT
    if pa.types.is_boolean(type):
        return BOOLEAN
    if is_text(type):
        return TEXT if compiled else OBJECT
    return None


def variable_layout(key: DataKey, compiled: bool) -> ScalarLayout:
    """Describe a context's or an item's variable. Raises EncoderError unless it is a scalar."""
    dtype = scalar_dtype(key.type, compiled)
    if dtype is None:
        raise EncoderError.because(
            f"'{key.name}' is {key.type}: encoders read variables that are numbers, booleans, times or text"
        )
    group = "context" if key.kind is Kind.CONTEXT else "items"
    return ScalarLayout(Column((group, key.name), dtype))


def element_layout(key: DataKey, compiled: bool, fields: Collection[str] | None = None) -> Layout:
    """Describe a data element.

    fields: the outermost fields that are read; None: all
    Raises EncoderError for a type that encoders cannot read.
    """
    type = stored_type(key)  # noqa: A001
    return _layout(type, ("data", key.name), compiled, fields, 0)


def stored_type(key: DataKey) -> pa.DataType:
    """Give the type of one value of an element; for a global element, of its whole table."""
    return pa.list_(key.type) if key.kind is Kind.GLOBAL_ELEMENT else key.type


def outer_fields(key: DataKey) -> list[str] | None:
    """Give the fields that encoders read as `data.<element>.<field>`, None if the element's values are not structs."""
    type = stored_type(key)  # noqa: A001
    while is_list(type):
        type = type.value_type  # noqa: A001
    if not pa.types.is_struct(type):
        return None
    return [field.name for field in type if readable(field.name)]


def is_list(type: pa.DataType) -> bool:  # noqa: A002
    """Whether the type is a list of any length."""
    return bool(pa.types.is_list(type) or pa.types.is_large_list(type))


def readable(name: str) -> bool:
    """Whether Python code can read an attribute of this name."""
    return name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_")


def _is_readable(type: pa.DataType) -> bool:  # noqa: A002
    """Whether encoders can read values of the type, or some fields of them."""
    while is_list(type):
        type = type.value_type  # noqa: A001
    return pa.types.is_struct(type) or scalar_dtype(type, compiled=True) is not None


def in_python(node: Layout) -> Layout:
    """Give a compiled encoder's layout as plain Python reads it, with texts instead of codes."""
    if isinstance(node, ScalarLayout):
        column = node.column
        return ScalarLayout(Column(column.path, OBJECT if column.dtype == TEXT else column.dtype))
    if isinstance(node, StructLayout):
        return StructLayout({name: in_python(child) for name, child in node.fields.items()})
    return ListLayout(node.path, in_python(node.child))


def _layout(
    type: pa.DataType,  # noqa: A002
    path: ColumnPath,
    compiled: bool,
    fields: Collection[str] | None,
    depth: int,
) -> Layout:
    if depth > MAX_DEPTH:
        raise EncoderError.because(f"'{'.'.join(path[1:])}' nests deeper than {MAX_DEPTH}")
    if is_list(type):
        return ListLayout(path, _layout(type.value_type, (*path, "[]"), compiled, fields, depth + 1))
    if pa.types.is_struct(type):
        # Of all fields, unreadable ones are left out; an unreadable field that is named is an error.
        named = {f.name for f in type if _is_readable(f.type)} if fields is None else fields
        names = [f.name for f in type if readable(f.name) and f.name in named]
        return StructLayout({n: _layout(type.field(n).type, (*path, n), compiled, None, depth + 1) for n in names})
    dtype = scalar_dtype(type, compiled)
    if dtype is None:
        raise EncoderError.because(
            f"'{'.'.join(path[1:])}' is {type}, which encoders cannot read",
            "use numbers, booleans, times or text, and lists and structs of them",
        )
    return ScalarLayout(Column(path, dtype))
