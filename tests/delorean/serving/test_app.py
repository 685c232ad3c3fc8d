from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import company
import numpy as np
import pytest
from proxy_process import until

from delorean.packaging.package import matrix
from schemas.errors import ConfigError

CANDIDATES = [12, 59, 7, 30]


def body(profile: int = 7, candidates: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    context = {"profile_id": profile, "country": "US"}
    return {"context": context, "candidates": CANDIDATES if candidates is None else candidates, **more}


def as_bits(values: list[float | None]) -> list[int]:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float32).view(np.uint32).tolist()


@pytest.mark.parametrize("profile", [7, 3, 5, 20])
def test_live_features_and_scores_are_those_of_generation_bit_for_bit(live: Any, profile: int) -> None:
    maps = company.data_maps([profile])
    candidates = maps.items["video_id"].to_pylist()
    country = maps.contexts["country"].to_pylist()[0]
    request = {"context": {"profile_id": profile, "country": country}, "candidates": candidates}
    answer = live.rank({**request, "time": company.NOW.isoformat(), "explain": True})
    package = live.ranker.package
    offline = package.bound.encode(maps)
    scores = package.score(matrix(package.features, offline))
    by_position = sorted(answer["ranked"], key=lambda entry: entry["position"])
    assert [entry["item"]["video_id"] for entry in by_position] == candidates
    for name in package.features:
        expected = [None if np.isnan(v) else float(v) for v in offline[name]]
        assert as_bits([entry["features"][name] for entry in by_position]) == as_bits(expected), name
    assert as_bits([entry["score"] for entry in by_position]) == scores.view(np.uint32).tolist()
    missing = {3: ["viewing_history"], 5: ["my_list"]}.get(profile, [])
    assert answer["missing"] == missing


def test_the_best_come_first_and_k_cuts(live: Any) -> None:
    answer = live.rank(body(k=2))
    whole = live.rank(body())
    assert [entry["score"] for entry in whole["ranked"]] == sorted(
        (entry["score"] for entry in whole["ranked"]), reverse=True
    )
    assert answer["ranked"] == whole["ranked"][:2]
    assert "features" not in answer["ranked"][0]


def test_the_answer_says_what_it_was_made_from(live: Any) -> None:
    answer = live.rank(body(3))
    assert answer["services"]["my_list"]["status"] == "ok"
    assert datetime.fromisoformat(answer["services"]["my_list"]["captured_at"]).tzinfo
    failed = answer["services"]["viewing_history"]
    assert (failed["status"], failed["captured_at"]) == ("error", None)
    assert "out of order" in failed["reason"] or "500" in failed["reason"]
    assert answer["missing"] == ["viewing_history"]
    assert answer["globals"]["videos"]["version_id"] == "all"
    assert datetime.fromisoformat(answer["time"]) == company.NOW


def test_all_services_down_still_ranks(live: Any, services: Any) -> None:
    services.broken = {"viewing_history", "my_list"}
    answer = live.rank(body(explain=True))
    assert answer["missing"] == ["my_list", "viewing_history"]
    assert len(answer["ranked"]) == 4
    assert answer["ranked"][0]["features"]["minutes"] is None


def test_a_replay_sees_the_version_valid_at_its_time(live: Any, published: Any) -> None:
    def version(moment: datetime) -> Any:
        answer = live.rank(body(time=moment.isoformat()))
        return answer["globals"]["videos"] and answer["globals"]["videos"]["version_id"]

    assert version(company.NOW - timedelta(days=1, microseconds=1)) == "few"
    assert version(company.NOW - timedelta(days=1)) == "all"
    assert version(company.NOW - timedelta(days=9)) is None
    assert live.rank(body(time=(company.NOW - timedelta(days=9)).isoformat()))["missing"] == ["videos"]
    published.videos("late", company.NOW - timedelta(hours=1))
    assert version(company.NOW) == "late"
    for i in range(5):
        published.videos(f"more-{i}", company.NOW - timedelta(hours=10 - i))
        assert version(company.NOW - timedelta(hours=10 - i)) == f"more-{i}"
    assert len(live.versions._elements["videos"].loaded) <= 3


def test_a_new_version_is_found_in_the_background_and_used_from_its_time_on(live: Any, published: Any) -> None:
    published.videos("next", company.NOW + timedelta(hours=1))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and live.versions._published["videos"][0].version_id != "next":
        time.sleep(0.05)
    assert live.rank(body())["globals"]["videos"]["version_id"] == "all"
    live.clock.now = company.NOW + timedelta(hours=1)
    assert live.rank(body())["globals"]["videos"]["version_id"] == "next"


def test_candidates_may_be_objects_and_may_repeat(live: Any) -> None:
    plain = live.rank(body(candidates=[12, 30, 12]))
    objects = live.rank(body(candidates=[{"video_id": 12}, {"video_id": 30}, 12]))
    assert [e["position"] for e in plain["ranked"]] == [e["position"] for e in objects["ranked"]]
    scores = {e["position"]: e["score"] for e in plain["ranked"]}
    assert scores[0] == scores[2]
    assert len(plain["ranked"]) == 3


def asked_for_history(services: Any) -> int:
    return sum(path.startswith("/history/") for path in services.asked)


def test_requests_are_answered_at_the_same_time_and_the_loop_stays_free(live: Any, services: Any) -> None:
    services.release = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(live.rank, body(profile)) for profile in range(8, 16)]
        deadline = time.monotonic() + 20
        while asked_for_history(services) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        asked = asked_for_history(services)
        assert live.call("GET", "/health")[0] == 200
        services.release.set()
        together = [future.result()["ranked"] for future in waiting]
    services.release = None
    assert asked == 8
    assert services.asked.count("/lists") <= 8  # callers' contexts share calls
    assert together == [live.rank(body(profile))["ranked"] for profile in range(8, 16)]


def test_health_readiness_and_the_package_are_shown(live: Any) -> None:
    assert live.call("GET", "/health")[:2] == (200, {"status": "alive"})
    assert live.call("GET", "/ready")[:2] == (200, {"status": "ready"})
    status, about, _ = live.call("GET", "/package")
    assert status == 200
    assert about["features"] == ["minutes", "days_since", "listed", "popularity"]
    assert about["lineage"]["spec_hash"] == "abc"
    assert about["report"]["metrics"]["model"]["test"]["ndcg@10"] > 0
    live.ranker.warm = False
    assert live.call("GET", "/ready")[0] == 503


def test_the_answer_says_where_its_time_went(live: Any) -> None:
    _, _, headers = live.call("POST", "/rank", body())
    steps = [part.split(";")[0] for part in headers["server-timing"].split(", ")]
    assert steps == ["read", "fetch", "versions", "encode", "score", "write"]


WRONG: list[tuple[Any, str]] = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b"[" * 100_000, "does not fit|not JSON"),
    (b"[]", "does not fit"),
    ({"candidates": [1]}, "`context`"),
    ({**body(), "more": 1}, "`more`"),
    ({**body(), "context": {"profile_id": 7}}, "`country`"),
    ({**body(), "context": {"profile_id": "7", "country": "US"}}, r"\$\.context\.profile_id"),
    ({**body(), "context": {"profile_id": True, "country": "US"}}, r"\$\.context\.profile_id"),
    ({**body(), "context": {"profile_id": None, "country": "US"}}, r"\$\.context\.profile_id"),
    ({**body(), "context": {"profile_id": 2**63, "country": "US"}}, r"\$\.context\.profile_id"),
    ({**body(), "context": {"profile_id": 7.5, "country": "US"}}, r"\$\.context\.profile_id"),
    ({**body(), "context": {"profile_id": 7, "country": 1}}, r"\$\.context\.country"),
    ({**body(), "context": {"profile_id": 7, "country": "US", "devise": 1}}, "`devise`"),
    (body(candidates=[]), r"\$\.candidates"),
    (body(candidates=list(range(1_001))), r"\$\.candidates"),
    (body(candidates=["a"]), r"\$\.candidates\[\.\.\.\]|\$\.candidates\[0\]"),
    (body(candidates=[{"video": 1}]), r"`video`|video_id"),
    (body(candidates=[None]), r"\$\.candidates"),
    (body(time="2026-03-01T12:00:00"), r"\$\.time"),
    (body(time="yesterday"), r"\$\.time"),
    (body(k=0), r"\$\.k"),
    (body(explain="yes"), r"\$\.explain"),
]


def test_wrong_requests_are_refused_by_name(live: Any) -> None:
    import re

    for wrong, named in WRONG:
        status, answer, _ = live.call("POST", "/rank", wrong)
        assert status == 422, wrong
        assert re.search(named, answer["error"]), (wrong, answer)
    assert live.rank(body(candidates=list(range(1_000))))["ranked"]


def test_a_body_too_large_is_not_read(live: Any) -> None:
    large = json.dumps(body()).encode() + b" " * (1 << 20)
    status, answer, _ = live.call("POST", "/rank", large)
    assert (status, answer) == (413, {"error": "the request is larger than 1048576 bytes"})


def test_services_other_than_the_models_are_refused(live: Any, services: Any) -> None:
    from prana_proxy.config.services_file import gateway_config
    from prana_proxy.gateway import Gateway

    config = services.config()
    config["services"]["my_list"]["type"] = "list<struct<video_id: int64>>"
    with (
        Gateway(gateway_config(config)) as gateway,
        pytest.raises(ConfigError, match="'my_list' does not fit the model: .*added_at' is missing"),
    ):
        type(live.ranker)(live.ranker.package, gateway, live.versions, live.clock)
    del config["services"]["my_list"]
    with Gateway(gateway_config(config)) as gateway, pytest.raises(ConfigError, match="unknown service .*'my_list'"):
        type(live.ranker)(live.ranker.package, gateway, live.versions, live.clock)


@pytest.mark.parametrize("encoders", ["absent", "value"])
def test_encoders_get_of_a_fallback_what_the_service_s_record_says(live: Any, services: Any, encoders: str) -> None:
    from dataclasses import replace

    from prana_proxy.config.services_file import gateway_config
    from prana_proxy.gateway import Gateway
    from schemas.services import OnFallback

    config = services.config()
    config["services"]["my_list"]["fallback"] = {"value": [], "encoders": encoders}
    trained = live.ranker.package
    recorded = [
        replace(service, on_fallback=OnFallback(encoders)) if service.name == "my_list" else service
        for service in trained.services
    ]
    package = replace(trained, services=tuple(recorded))
    with Gateway(gateway_config(config)) as gateway:
        ranker = type(live.ranker)(package, gateway, live.versions, live.clock)
        answer = ranker.rank(json.dumps(body(5)).encode())  # of whose list the service says an error
    assert answer["services"]["my_list"]["status"] == "fallback"
    assert answer["missing"] == (["my_list"] if encoders == "absent" else [])


def test_another_use_of_fallbacks_than_in_training_is_refused(live: Any, services: Any) -> None:
    from prana_proxy.config.services_file import gateway_config
    from prana_proxy.gateway import Gateway

    config = services.config()
    config["services"]["my_list"]["fallback"] = {"value": [], "encoders": "value"}
    with (
        Gateway(gateway_config(config)) as gateway,
        pytest.raises(
            ConfigError, match="'my_list' is configured as .*'on_fallback': 'value'.* → configure it as it was"
        ),
    ):
        type(live.ranker)(live.ranker.package, gateway, live.versions, live.clock)


def test_a_scorer_of_tests_shows_them_and_what_its_log_has_written(tested: Any, company_package: Any) -> None:
    test = tested.call("GET", "/package")[1]["tests"]
    assert [(each["name"], each["unit"], each["start"]) for each in test] == [
        ("homepage", "profile_id", "2026-02-01T00:00:00Z")
    ]
    digests = {package.digest for package in tested.ranker.packages}
    assert {cell["package"] for cell in test[0]["cells"].values()} == digests
    assert test[0]["cells"]["control"] == {
        "share": 0.5,
        "package": company_package.digest,
        "interleave": None,
        "explore": 0.0,
    }
    answers = [tested.rank(body(profile)) for profile in range(6, 16)]
    assert {answer["cell"] for answer in answers} == {"control", "candidate"}
    assert len({answer["request_id"] for answer in answers}) == 10
    until(lambda: tested.call("GET", "/health")[1]["exposures"]["written"] == 10)
    assert tested.call("GET", "/health")[1] == {
        "status": "alive",
        "exposures": {"written": 10, "waiting": 0, "dropped": 0},
    }
    assert tested.call("GET", "/ready")[1] == {"status": "ready"}
    tested.ranker.log._step_began = time.monotonic() - 100
    degraded = tested.call("GET", "/ready")[1]
    tested.ranker.log._step_began = None
    assert degraded["status"] == "degraded"
    assert "the exposure log waits for its storage" in degraded["problem"]


def test_without_tests_an_answer_names_its_package_and_the_caller_s_id(live: Any, company_package: Any) -> None:
    answer = live.rank(body(request_id="mine"))
    assert (answer["request_id"], answer["package"]) == ("mine", company_package.digest)
    assert not {"test", "cell"} & {*answer}
