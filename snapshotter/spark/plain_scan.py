"""Recognises queries that only read columns and rows of Parquet files: tasks then read these in Arrow, without the JVM.

The JVM would convert each row to its own form and then to Arrow, which costs several times as much as all else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from schemas.file_uri import path_of
from schemas.tables import TIME
from snapshotter.spark.connect import is_remote
from snapshotter.storage.parquet_scan import Condition, Operator, ParquetScan

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_SOURCES = "org.apache.spark.sql.execution.datasources."
_PARQUET = _SOURCES + "parquet.ParquetFileFormat"
_DELTA = "org.apache.spark.sql.delta.DeltaParquetFileFormat"
_OPERATORS: dict[str, Operator] = {
    "EqualTo": "=",
    "LessThan": "<",
    "LessThanOrEqual": "<=",
    "GreaterThan": ">",
    "GreaterThanOrEqual": ">=",
}
# Types of conditions that Spark and Arrow compare alike; not floats, whose NaN Spark finds greater than all others.
_COMPARED = {
    '"byte"': pa.int8(),
    '"short"': pa.int16(),
    '"integer"': pa.int32(),
    '"long"': pa.int64(),
    '"string"': pa.string(),
    '"timestamp"': TIME,
}


def plain_scan(frame: DataFrame) -> ParquetScan | None:
    """Return what a frame reads; None unless it is certain that it only reads columns and rows of local Parquet files.

    Delta tables are such files if they have neither deletion vectors nor renamed columns. Nothing is read.
    """
    if is_remote(frame):
        return None
    try:
        return _scan(frame)
    except Exception:  # noqa: BLE001  # plans are internal to Spark: the JVM runs those of an unknown version
        return None


class _OtherPlanError(Exception):
    """The plan does something else than reading."""


def _scan(frame: DataFrame) -> ParquetScan:
    from pyspark.sql.pandas.types import to_arrow_type

    plan = frame._jdf.queryExecution().optimizedPlan()
    outputs, conditions = None, []
    if _class(plan) == "Project":
        outputs, plan = _items(plan.projectList()), plan.child()
    if _class(plan) == "Filter":
        conditions, plan = _conjuncts(plan.condition()), plan.child()
    if _class(plan) != "LogicalRelation" or _class(plan.relation()) != "HadoopFsRelation":
        raise _OtherPlanError
    # What follows the columns of the schema is not in the files, such as their names.
    own = _items(plan.output())[: plan.relation().schema().length()]
    names = {each.exprId().id(): each.name() for each in own}
    chosen = [_attribute(each) for each in (_items(plan.output()) if outputs is None else outputs)]
    columns = {field.name: names[id_] for field, id_ in zip(frame.schema, chosen, strict=True)}
    types = {columns[field.name]: to_arrow_type(field.dataType, timezone="UTC") for field in frame.schema}
    required = []
    for each in conditions:
        condition, type_ = _condition(each, names)
        types.setdefault(condition.column, type_)
        required.append(condition)
    paths = _paths(plan.relation(), set(types))
    return ParquetScan(tuple(paths), columns, types, tuple(required))


def _paths(relation: Any, columns: set[str]) -> list[str]:
    """Return the relation's files, if they hold all that it consists of."""
    kind = relation.fileFormat().getClass().getName()
    plain = kind == _PARQUET or (kind == _DELTA and relation.location().protocol().minReaderVersion() == 1)
    folders = relation.partitionSchema().fieldNames()  # these columns are in the files' paths
    if not plain or columns.intersection(folders):
        raise _OtherPlanError
    return [_local_path(uri, encoded=kind == _PARQUET) for uri in relation.location().inputFiles()]


def _local_path(uri: str, encoded: bool) -> str:
    """Return the path of a local file. encoded: whether the URI is percent-encoded, which Delta's are not."""
    path = re.sub("^file:/+", "/", uri)
    if not path.startswith("/"):
        raise _OtherPlanError
    return str(path_of(f"file://{path}")) if encoded else path


def _attribute(expression: Any) -> int:
    """Return the id of the column that an expression is, perhaps under another name."""
    if _class(expression) == "Alias":
        expression = expression.child()
    if _class(expression) != "AttributeReference":
        raise _OtherPlanError
    return int(expression.exprId().id())


def _conjuncts(condition: Any) -> list[Any]:
    if _class(condition) == "And":
        return [*_conjuncts(condition.left()), *_conjuncts(condition.right())]
    return [condition]


def _condition(expression: Any, names: dict[int, str]) -> tuple[Condition, pa.DataType]:
    """Return a condition and its column's type."""
    sides = _items(expression.children())
    column, type_ = names[_attribute(sides[0])], _COMPARED[sides[0].dataType().json()]
    if _class(expression) == "IsNotNull":
        return Condition(column, "is not null"), type_
    value = sides[1]
    if _class(value) != "Literal" or value.value() is None or value.dataType().json() != sides[0].dataType().json():
        raise _OtherPlanError
    plain = value.toString() if type_ == pa.string() else value.value()
    return Condition(column, _OPERATORS[_class(expression)], pa.scalar(plain, type_)), type_


def _items(seq: Any) -> list[Any]:
    return [seq.apply(position) for position in range(seq.size())]


def _class(thing: Any) -> str:
    return str(thing.getClass().getSimpleName())
