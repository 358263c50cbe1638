"""Oddities of real actigraphy, in inputs of our own: each gives its right answer, or an error that says so."""

import numpy as np
import pandas as pd
import pytest
from test_actigraphy import DAY, read

from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.formats.apple_health import parse_export, read_apple_health, sleep_episodes
from raycadian.modalities.actigraphy.readers import detect_format, read_activity
from raycadian.modalities.actigraphy.request import Activity
from raycadian.modalities.prepare import prepare
from raycadian.physiology.rhythms.wear import choi, wrist
from raycadian.types import ACTIVITY_COUNTS, ACTIVITY_WRIST, Issues

N = 120
TIME = pd.date_range("2024-06-06 18:00", periods=N, freq="1min").strftime("%Y-%m-%dT%H:%M:%S")


def table(path, sep=",", **columns):
    pd.DataFrame(columns).to_csv(path, index=False, sep=sep)
    return path


def counts(recordings):
    return np.concatenate([r.channels.get(ACTIVITY_COUNTS, r.channels.get(ACTIVITY_WRIST)) for r in recordings])


# --- tables ---------------------------------------------------------------------------------------------------------


def test_decimal_commas_and_thousands(tmp_path):
    values = np.arange(N) * 40.0
    commas = [f"{v:.2f}".replace(".", ",") for v in values]
    found, issues = read(table(tmp_path / "x.csv", ";", time=TIME, activity=commas), columns={"time": "time"})
    assert np.array_equal(counts(found), values) and not issues
    thousands = [f"{v:,.0f}" for v in values]
    found, issues = read(table(tmp_path / "y.csv", time=TIME, activity=thousands), columns={"time": "time"})
    assert np.array_equal(counts(found), values) and not issues


def test_a_cell_that_is_no_number_is_counted_and_a_column_of_them_refused(tmp_path):
    values = ["5"] * (N - 2) + ["walk", "run"]
    found, issues = read(table(tmp_path / "x.csv", time=TIME, activity=values), columns={"time": "time"})
    assert issues["activity is not a number"] == 2 and np.isnan(counts(found)).sum() == 2
    with pytest.raises(ValueError, match="values are no numbers, such as 'walk'"):
        read(table(tmp_path / "y.csv", time=TIME, activity=["walk"] * N), columns={"time": "time"})


@pytest.mark.parametrize(("yes", "no"), [("w", "nw"), ("TRUE", "FALSE"), (1.0, 0.0)])
def test_worn_in_words(tmp_path, yes, no):
    path = table(tmp_path / "x.csv", time=TIME, activity=range(N), worn=[yes] * 60 + [no] * 60)
    (recording,), _ = read(path, columns={"time": "time", "worn": "worn"})
    assert recording.observed.tolist() == [True] * 60 + [False] * 60


def test_off_wrist_is_the_opposite_and_not_worn(tmp_path):
    path = table(tmp_path / "x.csv", time=TIME, activity=range(N), offwrist=[1] * 60 + [0] * 60)
    (recording,), _ = read(path, columns={"time": "time", "off_wrist": "offwrist"})
    assert recording.observed.tolist() == [False] * 60 + [True] * 60
    with pytest.raises(ValueError, match=r"'offwrist', which says when the device was off: add .*columns\.off_wrist"):
        read(path, columns={"time": "time", "worn": "offwrist"})


@pytest.mark.parametrize("name", ["time", "timestamp", "DeviceDtTm", "when"])
def test_a_column_of_times_that_the_card_does_not_name_is_used(tmp_path, name):
    (recording,), issues = read(table(tmp_path / "x.csv", **{name: TIME, "activity": range(N)}))
    assert str(recording.start_utc) == "2024-06-06T18:00:00"
    assert issues == {"column of times that the card doesn't name (used)": 1}


def test_times_that_may_be_several_or_either_way_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'begin', 'end' may be the time; add --set columns\.time=begin"):
        read(table(tmp_path / "x.csv", begin=TIME, end=TIME, activity=range(N)))
    either = pd.date_range("2024-06-07 18:00", periods=N, freq="1min").strftime("%d/%m/%Y %H:%M")
    with pytest.raises(ValueError, match="day first or month first"):
        read(table(tmp_path / "y.csv", time=either, activity=range(N)))


def test_date_and_clock_apart_and_clocks_alone(tmp_path):
    when = pd.date_range("2024-06-06 23:30", periods=N, freq="30s")
    date, clock = when.strftime("%d.%m.%Y"), when.strftime("%H:%M:%S")
    path = table(tmp_path / "x.csv", day=when.strftime("%Y-%m-%d"), clock=clock, activity=range(N))
    (recording,), _ = read(path)
    assert str(recording.start_utc) == "2024-06-06T23:30:00" and len(recording) == 60
    path = table(tmp_path / "y.csv", Date=date, Time=clock, activity=range(N))
    (recording,), _ = read(path, columns={"date": "Date", "time": "Time"}, time_format="%d.%m.%Y %H:%M:%S")
    assert str(recording.start_utc) == "2024-06-06T23:30:00"
    path = table(
        tmp_path / "z.csv", linetime=clock, offwrist=[1] * 20 + [0] * 100, activity=range(N), dayofweek=5, mesaid=7
    )
    (recording,), _ = read(path)
    assert recording.subject == "7" and pd.Timestamp(recording.start_utc).strftime("%A %H:%M") == "Thursday 23:30"
    assert len(recording) == 60 and recording.observed.tolist() == [False] * 10 + [True] * 50


# --- devices --------------------------------------------------------------------------------------------------------


def awd(path, clock="13:58", header=(), lines=()):
    head = ["S1", "23-Jan-2018", clock, " 4 ", "", "V664055", "", *header]
    path.write_bytes("\r\n".join([*head, *lines]).encode() + b"\r\n")
    return path


@pytest.mark.parametrize("clock", ["01:58:00 PM", "13:58", "1:58 pm"])
def test_actiwatch_with_blank_header_lines_and_light(tmp_path, clock):
    path = awd(tmp_path / "x.AWD", clock, lines=["0 , 0,00", "498 , 0,00 M", "394 , 12.50", "7"])
    assert detect_format(path) == "awd"
    (recording,), _ = read(path)
    assert counts([recording]).tolist() == [0, 498, 394, 7] and str(recording.start_utc) == "2018-01-23T13:58:00"


def test_actical_has_a_longer_header(tmp_path):
    path = awd(tmp_path / "x.AWC", header=["170", "70", "1", "0", "12"], lines=map(str, range(1000, 1090)))
    assert counts(read(path)[0])[0] == 1000


ACTIWARE = """"Actiware-Exportdatei (Version 05.00 )"

"Identität:","P-9"

"-------------------- Daten nach Epochen -------------------"

"Zeile","Datum","Zeit","Status „Nicht am Handgelenk“","Aktivität","Markierung","Weißes Licht","Intervallstatus",

"""


@pytest.mark.parametrize(
    ("words", "date"),
    [
        ((), "%d.%m.%Y"),
        (
            ("Zeile", "Ligne", "Datum", "Date", "Zeit", "Heure", "Aktivität", "Activité", "Identität:", "Identité :"),
            "%d/%m/%Y",
        ),
        (("Zeile", "Lijn", "Zeit", "Tijd", "Aktivität", "Activiteit", "Identität:", "Identiteit:"), "%d/%m/%Y"),
        (
            ("Zeile", "Línea", "Datum", "Fecha", "Zeit", "Hora", "Aktivität", "Actividad", "Identität:", "Identidad:"),
            "%d/%m/%Y",
        ),
    ],
)
def test_actiware_in_other_languages(tmp_path, words, date):
    head = ACTIWARE
    for one, other in zip(words[::2], words[1::2], strict=True):
        head = head.replace(f'"{one}"', f'"{other}"')
    when = pd.date_range("2024-01-14 22:00", periods=240, freq="30s")
    rows = [
        f'{i},{c.strftime(date)},{c.strftime("%H:%M:%S")},{int(i < 10)},{i},0,"184,13",AKTIV'
        for i, c in enumerate(when)
    ]
    path = tmp_path / "x.csv"
    path.write_text(head + "\n".join(rows) + "\n", encoding="utf-8-sig")
    (recording,), issues = read(path)
    assert recording.subject == "P-9" and not issues
    assert counts([recording])[:2].tolist() == [1, 5] and recording.observed.tolist() == [False] * 5 + [True] * 115


@pytest.mark.parametrize(
    ("form", "start", "header", "shown"),
    [("M/d/yyyy", "8/6/2013", "", "08-06"), ("dd/MM/yyyy", "08-06-2013", "axis2,axis1,vm\n", "06-08")],
)
def test_actilife(tmp_path, form, start, header, shown):
    lines = [
        f"------------ Data File Created By ActiGraph wGT3XPlus ActiLife v6 date format {form} Filter Normal ------",
        "Serial Number: X1", "Start Time 09:00:00", f"Start Date {start}", "Epoch Period (hh:mm:ss) 00:00:15",
        "Download Time 12:54:04", f"Download Date {start}", "Current Memory Address: 0", "Mode = 13", "-" * 50,
    ]  # fmt: skip
    rows = [f"9,{n},1" if header else f"{n},9,1" for n in range(240)]
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n" + header + "\n".join(rows) + "\n")
    (recording,), _ = read(tmp_path / "x.csv")
    assert str(recording.start_utc) == f"2013-{shown}T09:00:00" and counts([recording])[0] == 0 + 1 + 2 + 3


def actilife(path, said="", start="08-06-2013", download="08-06-2013"):
    lines = [
        f"------------ Data File Created By ActiGraph ActiLife v6 {said} Filter Normal ------", "Serial Number: X1",
        "Start Time 09:00:00", f"Start Date {start}", "Epoch Period (hh:mm:ss) 00:01:00", "Download Time 12:54:04",
        f"Download Date {download}", "Current Memory Address: 0", "Mode = 13", "-" * 50, *["5,1"] * 120,
    ]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("said", "download", "date"),
    [
        ("date format dd/MM/yyyy", "08-19-2013", "2013-08-06"),  # which its own download contradicts
        ("", "08-19-2013", "2013-08-06"),
        ("", "19-06-2013", "2013-06-08"),
        ("date format M/d/yyyy", "08-06-2013", "2013-08-06"),
    ],
)
def test_when_actilife_began(tmp_path, said, download, date):
    (recording,), _ = read(actilife(tmp_path / "x.csv", said, download=download))
    assert str(recording.start_utc) == f"{date}T09:00:00"


def test_when_actilife_began_is_asked_for_where_nothing_tells(tmp_path):
    path = actilife(tmp_path / "x.csv")
    with pytest.raises(ValueError, match=r"began on 08-06-2013, which may be day first or .*time_format=%d/%m/%Y"):
        read(path)
    assert str(read(path, time_format="%d/%m/%Y")[0][0].start_utc)[:10] == "2013-06-08"


@pytest.mark.parametrize(
    ("above", "date"), [("Export Date,6/20/2024", "2024-06-07"), ("Export Date,20/7/2024", "2024-07-06")]
)
def test_day_and_month_of_actiware_in_english(tmp_path, above, date):
    rows = [f"{n + 1},06/07/2024,{18 + n // 60:02d}:{n % 60:02d}:00,0,{n}" for n in range(120)]
    table_of = "Line,Date,Time,Off-Wrist Status,Activity\n" + "\n".join(rows) + "\n"
    path = tmp_path / "x.csv"
    path.write_text(f"Actiware Export File\n{above}\n\n{table_of}")
    assert str(read(path)[0][0].start_utc)[:10] == date
    path.write_text(f"Actiware Export File\n\n{table_of}")
    with pytest.raises(ValueError, match=r"'06/07/2024 18:00:00' may be day first or month first"):
        read(path)


def test_deep_sleep_at_the_wrist_is_no_nonwear(tmp_path):
    values = np.tile(np.r_[np.zeros(110), 3, np.zeros(60), np.full(30, 50)], 20)
    values[-300:] = 0
    assert wrist(values)[:-410].all() and not wrist(values)[-299:].any() and not choi(values)[:110].any()
    path = awd(tmp_path / "x.AWD", lines=[str(int(v)) for v in values])
    (at_wrist,), _ = read(path)
    (by_choi,), _ = read(path, wear="choi")
    (always,), _ = read(path, wear="none")
    assert at_wrist.observed.sum() > by_choi.observed.sum() and always.observed.all()
    hip = table(tmp_path / "y.csv", time=TIME, activity=[0] * 100 + [1] * 20)
    assert not read(hip, columns={"time": "time"})[0][0].observed[:100].any()
    assert read(hip, columns={"time": "time"}, site="wrist")[0][0].observed.all()


def test_counts_of_hip_and_wrist_are_different_channels(tmp_path):
    wrist_file = awd(tmp_path / "x.AWD", lines=["5"] * 3000)
    hip_file = table(tmp_path / "y.csv", time=TIME, activity=range(N))
    columns = {"time": "time"}
    assert list(read(wrist_file)[0][0].channels) == [ACTIVITY_WRIST]
    assert list(read(wrist_file, site="hip")[0][0].channels) == [ACTIVITY_COUNTS]
    assert list(read(hip_file, columns=columns, site="wrist")[0][0].channels) == [ACTIVITY_WRIST]
    card = tmp_path / "c.yaml"
    card.write_text("name: c\nmodality: actigraphy\nfiles: [x.AWD, y.csv]\ncolumns: {time: time}\n")
    with pytest.raises(ValueError, match=r"counts of the wrist and of the hip.* add --set site=wrist"):
        prepare(card, tmp_path / "s", on_ray=False)
    sent = Activity("a", ACTIVITY_WRIST, np.datetime64("2024-01-01T00:00:00"), 60.0, np.full(3000, 5.0))
    with pytest.raises(
        ValueError, match=r"reads activity_counts, found activity_counts_wrist \(counts of hip and wrist"
    ):
        sent.stretches(ActigraphyCard(name="x", files=("x",)), (ACTIVITY_COUNTS,), Issues())


# --- Apple Health ---------------------------------------------------------------------------------------------------


def health(path, records, dtd="", control=""):
    lines = [
        f' <Record type="{kind}" sourceName="{source}" startDate="2024-06-{a} +0200" '
        f'endDate="2024-06-{b} +0200" {rest}/>'
        for kind, source, a, b, rest in records
    ]
    body = "\n".join(lines)
    path.write_text(f'<?xml version="1.0"?>\n{dtd}<HealthData locale="x">\n{body}{control}\n</HealthData>\n')
    return path


STEP = "HKQuantityTypeIdentifierStepCount"
STEPS = [(STEP, "Watch", f"06 0{h}:00:00", f"06 0{h}:10:00", 'unit="count" value="10"') for h in range(5)]


def test_a_broken_dtd_and_control_characters(tmp_path):
    broken = "<!DOCTYPE HealthData [\n<!ATTLIST X\n a CDATA #IMPLIED\n<!ELEMENT Y EMPTY>\n>\n]>\n"
    issues = Issues()
    path = health(tmp_path / "x.xml", STEPS, broken)
    assert len(parse_export(path, issues)["steps"]) == 5 and not issues.counts
    odd = [*STEPS[:2], (STEP, "Wa\x0btch&#x1;", *STEPS[2][2:]), *STEPS[3:]]
    path = health(tmp_path / "y.xml", odd)
    assert len(parse_export(path, issues)["steps"]) == 5
    assert issues.counts == {"control character in an export (dropped)": 1}
    with pytest.raises(ValueError, match="not an Apple Health export"):
        parse_export(health(tmp_path / "z.xml", STEPS, '<!DOCTYPE H [<!ENTITY a "b">]>\n'), Issues())


def night(source, *stages):
    kind = "HKCategoryTypeIdentifierSleepAnalysis"
    return [(kind, source, a, b, f'value="HKCategoryValueSleepAnalysis{stage}"') for stage, a, b in stages]


def test_one_account_of_a_night(tmp_path):
    watch = night(
        "Watch", ("AsleepCore", "06 23:30:00", "07 01:30:00"), ("Awake", "07 01:30:00", "07 03:00:00"),
        ("AsleepDeep", "07 03:00:00", "07 06:30:00"),
    )  # fmt: skip
    app = night("App", ("AsleepUnspecified", "06 22:45:00", "07 07:15:00"))
    nap = night("App", ("AsleepUnspecified", "07 14:00:00", "07 14:30:00"))
    path, issues = health(tmp_path / "x.xml", [*STEPS, *app, *watch, *nap]), Issues()
    assert sleep_episodes(parse_export(path, issues))["minutes_sleep"].tolist() == [330, 30]
    assert issues.counts == {"sleep told by another app too (one account kept)": 1}
    assert sleep_episodes(parse_export(path, Issues(), "App"))["minutes_sleep"].tolist() == [510, 30]
    asleep = [r.channels["asleep"] for r in read_apple_health(path, ActigraphyCard(name="x", files=("x",)), Issues())]
    assert np.nansum(np.concatenate(asleep)) == 360
    with pytest.raises(ValueError, match="no source 'Band'; it has 'Watch', 'App'"):
        list(read_activity([path], ActigraphyCard(name="x", files=("x",), sleep_source="Band"), Issues()))
    assert DAY == 1440
