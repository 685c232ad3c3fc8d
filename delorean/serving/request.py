"""Reads ranking requests strictly: values that do not fit their data key's type are rejected by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import msgspec
import pyarrow as pa

from delorean.serving.request_shape import RequestShape, request_shapes
from delorean.tasks.task_set import TaskSet
from prana_proxy.gateway.decoded_values import to_arrow
from schemas.data_keys import DataKey
from schemas.errors import DataKeyError
from schemas.tables import TIME


@dataclass(frozen=True)
class RankRequest:
    """A request for a ranking.

    context: one row, a column per variable
    items: the candidates in their order; duplicates are scored each
    time: the moment to rank for, as in a replay, microseconds since the epoch; None: now
    k: number of candidates to return; None: all
    explain: whether to return features too
    request_id: the caller's name for the request; None: it has none
    shape: of its task, or of every request to a model without tasks
    """

    context: pa.Table
    items: pa.Table
    time: int | None
    k: int | None
    explain: bool
    request_id: str | None
    shape: RequestShape

    @property
    def task(self) -> str | None:
        """The name of its task; None for a model without tasks."""
        return None if self.shape.task is None else self.shape.task.name


class RequestReader:
    """Reads requests for the variables of one model.

    ```
    {"context": {"profile_id": 7, "country": "US"}, "candidates": [12, 9], "time": "2026-03-01T12:00:00Z", "k": 10}
    ```
    A candidate is an object of the item's variables, or just the value where there is only one variable. Integers,
    texts and times are written as online services write them. Only floats and texts may be null.

    tasks: then a request names its `task` and has only that task's variables; what the task lacks gets its sentinel
    """

    def __init__(self, context: Sequence[DataKey], items: Sequence[DataKey], tasks: TaskSet | None = None) -> None:
        self._shapes = request_shapes(context, items, tasks)
        bodies = reduce(or_, (shape.body for shape in self._shapes.values()))
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(bodies)

    def read(self, body: bytes) -> RankRequest:
        """Read a request. Raises DataKeyError that names the place of an error and what was expected there."""
        try:
            read = self._decoder.decode(body)
            shape = self._shapes[read.__struct_config__.tag]
            time = None if read.time is None else to_arrow([read.time], TIME).cast(pa.int64())[0].as_py()
            context, items = shape.context_table(read.context), shape.item_table(read.candidates)
            return RankRequest(context, items, time, read.k, read.explain, read.request_id, shape)
        except msgspec.ValidationError as error:
            tasks = [name for name in self._shapes if name is not None]
            known = f" (known tasks: {', '.join(tasks)})" if tasks and "`$.task`" in str(error) else ""
            raise DataKeyError.because(f"the request does not fit the model's variables: {error}{known}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DataKeyError.because(f"the request is not JSON: {error}") from error
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            raise DataKeyError.because(f"a variable does not fit its Arrow type: {error}") from error
