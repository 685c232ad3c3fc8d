"""Reads services.toml: which online services there are and how each is asked."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from prana_proxy.answers import python_type
from prana_proxy.services import MEBIBYTE, ServiceConfig, protocol_of
from schemas.arrow_types import parse_type
from schemas.data_keys import DataKey, context_variable, service_element
from schemas.errors import ConfigError, DataKeyError
from schemas.services import Service

_NUMBERS: dict[str, tuple[type[int] | type[float], float, str]] = {  # field → type, the most, what is expected
    "timeout_seconds": (float, 3_600, "seconds > 0, at most 3600"),
    "max_concurrent": (int, 10_000, "a whole number from 1 to 10000"),
    "batch_size": (int, 10_000, "a whole number from 1 to 10000"),
    "max_answer_bytes": (int, 1024 * MEBIBYTE, "a whole number from 1 to 1073741824"),
    "max_batch_bytes": (int, 1024 * MEBIBYTE, "a whole number from 1 to 1073741824"),
}
_FIELDS = ("element", "type", "key", "url", "batch_url", "answer", *_NUMBERS)
_BATCH_FIELDS = ("batch_size", "max_batch_bytes")


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


def load_gateway_config(path: str | Path) -> GatewayConfig:
    """Read a services.toml. Raises ConfigError that names the file, the service and the field."""
    try:
        read = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError.because(
            f"{path} cannot be read: {error.strerror}", "name a services.toml that exists"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError.because(f"{path} is not TOML: {error}") from error
    try:
        return gateway_config(read)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def gateway_config(fields: Mapping[str, Any]) -> GatewayConfig:
    """Build the configuration from what a services.toml holds. Raises ConfigError."""
    _refuse_unknown("field", fields, ("services", "clock"))
    services = _typed(fields, "services", dict, "one table [services.name] for each service", {})
    if not services:
        raise ConfigError.because("no services", "add a table [services.name]")
    return GatewayConfig(
        tuple(_service(name, table) for name, table in services.items()),
        _typed(fields, "clock", str, "file:///path", None),
    )


def _service(name: str, fields: Any) -> ServiceConfig:
    try:
        if not isinstance(fields, dict):
            raise ConfigError.because("is no table", f"write [services.{name}]")
        _refuse_unknown("field", fields, _FIELDS)
        service = Service(name, _element(name, fields), _key(fields))
        url, batched = _url(fields, service)
        for field in _BATCH_FIELDS:
            if field in fields and not batched:
                raise ConfigError.because(f"field '{field}' is for services with a batch_url", "remove it")
        numbers = {field: _number(fields, field) for field in _NUMBERS if field in fields}
        return ServiceConfig(service, url, batched, answer=_pointer(fields), **numbers)  # type: ignore[arg-type]  # checked
    except (ConfigError, DataKeyError) as error:
        raise ConfigError(f"service '{name}': {error}") from error


def _element(name: str, fields: Mapping[str, Any]) -> DataKey:
    text = _typed(fields, "type", str, 'an Arrow type: type = "list<int64>"')
    try:
        type = parse_type(text)  # noqa: A001
        python_type(type)
        return service_element(_typed(fields, "element", str, "a data key's name", name), type)
    except DataKeyError as error:
        raise ConfigError(f"field 'type' or 'element': {error}") from error


def _key(fields: Mapping[str, Any]) -> tuple[DataKey, ...]:
    hint = 'a table of context variables and their types: key = { profile_id = "int64" }'
    key = []
    for name, text in _typed(fields, "key", dict, hint).items():
        if not isinstance(text, str):
            raise ConfigError.because(f"field 'key.{name}' is {text!r}, expected an Arrow type as text")
        try:
            variable = context_variable(name, text)
        except DataKeyError as error:
            raise ConfigError(f"field 'key.{name}': {error}") from error
        if not _names_one_value(variable.type):
            raise ConfigError.because(
                f"field 'key.{name}' is {variable.type}, expected a type compared exactly",
                "use an integer, a string, a bool, a date or a timestamp",
            )
        key.append(variable)
    return tuple(key)


def _names_one_value(type: pa.DataType) -> bool:  # noqa: A002
    checks = (pa.types.is_integer, pa.types.is_string, pa.types.is_boolean, pa.types.is_date32, pa.types.is_timestamp)
    return any(check(type) for check in checks)


def _url(fields: Mapping[str, Any], service: Service) -> tuple[str, bool]:
    """Give the URL and whether it takes batches."""
    given = [field for field in ("url", "batch_url") if field in fields]
    if len(given) != 1:
        raise ConfigError.because(
            f"has {'both' if given else 'neither'} of url and batch_url, expected one",
            "write url for one context a call, batch_url for many",
        )
    field = given[0]
    url = _typed(fields, field, str, "a URL")
    try:
        parts = urlsplit(url)
        good = url.isascii() and bool(parts.hostname) and (parts.port is None or parts.port > 0) and not parts.fragment
    except ValueError:
        good = False
    if not good or any(letter.isspace() for letter in url) or "{" in f"{parts.scheme}{parts.netloc}":
        raise ConfigError.because(f"field '{field}' is '{url}', expected a URL", "write http://host:port/path")
    try:
        protocol_of(url)
    except ConfigError as error:
        raise ConfigError(f"field '{field}': {error}") from error
    if field == "url":
        _check_template(url, [variable.name for variable in service.key])
    elif "{" in url or "}" in url:
        raise ConfigError.because("field 'batch_url' has a {variable}, but takes all of them in its body", "remove it")
    return url, field == "batch_url"


def _check_template(url: str, key: list[str]) -> None:
    try:
        parsed = [
            (name, bool(spec or conversion)) for _, name, spec, conversion in Formatter().parse(url) if name is not None
        ]
    except ValueError as error:
        raise ConfigError.because(f"field 'url' is '{url}': {error}", "write variables as {profile_id}") from error
    for name, formatted in parsed:
        if name not in key:
            raise ConfigError(f"field 'url': {ConfigError.unknown('variable of the key', name, key)}")
        if formatted:
            raise ConfigError.because(f"field 'url': '{name}' has a format", f"write {{{name}}}")
    missing = sorted(set(key) - {name for name, _ in parsed})
    if missing:
        raise ConfigError.because(
            f"field 'url' lacks '{missing[0]}', so answers cannot depend on it",
            f"add {{{missing[0]}}} or take it out of key",
        )


def _pointer(fields: Mapping[str, Any]) -> str:
    pointer: str = _typed(fields, "answer", str, "a JSON pointer", "")
    if pointer and not pointer.startswith("/"):
        raise ConfigError.because(f"field 'answer' is '{pointer}', expected a JSON pointer", f"write '/{pointer}'")
    return pointer


def _number(fields: Mapping[str, Any], field: str) -> float:
    wanted, most, expected = _NUMBERS[field]
    value = fields[field]
    good = isinstance(value, int) if wanted is int else isinstance(value, int | float)
    if not good or isinstance(value, bool) or not math.isfinite(value) or not 0 < value <= most:
        raise ConfigError.because(f"field '{field}' is {value!r}, expected {expected}")
    return wanted(value)


_REQUIRED: Any = object()


def _typed(fields: Mapping[str, Any], field: str, wanted: type, expected: str, default: Any = _REQUIRED) -> Any:
    if field not in fields:
        if default is _REQUIRED:
            raise ConfigError.because(f"field '{field}' is missing", f"add {expected}")
        return default
    if not isinstance(fields[field], wanted):
        raise ConfigError.because(f"field '{field}' is {fields[field]!r}, expected {expected}")
    return fields[field]


def _refuse_unknown(what: str, fields: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for field in fields:
        if field not in known:
            raise ConfigError.unknown(what, field, known)
