"""Time travel: the data as of any past moment, as online services returned it then."""

from delorean.time_travel.bucket_view import RUN_COLUMN
from delorean.time_travel.contexts import EXPERIMENT_COLUMN, STRATUM_COLUMN, distinct_keys, read_chosen_contexts
from delorean.time_travel.machine import TimeMachine
from delorean.time_travel.moment import GlobalView, Moment, ServiceView, View

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
    "read_chosen_contexts",
]
