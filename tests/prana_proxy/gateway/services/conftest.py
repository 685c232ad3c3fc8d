"""Misbehaving Thrift services, and the configuration that asks them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import thrift_service
from thrift_service import ThriftService

from prana_proxy.config.services_file import gateway_config
from prana_proxy.gateway.config import GatewayConfig

VIEWS = "list<struct<video_id: int64, minutes: double, title: string>>"


@pytest.fixture
def thrift() -> Iterator[ThriftService]:
    with thrift_service.thrift_service() as service:
        yield service


@pytest.fixture(params=["framed", "buffered"])
def thrift_either(request: pytest.FixtureRequest) -> Iterator[ThriftService]:
    with thrift_service.thrift_service(framed=request.param == "framed") as service:
        yield service


@pytest.fixture
def idl(tmp_path: Path) -> Path:
    path = tmp_path / "history.thrift"
    path.write_text(thrift_service.IDL)
    return path


@pytest.fixture
def thrift_config(idl: Path) -> Callable[..., GatewayConfig]:
    """Build the configuration of one service, `views`, by default called once for each context, by get_history."""

    def build(
        service: ThriftService, method: str = "get_history", kind: str = "url", url: str = "", **fields: Any
    ) -> GatewayConfig:
        url = url if service is None else service.url(method)
        table = {
            "type": VIEWS,
            "key": {"behaviour": "string"},
            kind: url,
            **({"idl": str(idl)} if url.startswith("thrift") else {}),
            "timeout_seconds": 30.0,
            "retries": 0,
            "breaker": {"forced": "closed"},
            "answer": "/history" if kind == "url" else "",
            **fields,
        }
        return gateway_config({"services": {"views": table}})

    return build


@pytest.fixture
def behaviours() -> Callable[..., pa.Table]:
    """Make contexts from what the service is to do."""
    return lambda *names: pa.table({"behaviour": pa.array(names, pa.string())})
