"""What docs/PRANA.md says of services.toml is so: every field, with its default."""

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from prana_proxy import config
from prana_proxy.config import gateway_config
from prana_proxy.server_config import ServerConfig, TlsConfig

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
        told = rows(title)[field.name].strip()
        if not re.fullmatch(r"`[^`]+`", told):
            continue  # in words
        found = field.default
        if found in (None, MISSING):
            found = getattr(DEFAULT, field.name)
        assert json.loads(told.strip("`")) == found, field.name
