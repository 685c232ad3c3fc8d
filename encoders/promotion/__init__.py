"""Promotion: an encoder of a notebook's cell becomes a module of the project, and a test of it."""

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
from encoders.promotion.module_text import module_text
from encoders.promotion.skeleton import skeleton
from schemas.errors import ConfigError, EncoderError

_PROJECT_FILE = "delorean.toml"


@dataclass(frozen=True)
class Promoted:
    """What was written.

    encoder: where it is now, as specs name it
    """

    encoder: str
    module: Path
    test: Path


def promote(encoder: FeatureEncoder, path: str | Path, *, test: str | Path | None = None) -> Promoted:
    """Write an encoder to a module of the project, with all that it uses, and a test of what it gives today.

    path: the module's file, such as "my_encoders/evening.py". It is named from the folder of delorean.toml on, if one
        is above it, else from the first folder that is no package; which from now on can be imported from here
    test: the test's file; None: `tests/…/test_<module>.py` from the same folder on

    The module's encoder has the same fingerprint. Both files are formatted where ruff is installed. Name the encoder in
    a spec, and its module under `encoders` in delorean.toml.

    Raises ConfigError for a file that is there already, or a path that names no module; EncoderError for an encoder
    that cannot be written as text.
    """
    file = Path(path).resolve()
    root = _root(file)
    names = file.relative_to(root).with_suffix("").parts
    if file.suffix != ".py" or not all(name.isidentifier() for name in names):
        raise ConfigError.because(f"{path} names no module", 'write a path such as "my_encoders/evening.py"')
    beside = root.joinpath("tests", *names[:-1], f"test_{names[-1]}.py") if test is None else Path(test).resolve()
    for there in (file, beside):
        if there.exists():
            raise ConfigError.because(f"{there} is there already", "delete it, or take another name")
    module, name = ".".join(names), encoder.function.__name__
    written = module_text(encoder)
    _check(written, name, encoder)
    for there, text in ((file, written), (beside, skeleton(encoder, module, name))):
        there.parent.mkdir(parents=True, exist_ok=True)
        with there.open("x", encoding="utf-8") as opened:
            opened.write(text)
    if find_spec("ruff") is not None:
        command = [sys.executable, "-m", "ruff", "format", "-q", str(file), str(beside)]
        subprocess.run(command, check=False)  # noqa: S603  # two files of ours
    if str(root) not in sys.path:
        sys.path.append(str(root))
    importlib.invalidate_caches()
    return Promoted(f"{module}:{name}", file, beside)


def _root(file: Path) -> Path:
    """Find the folder from which a module's file is named."""
    for folder in file.parents:
        if (folder / _PROJECT_FILE).is_file():
            return folder
    folder = file.parent
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        folder = folder.parent
    here = Path.cwd()
    return here if here in folder.parents else folder


def _check(text: str, name: str, encoder: FeatureEncoder) -> None:
    """Make sure that the module means what the cell does, before it is written anywhere."""
    file = f"<promoted {name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    module = ModuleType(f"promoted_{name}")
    try:
        exec(compile(text, file, "exec", dont_inherit=True), vars(module))  # noqa: S102  # made of the caller's own function
        found = getattr(module, name).fingerprint
    finally:
        del linecache.cache[file]
    if found != encoder.fingerprint:
        raise EncoderError.because(
            f"encoder '{encoder.title}' would not be the same in a module",
            "define what it uses plainly, in cells",
        )
