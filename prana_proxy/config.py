"""Reads services.toml: which online services there are and how each is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Annotated, Any
from urllib.parse import urlsplit

import pyarrow as pa
from msgspec import Meta

from prana_proxy.answers import python_type
from prana_proxy.services import MEBIBYTE, ServiceConfig, protocol_of
from schemas.arrow_types import parse_type
from schemas.data_keys import DataKey, context_variable, refuse_naive_times, service_element
from schemas.errors import ConfigError
from schemas.services import Service
from schemas.toml_file import Fields, TomlFile

_Number = Annotated[int, Meta(ge=1, le=10_000)]
_Bytes = Annotated[int, Meta(ge=1, le=1024 * MEBIBYTE)]


@dataclass(frozen=True)
class GatewayConfig:
    """The services of a gateway, and the clock that stamps their answers.

    clock: `file:///path` of a file that holds an RFC 3339 instant, read for each answer; None is the system's clock
    """

    services: tuple[ServiceConfig, ...]
    clock: str | None = None

    def __post_init__(self) -> None:
        """Refuse two services of one name."""
        names = [service.service.name for service in self.services]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError.because(f"service '{name}' is declared twice", "give one of them another name")


@dataclass(frozen=True)
class _ServiceTable:
    """`[services.name]` as it is written. What is left out is as `ServiceConfig` has it."""

    type: str
    key: Mapping[str, str]
    element: str | None = None
    url: str | None = None
    batch_url: str | None = None
    answer: str | None = None
    timeout_seconds: Annotated[float, Meta(gt=0, le=3_600)] | None = None
    max_concurrent: _Number | None = None
    max_answer_bytes: _Bytes | None = None
    batch_size: _Number | None = None
    max_batch_bytes: _Bytes | None = None

    def __post_init__(self) -> None:
        """Refuse fields that do not go together."""
        if (self.url is None) == (self.batch_url is None):
            raise ConfigError.because(
                f"has {'neither' if self.url is None else 'both'} of url and batch_url, expected one",
                "write url for one context a call, batch_url for many",
            )
        for name in ("batch_size", "max_batch_bytes"):
            if getattr(self, name) is not None and self.batch_url is None:
                raise ConfigError.because(f"{name} is for services with a batch_url", "remove it")
        if self.answer and not self.answer.startswith("/"):
            raise ConfigError.because(f"answer is '{self.answer}', expected a JSON pointer", f"write '/{self.answer}'")

    @property
    def settings(self) -> dict[str, Any]:
        """Those fields that a `ServiceConfig` takes as they are, if given."""
        others = ("type", "key", "element", "url", "batch_url")
        return {name: value for name, value in vars(self).items() if value is not None and name not in others}


@dataclass(frozen=True)
class _ServicesFile:
    services: Mapping[str, _ServiceTable] = field(default_factory=dict)
    clock: str | None = None


def load_gateway_config(path: str | Path) -> GatewayConfig:
    """Read a services.toml. Raises ConfigError that names the file, the line, the service and the field."""
    return _gateway(TomlFile.read(path))


def gateway_config(fields: Mapping[str, Any]) -> GatewayConfig:
    """Build the configuration from what a services.toml holds. Raises ConfigError."""
    return _gateway(Fields(fields))


def _gateway(fields: Fields) -> GatewayConfig:
    content = fields.build(_ServicesFile)
    if not content.services:
        raise fields.error((), "no services", "add a table [services.name]")
    return GatewayConfig(
        tuple(_service(fields, name, table) for name, table in content.services.items()), content.clock
    )


def _service(fields: Fields, name: str, table: _ServiceTable) -> ServiceConfig:
    place = ("services", name)
    key = []
    for variable, type_name in table.key.items():
        with fields.at((*place, "key", variable)):
            key.append(_key_variable(variable, type_name))
    with fields.at((*place, "type")):
        type = parse_type(table.type)  # noqa: A001
        python_type(type)
        refuse_naive_times(name, type)
    with fields.at((*place, "element")):
        element = service_element(table.element or name, type)
    with fields.at((*place, "key")):
        service = Service(name, element, tuple(key))
    url, batched = table.url or table.batch_url or "", table.url is None
    with fields.at((*place, "batch_url" if batched else "url")):
        _check_url(url, batched, service)
    return ServiceConfig(service, url, batched, **table.settings)


def _key_variable(name: str, type_name: str) -> DataKey:
    variable = context_variable(name, type_name)
    if not _names_one_value(variable.type):
        raise ConfigError.because(
            f"is {variable.type}, expected a type compared exactly",
            "use an integer, a string, a bool, a date or a timestamp",
        )
    return variable


def _names_one_value(type: pa.DataType) -> bool:  # noqa: A002
    checks = (pa.types.is_integer, pa.types.is_string, pa.types.is_boolean, pa.types.is_date32, pa.types.is_timestamp)
    return any(check(type) for check in checks)


def _check_url(url: str, batched: bool, service: Service) -> None:
    try:
        parts = urlsplit(url)
        good = url.isascii() and bool(parts.hostname) and (parts.port is None or parts.port > 0) and not parts.fragment
    except ValueError:
        good = False
    if not good or any(letter.isspace() for letter in url) or "{" in f"{parts.scheme}{parts.netloc}":
        raise ConfigError.because(f"is '{url}', expected a URL", "write http://host:port/path")
    protocol_of(url)
    if not batched:
        _check_template(url, [variable.name for variable in service.key])
    elif "{" in url or "}" in url:
        raise ConfigError.because("has a {variable}, but a batch_url takes all of them in its body", "remove it")


def _check_template(url: str, key: list[str]) -> None:
    try:
        parsed = [
            (name, bool(spec or conversion)) for _, name, spec, conversion in Formatter().parse(url) if name is not None
        ]
    except ValueError as error:
        raise ConfigError.because(f"is '{url}': {error}", "write variables as {profile_id}") from error
    for name, formatted in parsed:
        if name not in key:
            raise ConfigError.unknown("variable of the key", name, key)
        if formatted:
            raise ConfigError.because(f"'{name}' has a format", f"write {{{name}}}")
    missing = sorted(set(key) - {name for name, _ in parsed})
    if missing:
        raise ConfigError.because(
            f"lacks '{missing[0]}', so answers cannot depend on it", f"add {{{missing[0]}}} or take it out of key"
        )
