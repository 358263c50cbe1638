"""Shape: workbooks, archives, tables without a header, titles above them; in any encoding."""

import gzip
import io
import zipfile
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest

from raycadian.data.packed import contents
from raycadian.data.source import Layout, Source, first_rows
from raycadian.modalities.actigraphy.card import ActigraphyCard, ActivityColumns
from raycadian.modalities.actigraphy.readers import read_activity
from raycadian.modalities.cgm.builder import merge
from raycadian.modalities.cgm.card import CGMCard, Columns
from raycadian.modalities.cgm.readers import read_files
from raycadian.modalities.detect import make_card
from raycadian.modalities.prepare import prepare_card
from raycadian.modalities.text_tables import read_text
from raycadian.types import GLUCOSE, TIME_UTC, Issues

# a row is a list of cells: text, a number, or ("date", days since 1899-12-30)
DAY = 45_300.0  # 2024-01-09


def xlsx(path, sheets):
    """A workbook as Excel lays one out, smallest possible: style 1 is a date with a clock."""
    book = "".join(f'<sheet name="{name}" sheetId="{n}" r:id="rId{n}"/>' for n, name in enumerate(sheets, 1))
    links = "".join(
        f'<Relationship Id="rId{n}" Type="{_OFFICE}/worksheet" Target="worksheets/sheet{n}.xml"/>'
        for n in range(1, len(sheets) + 1)
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", f'<Types xmlns="{_PACKAGE}/content-types"/>')
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{_PACKAGE}/relationships">'
            f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        )
        archive.writestr("xl/workbook.xml", f'<workbook {_MAIN} xmlns:r="{_OFFICE}"><sheets>{book}</sheets></workbook>')
        archive.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{_PACKAGE}/relationships">{links}'
            f'<Relationship Id="rId99" Type="{_OFFICE}/styles" Target="styles.xml"/></Relationships>',
        )
        archive.writestr(
            "xl/styles.xml",
            f'<styleSheet {_MAIN}><cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="22"/></cellXfs></styleSheet>',
        )
        for n, rows in enumerate(sheets.values(), 1):
            lines = "".join(
                f'<row r="{r}">{"".join(_cell(cell, r, c) for c, cell in enumerate(row))}</row>'
                for r, row in enumerate(rows, 1)
            )
            archive.writestr(
                f"xl/worksheets/sheet{n}.xml", f"<worksheet {_MAIN}><sheetData>{lines}</sheetData></worksheet>"
            )
    return path


_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'


def _cell(cell, row, column):
    at = f'r="{chr(65 + column)}{row}"'
    if isinstance(cell, str):
        return f'<c {at} t="inlineStr"><is><t>{cell}</t></is></c>' if cell else ""
    return f'<c {at} s="1"><v>{cell[1]!r}</v></c>' if isinstance(cell, tuple) else f"<c {at}><v>{cell!r}</v></c>"


def rows(values, start=DAY + 8 / 24, minutes=5):
    return [[("date", start + i * minutes / 1440), float(v)] for i, v in enumerate(values)]


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return path


def csv_of(values, start="2024-01-09 08:00", header="time,glucose\n"):
    times = pd.date_range(start, periods=len(values), freq="5min").strftime("%Y-%m-%d %H:%M:%S")
    return header + "".join(f"{t},{v}\n" for t, v in zip(times, values, strict=True))


def read(paths, issues=None, **fields):
    parts = defaultdict(list)
    card = CGMCard(**({"name": "test", "files": ("*",)} | fields))
    for readings in read_files(paths, card, Issues() if issues is None else issues):
        parts[readings.subject].append(readings)
    return {subject: merge(own, Issues()) for subject, own in parts.items()}


def mgdl(readings):
    return readings.glucose[GLUCOSE].tolist()


# --- workbooks ------------------------------------------------------------------------------------------------------


def test_a_workbook_of_one_sheet_is_the_table(tmp_path):
    path = xlsx(tmp_path / "anna.xlsx", {"Sheet1": [["time", "glucose"], *rows([100, 110, 120])]})
    (readings,) = read([path]).values()
    assert readings.subject == "anna" and mgdl(readings) == [100, 110, 120]
    assert readings.glucose[TIME_UTC].astype(str).tolist()[1] == "2024-01-09 08:05:00"


def test_the_sheet_with_the_readings_is_taken_and_the_others_are_counted(tmp_path):
    sheets = {"About": [["Clinic", "North"]], "CGM": [["time", "glucose"], *rows([100, 110, 120])]}
    issues = Issues()
    (readings,) = read([xlsx(tmp_path / "a.xlsx", sheets)], issues).values()
    assert mgdl(readings) == [100, 110, 120] and issues.counts["sheet of a workbook that isn't read"] == 1
    card, guesses = make_card([tmp_path / "a.xlsx"])
    assert card.sheet == "CGM" and any("--set sheet=" in guess.how_to_change for guess in guesses)


def test_two_sheets_of_readings_are_refused_and_the_advice_works(tmp_path):
    sheets = {name: [["time", "glucose"], *rows([v, v + 1, v + 2])] for name, v in (("Ann", 100), ("Bob", 150))}
    path = xlsx(tmp_path / "a.xlsx", sheets)
    with pytest.raises(ValueError, match=r"a\.xlsx: 2 of its sheets 'Ann', 'Bob' may be read; add --set sheet=Ann"):
        read([path])
    assert mgdl(read([path], sheet="Bob")["a"]) == [150, 151, 152]
    assert {s: mgdl(r)[0] for s, r in read([path], sheet="*").items()} == {"Ann": 100, "Bob": 150}
    with pytest.raises(ValueError, match="0 sheets are called 'Cid'; it has 'Ann', 'Bob'"):
        read([path], sheet="Cid")


def test_a_title_above_a_sheet_and_dates_as_text(tmp_path):
    title = [["Glucose of patient 7", "", ""], ["", "", ""], ["time", "glucose", "note"]]
    sheet = title + [[f"2024-01-09 08:0{i}", 100.0 + i, "x"] for i in range(0, 10, 5)] * 3
    (readings,) = read([xlsx(tmp_path / "p7.xlsx", {"S": sheet})]).values()
    assert mgdl(readings) == [100, 105]


def test_a_workbook_goes_through_prepare_whole(tmp_path):
    path = xlsx(tmp_path / "anna.xlsx", {"S": [["time", "glucose"], *rows(range(100, 150))]})
    card, _ = make_card([path])
    snapshot = prepare_card(card, tmp_path, tmp_path / "snapshots", on_ray=False)
    assert snapshot.subjects == ["anna"] and snapshot.manifest["counts"]["readings"] == 50
    assert snapshot.manifest["sources"][0]["path"] == "anna.xlsx"


def test_activity_from_a_workbook(tmp_path):
    sheet = [["time", "activity"], *rows(range(100, 160), start=DAY, minutes=1)]
    card = ActigraphyCard(name="t", files=("*",), columns=ActivityColumns(time="time", activity="activity"))
    (recording,) = read_activity([xlsx(tmp_path / "p.xlsx", {"S": sheet})], card, Issues())
    assert recording.channels["activity_counts"].tolist() == list(range(100, 160))


def test_a_document_and_an_encrypted_workbook_are_named(tmp_path):
    document = zipped(tmp_path / "letter.docx", word_="x")
    with zipfile.ZipFile(document, "a") as archive:
        archive.writestr("word/document.xml", "<x/>")
    with pytest.raises(ValueError, match=r"letter\.docx: a document, not a table"):
        read([document])
    (tmp_path / "old.xls").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    with pytest.raises(ValueError, match=r"old\.xls: a workbook that can't be read"):
        read([tmp_path / "old.xls"])


# --- archives -------------------------------------------------------------------------------------------------------


def test_each_member_of_an_archive_is_a_file_of_the_card(tmp_path):
    packed = gzip.compress(csv_of([150, 151, 152]).encode(), mtime=0)
    path = zipped(tmp_path / "all.zip", ann__csv=csv_of([100, 101, 102]), bob__csv__gz=packed, README__md="# about")
    issues = Issues()
    people = read([path], issues)
    assert {s: mgdl(r)[0] for s, r in people.items()} == {"ann": 100, "bob": 150}
    assert issues.examples["member of an archive that isn't read"] == ["all.zip: 'README.md'"]


def test_a_member_of_no_known_kind_is_an_error_and_the_advice_works(tmp_path):
    path = zipped(tmp_path / "all.zip", ann__csv=csv_of([100, 101, 102]), alarms__csv="when,what\n1,low\n")
    with pytest.raises(ValueError, match=r"all\.zip: 'alarms\.csv' beside 'ann\.csv': of no known kind; .*members"):
        read([path])
    assert list(read([path], members=("ann.csv",))) == ["ann"]
    with pytest.raises(ValueError, match=r"no member is called 'bob\.csv'; it holds 'ann\.csv', 'alarms\.csv'"):
        read([path], members=("bob.csv",))


def test_archives_that_are_hostile(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a.csv", csv_of([1]))
    with pytest.raises(ValueError, match=r"inner\.zip' is an archive inside of an archive"):
        read([zipped(tmp_path / "outer.zip", inner__zip=inner.getvalue(), a__csv=csv_of([100, 101]))])
    with zipfile.ZipFile(tmp_path / "up.zip", "w") as archive:
        archive.writestr("../../evil.csv", csv_of([100]))
    with pytest.raises(ValueError, match=r"up\.zip: a member is called '\.\.', which lies outside"):
        read([tmp_path / "up.zip"])
    assert not list(tmp_path.rglob("evil.csv"))
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(ValueError, match=r"empty\.zip"):
        read([tmp_path / "empty.zip"])


def test_what_macos_adds_is_no_member(tmp_path):
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as archive:
        archive.writestr("data/ann.csv", csv_of([100, 101, 102]))
        archive.writestr("__MACOSX/data/._ann.csv", b"\0\5\x16\7")
        archive.writestr("data/.DS_Store", b"\0")
    assert list(read([tmp_path / "mac.zip"])) == ["ann"]


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("2024-01-09 08:00,100\n2024-01-09 08:05,101\n2024-01-09 08:10,102\n", ["1", "2"]),
        ("2024-01-09 08:00;7,1\n2024-01-09 08:05;7,2\n2024-01-09 08:10;7,2\n", ["1", "2"]),
        ("0.12\n0.13\n0.14\n", ["1"]),
        ("0,1,2\n5,6,7\n8,9,10\n", ["0", "1", "2"]),
        ("time,glucose\n2024-01-09 08:00,100\n", ["time", "glucose"]),
        ("Export of P7\nmade by x\n2024-01-09 08:00,100\n2024-01-09 08:05,101\n2024-01-09 08:10,102\n", ["1", "2"]),
        ("id,2024-01-09,2024-01-10\na,1,2\nb,3,4\n", ["id", "2024-01-09", "2024-01-10"]),
    ],
)
def test_whether_a_line_names_the_columns(tmp_path, text, names):
    (tmp_path / "x.csv").write_text(text)
    source = Source.of(tmp_path / "x.csv")
    assert list(first_rows(source)) == names == list(read_text(source))


def test_a_table_without_a_header(tmp_path):
    (tmp_path / "p.csv").write_text(csv_of([100, 110, 120], header=""))
    card = {"columns": Columns(time="1", glucose="2"), "format": "generic"}
    assert mgdl(read([tmp_path / "p.csv"], **card)["p"]) == [100, 110, 120]


def test_the_card_says_how_a_table_lies(tmp_path):
    (tmp_path / "p.csv").write_text("a,b\nc,d\n" + csv_of([100, 110, 120]))
    assert mgdl(read([tmp_path / "p.csv"], skip_lines=2)["p"]) == [100, 110, 120]
    named = {"columns": Columns(time="1", glucose="2"), "skip_lines": 3, "header": False}
    assert mgdl(read([tmp_path / "p.csv"], **named)["p"]) == [100, 110, 120]
    assert Source.of(tmp_path / "p.csv", Layout(1)).names == ["c", "d"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-le", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("title", ["", "Über,,\n"])
def test_encodings(tmp_path, encoding, title):
    text = title + csv_of(range(100, 130), header="time,glucose,Größe\n").replace(",1", ",1", 1)
    text = "\n".join(
        line if "glucose" in line or line == title.strip() else f"{line},é" for line in text.split("\n")[:-1]
    )
    (tmp_path / "p.csv").write_bytes(text.encode(encoding))
    (readings,) = read([tmp_path / "p.csv"]).values()
    assert mgdl(readings) == list(range(100, 130)) and np.isfinite(mgdl(readings)).all()


@pytest.mark.slow
@pytest.mark.parametrize("address", ["XFD1048576", "ZZZZZZ99999999999", "BXZ60000"])
def test_a_cell_far_away_is_an_error_and_ends_no_process_of_ours(tmp_path, address):
    """Three of them asked for 550 GB and aborted, panicked, and took 6 GB."""
    rows = [["time", "glucose"], ["2024-01-09 08:00", 101], ["2024-01-09 08:05", 102]]
    good, far = xlsx(tmp_path / "good.xlsx", {"data": rows}), tmp_path / "far.xlsx"
    with zipfile.ZipFile(good) as archive, zipfile.ZipFile(far, "w") as changed:
        for entry in archive.infolist():
            changed.writestr(entry.filename, archive.read(entry).replace(b'r="B3"', f'r="{address}"'.encode()))
    with pytest.raises(ValueError, match=r"far\.xlsx: a workbook that can't be read|far\.xlsx: [\d,]+ cells, at most"):
        contents(far)
    assert list(contents(good)) == ["data"]
