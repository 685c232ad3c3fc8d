"""Reads services.toml: the online services and how each is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pyarrow as pa
from msgspec import Meta

from prana_proxy.config.server_settings import ServerConfig, with_files
from prana_proxy.config.toml_file import TomlContent, TomlFile
from prana_proxy.gateway.breaker import BreakerRules
from prana_proxy.gateway.config import MEBIBYTE, Fallback, GatewayConfig, ServiceConfig
from prana_proxy.gateway.decoded_values import python_type, to_arrow
from prana_proxy.gateway.discovery import check_discovery
from prana_proxy.gateway.error_fields import error_paths
from prana_proxy.gateway.limits import Limits
from prana_proxy.gateway.services import protocol_of
from prana_proxy.gateway.shared_counters import MOST_CALLS_PER_SECOND
from schemas.arrow_types import parse_type
from schemas.data_keys import DataKey, context_variable, refuse_naive_times, service_element
from schemas.errors import ConfigError
from schemas.redaction import has_password
from schemas.services import OnFallback, Service

_Number = Annotated[int, Meta(ge=1, le=10_000)]
_Bytes = Annotated[int, Meta(ge=1, le=1024 * MEBIBYTE)]
_Seconds = Annotated[float, Meta(gt=0, le=3_600)]
_Share = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True)
class _BreakerTable:
    """`[services.name.breaker]`, with the defaults of `BreakerRules`."""

    window_seconds: _Seconds = 10.0
    min_calls: _Number = 20
    error_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    sleep_seconds: _Seconds = 5.0
    forced: Literal["open", "closed"] | None = None


@dataclass(frozen=True)
class _FallbackTable:
    """`[services.name.fallback]`."""

    cached_seconds: Annotated[float, Meta(gt=0, le=30 * 86_400)] | None = None
    service: str | None = None
    value: Any = None
    encoders: Literal["absent", "value"] = "absent"

    def __post_init__(self) -> None:
        """Reject a table without any fallback."""
        if self.cached_seconds is None and self.service is None and self.value is None:
            raise ConfigError.because("has none of cached_seconds, service and value", "write one, or remove the table")


@dataclass(frozen=True)
class _ServiceTable:
    """`[services.name]` as written, with the defaults of `ServiceConfig`."""

    type: str
    key: Mapping[str, str]
    element: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    url: str | None = None
    batch_url: str | None = None
    idl: str | None = None
    discovery: str | None = None
    answer: str | None = None
    error: str | None = None
    timeout_seconds: _Seconds | None = None
    retries: Annotated[int, Meta(ge=0, le=10)] | None = None
    retry_share: _Share | None = None
    idempotent: bool | None = None
    resend: bool | None = None
    max_concurrent: _Number = 10
    calls_per_second: Annotated[float, Meta(gt=0, le=MOST_CALLS_PER_SECOND)] | None = None
    burst: _Number | None = None
    batch_size: _Number | None = None
    batch_wait_seconds: Annotated[float, Meta(ge=0, le=10)] | None = None
    max_answer_bytes: _Bytes | None = None
    max_batch_bytes: _Bytes | None = None
    breaker: _BreakerTable = _BreakerTable()
    fallback: _FallbackTable | None = None

    def __post_init__(self) -> None:
        """Reject fields that exclude each other."""
        if (self.url is None) == (self.batch_url is None):
            raise ConfigError.because(
                f"has {'neither' if self.url is None else 'both'} of url and batch_url, expected one",
                "write url for one context per call, batch_url for many",
            )
        for name in ("batch_size", "batch_wait_seconds", "max_batch_bytes"):
            if getattr(self, name) is not None and self.batch_url is None:
                raise ConfigError.because(f"{name} is for services with a batch_url", "remove it")
        if self.burst is not None and self.calls_per_second is None:
            raise ConfigError.because("burst is for services with calls_per_second", "add calls_per_second")
        for name in ("answer", "error"):
            pointer = getattr(self, name)
            if pointer and not pointer.startswith("/"):
                raise ConfigError.because(f"{name} is '{pointer}', expected a JSON pointer", f"write '/{pointer}'")

    @property
    def settings(self) -> dict[str, Any]:
        """The fields that `ServiceConfig` has unchanged, if written."""
        return {name: value for name in _SETTINGS if (value := getattr(self, name)) is not None}


_SETTINGS = (
    *("discovery", "batch_size", "batch_wait_seconds", "answer", "error", "timeout_seconds", "retries", "retry_share"),
    *("max_answer_bytes", "max_batch_bytes"),
)


@dataclass(frozen=True)
class _ServicesFile:
    services: Mapping[str, _ServiceTable] = field(default_factory=dict)
    clock: str | None = None
    server: ServerConfig = field(default_factory=ServerConfig)


@dataclass(frozen=True)
class ProxyConfig:
    """A services.toml: the services, and the proxy that serves them."""

    gateway: GatewayConfig
    server: ServerConfig


def load_proxy_config(path: str | Path, content: bytes | None = None) -> ProxyConfig:
    """Read a services.toml, or its content if that was read before. Raises as `load_gateway_config` does."""
    file = _read(path, content)
    folder = Path(path).parent
    return ProxyConfig(_gateway(file, folder), with_files(file.build(_ServicesFile).server, file, folder))


def load_gateway_config(path: str | Path, content: bytes | None = None) -> GatewayConfig:
    """Read a services.toml, or its content if that was read already.

    Raises ConfigError, which names the file, the line, the service and the field.
    """
    return _gateway(_read(path, content), Path(path).parent)


def _read(path: str | Path, content: bytes | None) -> TomlFile:
    return TomlFile.read(path) if content is None else TomlFile.of(content, path)


def gateway_config(fields: Mapping[str, Any]) -> GatewayConfig:
    """Build the configuration from the content of a services.toml. Raises ConfigError."""
    return _gateway(TomlContent(fields), Path())


def _gateway(fields: TomlContent, folder: Path) -> GatewayConfig:
    content = fields.build(_ServicesFile)
    if not content.services:
        raise fields.error((), "no services", "add a table [services.name]")
    services = tuple(_service(fields, folder, name, table) for name, table in content.services.items())
    for service in services:
        _check_fallback_service(fields, service, {other.service.name: other.service for other in services})
    return GatewayConfig(services, content.clock)


def _service(fields: TomlContent, folder: Path, name: str, table: _ServiceTable) -> ServiceConfig:
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
    with fields.at((*place, "defaults")):
        element = replace(element, defaults=table.defaults)
    with fields.at((*place, "aliases")):
        element = replace(element, aliases=table.aliases)
    with fields.at((*place, "key")):
        on_fallback = OnFallback(table.fallback.encoders) if table.fallback else OnFallback.ABSENT
        service = Service(name, element, tuple(key), on_fallback)
    batched = table.url is None
    config = ServiceConfig(
        service,
        table.url or table.batch_url or "",
        batched,
        None if table.idl is None else str(folder / table.idl),
        idempotent=not batched if table.idempotent is None else table.idempotent,
        resend=table.idempotent is not False if table.resend is None else table.resend,
        limits=Limits(table.max_concurrent, table.calls_per_second, table.burst),
        breaker=BreakerRules(**vars(table.breaker)),
        fallback=None if table.fallback is None else _fallback(fields, name, type, table.fallback),
        optional=tuple(table.defaults),
        **table.settings,
    )
    _check(fields, place, config)
    return config


def _check(fields: TomlContent, place: tuple[str, ...], config: ServiceConfig) -> None:
    """Reject what the service's protocol or discovery does not support."""
    with fields.at((*place, "error")):
        error_paths(config.service.element.type, config.answer, config.error)
    url_place = (*place, "batch_url" if config.batched else "url")
    with fields.at(url_place):
        if has_password(config.url):
            raise ConfigError.because("has a user or password before its host, which would not be sent", "remove it")
        protocol = protocol_of(config.url)
    if protocol.has_idl != (config.idl is not None):
        problem = ("is missing", "add it") if protocol.has_idl else ("is for Thrift services", "remove it")
        raise fields.error((*place, "idl"), *problem)
    with fields.at(url_place):
        protocol.check(config)
        protocol.own_instance(config)
    if config.discovery is not None:
        with fields.at((*place, "discovery")):
            check_discovery(config.discovery)


def _fallback(fields: TomlContent, name: str, type: pa.DataType, table: _FallbackTable) -> Fallback:  # noqa: A002
    value = None
    if table.value is not None:
        with fields.at(("services", name, "fallback", "value")):
            try:
                value = msgspec.convert(table.value, python_type(type))
                to_arrow([value], type)
            except (msgspec.ValidationError, pa.ArrowInvalid, OverflowError) as error:
                raise ConfigError.because(f"does not fit {type}: {error}") from error
    return Fallback(table.cached_seconds, table.service, value, OnFallback(table.encoders))


def _check_fallback_service(fields: TomlContent, config: ServiceConfig, services: Mapping[str, Service]) -> None:
    """Reject a fallback to a service that cannot replace this one."""
    name = config.fallback.service if config.fallback else None
    if name is None:
        return
    with fields.at(("services", config.service.name, "fallback", "service")):
        if name not in services or name == config.service.name:
            raise ConfigError.unknown("other service", name, set(services) - {config.service.name})
        other = services[name]
        if other.element.type != config.service.element.type:
            raise ConfigError.because(
                f"'{name}' answers with {other.element.type}, expected {config.service.element.type}"
            )
        for variable in other.key:
            if variable not in config.service.key:
                raise ConfigError.because(
                    f"'{name}' needs {variable.name}: {variable.type}, which is not a variable of this one's key"
                )


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
