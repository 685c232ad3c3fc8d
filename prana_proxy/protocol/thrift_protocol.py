"""What the Thrift server and its client share: limits, the protocol, and services as Thrift structs."""

from __future__ import annotations

import json
import struct
from functools import cache
from typing import Any

from thrift.protocol.TBinaryProtocol import TBinaryProtocolAcceleratedFactory

from schemas.data_keys import DataKey
from schemas.errors import SetupError
from schemas.generated.ttypes import DataKeyInfo, ServiceInfo
from schemas.services import OnFallback, Service
from schemas.strict_json import json_text

FRAME_LENGTH = struct.Struct("!i")  # comes before each frame
LARGEST_FRAME = 16_384_000  # of Thrift
LARGEST_PAYLOAD = LARGEST_FRAME - 65_536  # of Arrow within a frame
LARGEST_CONTAINER = 10_000


@cache
def protocol_factory() -> Any:
    """Return the factory of the accelerated binary protocol, with limits.

    Raises SetupError when Thrift was installed without its C extension: it would be tens of times slower.
    """
    try:
        from thrift.protocol import fastbinary  # noqa: F401
    except ImportError as error:
        raise SetupError.because(
            "thrift has no C extension here", "install the wheel of thrift==0.25.0 instead of building it"
        ) from error
    return TBinaryProtocolAcceleratedFactory(
        string_length_limit=LARGEST_FRAME, container_length_limit=LARGEST_CONTAINER, fallback=False
    )


def service_info(service: Service) -> ServiceInfo:
    """Describe a service to Thrift."""
    return ServiceInfo(  # type: ignore[no-untyped-call]  # generated
        service.name,
        _key_info(service.element),
        [_key_info(variable) for variable in service.key],
        service.on_fallback.value,
    )


def service_from(info: ServiceInfo) -> Service:
    """Read what `service_info` described."""
    on_fallback = OnFallback(info.on_fallback or OnFallback.ABSENT)  # a proxy of an earlier version does not send it
    return Service(info.name, _key_from(info.element), tuple(map(_key_from, info.key)), on_fallback)


def _key_info(key: DataKey) -> DataKeyInfo:
    fields = key.to_json()
    declared = {name: fields.pop(name) for name in ("defaults", "aliases") if name in fields}
    evolution = json_text(declared) if declared else None
    return DataKeyInfo(**fields, evolution=evolution)  # type: ignore[no-untyped-call]  # generated


def _key_from(info: DataKeyInfo) -> DataKey:
    declared = {} if info.evolution is None else json.loads(info.evolution)
    return DataKey.from_json({**vars(info), **declared})
