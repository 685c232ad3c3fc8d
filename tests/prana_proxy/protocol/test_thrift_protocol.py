"""Services as Thrift carries them."""

from __future__ import annotations

import pyarrow as pa
import pytest
from thrift.TSerialization import deserialize, serialize

from prana_proxy.protocol.thrift_protocol import protocol_factory, service_from, service_info
from schemas.data_keys import DataKey, Kind, context_variable, service_element
from schemas.generated.ttypes import DataKeyInfo, ServiceInfo
from schemas.services import Service

REQUIRED = pa.struct([pa.field("release-year", pa.int64(), nullable=False), ("a: b", pa.timestamp("ms", "UTC"))])


@pytest.mark.parametrize("type", [pa.int64(), pa.list_(pa.struct({"a, b": pa.string()})), pa.list_(REQUIRED)], ids=str)
def test_a_service_comes_back_whatever_its_type(type: pa.DataType) -> None:  # noqa: A002
    service = Service("s", service_element("e", type), (context_variable("profile_id", "int64"),))
    sent = serialize(service_info(service), protocol_factory())
    assert service_from(deserialize(ServiceInfo(), sent, protocol_factory())) == service


def test_a_service_comes_back_with_the_defaults_and_older_names_of_its_fields() -> None:
    element = service_element(
        "e", "list<struct<a: int64, at: date32>>", defaults={"a": 0, "at": "2026-01-31"}, aliases={"a": ["b", "ü"]}
    )
    service = Service("s", element, (context_variable("profile_id", "int64"),))
    sent = serialize(service_info(service), protocol_factory())
    assert service_from(deserialize(ServiceInfo(), sent, protocol_factory())) == service


def test_a_key_that_an_earlier_release_sent_is_read() -> None:
    sent = serialize(DataKeyInfo("e", "item", "list<item: int64>"), protocol_factory())
    found = deserialize(DataKeyInfo(), sent, protocol_factory())
    assert DataKey.from_json(vars(found)) == DataKey("e", Kind.ITEM, pa.list_(pa.int64()))
