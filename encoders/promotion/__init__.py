"""Promotion: an encoder of a notebook's cell becomes a module of the project, with a test."""

from __future__ import annotations

import importlib
import linecache
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from encoders.encoder import FeatureEncoder
from encoders.promotion.encoder_module import encoder_module
from encoders.promotion.example_test import example_test
from schemas.errors import ConfigError, EncoderError

_PROJECT_FILE = "delorean.toml"


@dataclass(frozen=True)
class Promoted:
    """The files of a promoted encoder. encoder: its reference in specs."""

    encoder: str
    module: Path
    test: Path


def promote(encoder: FeatureEncoder, path: str | Path, *, test: str | Path | None = None) -> Promoted:
    """Write an encoder to a module of the project, with everything that it uses, and a test of its features today.

    path: the module's file, such as "my_encoders/evening.py". Its name starts at the folder of delorean.toml, if one is
        above it, else at the first folder that is not a package. The module can be imported from then on
    test: the test's file; None: `tests/…/test_<module>.py` in the same folder

    The module's encoder has the same fingerprint. Both files are formatted if ruff is installed. Name the encoder in a
    spec, and its module under `encoders` in delorean.toml.

    Raises ConfigError if a file already exists, or the path is not a module's; EncoderError if the encoder cannot be
    written as text.
    """
    file = Path(path).resolve()
    root = _root(file)
    names = file.relative_to(root).with_suffix("").parts
    if file.suffix != ".py" or not all(name.isidentifier() for name in names):
        raise ConfigError.because(f"{path} names no module", 'write a path such as "my_encoders/evening.py"')
    test_file = root.joinpath("tests", *names[:-1], f"test_{names[-1]}.py") if test is None else Path(test).resolve()
    for existing in (file, test_file):
        if existing.exists():
            raise ConfigError.because(f"{existing} already exists", "delete it, or use another name")
    module, name = ".".join(names), encoder.function.__name__
    text = encoder_module(encoder)
    _check(text, name, encoder)
    for new, content in ((file, text), (test_file, example_test(encoder, module, name))):
        new.parent.mkdir(parents=True, exist_ok=True)
        with new.open("x", encoding="utf-8") as opened:
            opened.write(content)
    if find_spec("ruff") is not None:
        command = [sys.executable, "-m", "ruff", "format", "-q", str(file), str(test_file)]
        subprocess.run(command, check=False)  # noqa: S603  # the two files above
    if str(root) not in sys.path:
        sys.path.append(str(root))
    importlib.invalidate_caches()
    return Promoted(f"{module}:{name}", file, test_file)


def _root(file: Path) -> Path:
    """Give the folder at which a module's name starts."""
    for folder in file.parents:
        if (folder / _PROJECT_FILE).is_file():
            return folder
    folder = file.parent
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        folder = folder.parent
    here = Path.cwd()
    return here if here in folder.parents else folder


def _check(text: str, name: str, encoder: FeatureEncoder) -> None:
    """Check before writing that the module's encoder has the same fingerprint."""
    file = f"<promoted {name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    module = ModuleType(f"promoted_{name}")
    try:
        exec(compile(text, file, "exec", dont_inherit=True), vars(module))  # noqa: S102  # the caller's own function
        fingerprint = getattr(module, name).fingerprint
    finally:
        del linecache.cache[file]
    if fingerprint != encoder.fingerprint:
        raise EncoderError.because(
            f"encoder '{encoder.title}' would not be the same in a module",
            "define everything that it uses plainly, in cells",
        )
