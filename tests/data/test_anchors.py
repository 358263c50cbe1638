"""Where forecasts begin: midnight of the person's own clock, meals as recorded or estimated; samples of windows."""

import helpers
import numpy as np
import pytest
import torch

from raycadian.config import Window
from raycadian.data.series import build_series
from raycadian.data.split import Range
from raycadian.data.windows import cut_windows

WINDOW = Window(context=24, horizon=6, anchor="midnight")


def cut(series, anchor, window=WINDOW, start=0, stride=7):
    ranges = tuple(
        Range(series.subjects[s], int(n), start, int(length), "test", "id")
        for s, n, length in zip(series.subject_of, series.number_of, np.diff(series.offsets), strict=True)
    )
    return cut_windows(series, ranges, window, stride, anchor=anchor)


def local(series, windows) -> list[str]:
    """Local time of every window's last context point."""
    batch = windows.batch(torch.arange(len(windows)))
    offset = dict(zip(series.subject_of.tolist(), series.utc_offset_min.tolist(), strict=True))
    seconds = [int(t) + 60 * offset[int(s)] for t, s in zip(batch["time_s"], batch["subject"], strict=True)]
    return [str(np.datetime64(s, "s"))[:16] for s in seconds]


@pytest.mark.parametrize("offset_min", [0, -300, 345])
@pytest.mark.parametrize("minute", [0, 3])
def test_midnight_is_the_persons_own(offset_min, minute):
    """Every local midnight once, by the first grid point at or after it, whatever the stride and the zone."""
    one = helpers.recording(helpers.day_curve(4), "a", start=f"2026-01-05T12:0{minute}", offset_min=offset_min)
    series = build_series(helpers.People({"a": [one]}), ("glucose_mgdl",))
    found = local(series, cut(series, "midnight"))
    assert [t[11:] for t in found] == [f"00:0{minute}"] * len(found)
    begin = np.datetime64(f"2026-01-05T12:0{minute}") + np.timedelta64(offset_min, "m")
    nights = begin.astype("datetime64[D]") + np.arange(6) + np.timedelta64(minute, "m")
    fit = (nights >= begin + 115) & (nights <= begin + 4 * 1440 - 35)  # 24 points of context, 6 of horizon
    assert found == [str(night)[:16] for night in nights[fit]]


def test_a_night_without_a_reading_at_midnight_is_left_out():
    glucose = helpers.day_curve(4)
    glucose[288] = np.nan
    series = build_series(helpers.People({"a": [helpers.recording(glucose)]}), ("glucose_mgdl",))
    assert local(series, cut(series, "midnight")) == ["2026-01-07T00:00", "2026-01-08T00:00"]


def test_meals_begin_where_they_are_recorded():
    """A meal counts once, however many points record it; snacks don't count, and what lies too near the edges can't."""
    carbs = np.zeros(576, np.float32)
    carbs[[5, 100, 103, 200, 260, 300, 306, 318, 574]] = [50, 30, 30, 5, 60, 40, 20, 45, 50]
    one = helpers.recording(helpers.day_curve(2), carbs_g=carbs)
    series = build_series(helpers.People({"a": [one]}), ("glucose_mgdl", "carbs_g"))
    window = Window(context=24, horizon=6, anchor="meal", past=("glucose_mgdl", "carbs_g"))
    windows = cut(series, "meal", window)
    assert (windows.starts(torch.arange(len(windows))) + 23).tolist() == [100, 260, 300, 318]
    batch = windows.batch(torch.arange(len(windows)))
    assert batch["past"][:, -1, 1].tolist() == [30, 60, 40, 45]  # the meal is known when the forecast is made
    with pytest.raises(ValueError, match=r"carbs_g is not among the past channels \['glucose_mgdl'\]"):
        cut(build_series(helpers.People({"a": [one]}), ("glucose_mgdl",)), "meal")


def test_estimated_meals_are_where_glucose_rises():
    """Rises at 7:30, 12:30 and 19:00 of the curve: each day has one window at each of the estimated times."""
    series = build_series(helpers.People({"a": [helpers.recording(helpers.day_curve(5, noise=1))]}), ("glucose_mgdl",))
    found = [t[11:] for t in local(series, cut(series, "estimated_meal"))]
    times = sorted(set(found))
    assert len(times) == 3 and all(found.count(t) >= 4 for t in times)
    assert [abs(int(t[:2]) - hour) <= 2 for t, hour in zip(times, (7, 12, 19), strict=True)] == [True] * 3


def test_no_anchor_is_every_stride():
    series = helpers.series(2, 2)
    plain, any_ = cut(series, "any", Window(context=24, horizon=6)), cut(series, "any")
    index = torch.arange(len(plain))
    assert torch.equal(plain.starts(index), any_.starts(index))


def test_no_midnight_is_an_error_that_says_so():
    series = build_series(helpers.People({"a": [helpers.recording(helpers.day_curve(0.5))]}), ("glucose_mgdl",))
    with pytest.raises(ValueError, match="forecasts begin at: midnight"):
        cut(series, "midnight")


def test_samples_nest_and_hold_windows_of_the_whole():
    windows = cut(helpers.series(3, 2), "any", stride=2)
    every = set(windows.starts(torch.arange(len(windows))).tolist())
    few, more = windows.sample(20, seed=5), windows.sample(100, seed=5)
    drawn = [s.starts(torch.arange(len(s))).tolist() for s in (few, more)]
    assert (len(drawn[0]), len(drawn[1])) == (20, 100) and set(drawn[0]) < set(drawn[1]) < every
    assert drawn[1] == sorted(drawn[1]) and windows.sample(20, seed=6).starts(torch.arange(20)).tolist() != drawn[0]
    batch = more.batch(torch.arange(100))
    whole = windows.batch(torch.tensor([sorted(every).index(s) for s in drawn[1]]))
    assert torch.equal(batch["past"], whole["past"]) and torch.equal(batch["time_s"], whole["time_s"])
    with pytest.raises(ValueError, match=r"9999 windows are asked for, there are \d+; lower train_windows"):
        windows.sample(9999, seed=5)
