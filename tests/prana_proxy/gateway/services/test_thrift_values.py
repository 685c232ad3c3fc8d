"""What a service sends is what is read, whatever its type."""

from __future__ import annotations

import random
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thrift.Thrift import TType
from thrift_service import ThriftService, Writer, thrift_service, write_fields, write_list, written

from prana_proxy.config.services_file import gateway_config
from prana_proxy.gateway import Gateway
from prana_proxy.gateway.services.thrift.binary_protocol import UnfitError
from prana_proxy.gateway.services.thrift.idl import IdlType, method_of
from prana_proxy.gateway.services.thrift.scalar_readers import Reader
from prana_proxy.gateway.services.thrift.value_readers import reader
from schemas.errors import ConfigError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Shape:
    """A type, as Arrow and as Thrift: what values it has and how Apache's library writes them.

    structs: what the interface file must define for it
    """

    arrow: pa.DataType
    idl: str
    code: int
    values: st.SearchStrategy[Any]
    write: Callable[[Writer, Any], None]
    structs: tuple[str, ...] = ()
    nullable: bool = False


def integers(arrow: pa.DataType) -> Iterator[Shape]:
    low, high = (
        (0, 2**arrow.bit_width)
        if pa.types.is_unsigned_integer(arrow)
        else (
            -(2 ** (arrow.bit_width - 1)),
            2 ** (arrow.bit_width - 1),
        )
    )
    ways: list[tuple[int, str, int, Callable[[Writer, Any], None]]] = [
        (8, "i8", TType.BYTE, lambda to, value: to.writeByte(value)),
        (16, "i16", TType.I16, lambda to, value: to.writeI16(value)),
        (32, "i32", TType.I32, lambda to, value: to.writeI32(value)),
        (64, "i64", TType.I64, lambda to, value: to.writeI64(value)),
    ]
    for bits, name, code, write in ways:
        most = 2 ** (bits - 1)
        yield Shape(arrow, name, code, st.integers(max(low, -most), min(high, most) - 1), write)


def text(arrow: pa.DataType, values: st.SearchStrategy[Any], to_text: Callable[[Any], str], null: bool) -> Shape:
    return Shape(arrow, "string", TType.STRING, values, lambda to, v: to.writeString(to_text(v)), nullable=null)


TIMES = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
TIME = pa.timestamp("us", "UTC")
NAMES = count()
TEXTS = st.text(st.characters(codec="utf-8"), max_size=6)
SCALARS = [
    *(
        shape
        for width in (8, 16, 32, 64)
        for sign in ("", "u")
        for shape in integers(pa.type_for_alias(f"{sign}int{width}"))
    ),
    Shape(pa.bool_(), "bool", TType.BOOL, st.booleans(), lambda to, v: to.writeBool(v)),
    Shape(
        pa.float64(),
        "double",
        TType.DOUBLE,
        st.floats(allow_nan=False, allow_infinity=False),
        lambda to, v: to.writeDouble(v),
        (),
        True,
    ),
    Shape(
        pa.float32(),
        "double",
        TType.DOUBLE,
        st.floats(width=32, allow_nan=False, allow_infinity=False),
        lambda to, v: to.writeDouble(v),
        (),
        True,
    ),
    text(pa.string(), TEXTS, str, True),
    text(pa.large_string(), TEXTS, str, False),
    text(pa.date32(), st.dates(), date.isoformat, False),
    text(TIME, TIMES, datetime.isoformat, False),
    Shape(TIME, "i64", TType.I64, TIMES, lambda to, v: to.writeI64((v - EPOCH) // timedelta(microseconds=1))),
    Shape(pa.binary(), "binary", TType.STRING, st.binary(max_size=6), lambda to, v: to.writeBinary(v)),
]


def list_of(shape: Shape, kind: str, most: int) -> Shape:
    def write(to: Writer, values: list[Any]) -> None:
        write_list(to, shape.code, values, lambda value: shape.write(to, value))  # a set is written alike

    values = st.lists(shape.values, max_size=most)
    code = TType.LIST if kind == "list" else TType.SET
    return Shape(pa.list_(shape.arrow), f"{kind}<{shape.idl}>", code, values, write, shape.structs)


def struct_of(shapes: list[Shape], wanted: list[bool], order: random.Random) -> Shape:
    """Make a struct of fields, of which Arrow's type has those that are wanted, in another order."""
    name = f"S{next(NAMES)}"
    numbers = order.sample(range(1, 1000), len(shapes))
    lines = ", ".join(
        f"{n}: optional {shape.idl} f{i}" for i, (n, shape) in enumerate(zip(numbers, shapes, strict=True))
    )
    arrow = [pa.field(f"f{i}", shape.arrow) for i, shape in enumerate(shapes) if wanted[i]]
    order.shuffle(arrow)

    def write(to: Writer, values: dict[str, Any]) -> None:
        fields = [
            (numbers[i], shape.code, partial(shape.write, to, values[f"f{i}"]))
            for i, shape in enumerate(shapes)
            if values[f"f{i}"] is not None
        ]
        write_fields(to, *fields)

    values = st.fixed_dictionaries(
        {f"f{i}": st.none() | shape.values if shape.nullable else shape.values for i, shape in enumerate(shapes)}
    )
    structs = (*(one for shape in shapes for one in shape.structs), f"struct {name} {{ {lines} }}")
    return Shape(pa.struct(arrow), name, TType.STRUCT, values, write, structs)


@st.composite
def shapes(draw: st.DrawFn, deepest: int = 3) -> Shape:
    kind = draw(st.sampled_from(["scalar", "list", "set", "struct"] if deepest else ["scalar"]))
    if kind == "scalar":
        return draw(st.sampled_from(SCALARS))
    if kind == "struct":
        fields = draw(st.lists(shapes(deepest - 1), max_size=4))
        wanted = [draw(st.booleans()) or i == 0 for i in range(len(fields))]
        return struct_of(fields, wanted, draw(st.randoms(use_true_random=False)))
    return list_of(draw(shapes(deepest - 1)), kind, 30 if deepest == 3 else 4)


@pytest.fixture(scope="module")
def teller() -> Iterator[ThriftService]:
    with thrift_service() as service:
        yield service


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_values_come_through_a_service_as_they_were_sent(teller: ThriftService, data: st.DataObject) -> None:
    shape = data.draw(shapes())
    value = data.draw(shape.values)
    teller.reported = written(lambda to: write_fields(to, (0, shape.code, lambda: shape.write(to, value))))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "told.thrift"
        path.write_text("\n".join([*shape.structs, f"service History {{ {shape.idl} get(1: string behaviour) }}"]))
        table = {
            "type": str(shape.arrow),
            "key": {"behaviour": "string"},
            "url": teller.url("get"),
            "idl": str(path),
            "timeout_seconds": 30.0,
        }
        with Gateway(gateway_config({"services": {"reported": table}})) as gateway:
            answers = gateway.fetch("reported", pa.table({"behaviour": ["reported"]}), timedelta(seconds=30))
    assert answers["reason"].to_pylist() == [None]
    assert answers["value"] == pa.array([value], shape.arrow)


ROW_IDL = "struct Row { 1: i64 a, 2: double b, 3: bool c, 4: i32 d = 9, 5: i16 more, 6: string text, 7: i32 e = -1 }"
ROW = pa.struct([("d", pa.int8()), ("b", pa.float64()), ("c", pa.bool_()), ("a", pa.int64())])
USUAL = {1: st.integers(-9, 9), 2: st.floats(allow_nan=False), 3: st.booleans(), 4: st.integers(-9, 9), 5: st.just(1)}


@st.composite
def rows(draw: st.DrawFn) -> list[dict[int, Any]]:
    """Rows as field number → value: alike, as services send them, but for an odd one now and then."""
    numbers = draw(st.permutations(sorted(draw(st.sets(st.sampled_from([2, 4, 5]))) | {1, 3})))
    found = [{number: draw(USUAL[number]) for number in numbers} for _ in range(draw(st.integers(0, 30)))]
    if found and draw(st.booleans()):
        odd, number = draw(st.sampled_from(found)), draw(st.sampled_from(numbers))
        odd.update(draw(st.sampled_from([{number: "text"}, {4: 128}, {6: "more"}])))
        if draw(st.booleans()):
            del odd[number]
    return found


def write_row(to: Writer, row: dict[int, Any]) -> None:
    usual: dict[int, tuple[int, Callable[[Any], None]]] = {
        1: (TType.I64, to.writeI64),
        2: (TType.DOUBLE, to.writeDouble),
        3: (TType.BOOL, to.writeBool),
        4: (TType.I32, to.writeI32),
        5: (TType.I16, to.writeI16),
    }
    fields = []
    for number, value in row.items():
        code, write = (TType.STRING, to.writeString) if isinstance(value, str) else usual[number]
        fields.append((number, code, partial(write, value)))
    write_fields(to, *fields)


@pytest.fixture(scope="module")
def row_list(tmp_path_factory: pytest.TempPathFactory) -> IdlType:
    path = tmp_path_factory.mktemp("idl") / "row.thrift"
    path.write_text(f"{ROW_IDL} service Rows {{ list<Row> get(1: i64 p) }}")
    return method_of(str(path), "Rows", "get").result


@given(sent=rows())
def test_many_rows_are_read_as_each_is_read_alone(row_list: IdlType, sent: list[dict[int, Any]]) -> None:
    alone = [outcome(reader(row_list.element, ROW), written(partial(write_one, row))) for row in sent]
    together = outcome(reader(row_list, pa.list_(ROW)), written(partial(write_all, sent)))
    wrong = [(i, reported) for i, reported in enumerate(alone) if isinstance(reported, str)]
    if wrong:
        i, reported = wrong[0]
        assert together == (reported.replace("$", f"$[{i}]") if "$" in reported else f"{reported} - at `$[{i}]`")
    else:
        assert together == alone


def test_an_absent_field_has_the_default_of_the_interface_file(row_list: IdlType) -> None:
    sent = [{1: i, 2: 0.5, 3: True} for i in range(20)]
    assert outcome(reader(row_list, pa.list_(ROW)), written(partial(write_all, sent))) == [
        (9, 0.5, True, i) for i in range(20)
    ]


@pytest.mark.parametrize("count", [1, 20])
def test_a_bool_is_0_or_1(row_list: IdlType, count: int) -> None:
    sent = [{1: i, 2: 0.5, 3: 1} for i in range(count)]
    bools = struct.Struct(">bhb")
    data = written(partial(write_all, sent)).replace(bools.pack(TType.BOOL, 3, 1), bools.pack(TType.BOOL, 3, 2))
    assert outcome(reader(row_list, pa.list_(ROW)), data) == "Expected `bool`, got 2 - at `$[0].c`"
    flags = IdlType.of((TType.LIST, TType.BOOL))
    assert reader(flags, pa.list_(pa.bool_()))(struct.pack(">bi2b", TType.BOOL, 2, 1, 0), 0)[0] == [True, False]
    with pytest.raises(UnfitError, match=r"Expected `bool`, got 2 - at `\$\[1\]`"):
        reader(flags, pa.list_(pa.bool_()))(struct.pack(">bi2b", TType.BOOL, 2, 1, 2), 0)


def test_a_default_that_is_not_of_the_type_is_refused(row_list: IdlType) -> None:
    with pytest.raises(ConfigError, match=r"Row\.e: its default is not a uint8: Expected `int` >= 0"):
        reader(row_list.element, pa.struct([("d", pa.uint8()), ("e", pa.uint8())]))


def write_one(row: dict[int, Any], to: Writer) -> None:
    write_row(to, row)


def write_all(sent: list[dict[int, Any]], to: Writer) -> None:
    write_list(to, TType.STRUCT, sent, partial(write_row, to))


def outcome(read: Reader, data: bytes) -> Any:
    """Give what is read, or why nothing is."""
    try:
        value, end = read(data, 0)
    except UnfitError as error:
        return str(error)
    assert end == len(data)
    return (
        [msgspec.structs.astuple(row) for row in value] if isinstance(value, list) else msgspec.structs.astuple(value)
    )
