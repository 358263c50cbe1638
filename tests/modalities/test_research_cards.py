"""The cards of research data sets, each on a small made file in its set's layout: who is in it, what is read, what is
counted. The layouts' sources are named in the cards."""

import csv
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_packed import xlsx

from raycadian.data.snapshot import Snapshot
from raycadian.modalities.cards import load_card
from raycadian.modalities.prepare import prepare
from raycadian.types import GLUCOSE

pytestmark = pytest.mark.slow
DATASETS = Path(__file__).parents[2] / "datasets"
SHARED = "../../shared/data/"
N = 60
MGDL = np.array([90 + 7 * i % 83 for i in range(N)], dtype=float)
MMOLL = np.round(MGDL / 18.0182, 1)
TIME = pd.date_range("2024-02-05 08:00", periods=N, freq="5min")
QUARTERS = pd.date_range("2024-02-05 08:00", periods=N, freq="15min")
ISO = TIME.strftime("%Y-%m-%d %H:%M:%S")
EMPTY = [""] * N
MEAL = ["", "", "40"] + [""] * (N - 3)
DOSE = ["", "", "3.5"] + [""] * (N - 3)


def table(path: Path, sep: str = ",", **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame({name.replace("__", " "): values for name, values in columns.items()})
    frame.to_csv(path, index=False, sep=sep)


def workbook(path: Path, sheets: dict[str, pd.DataFrame]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    xlsx(
        path,
        {name: [list(frame.columns), *map(_cells, frame.itertuples(index=False))] for name, frame in sheets.items()},
    )


def _cells(row: Any) -> list[Any]:
    """Times as Excel has them: days since 1899-12-30."""
    since = pd.Timestamp("1899-12-30")
    return [("date", (v - since) / pd.Timedelta(days=1)) if isinstance(v, pd.Timestamp) else v for v in row]


def t1d_uom(folder: Path) -> None:
    for person in ("2301", "2302"):
        table(folder / f"cgm/t1d_uom/UoMGlucose{person}.csv", bg_ts=TIME.strftime("%d/%m/%Y %H:%M"), value=MMOLL)
    clock = ["05/02/2024 08:10"]
    table(folder / "cgm/t1d_uom/UoMBolus2301.csv", bolus_ts=clock, bolus_dose=[2.4])
    table(folder / "cgm/t1d_uom/UoMBasal2301.csv", basal_ts=clock * 2, basal_dose=[1.7, 20], insulin_kind=["R", "L"])
    meal = {"meal_type": ["Lunch"], "meal_tag": ["Soup"], "carbs_g": [40], "prot_g": [9], "fat_g": [7], "fibre_g": [2]}
    table(folder / "cgm/t1d_uom/UoMNutrition2302.csv", meal_ts=clock, **meal)


def cgmacros(folder: Path) -> None:
    minute = pd.date_range("2024-02-05 08:00", periods=600, freq="1min")
    dexcom = np.interp(np.arange(600), np.arange(0, 600, 10), MGDL).round(3)
    late = [value if i >= 120 else "" for i, value in enumerate(dexcom)]
    at = {name: [grams if i == 400 else "" for i in range(600)] for name, grams in
        (("Carbs", "66"), ("Protein", "22"), ("Fat", "10"), ("Fiber", "3"))}  # fmt: skip
    meals = {"Meal__Type": [""] * 600, **at}
    bio = {"Age": [27, 49], "Gender": ["M", "F"], "BMI": [22.3, 30.9], "A1c__PDL__(Lab)": [5.4, 7.1]}
    table(folder / "cgm/cgmacros/bio.csv", subject=[1, 14], **bio)
    for number, order in (("001", ("Libre__GL", "Dexcom__GL")), ("014", ("Dexcom__GL", "Libre__GL"))):
        glucose = {"Dexcom__GL": dexcom, "Libre__GL": late}
        path = folder / f"cgm/cgmacros/CGMacros-{number}.csv"
        own = {name: glucose[name] for name in order}
        table(path, Timestamp=minute.strftime("%Y-%m-%d %H:%M:%S"), **own, HR=60.0, **meals)


def d1namo(folder: Path) -> None:
    for person in ("001", "002"):
        path = folder / f"cgm/d1namo/diabetes_subset_pictures-glucose-food-insulin/{person}/glucose.csv"
        kinds = ["manual" if i == 5 else "cgm" for i in range(N)]
        table(path, date=TIME.strftime("%Y-%m-%d"), time=TIME.strftime("%H:%M:%S"), glucose=MMOLL, type=kinds,
            comments=EMPTY)  # fmt: skip


def hupa_ucm(folder: Path) -> None:
    for person in ("0001", "0028"):
        table(
            folder / f"cgm/hupa_ucm/Preprocessed/HUPA{person}P.csv", ";", time=TIME.strftime("%Y-%m-%dT%H:%M:%S"),
            glucose=MGDL, calories=5.1, heart_rate=70, steps=0, basal_rate=0.05, bolus_volume_delivered=DOSE,
        )  # fmt: skip


def brist1d(folder: Path) -> None:
    for person in ("P01", "P24"):
        path = folder / f"cgm/brist1d/device_data/processed_state/{person}.csv"
        glucose = ["" if i % 6 == 5 else value for i, value in enumerate(MMOLL)]  # rows of other events
        table(path, timestamp=ISO, bg=glucose, insulin=0.05, carbs=MEAL, hr=61, dist=0, steps=0, cals=1, activity=EMPTY,
            device="Dexcom G6")  # fmt: skip


def azt1d(folder: Path) -> None:
    for person, name in (("1", "CGM"), ("2", "Readings__(CGM__/__BGM)"), ("3", "CGM")):
        path = folder / f"cgm/azt1d/CGM Records/Subject {person}/Subject {person}.csv"
        about = {"DeviceMode": EMPTY, "BolusType": EMPTY, "Basal": 850.0, "CorrectionDelivered": EMPTY}
        table(path, EventDateTime=ISO, **about, TotalBolusInsulinDelivered=DOSE, FoodDelivered=EMPTY, CarbSize=MEAL,
            **{name: MGDL})  # fmt: skip


def diatrend(folder: Path) -> None:
    bolus = pd.DataFrame({"date": [TIME[3]], "normal": [2.5], "carbInput": [40]})
    for person in ("1", "55"):
        sheets = {"CGM": pd.DataFrame({"date": TIME, "mg/dl": MGDL}), "Bolus": bolus}
        workbook(folder / f"cgm/diatrend/Subject{person}.xlsx", sheets)


def shanghai(kind: str, people: tuple[str, ...]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for person in people:
            frame = pd.DataFrame(
                {"Date": QUARTERS, "CGM (mg / dl)": MGDL, "CBG (mg / dl)": "", "Dietary intake": "rice 50 g"}
            )
            for period, first in ((0, QUARTERS[0]), (1, QUARTERS[0] + pd.Timedelta(days=20))):
                own = frame.assign(Date=frame["Date"] + (first - QUARTERS[0]))
                path = folder / f"cgm/shanghai/Shanghai_{kind}/{person}_{period}_{first:%Y%m%d}.xlsx"
                workbook(path, {"Sheet1": own})

    return write


def ohio_t1dm(folder: Path) -> None:
    for part, day in (("train", "05"), ("test", "06")):
        events = "".join(
            f'<event ts="{day}-02-2024 {t:%H:%M:%S}" value="{v:g}"/>' for t, v in zip(TIME, MGDL, strict=True)
        )
        meal = f'<meal><event ts="{day}-02-2024 09:00:00" type="Lunch" carbs="60"/></meal>'
        path = folder / f"cgm/ohio_t1dm/2018/{part}/559-ws-{part}ing.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'<patient id="559" weight="99"><glucose_level>{events}</glucose_level>{meal}</patient>')


def glucobench(name: str) -> Callable[[Path], None]:
    return lambda folder: table(folder / f"cgm/glucobench/{name}.csv", id=["1"] * 30 + ["2"] * 30, time=ISO, gl=MGDL)


def mesa(folder: Path) -> None:
    clock = pd.date_range("2024-02-05 23:30", periods=3200, freq="30s")
    for person in ("0001", "0002"):
        table(
            folder / f"nsrr/mesa/actigraphy/mesa-sleep-{person}.csv", mesaid=int(person), line=range(1, len(clock) + 1),
            linetime=clock.strftime("%H:%M:%S"), offwrist=(np.arange(len(clock)) < 120).astype(int),
            activity=np.arange(len(clock)) % 50 + 1, marker=0, whitelight=1.5, wake=1, interval="ACTIVE", dayofweek=2,
        )  # fmt: skip


def bidmc(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number in ("01", "02"):
        t = np.arange(2000) / 125
        signals = {
            name: np.round(0.5 + 0.1 * np.sin(7 * t) + 0.01 * rng.normal(size=2000), 5) for name in ("PLETH", "II")
        }
        path = folder / f"biosignals/bidmc/bidmc_csv/bidmc_{number}_Signals.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["Time [s]", " RESP", " PLETH", " V", " AVR", " II"])
            rows.writerows(zip((f"{x:.5g}" for x in t), t, signals["PLETH"], t, t, signals["II"], strict=True))


def mimic4(folder: Path) -> None:
    import wfdb

    root = folder / "biosignals/mimic4wdb"
    t = np.arange(2500) / 250
    values = np.stack([np.sin(7 * t), 0.5 + 0.4 * np.sin(7 * t)], axis=1)
    for subject, record in (("p10014354", "81739927"), ("p10014354", "81739928"), ("p10020306", "83404654")):
        place = root / f"waves/{subject[:4]}/{subject}/{record}"
        place.mkdir(parents=True)
        for name in (record, f"{record}_0001"):  # and a segment of its own, which is no case
            wfdb.wrsamp(name, fs=250, units=["mV", "NU"], sig_name=["II", "Pleth"], p_signal=values, fmt=["16", "16"],
                write_dir=str(place))  # fmt: skip


Check = dict[str, Any]
CARDS: dict[str, tuple[Callable[[Path], None], set[str], Check]] = {
    "t1d_uom": (t1d_uom, {"2301", "2302"}, {"readings": 2 * N, "events": 6, "row that keep_rows leaves out": 1}),
    "cgmacros_dexcom": (cgmacros, {"001", "014"}, {"events": 8, "readings": 1200}),
    "cgmacros_libre": (cgmacros, {"001", "014"}, {"events": 8, "row without a glucose value": 240}),
    "d1namo": (d1namo, {"001", "002"}, {"readings": 2 * N - 2, "row that keep_rows leaves out": 2}),
    "hupa_ucm": (hupa_ucm, {"0001", "0028"}, {"events": 2, "readings": 2 * N}),
    "brist1d": (brist1d, {"P01", "P24"}, {"events": 2, "row without a glucose value": 20}),
    "azt1d": (azt1d, {"1", "3"}, {"events": 4, "file that can't be read (left out)": 1}),
    "diatrend": (diatrend, {"1", "55"}, {"readings": 2 * N, "events": 4}),
    "shanghai_t1dm": (shanghai("T1DM", ("1001", "1002")), {"1001", "1002"}, {"readings": 4 * N}),
    "shanghai_t2dm": (shanghai("T2DM", ("2001",)), {"2001"}, {"readings": 2 * N}),
    "ohio_t1dm": (ohio_t1dm, {"559"}, {"readings": 2 * N, "events": 2, "subject in several files (joined)": 1}),
    "hall": (glucobench("hall"), {"1", "2"}, {"readings": N}),
    "weinstock": (glucobench("weinstock"), {"1", "2"}, {"readings": N}),
    "mesa_actigraphy": (mesa, {"1", "2"}, {"days": 2}),
    "bidmc": (bidmc, {"bidmc_01_Signals", "bidmc_02_Signals"}, {}),
    "mimic4_waveforms": (mimic4, {"p10014354", "p10020306"}, {"cases": 3}),
}  # fmt: skip


def prepared(name: str, folder: Path) -> Snapshot:
    """The snapshot of a card, which looks for its files below `folder`."""
    path = folder / f"{name}.yaml"
    text = (DATASETS / path.name).read_text(encoding="utf-8").replace(SHARED, "")
    text = text if "same_readings" in text else f"{text}\nsame_readings: kept\n"  # its people all have the same
    path.write_text(text, encoding="utf-8")
    return prepare(path, folder / "snapshots", on_ray=False)


@pytest.mark.parametrize("name", CARDS)
def test_a_card_reads_its_layout(name, tmp_path):
    write, subjects, expected = CARDS[name]
    write(tmp_path)
    card = load_card(DATASETS / f"{name}.yaml")
    assert card.license and card.source and card.citation and all(file.startswith(SHARED) for file in card.files)
    snapshot = prepared(name, tmp_path)
    found = snapshot.manifest["counts"] | {k: issue["count"] for k, issue in snapshot.manifest["issues"].items()}
    assert set(snapshot.subjects) == subjects
    assert {kind: found.get(kind) for kind in expected} == expected, found


def test_mmol_and_minutes_become_what_was_measured(tmp_path):
    """One reading each of the sets whose unit or step is not the usual one."""
    t1d_uom(tmp_path)
    (recording,) = prepared("t1d_uom", tmp_path).recordings("2301")
    np.testing.assert_allclose(recording.channels[GLUCOSE], np.round(MMOLL * 18.0182), atol=0.01)
    assert str(recording.start_utc) == "2024-02-05T08:00:00" and recording.utc_offset_min == 0


REAL = {
    "t1d_uom": (17, 340_200, 21_393, {"duplicate time, same value (kept once)": 15_659}),
    "cgmacros_dexcom": (45, 629_825, 5_868, {"row without a glucose value": 57_755}),
}


@pytest.mark.long
@pytest.mark.parametrize("name", REAL)
def test_the_real_files_give_the_counts_that_they_gave(shared, name, tmp_path):
    people, readings, events, issues = REAL[name]
    manifest = prepare(DATASETS / f"{name}.yaml", tmp_path, on_ray=False).manifest
    assert [manifest["counts"][k] for k in ("subjects", "readings", "events")] == [people, readings, events]
    assert {kind: manifest["issues"][kind]["count"] for kind in issues} == issues


def test_a_packed_copy_reads_alike(tmp_path):
    glucobench("hall")(tmp_path)
    path = tmp_path / "cgm/glucobench/hall.csv"
    path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert prepared("hall", tmp_path).subjects == ["1", "2"]
