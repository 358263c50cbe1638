"""Cells of anybody's table: numbers, yes and no, in whatever way they are written; and the layout around them."""

import numpy as np
import pandas as pd
import pytest

from raycadian.data.clock import parse_times
from raycadian.data.source import Source, first_rows, header_of
from raycadian.modalities.actigraphy.card import ActigraphyCard, ActivityColumns
from raycadian.modalities.actigraphy.readers import read_activity
from raycadian.modalities.biosignals.readers import read_case
from raycadian.modalities.cells import parse_column, parse_flags, parse_numbers, with_month_number, with_points
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.cgm.readers import read_files
from raycadian.modalities.columns import joined
from raycadian.modalities.detect import make_card
from raycadian.modalities.text_tables import read_text
from raycadian.modalities.time_formats import time_format
from raycadian.types import GLUCOSE, Issues


def numbers(*texts, thousands=None):
    return parse_numbers(pd.Series(texts, dtype=object), thousands)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7,1", 7.1), ("1.234,5", 1234.5), ("1,234.5", 1234.5), ("1'234.5", 1234.5), ("1 234,5", 1234.5),
        ("1\u00a0234", 1234), ("1,234,567", 1234567), ("120 mg/dL", 120), ("6,7 mmol/l", 6.7), ("-3,5", -3.5),
        ("HI", np.inf), ("Baja", -np.inf), ("<40", -np.inf), ("> 400", np.inf), ("1e3", 1000), ("4.5 U", 4.5),
    ],
)  # fmt: skip
def test_numbers_as_people_write_them(text, value):
    values, malformed = numbers(text)
    assert values.tolist() == [value] and not malformed.any()


def test_words_are_counted_and_empty_cells_are_not():
    values, malformed = numbers("5", "", "n/a", "five", "1,2,x")
    assert np.isnan(values[1:]).all() and malformed.tolist() == [False, False, False, True, True]


def test_the_mark_of_thousands_is_told_from_the_whole_column():
    column = pd.Series(["0", "12", "999", "1,234", "12,345"], dtype=object)
    assert parse_column(column, "x")[0].tolist() == [0, 12, 999, 1234, 12345]
    assert parse_column(column.str.replace(",", "."), "x")[0].tolist() == [0, 12, 999, 1234, 12345]
    decimals = pd.Series(["0,000", "1,234", "2,500"], dtype=object)
    assert parse_column(decimals, "x")[0].tolist() == [0, 1.234, 2.5]
    assert parse_column(pd.Series(["0,5", "1,234"], dtype=object), "x")[0].tolist() == [0.5, 1.234]


def test_a_column_of_words_is_no_column_of_numbers():
    with pytest.raises(ValueError, match=r"x\.csv: activity: 2 of 3 values are no numbers, such as 'low activity'"):
        parse_column(pd.Series(["low activity", "none at all", "7"], dtype=object), "x.csv: activity")


@pytest.mark.parametrize(
    ("yes", "no"),
    [("1", "0"), ("TRUE", "FALSE"), ("w", "nw"), ("Yes", "no"), ("ja", "nein"), ("sí", "no"), ("1.0", "0.0")],
)
def test_yes_and_no(yes, no):
    assert parse_flags(pd.Series([yes, no, "", yes]), "worn").tolist()[:2] == [1, 0]
    assert np.isnan(parse_flags(pd.Series([yes, ""]), "worn")[1])


def test_a_word_that_is_neither_is_named():
    with pytest.raises(ValueError, match="worn: '2', 'maybe' is neither yes nor no"):
        parse_flags(pd.Series(["1", "2", "maybe"]), "worn")


def test_months_in_other_languages():
    assert with_month_number("01-Okt-2009") == "01-10-2009" and with_month_number("01-déc.-2009") == "01-12-2009"


# --- the table around them ------------------------------------------------------------------------------------------

TABLE = "time,glucose,note\n2024-01-01 00:00,100,\n2024-01-01 00:05,101,\n2024-01-01 00:10,102,x\n"
WIDE = "Größe,b\n" + "1,2\n" * 5


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "cp1252"]
)
def test_encodings(tmp_path, encoding):
    (tmp_path / "x.csv").write_bytes(WIDE.encode(encoding))
    source = Source.of(tmp_path / "x.csv")
    assert header_of(source) == ["Größe", "b"] and read_text(source)["Größe"].tolist() == ["1"] * 5


def test_below_a_preamble(tmp_path):
    (tmp_path / "x.csv").write_text("Name:Anna,from - to\n\n" + TABLE)
    source = Source.of(tmp_path / "x.csv")
    assert header_of(source) == ["time", "glucose", "note"]
    assert first_rows(source)["glucose"] == ["100", "101", "102"] == read_text(source)["glucose"].tolist()


def test_rows_that_end_in_separators(tmp_path):
    lines = TABLE.splitlines()
    (tmp_path / "x.csv").write_text("\n".join([lines[0], *(line + ",," for line in lines[1:])]) + "\n")
    source = Source.of(tmp_path / "x.csv")
    assert first_rows(source)["glucose"] == ["100", "101", "102"] == read_text(source)["glucose"].tolist()


# --- times ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["epoch_s", "epoch_ms", "epoch_us", "epoch_ns"])
def test_epochs_of_any_unit(form):
    number = 1_717_632_000 * {"epoch_s": 1, "epoch_ms": 1e3, "epoch_us": 1e6, "epoch_ns": 1e9}[form]
    clock, offset = parse_times(pd.Series([f"{number:.0f}"]), form)
    assert str(clock[0])[:19] == "2024-06-06T00:00:00" and offset.tolist() == [0]
    assert time_format([f"{number:.0f}"], {}).column == form


def test_midnight_without_its_clock():
    clock, _ = parse_times(
        pd.Series(["9/14/2018 11:55:00 PM", "9/15/2018", "9/15/2018 12:05:00 AM"]), "%m/%d/%Y %I:%M:%S %p"
    )
    assert np.diff(clock).tolist() == [300 * 10**9] * 2


def test_day_and_month_that_are_the_same_are_not_asked_for():
    assert time_format(["06/06/2024 00:00", "06/06/2024 00:05"], {}).column == "%d/%m/%Y %H:%M"
    assert time_format(["06/07/2024 00:00", "06/07/2024 00:05"], {}).question is not None


def test_days_since_something_and_a_clock():
    columns = {"DaysFromEnroll": ["-3", "-3", "0"], "Tm": ["00:05:00", "00:10:00", "23:00:00"]}
    times = joined(columns, "DaysFromEnroll", "Tm")
    assert times == ["1999-12-29 00:05:00", "1999-12-29 00:10:00", "2000-01-01 23:00:00"]


@pytest.mark.parametrize(
    ("text", "form", "clock"),
    [
        ("05/01/2024 08:05 a. m.", "%d/%m/%Y %I:%M %p", "2024-01-05T08:05:00"),
        ("1/5/2024 8:05\u202fPM", "%m/%d/%Y %I:%M %p", "2024-01-05T20:05:00"),
        ("05-dic-2024 08:05", "%d-%b-%Y %H:%M", "2024-12-05T08:05:00"),
        ("5 octobre 2024 08:05", "%d %b %Y %H:%M", "2024-10-05T08:05:00"),
        ("45296.5034722", "excel_days", "2024-01-05T12:05:00"),
        ("45296,5034722", "excel_days", "2024-01-05T12:05:00"),
    ],
)
def test_times_as_people_and_programs_write_them(text, form, clock):
    clocks, offset = parse_times(pd.Series([text, "x"]), form)
    assert str(clocks[0])[:19] == clock and np.isnat(clocks[1]) and np.isnan(offset).all()
    assert form in (time_format([text], {}).column, form if "%" in form else None)


def test_day_and_month_by_the_whole_column():
    head = [f"0{d}/01/2024 08:00" for d in (3, 3)]
    assert time_format(head, {}).question is not None
    assert time_format(head, {}, lambda: [*head, "13/01/2024 08:00"]).column == "%d/%m/%Y %H:%M"
    assert time_format(head, {}, lambda: [*head, "04/13/2024 08:00"]).column == "%m/%d/%Y %H:%M"
    assert "day first or month first" in time_format(head, {}, lambda: head).question.message


def test_numbers_that_count_rows_are_no_times():
    with pytest.raises(ValueError, match="no times"):
        time_format(["40000", "40001", "40002"], {})


# --- in every modality ----------------------------------------------------------------------------------------------


def test_numbers_of_a_table_of_people_or_cases():
    text = pd.Series(["6,1", "5,4", None, "1.234,5", "x"], dtype=object)
    assert with_points(text).tolist() == ["6.1", "5.4", None, "1234.5", "x"]
    assert with_points(pd.Series(["1", "x"])).tolist() == ["1", "x"]


def test_samples_with_decimal_commas_and_words(tmp_path):
    rows = "".join(f'{n},"{n % 7},5"\n' if n != 9 else f"{n},lead off\n" for n in range(40))
    (tmp_path / "x.csv").write_text("time_s,ECG\n" + rows)
    issues = Issues()
    track = read_case(tmp_path / "x.csv", subject="a", issues=issues).tracks["ECG"]
    assert track.values[:3].tolist() == [0.5, 1.5, 2.5] and np.flatnonzero(np.isnan(track.values)).tolist() == [9]
    assert issues.counts["sample that is no number (missing)"] == 1


def test_activity_that_is_a_word_is_counted(tmp_path):
    rows = "".join(f"2024-03-01 08:{n:02d},{'LOW' if n == 5 else n}\n" for n in range(60))
    (tmp_path / "x.csv").write_text("time,activity\n" + rows)
    issues = Issues()
    card = ActigraphyCard(name="x", files=("x",), columns=ActivityColumns(time="time"))
    (recording,) = read_activity([tmp_path / "x.csv"], card, issues)
    assert np.isnan(recording.channels["activity_counts"][5]) and issues.counts["activity is not a number"] == 1


CELLS = [f"{100 + n},mg/dL" if n % 2 else f"6.{n % 10},mmol/L" for n in range(60)]
BOTH = "time,bg,units\n" + "".join(f"2024-03-01 08:{n:02d},{cell}\n" for n, cell in enumerate(CELLS))


def test_the_unit_beside_each_reading_is_used(tmp_path):
    (tmp_path / "x.csv").write_text(BOTH)
    card = make_card([tmp_path / "x.csv"])[0]
    assert card.columns.unit == "units" and card.unit is None
    (readings,) = read_files([tmp_path / "x.csv"], card, Issues())
    assert readings.glucose[GLUCOSE].tolist()[:4] == [108, 101, round(6.2 * 18.0182), 103]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (("6.1 mmol/L", "120 mg/dL"), "cells of glucose in mg/dL and in mmol/L"),
        (("6.1 mmol/L", "6.2 mmol/l"), None),
    ],
)
def test_units_in_cells_are_one(tmp_path, cells, message):
    rows = "".join(f"2024-03-01 08:{n:02d},{cells[n % 2]}\n" for n in range(60))
    (tmp_path / "x.csv").write_text("time,glucose\n" + rows)
    card = CGMCard(name="x", files=("x",))
    if message:
        with pytest.raises(ValueError, match=message):
            list(read_files([tmp_path / "x.csv"], card, Issues()))
    else:
        (readings,) = read_files([tmp_path / "x.csv"], card, Issues())
        assert readings.glucose[GLUCOSE].tolist()[:2] == [110, 112]
