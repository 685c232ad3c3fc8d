"""Times in requests: rejected where services answer with their current state, marked in a replay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import company
import pyarrow as pa
import pytest

from delorean.serving import GlobalVersions, Ranker
from delorean.serving.ranker import _refuse_far_times
from encoders.library.keys import VIDEOS
from prana_proxy.clock import FileClock, system_clock
from prana_proxy.config.services_file import gateway_config
from prana_proxy.gateway import Gateway
from schemas.errors import DataKeyError
from schemas.tables import TIME

BEYOND = "9999-12-31T23:59:59-05:00"


def body(**more: Any) -> bytes:
    return json.dumps({"context": {"profile_id": 7, "country": "US"}, "candidates": [12, 59], **more}).encode()


@pytest.fixture
def gateway(services: Any) -> Iterator[Gateway]:
    with Gateway(gateway_config(services.config())) as gateway:
        yield gateway


def rank(package: Any, gateway: Gateway, published: Any, clock: Any, **more: Any) -> Any:
    with GlobalVersions([VIDEOS], published.index, published.storage, clock) as versions:
        ranker = Ranker(package, gateway, versions, clock, timedelta(seconds=30))
        return ranker.rank(body(**more))


def test_a_request_for_a_past_time_is_refused_unless_the_clock_can_be_set(
    company_package: Any, gateway: Gateway, published: Any, tmp_path: Any, services: Any
) -> None:
    past = (company.NOW - timedelta(days=1)).isoformat()
    with pytest.raises(DataKeyError, match="services answer with their current state.* → leave time out"):
        rank(company_package, gateway, published, system_clock, time=past)
    assert services.asked == []
    assert "replay" not in rank(company_package, gateway, published, system_clock)
    clock = FileClock(tmp_path / "clock")
    clock.set(company.NOW)
    answer = rank(company_package, gateway, published, clock, time=past)
    assert answer["globals"]["videos"]["version_id"] == "all"
    assert "services answered with their current state" in answer["replay"]
    assert "replay" not in rank(company_package, gateway, published, clock)


def test_a_time_that_no_datetime_holds_is_refused_by_name(live: Any) -> None:
    status, answer, _ = live.call("POST", "/rank", body(time=BEYOND))
    assert status == 422
    assert "outside the years 1 to 9999" in answer["error"]


def test_a_variable_that_no_datetime_holds_is_refused_by_name() -> None:
    fine = pa.table({"since": pa.array([0, None], pa.int64()).cast(TIME), "id": [1, 2]})
    _refuse_far_times(fine)
    far = pa.table({"since": pa.array([0, 253_402_318_799_000_000], pa.int64()).cast(TIME)})
    with pytest.raises(DataKeyError, match="'since' is beyond the years 1 to 9999"):
        _refuse_far_times(far)
