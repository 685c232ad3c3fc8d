from __future__ import annotations

from pathlib import Path

import pytest

from prana_proxy.config.server_settings import ServerConfig, TlsConfig
from prana_proxy.config.services_file import ProxyConfig, load_gateway_config, load_proxy_config
from schemas.errors import ConfigError

SERVICES = """
[services.one]
type = "list<int64>"
key = { profile_id = "int64" }
url = "http://127.0.0.1:9/{profile_id}"
"""


def loaded(folder: Path, server: str) -> ProxyConfig:
    path = folder / "services.toml"
    path.write_text(server + SERVICES)
    return load_proxy_config(path)


def test_a_file_without_a_server_table_means_the_defaults(tmp_path: Path) -> None:
    config = loaded(tmp_path, "")
    assert config.server == ServerConfig()
    assert config.gateway == load_gateway_config(tmp_path / "services.toml")


def test_every_field_is_read_and_files_lie_beside_it(tmp_path: Path) -> None:
    for name in ("a.pem", "b.pem", "c.pem", "tokens"):
        (tmp_path / name).touch()
    server = """
        [server]
        host = "127.0.0.2"
        port = 1000
        processes = 4
        ports = "each"
        workers = 5
        queue = 0
        max_connections = 7
        idle_seconds = 8
        stop_seconds = 0
        http_port = 1004
        tokens_file = "tokens"
        [server.tls]
        certificate = "a.pem"
        key = "b.pem"
        client_authority = "c.pem"
    """
    tls = TlsConfig(*(str(tmp_path / name) for name in ("a.pem", "b.pem", "c.pem")))
    expected = ServerConfig("127.0.0.2", 1000, 4, "each", 5, 0, 7, 8.0, 0.0, 1004, tls, str(tmp_path / "tokens"))
    assert loaded(tmp_path, server).server == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("worker = 1", "worker: unknown field 'worker' → did you mean 'workers'?"),
        ("workers = 0", "workers: Expected `integer` >= 1"),
        ('workers = "many"', "workers: Expected `integer`, got `string`"),
        ("queue = -1", "queue: Expected `integer` >= 0"),
        ("port = 65536", "port: Expected `integer` <= 65535"),
        ("processes = 65", "processes: Expected `integer` <= 64"),
        ('ports = "both"', "ports: Invalid enum value 'both'"),
        ("idle_seconds = 0", "idle_seconds: Expected `float` > 0.0"),
        ("http_port = 9090", "http_port: http_port is 9090, where the proxy itself listens"),
        ('port = 65535\nprocesses = 2\nports = "each"', "port: port is 65535, but 2 processes need as many"),
        ('tokens_file = "none"', "tokens_file: {folder}/none cannot be read: No such file or directory"),
        ("tls = {}", "tls.certificate: is missing"),
        ('tls = { certificate = "none", key = "none" }', "tls.certificate: {folder}/none cannot be read"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, f"[server]\n{line}\n")
    expected = f"{tmp_path}/services.toml, line 2: server.{message.format(folder=tmp_path)}"
    assert str(raised.value).startswith(expected)
