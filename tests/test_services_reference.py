"""What docs/PRANA.md says of services.toml is so: every field, with its default."""

import json
import re
from dataclasses import MISSING, fields
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from prana_proxy.config import services_file as config
from prana_proxy.config.server_settings import ServerConfig, TlsConfig
from prana_proxy.config.services_file import gateway_config, load_gateway_config
from prana_proxy.gateway import Gateway

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "PRANA.md").read_text()
TABLES = {
    "A service: `[services.NAME]`": config._ServiceTable,
    "`[services.NAME.breaker]`": config._BreakerTable,
    "`[services.NAME.fallback]`": config._FallbackTable,
    "The proxy: `[server]`": ServerConfig,
    "`[server.tls]`": TlsConfig,
}
DEFAULT = gateway_config(
    {"services": {"s": {"type": "list<int64>", "key": {"k": "int64"}, "batch_url": "http://host/"}}}
).services[0]


def rows(title):
    section = re.split(r"^#+ ", TEXT.split(f"# {title}\n")[1], flags=re.MULTILINE)[0]
    return dict(re.findall(r"^\| `(\w+)` \|([^|]*)\|", section, flags=re.MULTILINE))


@pytest.mark.parametrize("title", TABLES)
def test_every_field_is_told(title):
    assert set(rows(title)) == {field.name for field in fields(TABLES[title])}


@pytest.mark.parametrize("title", TABLES)
def test_defaults_are_as_told(title):
    for field in fields(TABLES[title]):
        reported = rows(title)[field.name].strip()
        if not re.fullmatch(r"`[^`]+`", reported):
            continue  # in words
        found = field.default
        if found in (None, MISSING):
            found = getattr(DEFAULT, field.name)
        assert json.loads(reported.strip("`")) == found, field.name


def test_the_example_is_asked_as_it_is_told(tmp_path, monkeypatch):
    for name, code in re.findall(r"^```\w+\n(?:#|//) (\S+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    basket = pa.table({"customer_id": [37]})
    with Gateway(load_gateway_config(tmp_path / "services.toml")) as gateway:
        assert set(gateway.services) == {"history", "histories", "basket"}
        assert gateway.fetch("basket", basket, timedelta(seconds=30))["value"].to_pylist() == [[7]]
