"""The generated Thrift code says what schemas/prana.thrift says."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import thriftpy2.parser
from thrift.protocol.TProtocol import TProtocolException
from thrift.Thrift import TException, TType
from thriftpy2.thrift import TType as ParsedType

import schemas
from schemas.generated import Prana, ttypes

FOLDER = Path(schemas.__file__).parent
PARSED = thriftpy2.parser.parse(str(FOLDER / "prana.thrift"), module_name="parsed_prana_thrift")
META = PARSED.__thrift_meta__
Field = tuple[int, str, Any]


def parsed_type(type: int, inner: Any = None) -> Any:  # noqa: A002
    if type == ParsedType.STRUCT:
        return inner.__name__
    if type in (ParsedType.LIST, ParsedType.SET):
        return (type, parsed_type(*inner) if isinstance(inner, tuple) else parsed_type(inner))
    return {ParsedType.STRING: "text", ParsedType.BINARY: "bytes"}.get(type, type)


def generated_type(type: int, inner: Any) -> Any:  # noqa: A002
    if type == TType.STRUCT:
        return inner[0].__name__
    if type in (TType.LIST, TType.SET):
        return (type, generated_type(inner[0], inner[1]))
    return {"UTF8": "text", "BINARY": "bytes"}[inner] if type == TType.STRING else type


def parsed_fields(struct: Any) -> set[Field]:
    return {(number, spec[1], parsed_type(spec[0], *spec[2:-1])) for number, spec in struct.thrift_spec.items()}


def generated_fields(struct: Any) -> set[Field]:
    specs = [spec for spec in struct.thrift_spec if spec is not None]
    return {(number, name, generated_type(type, inner)) for number, type, name, inner, _ in specs}  # noqa: A001


def required_by_generated(struct: Any) -> set[str]:
    """The fields without which the generated code refuses to write the struct."""
    names = [name for _, name, _ in generated_fields(struct)]
    required = set()
    for name in names:
        try:
            struct(**{other: "set" for other in names if other != name}).validate()
        except TProtocolException:
            required.add(name)
    return required


def test_the_parser_understood_the_file() -> None:
    assert {type.__name__ for type in META["structs"]} >= {"FetchRequest", "ServiceInfo"}  # noqa: A001
    assert set(META) == {"structs", "exceptions", "services"}  # what is compared below is all there is


@pytest.mark.parametrize("kind", ["structs", "exceptions"])
def test_every_struct_and_exception_is_generated_and_no_other(kind: str) -> None:
    generated = {
        name
        for name, type in inspect.getmembers(ttypes, inspect.isclass)  # noqa: A001
        if type.__module__ == ttypes.__name__ and issubclass(type, TException) == (kind == "exceptions")
    }
    assert generated == {struct.__name__ for struct in META[kind]}


@pytest.mark.parametrize("parsed", [*META["structs"], *META["exceptions"]], ids=lambda struct: str(struct.__name__))
def test_every_field_has_its_number_name_type_and_whether_it_is_required(parsed: Any) -> None:
    generated = getattr(ttypes, parsed.__name__)
    assert generated_fields(generated) == parsed_fields(parsed)
    assert required_by_generated(generated) == {spec[1] for spec in parsed.thrift_spec.values() if spec[-1]}


def test_every_call_has_its_arguments_result_and_exceptions() -> None:
    (service,) = META["services"]
    calls = {name for name, _ in inspect.getmembers(Prana.Iface, inspect.isfunction)}
    assert calls == set(service.thrift_services)
    for call in calls:
        for part in ("args", "result"):
            generated, parsed = getattr(Prana, f"{call}_{part}"), getattr(service, f"{call}_{part}")
            assert generated_fields(generated) == parsed_fields(parsed)


def test_where_the_compiler_is_installed_it_generates_the_same_bytes(tmp_path: Path) -> None:
    # An addition to the tests above, which need no compiler: it also sees comments and the code itself.
    stamp = re.search(r"Thrift Compiler \((.+)\)", (FOLDER / "generated" / "ttypes.py").read_text())
    assert stamp is not None
    compiler = shutil.which("thrift")
    if compiler is None or not _run(compiler, "--version").endswith(f" {stamp[1]}"):
        return
    _run(compiler, "--gen", "py", "-out", str(tmp_path), str(FOLDER / "prana.thrift"))
    for name in ("Prana.py", "constants.py", "ttypes.py", "__init__.py"):
        made = (tmp_path / "schemas" / "generated" / name).read_bytes()
        assert made == (FOLDER / "generated" / name).read_bytes(), f"run `make thrift`: {name} is not current"


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
