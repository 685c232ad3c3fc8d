"""Experiments: a spec whose content is its id, and recorded runs that can be replayed bit for bit and compared."""

from delorean.experiment.encoder_spec import EncoderSpec
from delorean.experiment.files import contexts_to_select, load_experiment
from delorean.experiment.label_spec import LabelSpec
from delorean.experiment.model_spec import ModelSpec
from delorean.experiment.spec import ExperimentSpec, ScheduleSpec

__all__ = [
    "EncoderSpec",
    "ExperimentSpec",
    "LabelSpec",
    "ModelSpec",
    "ScheduleSpec",
    "contexts_to_select",
    "load_experiment",
]
