"""Files without a card: what is recognised, what is asked for, and that the card that comes of it reads the file."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raycadian.config.schema import assignment
from raycadian.modalities.cards import load_card
from raycadian.modalities.detect import card_yaml, make_card
from raycadian.modalities.prepare import prepare, prepare_card
from raycadian.modalities.time_formats import time_format
from raycadian.types import CARBS, GLUCOSE


def glucose_csv(path: Path, form: str = "%Y-%m-%d %H:%M:%S", start: str = "2024-03-10 08:00", n: int = 400, **columns):
    """Readings every 5 minutes with the columns time and glucose, or as `columns` says (None: without it)."""
    clock = (pd.Timestamp(start) + pd.to_timedelta(5 * np.arange(n), unit="min")).strftime(form)
    table = {"time": clock, "glucose": 120 + np.arange(n) % 60} | columns
    pd.DataFrame({k: v for k, v in table.items() if v is not None}).to_csv(path, index=False)
    return path


def values(guesses) -> dict:
    return {guess.name: guess.value for guess in guesses}


# --- glucose --------------------------------------------------------------------------------------------------------


def test_a_plain_table_is_read_as_it_stands(tmp_path):
    card, guesses = make_card([glucose_csv(tmp_path / "anna [2024].csv", who="x")])
    assert (card.modality, card.name, card.unit, card.columns.time) == ("cgm", "anna_2024", "mg/dL", "time")
    assert values(guesses)["columns"] == "not read" and "'who'" in next(g.why for g in guesses if g.name == "columns")
    assert all(guess.how_to_change for guess in guesses)
    snapshot = prepare_card(card, tmp_path, tmp_path / "snapshots")
    assert snapshot.manifest["counts"]["readings"] == 400 and snapshot.subjects == ["anna [2024]"]


def test_the_card_as_yaml_is_the_card(tmp_path):
    files = [
        glucose_csv(
            tmp_path / "a.csv", form="%d/%m/%Y %H:%M", n=900, id="p1", carbs=np.where(np.arange(900) == 7, 30, np.nan)
        )
    ]
    card, guesses = make_card(files, overrides=("timezone=Europe/Berlin", "grid.min_points=20"), name="mine")
    (tmp_path / "card.yaml").write_text(card_yaml(card, guesses), encoding="utf-8")
    assert load_card(tmp_path / "card.yaml") == card and card.name == "mine" and card.grid.min_points == 20
    text = (tmp_path / "card.yaml").read_text()
    assert all(f"# {guess.name}: " in text for guess in guesses) and "timezone: Europe/Berlin" in text
    assert max(map(len, text.splitlines())) <= 120
    snapshot = prepare(tmp_path / "card.yaml", tmp_path / "snapshots")
    assert snapshot.subjects == ["p1"] and snapshot.events("p1")["kind"].tolist() == [CARBS]
    assert snapshot.recordings("p1")[0].utc_offset_min == 60


@pytest.mark.parametrize(
    ("glucose", "unit"), [(lambda n: 6 + np.arange(n) % 3, "mmol/L"), (lambda n: 90 + np.arange(n) % 3, "mg/dL")]
)
def test_the_unit_is_told_by_values_that_leave_no_doubt(tmp_path, glucose, unit):
    card, guesses = make_card([glucose_csv(tmp_path / "a.csv", glucose=glucose(400))])
    assert card.unit == unit and "median" in next(g.why for g in guesses if g.name == "unit")


def test_a_unit_that_values_don_t_tell_is_asked_for(tmp_path):
    path = glucose_csv(tmp_path / "a.csv", glucose=33 + np.arange(400) % 3)
    with pytest.raises(ValueError, match="add --unit mg/dL or --unit mmol/L"):
        make_card([path])
    assert make_card([path], overrides=("unit=mmol/L",))[0].unit == "mmol/L"


def test_a_unit_in_the_column_s_name_is_taken(tmp_path):
    table = {"glucose": None, "Sensor glucose (mmol/L)": 30 + np.arange(400) % 3}
    card, _ = make_card([glucose_csv(tmp_path / "a.csv", **table)])
    assert (card.unit, card.columns.glucose) == ("mmol/L", "Sensor glucose (mmol/L)")


@pytest.mark.parametrize(
    ("form", "start"),
    [
        ("%d/%m/%Y "
            "%H:%M", "2024-03-10 08:00"), ("%m/%d/%Y %H:%M", "2024-03-10 08:00"), ("%d.%m.%Y %H:%M:%S", "2024-05-20"),
        ("%m/%d/%y %I:%M %p", "2024-02-27 22:00"), ("%Y/%m/%d %H:%M", "2024-02-03 04:00"),
    ],
)  # fmt: skip
def test_the_order_of_day_and_month_is_told_by_what_goes_on(tmp_path, form, start):
    card, _ = make_card([glucose_csv(tmp_path / "a.csv", form=form, start=start, n=900)])
    snapshot = prepare_card(card, tmp_path, tmp_path / "snapshots")
    (recording,) = snapshot.recordings("a")
    assert (card.time_format, recording.start_utc) == (form, np.datetime64(pd.Timestamp(start), "s"))


def test_an_order_that_no_row_tells_is_asked_for(tmp_path):
    path = glucose_csv(tmp_path / "a.csv", form="%d/%m/%Y %H:%M", start="2024-03-04 08:00", n=100)
    with pytest.raises(ValueError, match=r"day first or month first.* or --set (.*)$") as error:
        make_card([path])
    (said,) = shlex.split(re.findall("--set (.*)$", str(error.value))[0].split(" or --set ")[1])
    assert said == "time_format=%m/%d/%Y %H:%M"
    with pytest.raises(ValueError, match="is not readable as YAML; quote it"):
        make_card([path], overrides=("license=[a",))
    assert make_card([path], overrides=(said,))[0].time_format == "%m/%d/%Y %H:%M"


@pytest.mark.parametrize(("suffix", "asked"), [("", False), ("+02:00", False), ("Z", True)])
def test_a_time_zone_is_asked_for_where_times_are_in_utc_alone(tmp_path, suffix, asked):
    path = glucose_csv(tmp_path / "a.csv", form=f"%Y-%m-%dT%H:%M:%S{suffix}")
    if not asked:
        card, guesses = make_card([path])
        assert card.timezone is None and ("timezone" in values(guesses)) == (suffix == "")
        return
    with pytest.raises(ValueError, match="local time zone is not stated: add --timezone"):
        make_card([path])
    assert make_card([path], overrides=("timezone=Europe/Rome",))[0].timezone == "Europe/Rome"


def test_two_columns_of_glucose_are_asked_about(tmp_path):
    path = glucose_csv(tmp_path / "a.csv", glucose=None, **{"Libre GL": np.arange(400) % 9 + 90, "Dexcom GL": 100})
    with pytest.raises(ValueError, match="glucose may be 'Libre GL' or 'Dexcom GL': --set 'columns.glucose=Libre GL'"):
        make_card([path])
    assert make_card([path], overrides=("columns.glucose=Dexcom GL",))[0].columns.glucose == "Dexcom GL"


def test_a_column_that_counts_rows_is_nobody_s_id(tmp_path):
    counted = glucose_csv(tmp_path / "a.csv", id=np.arange(400))
    several = glucose_csv(tmp_path / "b.csv", id=np.arange(400) // 100)
    assert make_card([counted])[0].columns.subject is None
    card, _ = make_card([several])
    assert card.columns.subject == "id"
    assert prepare_card(card, tmp_path, tmp_path / "snapshots").subjects == ["0", "1", "2", "3"]


def test_whose_several_files_are_is_asked_for(tmp_path):
    paths = [glucose_csv(tmp_path / "a.csv"), glucose_csv(tmp_path / "b.csv", start="2024-05-01")]
    with pytest.raises(ValueError, match="2 files.*add --subject NAME to say whose.*--set subject=null"):
        make_card(paths)
    each, _ = make_card(paths, overrides=("subject=null",))
    one, _ = make_card(paths, overrides=("subject=me",))
    found = [prepare_card(card, tmp_path, tmp_path / "snapshots").subjects for card in (each, one)]
    assert found == [["a", "b"], ["me"]]


def test_all_that_is_unclear_is_asked_at_once(tmp_path):
    path = glucose_csv(tmp_path / "a.csv", form="%Y-%m-%dT%H:%M:%SZ", glucose=35)
    with pytest.raises(ValueError, match=r"(?s)--unit.*\n.*--timezone"):
        make_card([path])


def test_a_table_of_other_names_is_read_by_those_that_the_user_says(tmp_path):
    path = glucose_csv(tmp_path / "a.csv", glucose=None, value=7 + np.arange(400) % 3)
    with pytest.raises(ValueError, match=r"its columns are 'time', 'value'.*--set columns.glucose=NAME"):
        make_card([path])
    card, _ = make_card([path], overrides=("columns.glucose=value",))
    assert (card.modality, card.unit) == ("cgm", "mmol/L")


def test_files_that_are_not_one_data_set(tmp_path):
    first, second = glucose_csv(tmp_path / "a.csv"), glucose_csv(tmp_path / "b.csv", glucose=None, bg=100)
    moves = tmp_path / "moves.csv"
    pd.DataFrame({"time": ["2024-01-01 00:00", "2024-01-01 00:01"], "activity": [3, 4]}).to_csv(moves, index=False)
    with pytest.raises(ValueError, match="columns.glucose differs: .*'glucose'.*'bg'"):
        make_card([first, second], overrides=("subject=null",))
    with pytest.raises(ValueError, match="several modalities: .*a.csv is cgm, .*moves.csv is actigraphy"):
        make_card([first, moves])
    with pytest.raises(ValueError, match="a folder; name its files"):
        make_card([tmp_path])
    with pytest.raises(ValueError, match="no data file"):
        make_card([])


def test_a_table_that_may_be_either(tmp_path):
    path = glucose_csv(tmp_path / "a.csv", activity=5)
    with pytest.raises(ValueError, match="may be cgm or actigraphy: add --modality cgm"):
        make_card([path])
    assert make_card([path], modality="cgm")[0].modality == "cgm"
    assert make_card([path], modality="actigraphy")[0].columns.activity == "activity"
    with pytest.raises(ValueError, match="modality 'eeg'; there are cgm, biosignals, actigraphy"):
        make_card([path], modality="eeg")


def test_a_typo_in_an_override_is_refused(tmp_path):
    with pytest.raises(ValueError, match="grid.min_point: unknown key; did you mean 'min_points'"):
        make_card([glucose_csv(tmp_path / "a.csv")], overrides=("grid.min_point=3",))


# --- activity and biosignals ------------------------------------------------------------------------------------------


def activity_csv(path: Path, **columns) -> Path:
    n = 2 * 1440
    clock = pd.Timestamp("2024-03-10") + pd.to_timedelta(np.arange(n), unit="min")
    table = {"time": clock, "counts": np.arange(n) % 300, "worn": (np.arange(n) % 1440 > 60).astype(int)} | columns
    pd.DataFrame({k: v for k, v in table.items() if v is not None}).to_csv(path, index=False)
    return path


def test_a_table_of_activity(tmp_path):
    card, _ = make_card([activity_csv(tmp_path / "a.csv", participant="p9")])
    chosen = card.columns
    assert (chosen.subject, chosen.time, chosen.activity, chosen.worn) == ("participant", "time", "counts", "worn")
    snapshot = prepare_card(card, tmp_path, tmp_path / "snapshots")
    assert snapshot.subjects == ["p9"] and snapshot.manifest["counts"]["valid_days"] == 2


def test_rows_without_a_time_are_asked_about(tmp_path):
    path = activity_csv(tmp_path / "a.csv", time=None)
    with pytest.raises(ValueError, match="no column of times among 'counts', 'worn'.*columns.minute=null"):
        make_card([path])
    card, _ = make_card([path], overrides=("columns.minute=null",))
    assert prepare_card(card, tmp_path, tmp_path / "snapshots").subjects == ["a"]


def case_csv(path: Path, ecg: str = "ECG_II [mV]", abp: str = "ABP [mmHg]") -> Path:
    t = np.arange(60 * 125) / 125
    beat = np.exp(-2000 * (t % 0.8 - 0.3) ** 2)
    pd.DataFrame({"time_s": t, ecg: beat, abp: 90 + 30 * np.sin(2 * np.pi * t / 0.8), "note": 1}).to_csv(
        path, index=False
    )
    return path


def test_a_table_of_waveforms(tmp_path):
    card, guesses = make_card([case_csv(tmp_path / "case1.csv")])
    assert card.waveforms == {"ecg_ii_mv": ("ECG_II",), "abp_mmhg": ("ABP",)}
    assert "note" in next(g.why for g in guesses if g.name == "tracks")
    assert prepare_card(card, tmp_path, tmp_path / "snapshots").manifest["counts"]["recordings"] == 1


def test_units_of_waveforms_that_nobody_states_are_asked_for(tmp_path):
    path = case_csv(tmp_path / "case1.csv", "ECG_II", "ART")
    with pytest.raises(
        ValueError, match=r"the unit of ECG_II, ART is not stated; .*--set 'waveforms=\{ecg_ii_mv: \[ECG_II\]"
    ):
        make_card([path])
    card, _ = make_card([path], overrides=("waveforms={abp_mmhg: [ART]}",))
    assert card.waveforms == {"abp_mmhg": ("ART",)}


def test_whose_several_cases_are_is_asked_for(tmp_path):
    paths = [case_csv(tmp_path / "case1.csv"), case_csv(tmp_path / "case2.csv")]
    with pytest.raises(ValueError, match="2 files.*add --set clinical.file=cases.csv to say whose"):
        make_card(paths)
    each, _ = make_card(paths, overrides=("subject=null", "same_readings=kept"))
    assert prepare_card(each, tmp_path, tmp_path / "snapshots").subjects == ["case1", "case2"]
    pd.DataFrame({"caseid": ["case1", "case2"], "subjectid": ["p", "p"]}).to_csv(tmp_path / "cases.csv", index=False)
    one, _ = make_card(paths, overrides=(f"clinical.file={tmp_path / 'cases.csv'}",))
    assert prepare_card(one, tmp_path, tmp_path / "snapshots").subjects == ["p"]


def test_a_coarser_grid_is_for_files_that_are_all_coarse(tmp_path):
    coarse = [glucose_csv(tmp_path / f"{name}.csv", who=name) for name in ("c1", "c2")]
    for path in coarse:
        pd.read_csv(path).iloc[::3].to_csv(path, index=False)
    fine, said = glucose_csv(tmp_path / "f.csv", who="f"), ("subject=null",)
    assert make_card(coarse, overrides=said)[0].grid.dt_min == 15
    assert make_card([*coarse, fine], overrides=said)[0].grid.dt_min == 5


# --- real files -------------------------------------------------------------------------------------------------------

REAL = {
    "cgm/exports/dexcom_clarity.csv": {"modality": "cgm", "format": "dexcom_clarity", "unit": "mg/dL"},
    "cgm/exports/libreview_es_mmol.csv": {"modality": "cgm", "format": "libreview", "unit": "mmol/L"},
    "cgm/glucobench/iglu.csv.gz": {"modality": "cgm", "format": "glucobench"},
    "cgm/glucobench/dubosson.csv.gz": {"modality": "cgm", "format": "glucobench"},
    "nhanes/example_01.AWD": {"modality": "actigraphy"},
    "nhanes/nhanes_2003_2004_50subj_1day.csv.gz": {"modality": "actigraphy"},
    "nhanes/nhanes_2003_2004_unidata_5subj.csv.gz": {"modality": "actigraphy"},
    "biosignals/a103l.hea": {"modality": "biosignals"},
    "biosignals/mixedsignals_as_vitaldb.vital": {"modality": "biosignals"},
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read_without_a_card(shared, tmp_path, name):
    card, guesses = make_card([shared / name])
    assert {field: getattr(card, field) for field in REAL[name]} == REAL[name]
    (tmp_path / "card.yaml").write_text(card_yaml(card, guesses), encoding="utf-8")
    snapshot = prepare(tmp_path / "card.yaml", tmp_path / "snapshots")
    assert snapshot.subjects and load_card(tmp_path / "card.yaml") == card


REFUSED = {
    "cgm/cgmacros/CGMacros-001.csv.gz": "glucose may be 'Libre GL' or 'Dexcom GL'",
    "cgm/t1d_uom/UoMGlucose2301.csv.gz": "its columns are 'bg_ts', 'value'",
    "cgm/t1d_uom/UoMBolus2301.csv.gz": "its columns are 'bolus_ts', 'bolus_dose'",
    "nhanes/DEMO_D.XPT": "only tables about people",
    "nhanes/mood_ml/example.csv": "its columns are 'sleep_start', 'sleep_end'",
    "biosignals/vitaldb_clinical_data.csv": "its columns are 'caseid'",
    "biosignals/a103l.mat": "name its header",
}


@pytest.mark.parametrize("name", REFUSED)
def test_real_files_that_are_asked_about_or_refused(shared, name):
    with pytest.raises(ValueError, match=REFUSED[name]):
        make_card([shared / name])


def test_months_of_a_person_of_t1d_uom(shared, tmp_path):
    said = ("columns.time=bg_ts", "columns.glucose=value", "timezone=Europe/London")
    card, _ = make_card([shared / "cgm/t1d_uom/UoMGlucose2301.csv.gz"], overrides=said)
    assert (card.unit, card.time_format) == ("mmol/L", "%d/%m/%Y %H:%M")
    snapshot = prepare_card(card, tmp_path, tmp_path / "snapshots")
    raw = pd.read_csv(shared / "cgm/t1d_uom/UoMGlucose2301.csv.gz")
    assert snapshot.manifest["counts"]["readings"] == raw["bg_ts"].nunique()
    assert np.nanmax(snapshot.recordings(snapshot.subjects[0])[0].channels[GLUCOSE]) > 40


def test_what_a_guess_says_to_change_can_be_said(shared):
    """Each `--set` of a guess is of the grammar, and of the card."""
    card, guesses = make_card([shared / "cgm/exports/dexcom_clarity.csv"])
    for guess in guesses:
        for text in guess.how_to_change.split("--set ")[1:]:
            assert assignment(text)[0].partition(".")[0] in type(card).model_fields


def test_where_every_second_reading_is_lost_the_step_is_still_the_sensors(tmp_path):
    path, kept = tmp_path / "holes.csv", np.random.default_rng(3).random(800) < 0.5
    times = pd.date_range("2026-01-05", periods=800, freq="5min")[kept]
    pd.DataFrame({"time": times, "glucose": np.arange(len(times)) % 90 + 90}).to_csv(path, index=False)
    assert make_card([path])[0].grid.dt_min == 5


def test_a_header_without_rows_is_told_as_that(tmp_path):
    (tmp_path / "empty.csv").write_text("time,glucose\n")
    with pytest.raises(ValueError, match="no row below the header with 'glucose'"):
        make_card([tmp_path / "empty.csv"])


def test_cells_that_are_marked_as_missing_are_counted(tmp_path):
    times = pd.date_range("2026-01-05", periods=300, freq="5min")
    glucose = ["---" if i % 50 == 1 else str(90 + i % 90) for i in range(300)]
    pd.DataFrame({"time": times, "glucose": glucose}).to_csv(tmp_path / "dashes.csv", index=False)
    snapshot = prepare_card(make_card([tmp_path / "dashes.csv"])[0], tmp_path, tmp_path / "out", on_ray=False)
    assert snapshot.manifest["issues"]["glucose is marked as missing"]["count"] == 6


FORMS = (
    "%d.%m.%Y %H:%M", "%d.%m.%Y. %H:%M", "%d.%m.%Y %H.%M", "%d. %m. %Y %H:%M:%S", "%d-%m-%Y %Hh%M", "%d.%m.%y;%H:%M",
    "%d/%m/%Y - %I:%M:%S %p", "%m_%d_%y %H:%M", "%Y.%m.%d. %H:%M", "%d %b %Y %H:%M", "%d-%B-%Y, %I:%M%p",
    "%Y%m%d %H%M", "%d.%m.%Y klo %H.%M", "%Y/%m/%d %H:%M:%S.%f",
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_times_in_the_forms_of_many_places_are_recognised(form):
    """25.01.2024. 08:05 was refused with a format that does not read it."""
    times = pd.date_range("2024-01-25 08:05", periods=40, freq="4h")
    texts = list(times.strftime(form))
    chosen = time_format(texts, {}).column
    assert (pd.to_datetime(pd.Series(texts), format=chosen) == times).all(), chosen


@pytest.mark.parametrize("text", ["25.01.2024", "8:05 25.01.2024", "week 3", "25.13.20245 08:05", "%d.01.2024 08:05"])
def test_what_no_form_reads_is_told_how_it_may_be_written(text):
    with pytest.raises(ValueError, match="(write them as|in one column, such as) 2026-01-05 08:00"):
        time_format([text] * 5, {})


def columns_of(**forms):
    """A table whose times are written in columns by format; `value` stands for readings."""
    times = pd.date_range("2024-01-02 08:05", periods=60, freq="5min")
    values = {"value": (120 + np.arange(60) % 17).astype(str), "unclear": np.full(60, "30.5"), "id": np.repeat("a", 60)}
    return pd.DataFrame({name: values.get(form, times.strftime(form)) for name, form in forms.items()})


ASKED = {
    "date and clock": {"Datum": "%d.%m.%Y", "Uhrzeit": "%H:%M", "glucose": "value"},
    "joined beside them": {"Datum": "%d.%m.%Y", "Uhrzeit": "%H:%M", "time": "%d.%m.%Y %H:%M", "glucose": "value"},
    "joined under any name": {"Datum": "%d.%m.%Y", "Uhrzeit": "%H:%M", "Zeit": "%d.%m.%Y %H:%M", "glucose": "value"},
    "two dates": {"birth": "%d.%m.%Y", "day": "%d.%m.%Y", "clock": "%H:%M", "glucose": "value"},
    "two clocks": {"day": "%d.%m.%Y", "sleep": "%H:%M", "clock": "%H:%M", "glucose": "value"},
    "day or month": {"day": "%d/%m/%Y", "clock": "%H:%M", "glucose": "value"},
    "two times": {"time": "%Y-%m-%d %H:%M", "timestamp": "%d.%m.%Y %H:%M", "glucose": "value"},
    "two values": {"time": "%Y-%m-%d %H:%M", "glucose": "value", "glucose_2": "value"},
    "in UTC": {"time": "%Y-%m-%dT%H:%M:%SZ", "glucose": "value"},
    "unit": {"time": "%Y-%m-%d %H:%M", "glucose": "unclear"},
    "two ids": {"time": "%Y-%m-%d %H:%M", "patient": "id", "participant": "id", "glucose": "value"},
}
SETTING = re.compile(r"--(?:set ('[^']+'|\S+?)|(timezone|unit) (\S+?))(?=[,;)\s]|$)")


@pytest.mark.slow
@pytest.mark.parametrize("name", ASKED)
def test_whoever_follows_what_is_asked_gets_a_card(name, tmp_path):
    """Whoever joined date and clock as advised was asked the same again."""
    path = tmp_path / "mine.csv"
    columns_of(**ASKED[name]).to_csv(path, index=False)
    said: list[str] = []
    for _ in range(4):
        try:
            card, _ = make_card([path], overrides=tuple(said))
            break
        except ValueError as error:
            setting, option, value = SETTING.search(str(error)).groups()
            added = shlex.split(setting)[0] if setting else f"{option}={value}"
            assert added not in said, f"asked again: {error}"
            said.append(added)
    assert len(prepare_card(card, tmp_path, tmp_path / "out").subjects) == 1
