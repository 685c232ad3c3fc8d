"""Interface files: a method's arguments, result and exceptions, as thriftpy2 reads them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from thriftpy2.parser import parser
from thriftpy2.thrift import TType

from prana_proxy.gateway.services.thrift import binary_protocol
from schemas.errors import ConfigError

_Stamps = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class IdlType:
    """A type of an interface file.

    code: thriftpy2's, in which `binary` differs from `string`; inside: thriftpy2's description of its content
    """

    code: int
    inside: Any = None

    @classmethod
    def of(cls, spec: Any) -> IdlType:
        """Read thriftpy2's description of an element: a code, or a code and its content."""
        return cls(*spec) if isinstance(spec, tuple) else cls(spec)

    @property
    def wire(self) -> int:
        """Its type on the wire."""
        return binary_protocol.STRING if self.code == TType.BINARY else self.code

    @property
    def element(self) -> IdlType:
        """Of a list or a set."""
        return IdlType.of(self.inside)

    @property
    def entry(self) -> tuple[IdlType, IdlType]:
        """Key and value of a map."""
        return IdlType.of(self.inside[0]), IdlType.of(self.inside[1])

    @property
    def fields(self) -> dict[str, IdlField]:
        """Of a struct, by name."""
        return fields_of(self.inside)

    def __str__(self) -> str:
        """Write it as in the file."""
        if self.code in (binary_protocol.LIST, binary_protocol.SET):
            return f"{binary_protocol.NAMES[self.code]}<{self.element}>"
        if self.code == binary_protocol.MAP:
            return "map<{}, {}>".format(*self.entry)
        if self.inside is not None:
            return str(self.inside.__name__)
        return "binary" if self.code == TType.BINARY else binary_protocol.NAMES[self.code]


@dataclass(frozen=True)
class IdlField:
    """A field of a struct, or an argument of a method. default: None if it has none."""

    id: int
    type: IdlType
    default: Any


def fields_of(struct: Any) -> dict[str, IdlField]:
    """Return the fields of one of thriftpy2's classes, by name."""
    defaults = dict(getattr(struct, "default_spec", ()))
    return {
        name: IdlField(number, IdlType(code, rest[0] if len(rest) > 1 else None), defaults.get(name))
        for number, (code, name, *rest) in struct.thrift_spec.items()
    }


@dataclass(frozen=True)
class IdlMethod:
    """A method of a service.

    arguments: thriftpy2's class of them; throws: field → its name and thriftpy2's class of the exception
    """

    service: str
    name: str
    arguments: Any
    result: IdlType
    throws: Mapping[int, Any]

    def __str__(self) -> str:
        """Return its name."""
        return f"{self.service}.{self.name}"


def method_of(path: str, service: str, name: str) -> IdlMethod:
    """Find a method in an interface file. Raises ConfigError."""
    module = _load(os.path.abspath(path))
    services = {one.__name__: one for one in module.__thrift_meta__["services"]}
    if service not in services:
        raise ConfigError.unknown(f"service of {path}", service, services)
    declared = services[service]
    if name not in declared.thrift_services:
        raise ConfigError.unknown(f"method of {service} in {path}", name, declared.thrift_services)
    result = getattr(declared, f"{name}_result")
    fields = fields_of(result)
    if result.oneway or "success" not in fields:
        raise ConfigError.because(f"{service}.{name} returns nothing", "name a method that returns a value")
    throws = {field.id: field.type.inside for field in fields.values() if field.id != 0}
    return IdlMethod(service, name, getattr(declared, f"{name}_args"), fields["success"].type, throws)


_loaded: dict[str, tuple[_Stamps, ModuleType]] = {}


def _load(path: str) -> ModuleType:
    """Read an interface file, anew if it or one that it includes has changed."""
    stamps, module = _loaded.get(path, ((), None))
    if module is None or _stamps(name for name, *_ in stamps) != stamps:
        module = _parse(path)
        _loaded[path] = _stamps(_files(module)), module
    return module


def _parse(path: str) -> ModuleType:
    try:
        # thriftpy2's cache confuses files included under one name, and misses changes.
        with parser._parse_lock:
            parser._thrift_cache.clear()
            module: ModuleType = parser.parse(path, include_dirs=[], enable_cache=False)  # type: ignore[no-untyped-call]
            return module
    except OSError as error:
        raise ConfigError.because(f"{path} cannot be read: {error.strerror}", "name a .thrift file") from error
    except Exception as error:  # thriftpy2 raises all kinds of errors for invalid files
        raise ConfigError.because(f"{path} is not a Thrift interface file: {error}") from error


def _files(module: ModuleType) -> Iterator[str]:
    yield module.__thrift_file__
    for included in module.__thrift_meta__["includes"]:
        yield from _files(included)


def _stamps(files: Iterator[str]) -> _Stamps:
    try:
        return tuple((file, (status := os.stat(file)).st_mtime_ns, status.st_size) for file in files)
    except OSError:  # it was deleted: parsing reports it
        return ()
