from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from thrift_service import IDL

from prana_proxy.config.services_file import gateway_config, load_gateway_config
from prana_proxy.gateway.config import ServiceConfig
from prana_proxy.gateway.services.thrift import ThriftProtocol
from schemas.errors import ConfigError

HOST = "thrift://host:1/History"
VIEWS = "list<struct<video_id: int64, minutes: double>>"
SINGLE = {"url": f"{HOST}/get_history", "answer": "/history"}


def configured(folder: Path, **fields: Any) -> ServiceConfig:
    (folder / "history.thrift").write_text(IDL)
    table = {"type": VIEWS, "key": {"behaviour": "string"}, "idl": str(folder / "history.thrift"), **fields}
    table = {name: value for name, value in table.items() if value is not None}
    return gateway_config({"services": {"views": table}}).services[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"idl": None}, "idl: is missing → add it"),
        ({"url": "http://host/{behaviour}"}, "idl: is for Thrift services → remove it"),
        ({"idl": "/none.thrift"}, "url: /none.thrift cannot be read: No such file or directory → name a .thrift file"),
        ({"url": "thrift://host:1/History"}, "url: is 'thrift://host:1/History', expected a service's method → write"),
        ({"url": "thrift:///History/get_history"}, "url: is 'thrift:///History/get_history', expected a service's"),
        ({"url": "thrift://host:x/History/get_history"}, "url: is 'thrift://host:x/History/get_history', expected"),
        (
            {"url": "thrift://host:1/Histroy/get_history"},
            "url: unknown service of .* 'Histroy'",
        ),
        ({"url": f"{HOST}/get_histroy"}, "url: unknown method of History in .* → did you mean 'get_history'"),
        (
            {"url": f"{HOST}/get_history?transport=frame"},
            "url: unknown transport of a Thrift service 'frame'",
        ),
        (
            {"url": f"{HOST}/get_history?framed=yes"},
            "url: unknown setting of a Thrift service 'framed'",
        ),
        ({"url": f"{HOST}/tell"}, "url: History.tell returns nothing → name a method that returns a value"),
        ({"url": f"{HOST}/throw_away"}, "url: History.throw_away returns nothing"),
        (
            {"key": {"profile": "string"}},
            "url: unknown variable of the key, which History.get_history takes,",
        ),
        (
            {"key": {"behaviour": "string", "country": "int32"}},
            "url: History.get_history takes no 'country', so answers cannot depend on it → remove it from key",
        ),
        (
            {"key": {"behaviour": "int64"}},
            "url: 'behaviour' is int64, which a string cannot hold",
        ),
        ({"answer": "/histroy"}, "url: unknown field of Answer 'histroy' → did you mean 'history'"),
        ({"answer": "/history/0"}, "url: answer leads to '0' of a list<View>, expected a struct"),
        ({"answer": ""}, "url: list<.*> cannot be read from a Answer → change type"),
        ({"type": "list<struct<film_id: int64>>"}, "url: unknown field of View 'film_id' → known: kind, minutes"),
        ({"type": "list<struct<video_id: string>>"}, "url: string cannot be read from a i64 → change type"),
        ({"type": "list<struct<minutes: int64>>"}, "url: int64 cannot be read from a double"),
    ],
)
def test_what_does_not_fit_the_interface_file_is_named(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^services\.views\.{message}"):
        configured(tmp_path, **{**SINGLE, **fields})


@pytest.mark.parametrize(
    ("method", "fields", "message"),
    [
        (
            "get_history",
            {},
            r"History.get_history takes \(string behaviour\), expected one list",
        ),
        ("get_number", {}, r"History.get_number takes \(string behaviour, i32 country\), expected one list"),
        ("get_set", {}, "History.get_set returns set<Answer>, expected a list of answers, or a map of them by key"),
        ("get_many", {"key": {"behaviour": "int64"}}, "'behaviour' is int64, which a string cannot hold"),
        (
            "get_many",
            {"key": {"a": "string", "b": "string"}},
            "History.get_many takes a list<string>",
        ),
        ("get_by_keys", {}, "unknown variable of the key, which Key has, 'country'"),
        ("get_by_keys", {"key": {"behaviour": "string", "country": "int64"}}, "'country' is int64, which a i32 cannot"),
        (
            "get_by_keys",
            {"key": {"behaviour": "string", "country": "uint32"}},
            "'country' is uint32, which",
        ),
    ],
)
def test_a_batch_method_that_takes_or_gives_something_else_is_named(
    tmp_path: Path, method: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^services\.views\.batch_url: {message}"):
        configured(tmp_path, batch_url=f"{HOST}/{method}", answer="/history", **fields)


@pytest.mark.parametrize(
    "text", ["struct {", "\x00", "service A { i32 f(1: Unknown x) }", 'include "none.thrift"', "const i32 x = 'a'"]
)
def test_a_broken_interface_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.thrift"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"^services\.views\.url: {path} is not a Thrift interface file: "):
        configured(tmp_path, **{**SINGLE, "idl": str(path)})


def test_the_interface_file_lies_beside_the_services(tmp_path: Path) -> None:
    (tmp_path / "history.thrift").write_text(IDL)
    (tmp_path / "services.toml").write_text(
        f"""
        [services.views]
        type = "{VIEWS}"
        key = {{ behaviour = "string" }}
        url = "thrifts://host/History/get_history?transport=buffered"
        idl = "history.thrift"
        answer = "/history"
        """
    )
    config = load_gateway_config(tmp_path / "services.toml").services[0]
    assert config.idl == str(tmp_path / "history.thrift")
    assert ThriftProtocol.own_instance(config).address == "host:9090"


def test_a_changed_interface_file_is_read_again_and_files_of_one_name_are_not_mixed_up(tmp_path: Path) -> None:
    for name, method in (("one", "first"), ("two", "second")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shared.thrift").write_text(f"service Shared {{ list<i64> {method}(1: i64 p) }}")
        (tmp_path / name / "main.thrift").write_text('include "shared.thrift"\nservice Main extends shared.Shared {}')

    def asked(folder: str, method: str) -> None:
        url, idl = f"thrift://host/Main/{method}", str(tmp_path / folder / "main.thrift")
        configured(tmp_path, type="list<int64>", key={"p": "int64"}, url=url, idl=idl)

    asked("one", "first")
    asked("two", "second")
    (tmp_path / "one" / "shared.thrift").write_text("service Shared { list<i64> renamed(1: i64 p) }")
    asked("one", "renamed")
    with pytest.raises(ConfigError, match="unknown method of Main"):
        asked("one", "first")
