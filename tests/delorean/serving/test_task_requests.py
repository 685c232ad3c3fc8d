"""Requests for tasks: any JSON is read as its task's variables, or rejected with an error of ours."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from delorean.serving.request import RankRequest, RequestReader
from delorean.tasks.task_set import TASK_VARIABLE, Task, TaskSet
from schemas.data_keys import DataKey, context_variable, item
from schemas.errors import DataKeyError

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "int8": st.integers(-128, 127),
    "string": st.none() | st.text(st.characters(codec="utf-8"), max_size=5),
    "double": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
}
REAL = {"int64": -1, "int8": -1, "string": "", "double": -1.0, "bool": False}  # sentinels
CONTEXT = {"profile_id": "int64", "query": "string", "age": "int8", "class": "double", "kids": "bool"}
ITEMS = {"video_id": "int64", "row": "string", "position": "int8"}


def keys(names: dict[str, str]) -> list[DataKey]:
    make = item if names is ITEMS else context_variable
    return [make(name, type_) for name, type_ in names.items()]


def some(names: dict[str, str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(sorted(names)), min_size=1, unique=True).map(tuple)


@st.composite
def task_sets(draw: st.DrawFn) -> TaskSet:
    names = draw(st.lists(st.sampled_from(["home", "search", "Köln", "task"]), min_size=1, max_size=3, unique=True))
    tasks = tuple(Task(name, draw(some(CONTEXT)), draw(some(ITEMS))) for name in names)
    return TaskSet(tasks, {name: REAL[type_] for name, type_ in {**CONTEXT, **ITEMS}.items()})


@st.composite
def valid(draw: st.DrawFn, tasks: TaskSet) -> dict[str, Any]:
    task = draw(st.sampled_from(tasks.tasks))

    def own(names: tuple[str, ...], types: dict[str, str]) -> dict[str, Any]:
        return {name: draw(VALUES[types[name]].filter(lambda v, n=name: v != REAL[types[n]])) for name in names}

    candidates: list[Any] = [own(task.items, ITEMS) for _ in range(draw(st.integers(1, 3)))]
    if len(task.items) == 1:
        candidates = [draw(st.sampled_from([each, next(iter(each.values()))])) for each in candidates]
    return {"task": task.name, "context": own(task.context, CONTEXT), "candidates": candidates}


def reader(tasks: TaskSet) -> RequestReader:
    task_type = context_variable(TASK_VARIABLE, "string")
    return RequestReader([*keys(CONTEXT), task_type], keys(ITEMS), tasks)


def read(tasks: TaskSet, request: Any) -> RankRequest:
    return reader(tasks).read(json.dumps(request).encode())


@given(st.data())
def test_a_request_becomes_its_variables_with_sentinels_for_the_others(data: st.DataObject) -> None:
    tasks = data.draw(task_sets())
    request = data.draw(valid(tasks))
    task = tasks.task(request["task"])
    result = read(tasks, request)
    assert result.task == task.name
    expected = {name: request["context"].get(name, REAL[type_]) for name, type_ in CONTEXT.items()}
    assert result.context.to_pylist() == [{**expected, TASK_VARIABLE: task.name}]
    assert result.context.schema == pa.schema(
        [(key.name, key.type) for key in keys(CONTEXT)] + [(TASK_VARIABLE, "string")]
    )
    for row, candidate in zip(result.items.to_pylist(), request["candidates"], strict=True):
        own = candidate if isinstance(candidate, dict) else {task.items[0]: candidate}
        assert row == {name: own.get(name, REAL[type_]) for name, type_ in ITEMS.items()}
    assert result.shape.lacking == {*CONTEXT} - {*task.context}


@given(st.data())
def test_what_a_task_lacks_and_a_sentinel_are_rejected_by_name(data: st.DataObject) -> None:
    tasks = data.draw(task_sets())
    request = data.draw(valid(tasks))
    task = tasks.task(request["task"])
    lacking = sorted({*CONTEXT} - {*task.context})
    if lacking and data.draw(st.booleans()):
        name = data.draw(st.sampled_from(lacking))
        request["context"][name] = data.draw(VALUES[CONTEXT[name]])
    else:
        shared = [n for n in task.context if any(n not in other.context for other in tasks.tasks)]
        assume(shared or len(tasks.tasks) == 1)
        name = data.draw(st.sampled_from(shared or sorted(task.context)))
        request["context"][name] = REAL[CONTEXT[name]]
    with pytest.raises(DataKeyError, match=name):
        read(tasks, request)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["task", "context", "candidates", *CONTEXT, *ITEMS, "k", "time"]), inner)
    ),
    max_leaves=8,
)


@given(st.data())
def test_any_change_of_a_request_is_read_or_rejected_with_an_error_of_ours(data: st.DataObject) -> None:
    tasks = data.draw(task_sets())
    request = data.draw(valid(tasks))
    place = data.draw(st.sampled_from([request, request["context"]]))
    place[data.draw(st.sampled_from([*place, "more"]))] = data.draw(JSON)
    body = json.dumps(request).encode()
    if data.draw(st.booleans()):
        cut = data.draw(st.integers(0, len(body)))
        body = body[:cut] + data.draw(st.binary(max_size=2)) + body[cut:]
    try:
        result = reader(tasks).read(body)
    except DataKeyError:
        return
    assert result.task in tasks.names
    assert len(result.context) == 1
    assert len(result.items) >= 1
