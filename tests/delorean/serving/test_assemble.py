from __future__ import annotations

import company
import numpy as np
import pyarrow as pa

from delorean.serving import assemble
from encoders.library.keys import MY_LIST, VIDEOS
from schemas.services import Service, Status
from schemas.tables import answers_schema

SERVICE = Service("my_list", MY_LIST, (company.CONTEXT[0],))


def answers(*rows: tuple[Status, object]) -> pa.RecordBatch:
    fields = [{"status": status.value, "captured_at": None, "reason": None, "value": value} for status, value in rows]
    return pa.RecordBatch.from_pylist(fields, schema=answers_schema(SERVICE))


def test_answers_without_a_value_are_absent_and_fallbacks_are_used() -> None:
    some = company.LISTS[1][:1]
    batch = answers((Status.OK, some), (Status.TIMEOUT, None), (Status.FALLBACK, []), (Status.OK, None))
    contexts = company.data_maps(range(4)).contexts
    items = pa.table({"video_id": [1, 2, 3, 4]})
    version = {"videos": company.CATALOGUE}
    maps = assemble(contexts, items, np.arange(5), {"my_list": batch}, version)
    assert [maps.data_map(i)["my_list"] for i in range(4)] == [some, None, [], None]
    assert len(maps.data_map(2)["videos"]) == 58
    without = assemble(contexts, items, np.arange(5), {"my_list": batch}, version, without_fallback={"my_list"})
    assert [without.data_map(i)["my_list"] for i in range(4)] == [some, None, None, None]
    nothing = {"videos": pa.array([], pa.list_(VIDEOS.type))}
    assert assemble(contexts, items, np.arange(5), {}, nothing).data_map(0)["videos"] is None
    found = company.MODEL.bind(company.CONTEXT, company.ITEMS)
    assert len(found.encode(_with_history(maps))["listed"]) == 4


def _with_history(maps: object) -> object:
    from dataclasses import replace

    from encoders import DataMaps

    assert isinstance(maps, DataMaps)
    history = company.data_maps(range(4)).elements["viewing_history"]
    return replace(maps, elements={**maps.elements, "viewing_history": history})
