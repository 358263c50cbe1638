"""A small sound file of every format that a reader knows, and how it is read: what fuzzing starts from."""

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import test_actigraphy as of_devices
import test_apple_health as of_health
import test_biosignals as of_signals
import test_cgm_oddities as of_carelink
import test_packed as of_packed
import test_readers_formats as of_glucose
import test_xpt as of_xpt
from test_activity_oddities import ACTIWARE

from raycadian.modalities.actigraphy.card import ActigraphyCard, ActivityColumns
from raycadian.modalities.actigraphy.episodes import read_episodes
from raycadian.modalities.actigraphy.formats.xpt import Xpt
from raycadian.modalities.actigraphy.readers import labels, read_activity
from raycadian.modalities.actigraphy.simulate import simulate_nhanes
from raycadian.modalities.biosignals.readers import read_case
from raycadian.modalities.cgm.card import CGMCard, Columns
from raycadian.modalities.cgm.readers import read_files
from raycadian.modalities.detect import make_card
from raycadian.types import Issues

Read = Callable[[Path], object]


@dataclass(frozen=True)
class Seed:
    """A file of a format. read: as its card says · companions: files beside it, by name."""

    format: str
    suffix: str
    content: bytes
    read: Read
    companions: dict[str, bytes] = field(default_factory=dict)

    def write(self, folder: Path, content: bytes) -> Path:
        for name, own in self.companions.items():
            (folder / name).write_bytes(own)
        path = folder / f"input{self.suffix}"
        path.write_bytes(content)
        return path


def glucose(kind: str = "auto", **settings: object) -> Read:
    card = CGMCard(name="t", files=("*",), format=kind, **settings)
    return lambda path: list(read_files([path], card, Issues()))


def activity(**settings: object) -> Read:
    card = ActigraphyCard(name="t", files=("*",), **settings)
    return lambda path: list(read_activity([path], card, Issues()))


def signals(path: Path) -> object:
    return read_case(path, subject="a", rate_hz=None, issues=Issues())


def table(path: Path) -> object:
    return [Xpt.open(path).frame()]


def people(path: Path) -> object:
    """With a sound table of the same people beside it."""
    return labels([path, path.with_name("sound-demo.XPT")])


def recognised(path: Path) -> object:
    """As `prepare FILE` does it: what the file is, by its content, and then its reader."""
    card, _ = make_card([path])
    return list(READ_BY[card.modality](path, card))


READ_BY: dict[str, Callable[..., object]] = {
    "cgm": lambda path, card: read_files([path], card, Issues()),
    "actigraphy": lambda path, card: read_activity([path], card, Issues()),
    "biosignals": lambda path, card: [read_case(path, subject="a", issues=Issues())],
}


# --- glucose --------------------------------------------------------------------------------------------------------

N, ISO = 40, "%Y-%m-%dT%H:%M:%S"
TIMES = pd.date_range("2024-06-06 00:00:41", periods=N, freq="5min")
MGDL = [90 + 7 * i % 83 for i in range(N)]


def _table(sep: str = ",", form: str = "%Y-%m-%d %H:%M:%S", mark: str = ".", factor: float = 1.0) -> bytes:
    rows = [
        sep.join(
            ("p1", t.strftime(form), f"{v / factor:.1f}".replace(".", mark), "12" if i % 9 == 0 else "", "0,5"[:1])
        )
        for i, (t, v) in enumerate(zip(TIMES, MGDL, strict=True))
    ]
    return "\n".join([sep.join(("id", "time", "glucose", "carbs", "bolus")), *rows]).encode()


def _rows(row: Callable[[int, pd.Timestamp, int], Any]) -> list[Any]:
    return [row(i, t, v) for i, (t, v) in enumerate(zip(TIMES, MGDL, strict=True))]


def _clarity() -> str:
    rows = _rows(lambda i, t, v: of_glucose.clarity_row(i + 3, t.strftime(ISO), "EGV", "", str(v)))
    rows.append(of_glucose.clarity_row(99, TIMES[3].strftime(ISO), "Insulin", "Fast-Acting", "", "4.5"))
    rows.append(of_glucose.clarity_row(100, TIMES[5].strftime(ISO), "EGV", "Low", "Low"))
    return "\ufeff" + "\r\n".join([of_glucose.CLARITY, *of_glucose.PREAMBLE, *rows]) + "\r\n"


def _libre() -> str:
    def row(i: int, t: pd.Timestamp, v: int) -> str:
        value = f"{v / 18:.1f}".replace(".", ",")
        return of_glucose.libre_row(t.strftime("%d-%m-%Y %H:%M"), i % 2, **{("history", "scan")[i % 2]: value})

    dose = of_glucose.libre_row("06-06-2024 01:02", 4, insulin="3,5")
    return "\n".join(["Informe,Generado el,20-04-2024 15:09 UTC", "NAME,DOB", of_glucose.LIBRE_ES, *_rows(row), dose])


def _nightscout() -> str:
    meal = {"eventType": "Meal Bolus", "created_at": "2024-01-10T08:03:00Z", "carbs": 40, "insulin": 3.2}
    return json.dumps([*_rows(lambda i, t, v: of_glucose.entry(5 * i, v, utcOffset=60)), meal | {"utcOffset": 60}])


def _tidepool() -> str:
    def row(i: int, t: pd.Timestamp, v: int) -> dict[str, Any]:
        return of_glucose.record("cbg", f"{8 + i // 12:02d}:{5 * i % 60:02d}", value=v / 18, units="mmol/L")

    dose = {"subType": "dual/square", "normal": 2.0, "extended": 1.5, "duration": 1_800_000}
    bolus = of_glucose.record("bolus", "08:00", **dose)
    basal = of_glucose.record("basal", "08:00", deliveryType="scheduled", rate=0.8, duration=3_600_000)
    return json.dumps([*_rows(row), bolus, basal])


def of_cgm(folder: Path) -> list[Seed]:
    columns = Columns(subject="id", carbs_g="carbs", bolus_u="bolus")
    table = {"unit": "mg/dL", "columns": columns}
    mmoll = table | {"unit": "mmol/L", "time_format": "%d.%m.%Y %H:%M"}
    parquet = io.BytesIO()
    pd.DataFrame({"id": "p1", "time": TIMES, "glucose": MGDL, "carbs": 1.0, "bolus": 0.5}).to_parquet(parquet)
    bench = "\n".join(["id,time,gl", *_rows(lambda i, t, v: f"1,{t.strftime(ISO)},{v}")])
    pump = of_glucose.pump(folder / "p.csv", "2024-01-10 08:00", [100, 110, float("nan"), 600] * 5).read_bytes()
    carelink = of_carelink.CARELINK.format(header=of_carelink.HEADER)
    rows = [["id", "time", "glucose"], *_rows(lambda i, t, v: ["p1", ("date", 45_300 + i / 288), v])]
    book = of_packed.xlsx(folder / "b.xlsx", {"Readings": rows, "About": [["made up"]]}).read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/one.csv", _table())
        archive.writestr("README.md", "about")
    return [
        Seed(
            "workbook",
            ".xlsx",
            book,
            glucose("generic", sheet="Readings", **table | {"columns": Columns(subject="id")}),
        ),
        Seed("archive", ".zip", packed.getvalue(), glucose("generic", **table)),
        Seed("generic", ".csv", _table(), glucose("generic", **table)),
        Seed("generic", ".csv", _table(";", "%d.%m.%Y %H:%M", ",", 18), glucose("generic", **mmoll)),
        Seed("generic", ".parquet", parquet.getvalue(), glucose("generic", **table)),
        Seed("glucobench", ".csv", bench.encode(), glucose("glucobench", unit="mg/dL")),
        Seed("dexcom_clarity", ".csv", _clarity().encode(), glucose("dexcom_clarity")),
        Seed("libreview", ".csv", _libre().encode(), glucose("libreview")),
        Seed("nightscout", ".json", _nightscout().encode(), glucose("nightscout")),
        Seed("tidepool", ".json", _tidepool().encode(), glucose("tidepool")),
        Seed("ohio_t1dm", ".xml", of_glucose.OHIO.encode(), glucose("ohio_t1dm")),
        Seed("pump_v2", ".csv", pump, glucose("pump_v2", timezone="Europe/Madrid")),
        Seed("carelink", ".csv", carelink.encode(), glucose("carelink")),
    ]


# --- activity -------------------------------------------------------------------------------------------------------

COUNTS = [7 * i % 113 for i in range(300)]
WHEN = pd.date_range("2024-01-14 22:00", periods=len(COUNTS), freq="1min")
ACTILIFE = (
    "------------ Data File Created By ActiGraph wGT3XPlus ActiLife v6 date format M/d/yyyy Filter Normal ------",
    "Serial Number: X1", "Start Time 09:00:00", "Start Date 8/6/2013", "Epoch Period (hh:mm:ss) 00:00:15",
    "Download Time 12:54:04", "Download Date 8/7/2013", "Current Memory Address: 0", "Mode = 13", "-" * 50,
    "axis1,axis2",
)  # fmt: skip


def _lines(head: str, row: Callable[[int, pd.Timestamp, int], str]) -> bytes:
    return "\n".join([head, *(row(i, t, c) for i, (t, c) in enumerate(zip(WHEN, COUNTS, strict=True), 1))]).encode()


def _of_devices(folder: Path) -> list[Seed]:
    awd = of_devices.write_awd(folder / "x.AWD", COUNTS).read_bytes()
    agd = of_devices.write_agd(folder / "x.agd", "2024-05-01T10:30", COUNTS).read_bytes()
    rpx = of_devices.write_respironics(folder / "r.csv", "2024-05-21T10:30", COUNTS, [0] * len(COUNTS)).read_bytes()
    german = _lines(ACTIWARE.rstrip(), lambda i, t, c: f"{i},{t:%d.%m.%Y},{t:%H:%M:%S},0,{c},0,1,AKTIV")
    actilife = _lines("\n".join(ACTILIFE), lambda i, t, c: f"{c},1")
    flags = io.BytesIO()
    np.savez(flags, SEQN=np.array([1.0, 2.0]), WEEKDAY=np.array([1.0, 1.0]), wear=np.ones((2, 1440), np.uint8))
    return [
        Seed("awd", ".AWD", awd, activity()),
        Seed("agd", ".agd", agd, activity()),
        Seed("respironics", ".csv", rpx, activity()),
        Seed("respironics", ".csv", german, activity()),
        Seed("actilife", ".csv", actilife, activity()),
        Seed("wear_flags", ".npz", flags.getvalue(), activity()),
    ]


def _of_tables(folder: Path) -> list[Seed]:
    columns = ActivityColumns(subject="subject", time="time", activity="activity", worn="worn")
    table = _lines("subject,time,activity,worn", lambda i, t, c: f"a,{t:%Y-%m-%d %H:%M:%S},{c},{int(c > 5)}")
    mesa = _lines("mesaid,line,linetime,offwrist,activity,dayofweek", lambda i, t, c: f"7,{i},{t:%H:%M:%S},0,{c},5")
    nights = [f"2024-03-{d:02d} 23:09,2024-03-{d + 1:02d} 07:43,459" for d in range(4, 12)]
    episodes = "\n".join(["sleep_start,sleep_end,minutes_sleep", *nights])
    health = of_health.write(folder / "export.xml").read_bytes()
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("apple_health_export/export.xml", health)
    return [
        Seed("table", ".csv", table, activity(columns=columns)),
        Seed("table", ".csv", mesa, activity()),
        Seed("apple_health", ".xml", health, activity()),
        Seed("apple_health", ".zip", zipped.getvalue(), activity()),
        Seed("episodes", ".csv", episodes.encode(), lambda path: read_episodes(path, None, Issues())),
    ]


def _of_nhanes(folder: Path) -> list[Seed]:
    made = simulate_nhanes(1, folder / "d" / "files", "D", seed=1).with_suffix("")
    minutes, demographics, depression = (next(made.glob(f"{n}*")).read_bytes() for n in ("PAXRAW", "DEMO", "DPQ"))
    return [
        Seed("minutes_counts", ".XPT", minutes[: 2000 + 80 * 720], activity()),
        Seed("xpt", ".xpt", of_xpt.write(folder / "t.xpt").read_bytes(), table),
        Seed("xpt", ".XPT", depression, people, {"sound-demo.XPT": demographics}),
        Seed("xpt", ".XPT", demographics, lambda path: labels([path])),
    ]


def of_activity(folder: Path) -> list[Seed]:
    return [*_of_devices(folder), *_of_tables(folder), *_of_nhanes(folder)]


# --- signals --------------------------------------------------------------------------------------------------------


def of_biosignals(folder: Path) -> list[Seed]:
    made = {kind: of_signals.write(folder / f"input{suffix}", kind) for kind, suffix in of_signals.KINDS.items()}
    content = {kind: path.read_bytes() for kind, path in made.items()}
    data = {"input.dat": (folder / "input.dat").read_bytes()}
    head = {"input.hea": content["wfdb"]}
    seeds = [
        Seed("wfdb", ".hea", content["wfdb"], signals, data),
        Seed("wfdb", ".dat", data["input.dat"], lambda path: signals(path.with_suffix(".hea")), head),
    ]
    called = {"csv": "signal_table", "parquet": "signal_table"}
    seeds += [Seed("vital", ".vital", gzip.decompress(content["vital"]), signals)]
    others = [kind for kind in of_signals.KINDS if kind != "wfdb"]
    return seeds + [Seed(called.get(k, k), of_signals.KINDS[k], content[k], signals) for k in others]


def all_seeds(folder: Path) -> list[Seed]:
    """Of every format; `folder` is written to."""
    return [*of_cgm(folder), *of_activity(folder), *of_biosignals(folder)]
