"""The exposure log: what was shown, to whom, by which cell of which test, with which probability."""

from delorean.exposures.exposure import Exposure
from delorean.exposures.log import ExposureLimits, ExposureLog
from delorean.exposures.reader import read_exposures
from delorean.exposures.table_format import exposures_schema

__all__ = ["Exposure", "ExposureLimits", "ExposureLog", "exposures_schema", "read_exposures"]
