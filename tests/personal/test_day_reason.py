"""A day of which nothing can be said: why."""

import numpy as np
import pytest

from raycadian.serving.personal import PersonalEstimate


def estimate(*values):
    n = len(values)
    day = np.datetime64("2026-03-02") + np.arange(n)
    arrays = (np.arange(n) * 86_400, np.array(values), *(np.zeros(n),) * 2, np.zeros((n, 1)))
    return PersonalEstimate(None, day, *arrays, {})


@pytest.mark.parametrize(
    ("values", "day", "message"),
    [
        ((0.1, 0.2), "2026-03-09", "the recording gives 2026-03-02 to 2026-03-03: days that are whole"),
        ((0.1, 0.2), "3 March", "write it as 2026-03-03"),
        ((0.1, np.nan), "2026-03-03", r"not worn than the model takes .*; the last day with one is 2026-03-02"),
        ((np.nan,), "2026-03-02", "no day of the recording has one"),
    ],
)
def test_a_day_without_an_estimate_says_why(values, day, message):
    with pytest.raises(ValueError, match=message):
        estimate(*values).of_day(day)


def test_the_advice_leads_on():
    with pytest.raises(ValueError) as error:
        estimate(0.1, np.nan, 0.3).of_day("2026-03-03")
    chosen = str(error.value).rpartition(" ")[2]
    assert estimate(0.1, np.nan, 0.3).of_day(chosen).value.tolist() == [0.3]
