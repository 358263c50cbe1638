"""Snapshots: what is written is what is read, the name is the content, and no accident leaves half of one."""

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycadian.config import Grid
from raycadian.data import blocks
from raycadian.data.blocks import BlockWriter, PieceReader
from raycadian.data.grid import to_recordings
from raycadian.data.parquet import events_table, from_table, head_columns, subject_hash, to_table
from raycadian.data.snapshot import Snapshot, snapshots
from raycadian.data.writer import SpooledRows, copy_subject, finish, prepared, write_subject
from raycadian.errors import StorageError
from raycadian.modalities import MODALITIES, groups
from raycadian.modalities.cards import card_of
from raycadian.modalities.cgm import prepare as cgm
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.cgm.modality import CGM
from raycadian.modalities.prepare import prepare, source_files
from raycadian.modalities.unreadable import FILE as UNREADABLE
from raycadian.types import BASAL, BOLUS, CARBS, GLUCOSE, OBSERVED, RECORDING, TIME_UTC, Issues, Readings, Recording

HOSTILE = "../../x"
PART, EVENTS = "blocks/00000-00-recordings.parquet", "blocks/00000-01-events.parquet"
CARD = """
name: tiny
license: CC0
files: [{files}]
format: generic
unit: mg/dL
columns: {{subject: id, time: time, glucose: gl, carbs_g: carbs}}
grid: {{min_points: 4}}
"""


def rows(subject: str, n: int = 30, start: str = "2024-03-01 08:00:00", level: float = 100.0) -> pd.DataFrame:
    """Readings every 5 minutes with an hour's gap in the middle and a meal on the third."""
    minutes = np.arange(n) * 5 + np.where(np.arange(n) >= n // 2, 60, 0)
    frame = pd.DataFrame({"id": subject, "time": pd.Timestamp(start) + pd.to_timedelta(minutes, unit="min")})
    frame["gl"] = level + np.arange(n) % 7
    frame["carbs"] = np.where(np.arange(n) == 2, 45.0, np.nan)
    return frame


def make_card(folder: Path, frames: list[pd.DataFrame], files: str = "'*.csv'") -> Path:
    """A card and one CSV a frame, in a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames):
        frame.to_csv(folder / f"part{i}.csv", index=False)
    (folder / "tiny.yaml").write_text(CARD.format(files=files), encoding="utf-8")
    return folder / "tiny.yaml"


def people() -> list[pd.DataFrame]:
    return [rows("ann"), rows("Bö b", level=150), rows(HOSTILE, level=200)]


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Snapshot:
    """One snapshot for the tests that only read it."""
    folder = tmp_path_factory.mktemp("tiny")
    return prepare(make_card(folder / "data", [pd.concat(people())]), folder / "snapshots")


@pytest.fixture
def copy(original, tmp_path) -> Snapshot:
    """The same, to damage."""
    shutil.copytree(original.path, tmp_path / original.id)
    return Snapshot.open(tmp_path / original.id)


# --- layout, without Ray ---------------------------------------------------------------------------------------------


def random_readings(seed: int) -> Readings:
    rng = np.random.default_rng(seed)
    time_s = 1_700_000_000 + np.cumsum(rng.choice([300, 307, 900, 2000, 4000], 200, p=[0.4, 0.2, 0.2, 0.15, 0.05]))
    glucose = pd.DataFrame({TIME_UTC: time_s.astype("datetime64[s]").astype("datetime64[ns]")})
    glucose[GLUCOSE] = rng.uniform(40, 400, 200)
    glucose["utc_offset_min"] = np.where(np.arange(200) < 120, 60, 120)
    at = np.sort(rng.integers(time_s[0] - 5000, time_s[-1] + 5000, 40))
    events = pd.DataFrame({TIME_UTC: at.astype("datetime64[s]").astype("datetime64[ns]")})
    events["kind"] = rng.choice([CARBS, BOLUS, BASAL], 40)
    events["value"] = rng.uniform(0, 60, 40)
    return Readings(f"s{seed}", glucose, events)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_recordings_survive_the_tables_exactly(seed):
    readings = random_readings(seed)
    written = to_recordings(readings, Grid(min_points=2), Issues())
    assert len(written) > 3 and any(np.isnan(r.channels[GLUCOSE]).any() for r in written)
    heads = [[r.subject, r.index, str(r.start_utc), r.utc_offset_min, r.dt_s, len(r)] for r in written]
    events = events_table(readings.events).to_pandas().astype({TIME_UTC: "datetime64[ns]"})
    found = from_table(head_columns(heads), to_table(written), events)
    for a, b in zip(written, found, strict=True):
        assert replace(a, channels={}, observed=[], events=None) == replace(b, channels={}, observed=[], events=None)
        assert a.start_utc.dtype == b.start_utc.dtype and set(a.channels) == set(b.channels)
        for name in a.channels:
            np.testing.assert_array_equal(a.channels[name], b.channels[name], strict=True)
        np.testing.assert_array_equal(a.observed, b.observed, strict=True)
        pd.testing.assert_frame_equal(a.events, b.events)
    assert subject_hash(written, readings.events) == subject_hash(found, events)


def test_the_hash_sees_every_value():
    readings = random_readings(0)
    recordings = to_recordings(readings, Grid(min_points=2), Issues())
    base = subject_hash(recordings, readings.events)
    changed = [
        replace(recordings[1], utc_offset_min=61),
        replace(recordings[1], start_utc=recordings[1].start_utc + 1),
        replace(recordings[1], observed=~recordings[1].observed),
        replace(recordings[1], channels=recordings[1].channels | {GLUCOSE: recordings[1].channels[GLUCOSE] + 0.001}),
    ]
    for other in changed:
        assert subject_hash([recordings[0], other, *recordings[2:]], readings.events) != base
    assert subject_hash(recordings, readings.events.assign(value=1.0)) != base
    assert subject_hash(recordings, readings.events.iloc[:-1]) != base


def test_a_card_that_names_no_file(tmp_path):
    (tmp_path / "a.csv").write_text("x")
    card = CGMCard(name="c", files=("*.csv", "sub/*.json"))
    with pytest.raises(ValueError, match=r"no file matches 'sub/\*.json'"):
        source_files(card, tmp_path)
    assert source_files(CGMCard(name="c", files=("*.csv", "a.csv")), tmp_path) == [tmp_path / "a.csv"]


# --- prepare ---------------------------------------------------------------------------------------------------------


def test_prepare_writes_what_was_read(original):
    assert original.subjects == [HOSTILE, "Bö b", "ann"]
    assert original.path.name == original.id == f"tiny-{original.manifest['content_sha256'][:12]}"
    counts = original.manifest["counts"]
    assert (counts["subjects"], counts["recordings"], counts["readings"], counts["gaps"]) == (3, 6, 90, 3)
    assert counts["points"] == counts["observed"] == 90 and counts["events"] == 3
    assert original.lengths == {subject: [15, 15] for subject in original.subjects}
    first, second = original.recordings("Bö b")
    np.testing.assert_array_equal(first.channels[GLUCOSE], 150 + np.arange(15) % 7)
    assert first.channels[CARBS].tolist() == [0, 0, 45, *[0] * 12] and second.channels[CARBS].sum() == 0
    assert (second.start_utc - first.start_utc).astype(int) == 60 * (15 * 5 + 60)
    assert original.events("ann")["value"].tolist() == [45] and first.events["kind"].tolist() == [CARBS]
    assert original.quality["ann"]["readings"] == 30
    original.verify()


def test_the_layout_is_as_documented(original):
    files = {p.relative_to(original.path).as_posix() for p in original.path.rglob("*") if p.is_file()}
    (subjects,) = original.path.glob("subjects-????????.parquet")
    records = set(original.manifest["records"].values())
    assert files == {"manifest.json", "recordings.parquet", "index.parquet", subjects.name, PART, EVENTS} | records
    block = pq.read_table(original.path / PART)
    assert block.column_names == ["subject", RECORDING, TIME_UTC, GLUCOSE, OBSERVED, CARBS]
    assert [str(t) for t in block.schema.types[1:]] == ["int32", "timestamp[ms]", "float", "bool", "float"]
    assert list(dict.fromkeys(block["subject"].to_pylist())) == original.subjects
    heads = pq.read_schema(original.path / "recordings.parquet").names
    assert heads == ["subject", "recording", "start_utc", "utc_offset_min", "dt_s", "n_points"]
    assert [p.name for p in original.path.parent.iterdir()] == [original.id]  # nothing of the workspace is left


def test_the_id_depends_on_content_alone(original, tmp_path):
    shuffled = pd.concat(people()).sample(frac=1, random_state=0)
    early = shuffled["time"] < pd.Timestamp("2024-03-01 09:30:00")
    card = make_card(tmp_path / "data", [shuffled[~early], shuffled[early]])  # people in two files, out of order
    assert prepare(card, tmp_path / "snapshots").id == original.id


def test_a_second_prepare_reads_nothing(tmp_path, monkeypatch):
    card, out, said = make_card(tmp_path / "data", people()), tmp_path / "snapshots", []
    first = prepare(card, out)
    with monkeypatch.context() as patch:
        patch.setattr(cgm, "_read_one", lambda *_: pytest.fail("the files were read again"))
        os.utime(tmp_path / "data" / "part0.csv", (0, 0))  # a new date is no new content
        again = prepare(card, out, lambda *told: said.append(told))
    assert again.manifest == first.manifest and "reused" in said[0][0]
    rows("ann", level=101).to_csv(tmp_path / "data" / "part0.csv", index=False)
    other = prepare(card, out)
    assert other.id != first.id
    assert [s.id for s in snapshots(out)] == sorted([first.id, other.id])
    # a card that changes words only: the same content, the same folder, the newer manifest
    card.write_text(card.read_text().replace("CC0", "CC-BY-4.0"))
    assert prepare(card, out).id == other.id
    assert card_of(Snapshot.open(other.path)).license == "CC-BY-4.0"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_as_it_was_is_taken_from_the_snapshot_before(tmp_path, monkeypatch, seed):
    """Files come, go and change, of one person, of several, of somebody who is in others: whatever was taken, a fresh
    prepare writes the same bytes. Small groups, blocks and row groups make subjects move between them."""
    for module, name, value in ((blocks, "BLOCK_BYTES", 2000), (blocks, "_ROWS", 20), (groups, "_BYTES", 2500)):
        monkeypatch.setattr(module, name, value)
    rng, out = np.random.default_rng(seed), tmp_path / "snapshots"
    first = [rows(f"p{i}", level=100 + 9 * i) for i in range(4)]
    card = make_card(tmp_path / "data", [first[0], pd.concat(first[1:3]), first[3]], "'part*.csv', 'more*.csv'")
    (card.parent / "more.csv").write_text("id,time\n")  # can't be read
    card.write_text(card.read_text() + "people: {file: people.csv, subject: id}\n")
    (card.parent / "people.csv").write_text("id,arm\np0,1\np1,2\n")
    progress = []
    for step in range(5):
        made = prepare(card, out, lambda *told: progress.append(told[0]), on_ray=False)
        fresh = prepare(card, tmp_path / f"fresh{step}", on_ray=False)
        assert {**made.manifest, "created_utc": ""} == {**fresh.manifest, "created_utc": ""}
        assert all((made.path / f).read_bytes() == (fresh.path / f).read_bytes() for f in made.manifest["files"])
        made.verify()
        change(card.parent, step, rng)
    taken = {int(n) for what in progress for n in re.findall(r"(\d+) taken from snapshot tiny-", what)}
    assert len(taken) > 1 and max(taken) > 2
    (card.parent / "people.csv").write_text("id,arm\np1,3\n")
    assert prepare(card, out, on_ray=False).attributes["p1"][0] == {"arm": 3}


def change(folder: Path, step: int, rng: np.random.Generator) -> None:
    """A file more, that may be of somebody who is there already; one less, or another level."""
    who = rng.choice(["p1", "p3", f"n{step}"])
    rows(who, start=f"2024-04-{step + 1:02d} 08:00:00", level=100 + step).to_csv(
        folder / f"more{step}.csv", index=False
    )
    if step == 2:
        (folder / "part0.csv").unlink()
    if step == 3:
        pd.concat([rows("p1", level=109), rows("p2", level=131)]).to_csv(folder / "part1.csv", index=False)


@pytest.mark.ray
def test_on_ray_the_result_is_the_same_to_the_byte(ray_local, original, tmp_path):
    said = []
    card = make_card(tmp_path / "data", [pd.concat(people())])
    there = prepare(card, tmp_path / "snapshots", lambda *told: said.append(told), on_ray=True)
    assert ("subjects written (on Ray)", 3, 3) in said
    for name in there.manifest["files"]:
        assert (there.path / name).read_bytes() == (original.path / name).read_bytes()
    made = ("created_utc",)
    ours, theirs = ({k: v for k, v in s.manifest.items() if k not in made} for s in (there, original))
    assert ours == theirs


@pytest.mark.ray
def test_what_a_worker_does_not_see_the_driver_reads(ray_local, tmp_path, monkeypatch):
    card = make_card(tmp_path / "data", people())
    here = prepare(card, tmp_path / "here")
    attempt = cgm._attempt

    def elsewhere(sent, card, folder):
        return attempt(sent | {"path": f"/elsewhere{sent['path']}"}, card, folder)

    monkeypatch.setattr(cgm, "_attempt", elsewhere)
    said = []
    there = prepare(card, tmp_path / "there", lambda *told: said.append(told), on_ray=True)
    assert ("readings read", 90, None) in said and there.id == here.id
    assert there.manifest["issues"] == here.manifest["issues"]


@pytest.mark.slow
def test_prepare_of_one_person_loads_neither_ray_nor_torch(tmp_path):
    card = make_card(tmp_path / "data", [rows("ann")])
    code = (
        "import sys; from raycadian.modalities.prepare import prepare; prepare(*sys.argv[1:]);"
        "print([m for m in ('ray', 'torch', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(card), str(tmp_path / "snapshots")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def as_of_before(made: Snapshot, out: Path) -> Snapshot:
    """The same in the layout of before the blocks, a folder a subject."""
    path = out / made.id
    path.mkdir(parents=True)
    subjects = {}
    for subject, recordings in made.each():
        folder, events = path / f"subject={quote(subject, safe='')}", made.events(subject)
        folder.mkdir()
        pq.write_table(to_table(recordings, (TIME_UTC, GLUCOSE, OBSERVED)), folder / "part-0.parquet")
        pq.write_table(events_table(events), folder / "events.parquet")
        sha256 = subject_hash(recordings, events)
        subjects[subject] = {"sha256": sha256, "points": [len(r) for r in recordings], "events": len(events)}
    shutil.copy(made.path / "recordings.parquet", path)
    files = {p.relative_to(path).as_posix(): p.stat().st_size for p in path.rglob("*.parquet")}
    own = {"format": 1, "subjects": subjects, "quality": made.quality, "files": files}
    (path / "manifest.json").write_text(json.dumps(made.manifest | own))
    return Snapshot.open(path)


def test_a_snapshot_of_before_is_read_and_reused(original, tmp_path):
    """Of the first versions: no columns in its manifest, and the hash of the code for the version of the modality."""
    old = as_of_before(original, tmp_path / "snapshots")
    lacking = {k: v for k, v in old.manifest.items() if k not in ("columns", "version")} | {"code_version": "0a1b2c"}
    (old.path / "manifest.json").write_text(json.dumps(lacking))
    opened = Snapshot.open(old.path)
    opened.verify()
    assert card_of(opened) == card_of(original) and opened.subjects == original.subjects
    assert opened.lengths == original.lengths and opened.quality == original.quality
    assert [r.index for r in opened.part(["ann"]).recordings("ann")] == [0, 1]
    card = make_card(tmp_path / "data", [pd.concat(people())])
    assert prepare(card, tmp_path / "snapshots").manifest["format"] == 1


def test_a_snapshot_of_before_gives_way_to_what_is_written_again(original, tmp_path, monkeypatch):
    as_of_before(original, tmp_path / "snapshots")
    monkeypatch.setattr(CGM, "version", CGM.version + 1)
    made = prepare(make_card(tmp_path / "data", [pd.concat(people())]), tmp_path / "snapshots")
    made.verify()
    assert made.id == original.id and made.manifest["format"] == 2 and not list(made.path.glob("subject=*"))


def test_equal_recordings_from_other_files_keep_the_blocks_and_take_the_figures(tmp_path):
    """A reading that comes twice counts in the figures, not in the recordings."""
    out = tmp_path / "snapshots"
    first = prepare(make_card(tmp_path / "data", [rows("ann")]), out)
    before = (first.path / PART).stat().st_mtime_ns
    again = prepare(make_card(tmp_path / "data", [rows("ann"), rows("ann")]), out)
    assert again.id == first.id and (again.path / PART).stat().st_mtime_ns == before
    assert len(again.manifest["sources"]) == 2 and again.manifest["issues"] != first.manifest["issues"]
    assert Snapshot.open(again.path).quality == again.quality


# --- blocks ----------------------------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    block_bytes=st.sampled_from([1, 3000, 10**6]),
    rows_=st.sampled_from([1, 7, 1000]),
    most=st.sampled_from([5, 16, 1000]),
)
def test_whatever_the_blocks_everybody_is_read_as_written(lengths, block_bytes, rows_, most):
    """Blocks that are closed at once, row groups of one person or of many, people longer than both."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", block_bytes)
        patch.setattr(blocks, "_ROWS", rows_)
        patch.setattr(blocks, "_MOST_ROWS", most)
        path, kept = Path(folder), {}
        with SpooledRows() as written:
            with BlockWriter(path, 0) as writer:
                for number, n in enumerate(lengths):
                    subject, channels = f"s{number:02d}", {GLUCOSE: np.arange(n, dtype=np.float32) + number}
                    if number % 3 == 2:
                        channels["other"] = -channels[GLUCOSE]  # and so lies in blocks of its own
                    start = np.datetime64("2024-01-01T00:00:00", "s")
                    kept[subject] = [Recording(subject, 0, start, 0, 300.0, channels, np.arange(n) % 2 == 0)]
                    row = {"subject": subject, "quality": {}, "issues": {}}
                    written.add(row | write_subject(writer, subject, kept[subject]))
            finish(path, written, writer.files, {"card": {"name": "x"}, "key": "", "counts": {}, "issues": {}})
        snapshot = Snapshot.open(path)
        snapshot.verify()
        for subject, (own,) in snapshot.each():
            assert own.channels.keys() == kept[subject][0].channels.keys()
            np.testing.assert_array_equal(own.channels[GLUCOSE], kept[subject][0].channels[GLUCOSE])
        some = list(kept)[::2]
        assert [s for s, _ in snapshot.part(some).each()] == some
        if block_bytes == 1:
            assert sum("recordings" in name for name in writer.files) >= len(lengths) / (rows_ + 1)


def test_a_person_longer_than_blocks_is_copied_piece_by_piece(tmp_path, monkeypatch):
    for name, value in (("BLOCK_BYTES", 200_000), ("_ROWS", 4000), ("_MOST_ROWS", 4000)):
        monkeypatch.setattr(blocks, name, value)
    values = np.random.default_rng(0).normal(size=300_000).astype(np.float32)
    recording = Recording("ann", 0, np.datetime64("2024-01-01", "s"), 0, 0.008, {"ppg": values}, values > 0)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with BlockWriter(tmp_path / "a", 0) as writer:
        row = write_subject(writer, "ann", [recording])
    assert len(writer.files) > 3
    begin, held, add = pa.total_allocated_bytes(), [], BlockWriter._add
    monkeypatch.setattr(BlockWriter, "_add", lambda *a: held.append(pa.total_allocated_bytes() - begin) or add(*a))
    with BlockWriter(tmp_path / "b", 0) as copied, PieceReader(tmp_path / "a") as source:
        assert copy_subject(copied, "ann", row, source)["pieces"] == row["pieces"]
    assert max(held) < 0.25 * to_table([recording]).nbytes
    assert all((tmp_path / "b" / f).read_bytes() == (tmp_path / "a" / f).read_bytes() for f in writer.files)


def test_a_new_version_of_the_modality_reads_again(original, tmp_path, monkeypatch):
    card, out, said = make_card(tmp_path / "data", [pd.concat(people())]), tmp_path / "snapshots", []
    first = prepare(card, out)
    monkeypatch.setattr(CGM, "version", CGM.version + 1)
    again = prepare(card, out, lambda *told: said.append(told))
    assert "readings read" in said[0][0] and again.manifest["key"] != first.manifest["key"]
    assert again.id == first.id  # nothing else was written: the folder stays, with the newer manifest


def test_subjects_without_a_recording_are_listed_not_hidden(tmp_path):
    snapshot = prepare(make_card(tmp_path / "data", [rows("ann"), rows("one", n=1)]), tmp_path / "snapshots")
    assert snapshot.subjects == ["ann"]
    assert snapshot.manifest["counts"]["subjects_without_recording"] == 1
    assert "no recording long enough" in snapshot.quality["one"]["flags"]
    assert snapshot.manifest["issues"]["recording shorter than min_points"]["count"] == 1
    with pytest.raises(ValueError, match="has no subject 'one'"):
        snapshot.recordings("one")


def test_nothing_usable_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"no recording of at least 4 points.*found 1 subjects with 1 readings"):
        prepare(make_card(tmp_path / "data", [rows("one", n=1)]), tmp_path / "snapshots")
    assert list((tmp_path / "snapshots").iterdir()) == []


# --- accidents: what was there before stays, no half is listed
# ---------------------------------------------------------


@pytest.fixture
def before(original, tmp_path) -> tuple[Path, Path]:
    """A card with new data and a folder that holds a snapshot of the old."""
    out = tmp_path / "snapshots"
    shutil.copytree(original.path, out / original.id)
    return make_card(tmp_path / "data", [rows("ann", level=120), rows("bob")]), out


def assert_intact(out: Path, original: Snapshot) -> None:
    assert [p.name for p in out.iterdir()] == [original.id]
    (left,) = snapshots(out)
    left.verify()
    assert left.manifest == original.manifest


def test_a_full_disk_while_reading(before, original, monkeypatch):
    card, out = before

    def full(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device", str(self._folder))

    monkeypatch.setattr(cgm.BlockWriter, "add", full)
    with pytest.raises(StorageError, match=r"No space left on device \(disk /.*free of"):
        prepare(card, out)
    assert_intact(out, original)


@pytest.mark.ray
@pytest.mark.parametrize("on_ray", [False, True])
def test_a_full_disk_in_a_worker(before, original, monkeypatch, request, on_ray):
    if on_ray:
        request.getfixturevalue("ray_local")
    card, out = before

    class Full(CGM):
        def write(self, item, blocks, card):
            row = super().write(item, blocks, card)
            if item["subject"] == "bob":
                raise OSError(28, "No space left on device", "part-0.parquet")
            return row

    monkeypatch.setitem(MODALITIES, "cgm", Full())
    with pytest.raises(StorageError, match="No space left on device"):
        prepare(card, out, on_ray=on_ray)
    assert_intact(out, original)


@pytest.mark.parametrize("moment", ["readings read", "subjects written"])
def test_ctrl_c(before, original, moment):
    def interrupt(what, *_):
        if what.startswith(moment):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(*before, interrupt)
    assert_intact(before[1], original)


def test_an_error_in_a_worker_is_plain(before, original, monkeypatch):
    class Refusing(CGM):
        def write(self, item, blocks, card):
            if item["subject"] == "bob":
                raise ValueError("bob can't be read")
            return super().write(item, blocks, card)

    monkeypatch.setitem(MODALITIES, "cgm", Refusing())
    with pytest.raises(ValueError, match=r"^bob can't be read; 1 of 2 can't be read: if the card is right, add --set"):
        prepare(*before)
    assert_intact(before[1], original)


def test_files_that_cannot_be_read_are_left_out_and_named(tmp_path, caplog):
    """As everybody else would be written without them."""
    good = people()
    card = make_card(tmp_path / "data", [*good, rows("sick").drop(columns="gl"), rows("low").assign(gl=3.0)])
    progress = []
    made = prepare(card, tmp_path / "snapshots", lambda *step: progress.append(step))
    assert ("readings read", 90, None) in progress
    assert progress[-1] == ("subjects written (here, in this process)", 3, 3)
    assert made.subjects == sorted(["ann", "Bö b", HOSTILE])
    messages = made.manifest["unreadable"][UNREADABLE]
    assert set(messages) == {"part3.csv", "part4.csv"} and "no column 'gl'" in messages["part3.csv"]
    assert made.manifest["issues"][UNREADABLE]["examples"] == list(messages.values())
    assert f"2 x {UNREADABLE}, e.g. " in caplog.text
    card.write_text(card.read_text() + "most_unreadable: 0\n")
    with pytest.raises(ValueError, match=r"^\S*part3.csv: no column 'gl'.*; 1 of 5 can't be read"):
        prepare(card, tmp_path / "snapshots")
    for number in range(3):
        (card.parent / f"part{number}.csv").unlink()
    card.write_text(card.read_text().replace("most_unreadable: 0", "most_unreadable: 1"))
    with pytest.raises(ValueError, match="2 of 2 can't be read: is the card right"):
        prepare(card, tmp_path / "snapshots")


KILLED = """
import os, signal, sys
from raycadian.modalities.prepare import prepare
prepare(sys.argv[1], sys.argv[2], lambda *told: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_what_a_killed_run_left_is_not_listed_and_goes_with_the_next(before, original):
    card, out = before
    killed = subprocess.run([sys.executable, "-c", KILLED, str(card), str(out)])
    assert killed.returncode == -signal.SIGKILL
    assert [s.id for s in snapshots(out)] == [original.id]
    (left,) = out.glob(".preparing-*")
    assert list(left.rglob("*.parquet"))
    host = socket.gethostname()
    now = f"{time.time():.0f}"
    alive, elsewhere = out / f".preparing-{host}-{os.getppid()}-{now}-x", out / ".preparing-other-1-x"
    for folder in (alive, elsewhere):  # of a process that still runs, and of another machine: not ours to clean
        folder.mkdir()
        (folder / "manifest.json").write_text("{}")
    made = prepare(card, out)
    assert not left.exists() and alive.exists() and elsewhere.exists()
    assert {s.id for s in snapshots(out)} == {original.id, made.id}


def cut(made):
    (made.path / PART).write_bytes(b"PAR1")


def flipped(made):
    part = made.path / PART
    body = bytearray(part.read_bytes())
    column = pq.ParquetFile(part).metadata.row_group(0).column(3)  # the first is the subject's id, which the index has
    body[column.data_page_offset + 60] ^= 0xFF
    part.write_bytes(body)


def flipped_index(made):
    index = made.path / "recordings.parquet"
    index.write_bytes(b"\0" * index.stat().st_size)


def edited(made, table, **changes):
    """Values of the first row of a table of the snapshot, whose new size the manifest states."""
    (path,) = made.path.glob(f"{table}*.parquet")
    rows, schema = pq.read_table(path).to_pylist(), pq.read_schema(path)
    pq.write_table(pa.Table.from_pylist([rows[0] | changes, *rows[1:]], schema), path)
    body = made.manifest | {"files": made.manifest["files"] | {path.name: path.stat().st_size}}
    (made.path / "manifest.json").write_text(json.dumps(body))


DAMAGES = {
    "no block": lambda made: (made.path / PART).unlink(),
    "cut": cut, "flipped": flipped, "flipped index": flipped_index,
    "other lengths": lambda made: edited(made, "index", n_rows=3),
    "other hash": lambda made: edited(made, "subjects", sha256="0" * 64),
    "no hash": lambda made: edited(made, "subjects", sha256=None),
    "no entry": lambda made: edited(made, "subjects", subject="somebody"),
}  # fmt: skip


def dated(path, ago_s):
    os.utime(path, (time.time() - ago_s,) * 2)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_snapshot_is_not_reused(damage, copy, caplog):
    dated(copy.path / "manifest.json", 9)
    assert prepared(copy.path.parent, copy.name, copy.manifest["key"]).id == copy.id
    dated(copy.path / "manifest.json", 9)
    DAMAGES[damage](copy)
    assert prepared(copy.path.parent, copy.name, copy.manifest["key"]) is None
    assert "a damaged snapshot is prepared again: " in caplog.text


@pytest.mark.slow
def test_a_damaged_snapshot_is_replaced(tmp_path):
    """It was reused where no size had changed, and what read it said: prepare again."""
    card, out = make_card(tmp_path / "data", people()), tmp_path / "snapshots"
    made = prepare(card, out)
    dated(made.path / "manifest.json", 9)
    flipped(made)
    again = prepare(card, out)
    again.verify()
    assert again.lengths == made.lengths


def test_what_was_copied_is_read_once_and_reused(copy, monkeypatch):
    """A copy's files have dates of their own."""
    dated(copy.path / "manifest.json", 20)
    dated(copy.path / PART, 10)
    verified = []
    monkeypatch.setattr(Snapshot, "verify", lambda self: verified.append(self.id))
    for _ in range(2):
        assert prepared(copy.path.parent, copy.name, copy.manifest["key"]).id == copy.id
    assert verified == [copy.id]


# --- opening what is damaged
# -------------------------------------------------------------------------------------------


def test_truncated_and_missing_files_are_found_on_opening(copy):
    part = copy.path / PART
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(
        ValueError, match=r"00000-00-recordings\.parquet: expected \d+ bytes, found \d+; delete the folder"
    ):
        Snapshot.open(copy.path)
    part.unlink()
    with pytest.raises(ValueError, match="found no file"):
        Snapshot.open(copy.path)


def test_flipped_bytes_are_found_on_reading(copy):
    part = copy.path / PART
    flipped(copy)
    content = part.read_bytes()
    opened = Snapshot.open(copy.path)
    with pytest.raises(ValueError, match=r"00000-00-recordings\.parquet: not readable as Parquet"):
        opened.recordings("ann")
    part.write_bytes(b"\0" * len(content))
    with pytest.raises(ValueError, match="not readable as Parquet"):
        opened.verify()


def test_swapped_data_are_found_by_the_hash(copy):
    block = pq.read_table(copy.path / PART)
    names = block["subject"].to_numpy()
    rows = np.concatenate([np.flatnonzero(names == name) for name in (HOSTILE, "Bö b", HOSTILE)])
    pq.write_table(block.take(rows), copy.path / PART)
    body = copy.manifest | {"files": copy.manifest["files"] | {PART: (copy.path / PART).stat().st_size}}
    (copy.path / "manifest.json").write_text(json.dumps(body))
    with pytest.raises(ValueError, match="the data of subject 'ann' are not what was written"):
        Snapshot.open(copy.path).verify()


def test_a_block_with_too_few_rows(copy):
    pq.write_table(pq.read_table(copy.path / PART).slice(0, 80), copy.path / PART)
    with pytest.raises(ValueError, match=r"00000-00-recordings\.parquet: 80 rows, expected 90 or more; delete the"):
        copy.recordings("ann")


def test_manifests_that_are_none(copy, tmp_path):
    file = copy.path / "manifest.json"
    cases = {
        json.dumps(copy.manifest | {"format": 99}): "format 99, this version reads 1 and 2",
        "[]": "expected an object, found a list",
        "{": "not readable as JSON",
        "[" * 100_000: "nested deeper",
        json.dumps({"format": 1}): "lacks .*'card'",
        json.dumps(copy.manifest | {"files": {"../../etc/passwd": 1}}): "lies outside the snapshot",
    }
    for content, message in cases.items():
        file.write_text(content)
        with pytest.raises(ValueError, match=message):
            Snapshot.open(copy.path)
    with pytest.raises(ValueError, match="no snapshot here"):
        Snapshot.open(tmp_path)


# --- real data
# -----------------------------------------------------------------------------------------------------------


def test_iglu(shared, tmp_path):
    card = tmp_path / "iglu.yaml"
    card.write_text(f"name: iglu\nfiles: [{shared}/cgm/glucobench/iglu.csv.gz]\n")
    snapshot = prepare(card, tmp_path / "snapshots")
    snapshot.verify()
    raw = pd.read_csv(shared / "cgm/glucobench/iglu.csv.gz", parse_dates=["time"])
    assert snapshot.manifest["counts"]["readings"] == len(raw) == 13866
    for subject, own in raw.groupby("id"):
        whole = own.set_index("time")["gl"]
        for r in snapshot.recordings(subject):
            times = r.start_utc + (np.arange(len(r)) * r.dt_s).astype("timedelta64[s]")
            exact = np.isin(times, whole.index.to_numpy("datetime64[s]"))
            np.testing.assert_array_equal(r.channels[GLUCOSE][exact], whole[times[exact]].to_numpy(np.float32))
            assert exact[0] and r.observed[exact].all()
