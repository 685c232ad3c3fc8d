"""Experiments: one spec, whose content is its id; runs that are recorded, repeated bit for bit, and compared."""

from delorean.experiment.files import load_experiment, load_selection
from delorean.experiment.spec import ContextsSpec, EncoderSpec, ExperimentSpec, LabelSpec, ModelSpec

__all__ = [
    "ContextsSpec",
    "EncoderSpec",
    "ExperimentSpec",
    "LabelSpec",
    "ModelSpec",
    "load_experiment",
    "load_selection",
]
