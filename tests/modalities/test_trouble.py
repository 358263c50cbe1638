"""Small inputs that real tools have met (`../shared/trouble`, absent on most machines): each gives its right answer."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.episodes import read_episodes
from raycadian.modalities.actigraphy.formats.apple_health import parse_export, read_apple_health, sleep_episodes
from raycadian.modalities.actigraphy.readers import read_activity
from raycadian.modalities.biosignals.prepare import clean
from raycadian.modalities.biosignals.readers import read_case
from raycadian.modalities.cards import load_card
from raycadian.modalities.cgm.builder import merge
from raycadian.modalities.cgm.quality import quality
from raycadian.modalities.cgm.readers import read_files
from raycadian.modalities.detect import make_card
from raycadian.modalities.prepare import prepare, source_files
from raycadian.types import ACTIVITY_COUNTS, ACTIVITY_WRIST, BOLUS, CARBS, GLUCOSE, TIME_UTC, Issues

FOLDER = Path(__file__).parents[3] / "shared" / "trouble"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trouble():
    if not FOLDER.is_dir():
        pytest.skip(f"troublesome files not here: {FOLDER} is absent")
    return FOLDER


def one(folder: Path, name: str) -> Path:
    (path,) = folder.glob(name)
    return path


def card_for(paths, *settings):
    """As `raycadian prepare FILE... --set ...` makes it, with what it counted."""
    return make_card([str(path) for path in paths], overrides=settings)[0]


def readings_of(paths, card, issues=None):
    """Everybody's readings."""
    parts = defaultdict(list)
    for part in read_files(list(paths), card, Issues() if issues is None else issues):
        parts[part.subject].append(part)
    return {subject: merge(own, Issues()) for subject, own in parts.items()}


def glucose(paths, *settings, issues=None):
    """The one person's mg/dL, and their readings."""
    (readings,) = readings_of(paths, card_for(paths, *settings), issues).values()
    return readings.glucose[GLUCOSE].to_numpy(), readings


def doses(readings, kind):
    return readings.events.query("kind == @kind")["value"].tolist()


def activity(paths, card=None, issues=None):
    card = card or ActigraphyCard(name="trouble", files=("*",))
    return list(read_activity(list(paths), card, Issues() if issues is None else issues))


def counts(recordings):
    return np.concatenate([r.channels.get(ACTIVITY_COUNTS, r.channels.get(ACTIVITY_WRIST)) for r in recordings])


def carded(folder, name="card.yaml"):
    """A card of the folder, and the files that it names."""
    card = load_card(folder / name)
    return card, source_files(card, folder)


# --- numbers and words ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["p1.csv", "thousands.csv"])
def test_a01_commas(trouble, name):
    folder = trouble / "A01_activity_decimal_comma"
    card, _ = carded(folder)
    (recording,) = activity([folder / name], card)
    values = recording.channels[ACTIVITY_COUNTS]
    assert len(values) == 4320 and np.isfinite(values).all()
    rows = [line.replace('"', "") for line in (folder / name).read_text().splitlines()[1:]]
    cells = [row.partition(";" if name == "p1.csv" else ",")[2] for row in rows]
    text = [c.replace(",", "." if name == "p1.csv" else "") for c in cells]
    assert np.allclose(values, np.array(text, float))


def test_a02_worn_in_words(trouble):
    folder = trouble / "A02_worn_as_words"
    card, _ = carded(folder)
    worn = {path.name: activity([path], card)[0].observed for path in sorted(folder.glob("*.csv"))}
    assert len(worn) == 4
    for name, observed in worn.items():
        assert np.array_equal(observed, worn["one_zero.csv"]), name
        assert 0 in observed.reshape(-1, 1440).sum(1), name


# --- actigraphs -----------------------------------------------------------------------------------------------------


def test_a07_light_with_a_comma(trouble):
    (recording,) = activity([trouble / "A07_awd_decimal_comma_light" / "Actiwatch.AWD"])
    assert counts([recording])[:4].tolist() == [0, 498, 394, 666]


def test_a08_am_and_pm(trouble):
    (recording,) = activity([trouble / "A08_awd_ampm" / "test_sample_awlp.AWD"])
    assert str(recording.start_utc) == "1997-04-22T09:38:00"
    assert counts([recording])[:3].tolist() == [671, 429, 388]


@pytest.mark.parametrize("name", ["actical_12_line_header.AWC", "blank_age_sex.AWD", "filled.AWD"])
def test_a09_headers(trouble, name):
    (recording,) = activity([trouble / "A09_awd_blank_header_lines" / name])
    assert counts([recording])[:4].tolist() == [1000, 1001, 1002, 1003]
    assert str(recording.start_utc) == "2023-03-13T08:30:00" and recording.subject == "SUBJ01"


@pytest.mark.parametrize(
    ("name", "subject", "start", "first"),
    [
        ("rpx_fr_first400lines.csv", "TEST_SAMPLE_FR", "2015-02-04T11:45:00", [0, 11, 0, 0, 0, 0, 2, 85]),
        ("rpx_ger_with_light_first400lines.csv", "TEST_SAMPLE_GER", "2019-09-19T14:00:00", [614, 490, 377]),
        ("Actiwatch_nl_first400lines.csv", "1", "2019-11-23T06:00:00", [np.nan, np.nan]),
    ],
)
def test_a10_actiware_in_other_languages(trouble, name, subject, start, first):
    (recording,) = activity([trouble / "A10_rpx_languages" / name])
    assert (recording.subject, str(recording.start_utc)) == (subject, start)
    assert np.array_equal(counts([recording])[: len(first)], first, equal_nan=True)
    assert recording.observed.any() != name.startswith("Actiwatch_nl")


@pytest.mark.parametrize(
    ("name", "start", "total"),
    [
        ("ActiGraph13.csv", "2013-08-26T09:00:00", None),
        ("ActiGraph13_timestamps_headers.csv", "2017-09-12T15:00:00", None),
        ("ActiGraph61.csv", "2016-08-15T21:35:00", 325 + 181 + 4 + 246 + 131 + 0),
    ],
)
def test_a11_actilife(trouble, name, start, total):
    (recording,) = activity([trouble / "A11_actilife_csv" / name])
    assert str(recording.start_utc) == start and np.isfinite(counts([recording])).all()
    assert total is None or counts([recording])[0] >= total


def test_f01_deep_sleep_at_the_wrist(trouble):
    episodes = read_episodes(trouble / "F01_wrist_sleep_as_nonwear" / "example_05.AWD", None, Issues())
    long = episodes.end - episodes.start > np.timedelta64(3, "h")
    noon = np.timedelta64(12, "h")
    night = (episodes.start[long] + noon).astype("datetime64[D]")
    assert len(np.unique(night)) == 13, "one night of two parts"
    for day in np.unique(night):
        onset, end = episodes.start[long][night == day].min(), episodes.end[long][night == day].max()
        assert -2 * 60 < (onset - day) / np.timedelta64(1, "m") < 4 * 60
        assert 4.5 * 60 < (end - day) / np.timedelta64(1, "m") < 9 * 60


@pytest.mark.parametrize("name", ["F02_time_column_ignored/p1.csv", "F03_timestamp_name/p1.csv"])
def test_f02_and_f03_a_column_of_times_is_used(trouble, name):
    (recording, *_) = activity([trouble / name])
    assert str(recording.start_utc) == "2024-03-01T18:00:00"
    assert counts([recording])[0] == 253 + 265


def test_f04_the_identity_of_an_export(trouble, tmp_path):
    snapshot = prepare(trouble / "F04_rpx_identity" / "card.yaml", tmp_path, on_ray=False)
    assert snapshot.manifest["counts"]["subjects"] == 1 and snapshot.subjects == ["TEST_SAMPLE_UK"]


def test_f05_mesa(trouble):
    folder = trouble / "F05_mesa"
    recordings = activity(*[[p] for p in [one(folder, "*.csv")]], carded(folder)[0])
    assert sum(map(len, recordings)) == 7 * 1440
    first = recordings[0]
    assert np.datetime_as_string(first.start_utc)[11:16] == "20:30" and first.dt_s == 60
    observed = np.concatenate([r.observed for r in recordings])
    assert not observed[:20].any() and observed.mean() > 0.9
    with pytest.raises(ValueError, match=r"offwrist.*off_wrist"):
        activity([one(folder, "*.csv")], carded(folder, "card2.yaml")[0])


# --- waveforms ------------------------------------------------------------------------------------------------------


def test_b01_bidmc(trouble, tmp_path):
    card, (path,) = carded(trouble / "B01_bidmc_csv")
    case = read_case(path, tracks={**card.waveforms}, units={"ecg_mv": "mV"}, subject="a")
    assert {track.rate_hz for track in case.tracks.values()} == {125.0}
    prepare(trouble / "B01_bidmc_csv" / "card.yaml", tmp_path, on_ray=False)


@pytest.mark.parametrize("name", ["edf.yaml", "npz.yaml"])
def test_b02_one_person_in_two_files(trouble, name, tmp_path):
    snapshot = prepare(trouble / "B02_same_person_two_files" / name, tmp_path, on_ray=False)
    assert snapshot.subjects == ["P007"] and snapshot.manifest["counts"]["recordings"] == 2


def test_b03_a_latin_1_byte(trouble, tmp_path):
    snapshot = prepare(trouble / "B03_edf_latin1" / "card.yaml", tmp_path, on_ray=False)
    assert snapshot.manifest["counts"]["recordings"] == 2  # the third has no ECG II
    case = read_case(trouble / "B03_edf_latin1" / "test_generator_2.edf", subject="a")
    assert len(case.tracks) == 11


@pytest.mark.parametrize("name", ["card.yaml", "card_hea.yaml"])
def test_b04_a_clinical_table_by_record(trouble, name, tmp_path):
    folder = trouble / "B04_wfdb_clinical"
    snapshot = prepare(folder / name, tmp_path, on_ray=False)
    assert snapshot.subjects == ["p1"] or snapshot.subjects == ["p1", "p2"]
    assert snapshot.manifest["counts"]["cases"] == 2
    plain = card_for([folder / "v102s.hea"], "waveforms={ecg_mv: [II]}")
    assert list(everybody(plain, folder, tmp_path)) == ["v102s"]


def everybody(card, folder, out):
    from raycadian.modalities.prepare import prepare_card

    return prepare_card(card, folder, out, on_ray=False).subjects


def test_b06_shock_is_no_error(trouble, tmp_path):
    counted = prepare(trouble / "B06_shock_rejected" / "card.yaml", tmp_path, on_ray=False).manifest["counts"]
    assert counted["windows_judged"] == 60 and counted["windows_good"] >= 54


def test_b07_an_infarct_is_left_as_it_is(trouble):
    card, (path,) = carded(trouble / "B07_ecg_turned_over")
    case = read_case(path, tracks={**card.waveforms}, units=dict.fromkeys(card.waveforms, "mV"), subject="a")
    cleaned = clean(case, card)
    for channel, track in case.tracks.items():
        ours = cleaned.recording.channels[channel]
        theirs = np.interp(np.arange(len(ours)) / 125, np.arange(len(track)) / track.rate_hz, track.values)
        assert np.corrcoef(np.nan_to_num(ours), np.nan_to_num(theirs))[0, 1] > 0.3, channel


@pytest.mark.parametrize("name", ["ecg_ms.csv", "ecg_ns.csv"])
def test_w01_epochs_beside_samples(trouble, name):
    case = read_case(trouble / "W01_timestamp_in_ms" / name, subject="a")
    assert {track.rate_hz for track in case.tracks.values()} == {125.0}
    assert str(case.start_utc) == "2024-06-06T00:00:00.000"


def test_w03_a_gap_in_edf(trouble):
    case = read_case(trouble / "W03_edf_discontinuous" / "gap.edf", subject="a")
    (track,) = case.tracks.values()
    missing = np.isnan(track.values)
    assert track.rate_hz == 125 and missing.any() and (~missing).sum() == 60 * 125
    edges = np.flatnonzero(np.diff(missing))
    assert len(edges) == 2, "one gap"


def test_w04_segments(trouble):
    case = read_case(trouble / "W04_wfdb_multisegment" / "m.hea", subject="a")
    ecg, pressure = case.tracks["II"], case.tracks["ABP"]
    assert len(ecg) == 52500 and np.isnan(ecg.values[7500:45000]).all() and np.isfinite(ecg.values[:7500]).all()
    assert np.isfinite(ecg.values[45000:]).all()
    lead = np.isnan(pressure.values).sum() + round(pressure.start_s * 125)
    assert lead == 45000 and np.isfinite(pressure.values).sum() == 7500


# --- glucose --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clarity_es.csv", "clarity_de.csv", "clarity_en_rapid.csv"])
def test_c01_clarity_in_other_languages(trouble, name):
    path = trouble / "C01_clarity_spanish_event_types" / name
    issues = Issues()
    values, readings = glucose([path], issues=issues)
    lines = path.read_text("utf-8-sig").replace('"', "").split("\n")
    cells = [line.split(";" if ";" in line else ",") for line in lines]
    egv = {"EGV", "EGW", "Niveles estimados de glucosa"}
    assert len(values) == sum(len(row) > 7 and row[2] in egv for row in cells) > 20
    sticks = sum(row[2:3] == ["Calibración"] for row in cells)
    assert issues.counts.get("finger-stick or calibration (not a CGM reading)", 0) == sticks
    insulin = [row for row in cells[1:] if len(row) > 8 and row[1] and row[8]]
    assert len(doses(readings, BOLUS)) == len(insulin)


@pytest.mark.parametrize(
    "name", ["C02_libreview_trailing_comma/libreview_trailing.csv", "C06_libreview_utf16_no_bom/libreview_utf16le.csv"]
)
def test_c02_and_c06_libreview(trouble, name):
    values, _ = glucose([trouble / name])
    text = (trouble / name).read_bytes().decode("utf-16-le" if "utf16" in name else "utf-8")
    assert len(values) == text.count("LibreLink,") and values[:3].tolist() == [120, 124, 128]


def test_c03_the_end_of_summer_time(trouble):
    path = trouble / "C03_libreview_dst_sorted" / "libreview_dst.csv"
    values, readings = glucose([path], "timezone=Europe/Madrid")
    assert len(values) == 60 and (np.diff(values) == 1).sum() > 50
    assert (np.diff(readings.glucose[TIME_UTC]) == np.timedelta64(15, "m")).all()


def test_c04_two_sensors(trouble):
    path = trouble / "C04_libreview_two_sensors" / "libreview_two.csv"
    try:
        values, _ = glucose([path])
    except ValueError as error:
        assert "OLD-READER" in str(error) and "device" in str(error)
    else:
        assert np.abs(np.diff(values)).max() < 20


def test_c08_ten_is_in_range(trouble):
    folder = trouble / "C08_mmol_on_the_limit"
    card, paths = carded(folder)
    for readings in readings_of(paths, card).values():
        mgdl = readings.glucose[GLUCOSE]
        share = 100 * np.mean((mgdl >= 70) & (mgdl <= 180))
        assert share > 0 and quality(readings, [], card.grid)["in_range_pct"] == pytest.approx(share, abs=1e-3)


def test_m01_carelink(trouble):
    path = trouble / "M01_carelink_csv" / "carelink_780g.csv"
    values, readings = glucose([path])
    assert len(values) == 72 and values[-1] == round(6.7 * 18.0182)
    assert doses(readings, BOLUS) == [4.2] and doses(readings, CARBS) == [45]


def test_m02_date_and_time_apart(trouble):
    folder = trouble / "M02_date_and_time_apart"
    card, (path,) = carded(folder, "card_jaeb_midnight.yaml")
    (readings,) = readings_of([path], card).values()
    assert len(readings.glucose) == len(path.read_text().splitlines()) - 1
    expected = {"glooko_cgm_data_1.csv": 2, "xdrip_sidiary.csv": 1, "jaeb_HDeviceCGM.txt": 1}
    for name, header in expected.items():
        settings = ("time_format=%d/%m/%Y %H:%M",) if name.startswith("glooko") else ()
        values, readings = glucose([folder / name], *settings)
        assert len(values) == len((folder / name).read_text().split("\n")) - header - 1, name
        steps = np.diff(readings.glucose[TIME_UTC]) / np.timedelta64(1, "m")
        assert (steps == 5).all(), name


def test_n02_doses_told_twice(trouble):
    folder = trouble / "N02_nightscout_extended_and_double"
    paths, issues = sorted(folder.glob("*.json")), Issues()
    _, readings = glucose(paths, "subject=anna", issues=issues)
    bolus, carbs = doses(readings, BOLUS), doses(readings, CARBS)
    assert sum(bolus) == pytest.approx(6 + 5) and sum(carbs) == pytest.approx(60 + 40)
    assert len(carbs) > 2 or any("spread" in kind or "duration" in kind for kind in issues.counts)


def test_n03_offsets_that_flip(trouble, tmp_path):
    card = card_for([trouble / "N03_nightscout_offset_flips" / "entries.json"])
    assert recordings_in(card, trouble, tmp_path) == 1


def recordings_in(card, folder, out):
    from raycadian.modalities.prepare import prepare_card

    return prepare_card(card, folder, out, on_ray=False).manifest["counts"]["recordings"]


@pytest.mark.parametrize("name", ["card.yaml", "card_openaps.yaml"])
def test_n04_one_person_by_year(trouble, name):
    card, paths = carded(trouble / "N04_nightscout_one_person_by_year", name)
    assert list(readings_of(paths, card)) == [{"card.yaml": "anna", "card_openaps.yaml": "99908129"}[name]]


def test_n06_a_series_stored_again(trouble):
    path = trouble / "N06_nightscout_series_shifted_twice" / "entries.json"
    try:
        values, _ = glucose([path], "timezone=UTC")
    except ValueError as error:
        assert "again" in str(error)
    else:
        assert len(values) == 288


def test_p01_tidepool(trouble):
    values, readings = glucose([trouble / "P01_tidepool_pen_and_double_sources" / "tidepool.json"])
    assert doses(readings, BOLUS) == [4.0, 6.5, 4.0] and doses(readings, CARBS) == [50, 50]
    assert len(values) == 96 and values[0] == 180 and (values == values.round()).all()


# --- Apple Health ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["H01_apple_ios16_dtd", "H02_apple_control_character", "H03_apple_sleep_two_sources"])
def test_h01_to_h03_apple_health(trouble, name):
    path, issues = trouble / name / "export.xml", Issues()
    health = parse_export(path, issues)
    text = path.read_text("utf-8")
    assert len(health["steps"]) == text.count('"HKQuantityTypeIdentifierStepCount"')
    assert not any("broken" in kind for kind in issues.counts)
    assert any("control" in kind for kind in issues.counts) == name.startswith("H02")
    if name.startswith("H03"):
        episodes = sleep_episodes(health)
        assert (episodes["minutes_sleep"] <= 330).all() and (episodes["minutes_sleep"] == 285).all()
        (recording, *_) = read_apple_health(path, ActigraphyCard(name="x", files=("x",)), Issues())
        assert np.nansum(recording.channels["asleep"]) == episodes["minutes_sleep"].sum()
