"""Reads ranking requests strictly: values that do not fit their data key's type are rejected by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import pyarrow as pa

from prana_proxy.gateway.decoded_values import python_type, to_arrow
from schemas.data_keys import DataKey
from schemas.errors import DataKeyError
from schemas.nulls import may_be_null
from schemas.tables import TIME

MOST_CANDIDATES = 1_000
LONGEST_REQUEST_ID = 128  # characters


@dataclass(frozen=True)
class RankRequest:
    """A request for a ranking.

    context: one row, a column per variable
    items: the candidates in their order; duplicates are scored each
    time: the moment to rank for, as in a replay, microseconds since the epoch; None: now
    k: number of candidates to return; None: all
    explain: whether to return features too
    request_id: the caller's name for the request; None: it has none
    """

    context: pa.Table
    items: pa.Table
    time: int | None
    k: int | None
    explain: bool
    request_id: str | None = None


class RequestReader:
    """Reads requests for the variables of one model.

    ```
    {"context": {"profile_id": 7, "country": "US"}, "candidates": [12, 9], "time": "2026-03-01T12:00:00Z", "k": 10}
    ```
    A candidate is an object of the item's variables, or just the value where there is only one variable. Integers,
    texts and times are written as online services write them. Only floats and texts may be null.
    """

    def __init__(self, context: Sequence[DataKey], items: Sequence[DataKey]) -> None:
        self._context, self._items = context, items
        self._item = _struct("Item", items)
        candidate = self._item if len(items) > 1 else _nullable(items[0]) | self._item
        body = msgspec.defstruct(
            "Body",
            [
                ("context", _struct("Context", context)),
                ("candidates", Annotated[list[candidate], msgspec.Meta(min_length=1, max_length=MOST_CANDIDATES)]),  # type: ignore[valid-type]  # built at run time
                ("time", python_type(TIME) | None, None),
                ("k", Annotated[int, msgspec.Meta(ge=1)] | None, None),
                ("explain", bool, False),
                ("request_id", Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_REQUEST_ID)] | None, None),
            ],
            forbid_unknown_fields=True,
        )
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(body)

    def read(self, body: bytes) -> RankRequest:
        """Read a request. Raises DataKeyError that names the place of an error and what was expected there."""
        try:
            read = self._decoder.decode(body)
            items = [c if isinstance(c, self._item) else self._item(c) for c in read.candidates]
            time = None if read.time is None else to_arrow([read.time], TIME).cast(pa.int64())[0].as_py()
            return RankRequest(
                _table(self._context, [read.context]),
                _table(self._items, items),
                time,
                read.k,
                read.explain,
                read.request_id,
            )
        except msgspec.ValidationError as error:
            raise DataKeyError.because(f"the request does not fit the model's variables: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DataKeyError.because(f"the request is not JSON: {error}") from error
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            raise DataKeyError.because(f"a variable does not fit its Arrow type: {error}") from error


def _struct(name: str, keys: Sequence[DataKey]) -> Any:
    """Build the type of a group of variables; fields are numbered because a name may be a Python keyword."""
    fields = [(f"f{i}", _nullable(key)) for i, key in enumerate(keys)]
    names = {f"f{i}": key.name for i, key in enumerate(keys)}
    return msgspec.defstruct(name, fields, rename=names, forbid_unknown_fields=True)


def _nullable(key: DataKey) -> Any:
    expected = python_type(key.type)
    return expected | None if may_be_null(key.type) else expected


def _table(keys: Sequence[DataKey], rows: Sequence[Any]) -> pa.Table:
    columns = [to_arrow(list(map(attrgetter(f"f{i}"), rows)), key.type) for i, key in enumerate(keys)]
    return pa.Table.from_arrays(columns, names=[key.name for key in keys])
