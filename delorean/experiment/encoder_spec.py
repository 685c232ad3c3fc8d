"""An encoder of an experiment, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from delorean.experiment.imports import import_named
from encoders import FeatureEncoder
from schemas.errors import ConfigError


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder, `module:name`, with its parameters and other names for its features.

    >>> EncoderSpec("encoders.library.history:minutes_watched", {"window_days": 7}).load().parameters
    {'window_days': 7}
    """

    encoder: str
    parameters: Mapping[str, int | float | bool | str | tuple[str, ...]] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, encoder: FeatureEncoder) -> EncoderSpec:
        """Build the spec of an encoder, with the parameters that differ from the defaults in its source."""
        defaults = encoder.function.__kwdefaults__ or {}
        changed = {
            name: tuple(value) if isinstance(value, tuple) else value
            for name, value in encoder.parameters.items()
            if value != defaults.get(name)
        }
        return cls(encoder.name, changed, dict(encoder.rename))

    def load(self) -> FeatureEncoder:
        """Import the encoder. Raises ConfigError if it does not exist."""
        encoder = import_named(self.encoder, "encoder", FeatureEncoder)
        if not isinstance(encoder, FeatureEncoder):
            raise ConfigError.because(f"{self.encoder} is a {type(encoder).__name__}", "put @feature_encoder on it")
        return encoder.configured(rename=self.rename, **self.parameters)
