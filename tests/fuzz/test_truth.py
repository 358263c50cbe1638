"""Files written from a known truth with the oddities that people's files have, read back and compared: whatever the
spelling, what was measured is what is read."""

import gzip
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import test_actigraphy as of_devices
import test_cgm_oddities as of_carelink
import test_readers_formats as of_glucose
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st
from seeds import ACTILIFE

from raycadian.modalities.actigraphy.readers import read_activity
from raycadian.modalities.cgm.builder import merge
from raycadian.modalities.cgm.readers import read_files
from raycadian.modalities.detect import make_card
from raycadian.types import ACTIVITY_COUNTS, ACTIVITY_WRIST, GLUCOSE, MGDL_PER_MMOLL, TIME_UTC, Issues

pytestmark = pytest.mark.long
EXAMPLES = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "25")),
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    print_blob=True,
)
LOW, HIGH = 39.0, 401.0


@dataclass(frozen=True)
class Truth:
    """Glucose (N,) in whole mg/dL, -inf below and +inf above what the sensor shows, at minutes (N,) after the start."""

    start: pd.Timestamp
    minutes: np.ndarray
    mgdl: np.ndarray

    @property
    def times(self) -> pd.DatetimeIndex:
        return self.start + pd.to_timedelta(self.minutes, unit="min")

    def expected(self, mmol: bool = False, low: float = LOW, high: float = HIGH) -> dict[str, float]:
        """By the clock, as a reader gives them: mmol/L has one decimal in a file."""
        values = np.round(np.round(self.mgdl / MGDL_PER_MMOLL, 1) * MGDL_PER_MMOLL) if mmol else self.mgdl
        values = np.where(values == -np.inf, low, np.where(values == np.inf, high, values))
        return dict(zip(self.times.strftime("%Y-%m-%d %H:%M"), values.tolist(), strict=True))


@st.composite
def truths(draw: st.DrawFn, words: bool = True, step: int = 5) -> Truth:
    n = draw(st.integers(40, 90))
    start = draw(st.sampled_from(["2024-01-31 22:10", "2024-06-13 00:00", "2023-12-31 20:00", "2024-02-28 21:35"]))
    values = 60 + np.cumsum(draw(st.lists(st.integers(-9, 9), min_size=n, max_size=n))) % 280
    kept = np.array(draw(st.lists(st.sampled_from([True] * 5 + [False]), min_size=n, max_size=n)))
    kept[[0, 1, -1]] = True  # the ends are there, and readings five minutes apart
    mgdl = values.astype(float)
    if words and draw(st.booleans()):
        at = draw(st.integers(2, n - 3))
        mgdl[at] = draw(st.sampled_from([-np.inf, np.inf]))
        mgdl[at - 1], mgdl[at + 1] = (45, 45) if mgdl[at] < 0 else (390, 390)
    return Truth(pd.Timestamp(start), step * np.arange(n)[kept], mgdl[kept])


def read(path: Path, *overrides: str) -> dict[str, float]:
    """The one person's glucose by the clock, as `prepare FILE` reads it."""
    card, _ = make_card([path], overrides=("timezone=UTC", *overrides))
    (readings,) = [merge(parts, Issues()) for parts in _by_subject(read_files([path], card, Issues()))]
    known = readings.glucose.dropna(subset=GLUCOSE)
    return dict(zip(known[TIME_UTC].dt.strftime("%Y-%m-%d %H:%M"), known[GLUCOSE].round(3).tolist(), strict=True))


def _by_subject(parts: Any) -> list[list[Any]]:
    people: dict[str, list[Any]] = {}
    for part in parts:
        people.setdefault(part.subject, []).append(part)
    return list(people.values())


def written(folder: Path, name: str, content: bytes, packed: bool = False) -> Path:
    path = folder / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


# --- tables ---------------------------------------------------------------------------------------------------------

STYLES = {
    "%Y-%m-%d %H:%M:%S": (), "%Y-%m-%dT%H:%M:%S": (), "%d.%m.%Y %H:%M": ("time_format=%d.%m.%Y %H:%M",),
    "%d/%m/%Y %H:%M": ("time_format=%d/%m/%Y %H:%M",), "%m/%d/%Y %I:%M %p": ("time_format=%m/%d/%Y %I:%M %p",),
    "epoch_s": (), "epoch_ms": (),
}  # fmt: skip


@dataclass(frozen=True)
class Spelling:
    """How a table is written."""

    sep: str
    mark: str
    mmol: bool
    style: str
    encoding: str
    preamble: int
    trailing: bool
    blank: bool
    repeated: bool
    newest_first: bool
    packed: bool
    low: str
    high: str


@st.composite
def spellings(draw: st.DrawFn) -> Spelling:
    sep = draw(st.sampled_from([",", ";", "\t"]))
    flags = [draw(st.booleans()) for _ in range(6)]
    return Spelling(
        sep, draw(st.sampled_from("." if sep == "," else ".,")), flags[0], draw(st.sampled_from(list(STYLES))),
        draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])),
        draw(st.sampled_from([0, 0, 2])),
        *flags[1:], draw(st.sampled_from(["LO", "Low", "niedrig", "bajo"])),
        draw(st.sampled_from(["HI", "High", "hoch", "alto"])),
    )  # fmt: skip


def _shown(truth: Truth, how: Spelling) -> list[tuple[str, str]]:
    epochs = {"epoch_s": 10**9, "epoch_ms": 10**6}
    clocks = (
        [str(t.value // epochs[how.style]) for t in truth.times] if how.style in epochs
        else list(truth.times.strftime(how.style))
    )  # fmt: skip
    number = (lambda v: f"{v / MGDL_PER_MMOLL:.1f}") if how.mmol else (lambda v: f"{v:.0f}")
    words = {-np.inf: how.low, np.inf: how.high}
    return [(c, words.get(v) or number(v).replace(".", how.mark)) for c, v in zip(clocks, truth.mgdl, strict=True)]


def as_table(truth: Truth, how: Spelling) -> bytes:
    rows = _shown(truth, how)
    rows += rows[3:6] if how.repeated else []
    rows = rows[::-1] if how.newest_first else rows
    end = how.sep * 2 if how.trailing else ""
    unit = "mmol/L" if how.mmol else "mg/dL"
    lines = [f"Bericht für André {how.sep}" for _ in range(how.preamble)]
    lines.append(how.sep.join(("time", f"glucose [{unit}]", "note")) + end)
    lines += [how.sep.join((clock, value, "é" if i == 7 else "")) + end for i, (clock, value) in enumerate(rows)]
    lines += ["", ""] if how.blank else []
    return "\n".join(lines).encode(how.encoding)


@EXAMPLES
@given(truth=truths(), how=spellings())
def test_tables(tmp_path_factory, truth, how):
    note(f"{how}")
    path = written(tmp_path_factory.mktemp("t"), "x.csv", as_table(truth, how), how.packed)
    assert read(path, *STYLES[how.style]) == truth.expected(how.mmol)


# --- glucose, as programs write it ----------------------------------------------------------------------------------


def _words(value: float, number: Callable[[float], str], low: str = "Low", high: str = "High") -> str:
    return low if value == -np.inf else high if value == np.inf else number(value)


def clarity(truth: Truth, mmol: bool) -> bytes:
    header = of_glucose.CLARITY.replace("mg/dL", "mmol/L") if mmol else of_glucose.CLARITY
    number = (lambda v: f"{v / MGDL_PER_MMOLL:.1f}") if mmol else (lambda v: f"{v:.0f}")
    rows = [
        of_glucose.clarity_row(i + 3, t.strftime("%Y-%m-%dT%H:%M:%S"), "EGV", "", _words(v, number))
        for i, (t, v) in enumerate(zip(truth.times, truth.mgdl, strict=True))
    ]
    return ("\ufeff" + "\r\n".join([header, *of_glucose.PREAMBLE, *rows])).encode()


def carelink(truth: Truth, mmol: bool) -> bytes:
    head, _, _ = of_carelink.CARELINK.partition("-------;MiniMed 780G;Pump")
    header = of_carelink.HEADER if mmol else of_carelink.HEADER.replace("mmol/L", "mg/dL")
    number = (lambda v: f"{v / MGDL_PER_MMOLL:.1f}".replace(".", ",")) if mmol else (lambda v: f"{v:.0f}")
    rows = [
        f"{i};{t:%Y/%m/%d};{t:%H:%M:%S};;;;;{number(v)}"
        for i, (t, v) in enumerate(zip(truth.times[::-1], truth.mgdl[::-1], strict=True))
    ]
    return "\n".join([head.rstrip(), "", "-------;MiniMed 780G;Sensor;N1;-------", header, *rows]).encode()


def ohio(truth: Truth, mmol: bool) -> bytes:
    events = "".join(
        f'<event ts="{t:%d-%m-%Y %H:%M:%S}" value="{v:.0f}"/>' for t, v in zip(truth.times, truth.mgdl, strict=True)
    )
    return f'<?xml version="1.0"?><patient id="5"><glucose_level>{events}</glucose_level></patient>'.encode()


def libreview(truth: Truth, mmol: bool) -> bytes:
    rows = [
        of_glucose.libre_row(
            t.strftime("%d-%m-%Y %H:%M"), 0,
            history=_words(v, lambda v: f"{v / MGDL_PER_MMOLL:.1f}".replace(".", ","), "LO", "HI"),
        )
        for t, v in zip(truth.times, truth.mgdl, strict=True)
    ]  # fmt: skip
    return "\n".join(["Informe,20-04-2024 15:09 UTC", "NAME,DOB", of_glucose.LIBRE_ES, *rows]).encode()


def nightscout(truth: Truth, mmol: bool) -> bytes:
    entries = [
        {"type": "sgv", "sgv": int(v), "date": t.value // 10**6, "dateString": f"{t.isoformat()}.000Z", "utcOffset": 0}
        for t, v in zip(truth.times[::-1], truth.mgdl[::-1], strict=True)
    ]
    return json.dumps([*entries, *entries[2:4]]).encode()  # two told again, as uploaders do


def tidepool(truth: Truth, mmol: bool) -> bytes:
    """It keeps mmol/L of its own factor, whatever the sensor showed."""
    value = (lambda v: v / 18.01559) if mmol else float
    unit = "mmol/L" if mmol else "mg/dL"
    return json.dumps([
        {"type": "cbg", "time": f"{t.isoformat()}.000Z", "timezoneOffset": 0, "value": value(v), "units": unit,
            "id": str(i)}
        for i, (t, v) in enumerate(zip(truth.times, truth.mgdl, strict=True))
    ]).encode()  # fmt: skip


def pump(truth: Truth, mmol: bool) -> bytes:
    head = "# data_version: 2.0\n# pump_serial: SN1\n# file_role: train\n# tz_handling: UTC\n# bg_range_policy: clip\n"
    names = "timestamp,bg,delta_bg,basal_rate,bolus_dose,sin_time,cos_time,bg_clip_flag,bg_missing_flag"
    rows = [f"{t:%Y-%m-%d %H:%M:%S},{v:.0f},0,0.8,0,0,1,0,0" for t, v in zip(truth.times, truth.mgdl, strict=True)]
    return (head + "\n".join([names, *rows])).encode()


def bench(truth: Truth, mmol: bool) -> bytes:
    rows = [f"1,{t:%Y-%m-%d %H:%M:%S},{v:.0f}" for t, v in zip(truth.times, truth.mgdl, strict=True)]
    return "\n".join(["id,time,gl", *rows]).encode()


@dataclass(frozen=True)
class Program:
    """write: (truth, mmol) -> the file · unit: mmol or not, either where None · words: whether it has low and high."""

    name: str
    write: Callable[[Truth, bool], bytes]
    mmol: bool | None = None
    words: bool = False
    high: float = HIGH
    step: int = 5
    exact: bool = False  # mmol/L with all of its digits


PROGRAMS: Sequence[Program] = (
    Program("clarity.csv", clarity, words=True),
    Program("carelink.csv", carelink),
    Program("559-ws-training.xml", ohio, mmol=False),
    Program("libre.csv", libreview, mmol=True, words=True, high=501.0, step=15),
    Program("nightscout.json", nightscout, mmol=False),
    Program("tidepool.json", tidepool, exact=True),
    Program("pump.csv", pump, mmol=False),
    Program("bench.csv", bench, mmol=False),
)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_exports(tmp_path_factory, program):
    @EXAMPLES
    @given(truth=truths(program.words, program.step), mmol=st.booleans(), packed=st.booleans())
    def read_back(truth: Truth, mmol: bool, packed: bool) -> None:
        mmol = mmol if program.mmol is None else program.mmol
        path = written(tmp_path_factory.mktemp("e"), program.name, program.write(truth, mmol), packed)
        assert read(path) == truth.expected(mmol and not program.exact, high=program.high)

    read_back()


# --- activity -------------------------------------------------------------------------------------------------------

CLOCKS = ("%d/%m/%Y,%H:%M:%S", "%Y-%m-%d,%H:%M:%S", "%d.%m.%Y,%H:%M:%S")
COUNTS = st.lists(st.integers(0, 3000), min_size=120, max_size=200)
WORN = (("1", "0"), ("w", "nw"), ("TRUE", "FALSE"), ("ja", "nein"))


def activity(path: Path, *overrides: str) -> tuple[np.ndarray, np.ndarray]:
    card, _ = make_card([path], overrides=overrides)
    (recording,) = read_activity([path], card, Issues())
    values = recording.channels.get(ACTIVITY_COUNTS, recording.channels.get(ACTIVITY_WRIST))
    return values, recording.observed


@EXAMPLES
@given(counts=COUNTS, worn=st.sampled_from(WORN), comma=st.booleans(), packed=st.booleans(), iso=st.booleans())
def test_tables_of_activity(tmp_path_factory, counts, worn, comma, packed, iso):
    times = pd.date_range("2024-06-13 20:00", periods=len(counts), freq="1min")
    shown = [f"{c:.2f}".replace(".", ",") if comma else str(c) for c in counts]
    words = [worn[int(i % 50 < 10)] for i in range(len(counts))]
    form = "%Y-%m-%dT%H:%M:%S" if iso else "%d.%m.%Y %H:%M"
    rows = [";".join(row) for row in zip(times.strftime(form), shown, words, strict=True)]
    path = written(tmp_path_factory.mktemp("a"), "x.csv", "\n".join(["time;activity;worn", *rows]).encode(), packed)
    values, observed = activity(path)
    assert values.tolist() == counts and observed.tolist() == [w == worn[0] for w in words]


@EXAMPLES
@given(counts=COUNTS, code=st.sampled_from([1, 2, 4]), light=st.booleans())
def test_actiwatch(tmp_path_factory, counts, code, light):
    counts = counts[: len(counts) // 4 * 4]
    lines = [f"{c} , {c % 7},00" if light else str(c) for c in counts]
    path = of_devices.write_awd(tmp_path_factory.mktemp("w") / "x.AWD", lines, code)
    values, _ = activity(path)
    assert values.tolist() == np.reshape(counts, (-1, 4 // code)).sum(axis=1).tolist()


@EXAMPLES
@given(counts=COUNTS, form=st.sampled_from(CLOCKS), taken_off=st.integers(0, 40))
def test_actiware(tmp_path_factory, counts, form, taken_off):
    counts = counts[: len(counts) // 2 * 2]
    off = [int(i < 2 * taken_off) for i in range(len(counts))]
    folder = tmp_path_factory.mktemp("r")
    values, observed = activity(of_devices.write_respironics(folder / "r.csv", "2024-05-21T10:30", counts, off, form))
    assert values.tolist() == np.reshape(counts, (-1, 2)).sum(axis=1).tolist()
    assert observed.tolist() == [i >= taken_off for i in range(len(values))]


@EXAMPLES
@given(counts=COUNTS, epoch_s=st.sampled_from([10, 15, 60]), columns=st.booleans())
def test_actigraph(tmp_path_factory, counts, epoch_s, columns):
    counts, folder = counts[: len(counts) // 6 * 6 // 4 * 4], tmp_path_factory.mktemp("g")
    a_minute = 60 // epoch_s
    counts = counts[: len(counts) // a_minute * a_minute]
    expected = np.reshape(counts, (-1, a_minute)).sum(axis=1).tolist()
    agd, _ = activity(of_devices.write_agd(folder / "x.agd", "2024-05-01T10:30", counts, epoch_s))
    head = [line.replace("00:00:15", f"00:{epoch_s // 60:02d}:{epoch_s % 60:02d}") for line in ACTILIFE[:-1]]
    rows = ["axis1,axis2", *(f"{c},1" for c in counts)] if columns else [str(c) for c in counts]
    actilife, _ = activity(written(folder, "x.csv", "\n".join([*head, *rows]).encode()))
    assert agd.tolist() == actilife.tolist() == expected


def test_the_truth_itself_is_compared():
    """A reader that moved a reading or a value would be seen."""
    truth = Truth(pd.Timestamp("2024-01-01"), np.arange(0, 15, 5), np.array([100.0, -np.inf, 120.0]))
    assert truth.expected() == {"2024-01-01 00:00": 100.0, "2024-01-01 00:05": LOW, "2024-01-01 00:10": 120.0}
    assert replace(truth, mgdl=truth.mgdl + 1).expected() != truth.expected()
