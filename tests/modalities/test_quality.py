"""Quality: metrics against hand-made and known values, flags for what a researcher must know, a page that opens."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycadian.config import Grid
from raycadian.data.grid import to_recordings
from raycadian.modalities.cgm.quality import RANGES, quality
from raycadian.modalities.cgm.quality_page import daily_profile
from raycadian.modalities.prepare import prepare
from raycadian.modalities.quality import quality_page
from raycadian.types import GLUCOSE, TIME_UTC, Issues, Readings

GRID = Grid()


def make(minutes, values, offset_min=0, subject="a"):
    glucose = pd.DataFrame({TIME_UTC: pd.Timestamp("2024-03-01") + pd.to_timedelta(np.asarray(minutes), unit="min")})
    glucose[TIME_UTC] = glucose[TIME_UTC].astype("datetime64[ns]")
    glucose[GLUCOSE] = np.asarray(values, dtype=np.float64)
    glucose["utc_offset_min"] = offset_min
    return Readings(subject, glucose, pd.DataFrame({TIME_UTC: [], "kind": [], "value": []}))


def measure(minutes, values, **more):
    readings = make(minutes, values, **more)
    return quality(readings, to_recordings(readings, GRID, Issues()), GRID)


def test_metrics_by_hand():
    q = measure([0, 5, 10, 15, 20, 25, 30, 35, 40, 45], [53, 54, 69, 70, 180, 181, 250, 251, 100, 100])
    assert [q[key] for key in RANGES] == [10, 20, 40, 20, 10]
    values = np.array([53, 54, 69, 70, 180, 181, 250, 251, 100, 100])
    assert q["mean_mgdl"] == pytest.approx(130.8) and (q["min_mgdl"], q["max_mgdl"]) == (53, 251)
    assert q["sd_mgdl"] == pytest.approx(values.std(ddof=1), abs=1e-3)
    assert q["cv_pct"] == pytest.approx(100 * values.std(ddof=1) / 130.8, abs=1e-3)


def test_gmi_is_the_published_table():
    # Bergenstal et al. 2018, table 2: mean glucose in mg/dL -> GMI in %
    for mean, gmi in {
        100: 5.7,
        125: 6.3,
        150: 6.9,
        175: 7.5,
        200: 8.1,
        225: 8.7,
        250: 9.3,
        275: 9.9,
        300: 10.5,
        350: 11.7,
    }.items():
        assert round(measure([0, 5], [mean, mean])["gmi_pct"], 1) == gmi


def test_values_converted_from_mmol_fall_in_the_ranges_of_the_consensus():
    mmol = np.array([2.9, 3.0, 3.8, 3.9, 10.0, 10.1, 13.9, 14.0])  # borders of the consensus in mmol/L
    q = measure(range(0, 40, 5), mmol * 18.0182)
    assert [q[key] for key in RANGES] == [12.5, 25.0, 25.0, 25.0, 12.5]


def test_coverage_counts_missed_readings():
    q = measure([0, 5, 10, 15, 75, 80, 85, 90], [100, 110] * 4)  # an hour: 11 of 19 readings missed
    assert q["coverage_pct"] == pytest.approx(100 * (1 - 55 / 95), abs=1e-3)
    assert (q["gaps"], q["interruptions"], q["longest_gap_h"], q["interval_min"], q["readings"]) == (1, 1, 1.0, 5.0, 8)
    assert (
        measure([0, 5, 10, 20, 25], [100] * 5)["gaps"],
        measure([0, 5, 10, 20, 25], [100] * 5)["interruptions"],
    ) == (0, 1)
    assert measure(range(0, 150, 15), [100] * 10)["coverage_pct"] == 100  # 15-minute sensors are not full of gaps


def test_flags():
    days = np.arange(0, 15 * 1440, 5)
    assert measure(days, 100 + days % 7)["flags"] == []
    assert measure(days, np.full(len(days), 100))["flags"] == ["constant"]
    assert measure(days[:2000], 100 + days[:2000] % 7)["flags"] == ["under 14 days"]
    assert measure([*range(0, 300, 5), 30000], [*range(100, 160), 100])["flags"] == ["coverage below 70%"]
    assert measure([0], [100])["flags"] == ["no recording long enough", "under 14 days"]


@pytest.mark.parametrize("values", [[], [np.nan] * 5])
def test_nothing_to_measure(values):
    q = measure(range(len(values)), values)
    assert q["flags"] == ["no readings"] and q["mean_mgdl"] is None and q["readings"] == 0
    json.dumps(q, allow_nan=False)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 100), st.floats(20, 600)), min_size=1, max_size=50))
def test_metrics_stay_in_their_bounds(found):
    q = measure(np.cumsum([m for m, _ in found]), [v for _, v in found])
    assert sum(q[key] for key in RANGES) == pytest.approx(100, abs=0.01)
    assert q["coverage_pct"] is None or 0 <= q["coverage_pct"] <= 100
    assert q["min_mgdl"] - 1e-3 <= q["mean_mgdl"] <= q["max_mgdl"] + 1e-3
    json.dumps(q, allow_nan=False)


def test_the_daily_profile_is_in_local_hours():
    minutes = np.arange(0, 3 * 1440, 5)
    values = np.where((minutes // 60 + 2) % 24 == 7, 200, 100)  # high at 05 UTC = 07 local
    recordings = to_recordings(make(minutes, values, offset_min=120), GRID, Issues())
    profile = daily_profile(recordings)
    assert profile[7].tolist() == [200] * 5 and (np.delete(profile, 7, axis=0) == 100).all()
    assert np.isnan(daily_profile([])).all()


# --- the page
# ----------------------------------------------------------------------------------------------------------


def write_card(folder, subjects, days=2):
    rng = np.random.default_rng(0)
    time = pd.date_range("2024-03-01", periods=days * 288, freq="5min")
    frames = [
        pd.DataFrame({"id": s, "time": time, "gl": rng.normal(130, 30, len(time)).clip(45, 390)}) for s in subjects
    ]
    frames.append(pd.DataFrame({"id": "lonely", "time": time[:1], "gl": 99.0}))
    pd.concat(frames).to_csv(folder / "x.csv", index=False)
    columns = "{subject: id, time: time, glucose: gl}"
    (folder / "x.yaml").write_text(f"name: x\nfiles: [x.csv]\nformat: generic\nunit: mg/dL\ncolumns: {columns}\n")
    return folder / "x.yaml"


@pytest.mark.ray
def test_the_page_opens_offline_and_shows_everybody(ray_local, tmp_path):
    hostile = "<script>alert(1)</script> $x^{"
    subjects = [*(f"p{i}" for i in range(1, 30)), hostile]
    card = write_card(tmp_path, subjects)
    (tmp_path / "torn.csv").write_text("id;time\n")
    card.write_text(card.read_text().replace("[x.csv]", "[x.csv, torn.csv]") + "most_unreadable: 1\n")
    html = quality_page(prepare(card, tmp_path / "snapshots", on_ray=True))
    assert "What could not be read" in html and "torn.csv: no column &#x27;gl&#x27;" in html
    assert html.count("<svg") == 3 and "6 more subjects are not shown" in html
    assert "<script" not in html and "&lt;script&gt;alert(1)" in html
    assert not re.search(r"(src|href)=[\"'](https?:)?//", html)
    assert html.index(">p2<") < html.index(">p10<")  # natural order
    assert "recording shorter than min_points: 1" in html and "under 14 days: 31 of 31 subjects" in html
    assert "Without a usable recording: 1 more subject." in html


@pytest.mark.ray
def test_glucobench_iglu_page(ray_local, shared, tmp_path):
    card = tmp_path / "iglu.yaml"
    card.write_text(f"name: iglu\nfiles: [{shared}/cgm/glucobench/iglu.csv.gz]\n")
    snapshot = prepare(card, tmp_path / "snapshots")
    raw = pd.read_csv(shared / "cgm/glucobench/iglu.csv.gz")
    for subject, q in snapshot.quality.items():
        own = raw["gl"][raw["id"] == subject]
        assert q["readings"] == len(own) and q["mean_mgdl"] == pytest.approx(own.mean(), abs=1e-3)
        assert q["in_range_pct"] == pytest.approx(100 * own.between(70, 180).mean(), abs=1e-3)
    assert "5 subjects, 13,866 readings" in quality_page(snapshot)
