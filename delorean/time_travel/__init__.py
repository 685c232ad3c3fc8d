"""Travel in time: the data as of any past moment, as the online services stood then."""

from delorean.time_travel.contexts import EXPERIMENT_COLUMN, STRATUM_COLUMN, distinct_keys, read_choices
from delorean.time_travel.machine import TimeMachine
from delorean.time_travel.moment import RUN_COLUMN, GlobalView, Moment, ServiceView, View

__all__ = [
    "EXPERIMENT_COLUMN",
    "RUN_COLUMN",
    "STRATUM_COLUMN",
    "GlobalView",
    "Moment",
    "ServiceView",
    "TimeMachine",
    "View",
    "distinct_keys",
    "read_choices",
]
