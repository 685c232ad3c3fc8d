"""Imports what a spec names as `module:name`."""

from __future__ import annotations

import importlib
from typing import Any

from encoders.project_modules import refuse_hidden
from schemas.errors import ConfigError, DataKeyError


def import_named(reference: str, what: str, kind: type) -> Any:
    """Import the object that a spec names.

    reference: "module:name"
    what: the noun for it in error messages; kind: the type of the names that a message suggests instead

    Raises ConfigError where the module cannot be imported or lacks the name.
    """
    module, _, name = reference.partition(":")
    if not name:
        raise ConfigError.because(f"{what} '{reference}' is not module:name", 'write "module:name"')
    refuse_hidden(module)
    try:
        loaded = importlib.import_module(module)
    except DataKeyError as error:  # as `data_key` raises
        raise ConfigError(f"{what} '{reference}': {error}") from error
    except ImportError as error:
        raise ConfigError.because(
            f"{what} '{reference}': {error}", "put its module beside delorean.toml, or install it"
        ) from error
    if not hasattr(loaded, name):
        existing = [other for other, value in vars(loaded).items() if isinstance(value, kind)]
        raise ConfigError.unknown(f"{what} in {module}", name, existing)
    return getattr(loaded, name)
