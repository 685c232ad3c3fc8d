from __future__ import annotations

from schemas.data_keys import context_variable, service_element
from schemas.services import Service, Status
from snapshotter.records import ServiceSnapshot

HISTORY = Service("history", service_element("history", "int64"), (context_variable("profile_id", "int64"),))


def test_a_record_from_before_profiles_were_measured_has_an_empty_one() -> None:
    taken = ServiceSnapshot("r1", HISTORY, None, 1, {Status.ERROR: 2}, None, None, (), {Status.ERROR: "HTTP 500"})
    fields = taken.to_json()
    del fields["profile"]
    assert ServiceSnapshot.from_json(fields) == taken
    assert taken.profile == {}
