import msgspec
import pytest

from delorean.leaks import LeakThresholds
from schemas.errors import ConfigError


def test_thresholds_are_read_from_what_toml_gives():
    given = {"auc": 1, "information": 0.4, "permutations": 500, "policy": "fail", "seed": 3}
    assert msgspec.convert(given, LeakThresholds) == LeakThresholds(1.0, 0.4, permutations=500, policy="fail", seed=3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"auc": 0.5}, "auc is 0.5, expected more than 0.5"),
        ({"auc": 1.01}, "auc is 1.01"),
        ({"auc": float("nan")}, "auc is nan"),
        ({"information": 0}, "information is 0"),
        ({"p_value": 0}, "p_value is 0"),
        ({"p_value": 1}, "p_value is 1"),
        ({"permutations": 198}, "permutations is 198, expected 199 or more to see p 0.01"),
        ({"seed": -1}, "seed is -1"),
        ({"max_items": 0}, "max_items is 0"),
        ({"policy": "fial"}, "did you mean 'fail'"),
    ],
)
def test_impossible_thresholds_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        LeakThresholds(**given)
    with pytest.raises((ConfigError, msgspec.ValidationError)):
        msgspec.convert(given, LeakThresholds)


def test_the_fewest_permutations_suffice():
    assert LeakThresholds(permutations=199).permutations == 199
