from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from prana_proxy.config.services_file import gateway_config, load_gateway_config
from prana_proxy.gateway.config import GatewayConfig, ServiceConfig
from prana_proxy.gateway.limits import Limits
from schemas.data_keys import context_variable, service_element
from schemas.errors import ConfigError
from schemas.services import Service

GOOD: dict[str, Any] = {"type": "list<int64>", "key": {"profile_id": "int64"}, "url": "http://host:1/{profile_id}"}
BATCHED = {"type": "list<int64>", "key": {"profile_id": "int64"}, "batch_url": "http://host:1/"}


EVOLVED = """
[services.history_2]
element = "history@2"
type = "list<struct<video_id: int64, minutes: double, plays: int32, on: struct<app: int32>, at: timestamp[us, UTC]>>"
key = { profile_id = "int64" }
url = "http://127.0.0.1:8001/history/{profile_id}"
defaults = { plays = 1, "on.app" = 0, at = 2026-01-31T12:00:00Z }
aliases = { minutes = ["watched_minutes"] }
"""


def test_a_service_declares_the_defaults_and_older_names_of_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "services.toml"
    path.write_text(EVOLVED)
    (service,) = load_gateway_config(path).services
    assert service.service.element == service_element(
        "history_2",
        "list<struct<video_id: int64, minutes: double, plays: int32, on: struct<app: int32>, at: timestamp[us, UTC]>>",
        defaults={"plays": 1, "on.app": 0, "at": "2026-01-31T12:00:00Z"},
        aliases={"minutes": ["watched_minutes"]},
    )
    assert Service.from_json(service.service.to_json()) == service.service


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("plays = 1", 'plays = "1"', r"line 7.*defaults.*history_2\.plays' is '1', which does not fit int32"),
        ("plays = 1", "play = 1", r"line 7.*defaults.*'play'.*plays"),
        ('"on.app" = 0', "on.app = 0", r"line 7.*defaults.*each by its path: \"on\.app\" = …"),
        ("watched_minutes", "video_id", r"line 8.*aliases.*alias 'video_id' of 'minutes' is taken"),
        ("history@2", "history@two", r"line 3.*element.*after the @ → write history@2"),
    ],
)
def test_a_default_or_an_older_name_that_does_not_fit_is_an_error_at_its_line(
    tmp_path: Path, before: str, after: str, problem: str
) -> None:
    path = tmp_path / "services.toml"
    path.write_text(EVOLVED.replace(before, after))
    with pytest.raises(ConfigError, match=problem):
        load_gateway_config(path)


def test_a_file_becomes_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "services.toml"
    path.write_text(
        """
        clock = "file:///company/clock"
        [services.viewing_history]
        type = "list<struct<video_id: int64, watched_at: timestamp[us, UTC]>>"
        key = { profile_id = "int64", country = "string" }
        url = "http://127.0.0.1:8001/history/{profile_id}?in={country}"
        answer = "/history"
        timeout_seconds = 2
        max_concurrent = 3
        [services.lists]
        element = "my_list"
        type = "list<int64>"
        key = { profile_id = "int64" }
        batch_url = "https://lists.internal/lists"
        batch_size = 7
        """
    )
    profile, country = context_variable("profile_id", "int64"), context_variable("country", "string")
    history = service_element("viewing_history", "list<struct<video_id: int64, watched_at: timestamp[us, UTC]>>")
    assert load_gateway_config(path) == GatewayConfig(
        (
            ServiceConfig(
                Service("viewing_history", history, (profile, country)),
                "http://127.0.0.1:8001/history/{profile_id}?in={country}",
                answer="/history",
                timeout_seconds=2.0,
                limits=Limits(max_concurrent=3),
            ),
            ServiceConfig(
                Service("lists", service_element("my_list", pa.list_(pa.int64())), (profile,)),
                "https://lists.internal/lists",
                batched=True,
                batch_size=7,
                idempotent=False,
            ),
        ),
        "file:///company/clock",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timeout_second": 1}, "5: .timeout_second: unknown field 'timeout_second' → did you mean 'timeout_seconds'?"),
        ({"timeout_seconds": 0}, "5: .timeout_seconds: Expected `float` > 0.0"),
        ({"timeout_seconds": -1.0}, "5: .timeout_seconds: Expected `float` > 0.0"),
        ({"timeout_seconds": float("inf")}, "5: .timeout_seconds: Expected `float` <= 3600.0"),
        ({"timeout_seconds": float("nan")}, "5: .timeout_seconds: Expected `float` > 0.0"),
        ({"timeout_seconds": "1"}, "5: .timeout_seconds: Expected `float`, got `string`"),
        ({"timeout_seconds": True}, "5: .timeout_seconds: Expected `float`, got `boolean`"),
        ({"max_concurrent": 1.5}, "5: .max_concurrent: Expected `integer`, got `float`"),
        ({"max_concurrent": 0}, "5: .max_concurrent: Expected `integer` >= 1"),
        ({"max_concurrent": 10_001}, "5: .max_concurrent: Expected `integer` <= 10000"),
        ({"max_answer_bytes": 2 << 30}, "5: .max_answer_bytes: Expected `integer` <= 1073741824"),
        ({"batch_size": 10}, "5: .batch_size: batch_size is for services with a batch_url"),
        ({"type": "list<int65>"}, "2: .type: Arrow type 'list<int65>' at character 6"),
        ({"type": "list<timestamp[us]>"}, "2: .type: 'my_list.item' is timestamp[us]: a time without a zone"),
        ({"type": 7}, "2: .type: Expected `string`, got `integer`"),
        ({"element": "my-list"}, "5: .element: data key 'my-list' is not a name"),
        ({"key": {}}, "3: .key: service 'my_list' needs a key of context variables"),
        ({"key": "profile_id"}, "3: .key: Expected `table`, got `string`"),
        ({"key": {"profile_id": 64}}, "3: .key.profile_id: Expected `string`, got `integer`"),
        ({"key": {"profile_id": "int65"}}, "3: .key.profile_id: Arrow type"),
        ({"key": {"profile_id": "double"}}, "3: .key.profile_id: is double, expected a type compared exactly"),
        ({"url": "http://host/{profil_id}"}, "4: .url: unknown variable of the key 'profil_id' → did you mean"),
        ({"url": "http://host/"}, "4: .url: lacks 'profile_id'"),
        ({"url": "http://host/{profile_id:>3}"}, "4: .url: 'profile_id' has a format"),
        ({"url": "http://host/{profile_id"}, "4: .url: is 'http://host/{profile_id'"),
        ({"url": "http://me:SECRET@host/{profile_id}"}, "4: .url: has a user or password before its host"),
        ({"url": "http://me:SEC/RET@host/{profile_id}"}, "4: .url: is 'http://…@host/{profile_id}', expected a URL"),
        ({"url": "//me:SECRET@host/{profile_id}"}, "4: .url: has a user or password before its host"),
        ({"url": "thrift://me:SECRET@host:1/S/m"}, "4: .url: has a user or password before its host"),
        ({"discovery": "eureka://me:SECRET@host:8761/?app=A"}, "5: .discovery: discovery has a user or password"),
        ({"url": "http://{profile_id}/"}, "4: .url: is 'http://{profile_id}/', expected a URL"),
        (
            {"url": "http://host:port/{profile_id}"},
            "4: .url: is 'http://host:port/{profile_id}', expected a URL → write",
        ),
        ({"url": "/{profile_id}"}, "4: .url: is '/{profile_id}', expected a URL"),
        ({"url": ""}, "4: .url: is '', expected a URL"),
        ({"url": "http://host/schö/{profile_id}"}, "4: .url: is 'http://host/schö/{profile_id}', expected a URL"),
        ({"url": "http://host/a b/{profile_id}"}, "4: .url: is 'http://host/a b/{profile_id}', expected a URL"),
        ({"url": "ftp://host/{profile_id}"}, "4: .url: unknown scheme of a service's URL 'ftp' → "),
        ({"batch_url": "http://host/"}, "1: : has both of url and batch_url"),
        ({"answer": "history"}, "5: .answer: answer is 'history', expected a JSON pointer → write '/history'"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "services.toml"
    path.write_text(f"[services.my_list]\n{_toml({**GOOD, **change})}")
    with pytest.raises(ConfigError) as raised:
        load_gateway_config(path)
    line, field, problem = message.split(": ", 2)
    assert str(raised.value).startswith(f"{path}, line {line}: services.my_list{field}: {problem}")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("type", ".type: is missing → add it"),
        ("key", ".key: is missing → add it"),
        ("url", ": has neither of url and batch_url"),
    ],
)
def test_a_missing_field_is_named(field: str, message: str) -> None:
    fields = {name: value for name, value in GOOD.items() if name != field}
    with pytest.raises(ConfigError, match=rf"^services\.my_list{message}"):
        gateway_config({"services": {"my_list": fields}})


def test_a_batch_url_takes_no_variables() -> None:
    with pytest.raises(ConfigError, match=r"services\.my_list\.batch_url: has a \{variable\}"):
        gateway_config({"services": {"my_list": {**BATCHED, "batch_url": "http://host/{profile_id}"}}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no services → add a table"),
        ("[services]", "no services"),
        ("services = 7", "line 1: services: Expected `table`, got `integer`"),
        ("[services]\nmy_list = 7", "line 2: services.my_list: Expected `table`, got `integer`"),
        ("[service.my_list]", "line 1: service: unknown field 'service' → did you mean 'services'?"),
        (
            "clock = 7\n[services.x]\n" + 'type="int64"\nkey={p="int64"}\nbatch_url="http://h/"',
            "line 1: clock: Expected `string`, got `integer`",
        ),
        ("[services", "line 1: is not TOML"),
        ("a = 1\na = 2", "line 2: is not TOML"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "services.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_gateway_config(path)
    assert str(raised.value).startswith(str(path))
    assert message in str(raised.value)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load_gateway_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_gateway_config(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.toml, line 1: is not TOML"):
        load_gateway_config(tmp_path / "binary.toml")


def test_two_services_of_one_name_are_refused() -> None:
    one = gateway_config({"services": {"my_list": GOOD}}).services[0]
    with pytest.raises(ConfigError, match="service 'my_list' is declared twice"):
        GatewayConfig((one, one))


def _toml(fields: dict[str, Any]) -> str:
    return "\n".join(f"{name} = {_toml_value(value)}" for name, value in fields.items())


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml_value(one)}" for name, one in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else repr(value)
