"""A series of a snapshot travels as its origin: what trials and workers are sent holds no data."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import helpers
import numpy as np
import pytest

from raycadian.config import Recipe, load_recipe, parse
from raycadian.data.series import _write, build_series, map_series, open_series
from raycadian.data.snapshot import Snapshot
from raycadian.modalities.prepare import prepare
from raycadian.tasks import task_of
from raycadian.training.pipeline import load_data

CHANNELS = ("glucose_mgdl",)
CARD = "name: tiny\nfiles: [tiny.csv]\nunit: mg/dL\ncolumns: {subject: subject, time: time, glucose: glucose}\n"


def make(folder: Path, days: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    helpers.write_csv(folder / "tiny.csv", n=3, days=days)
    (folder / "tiny.yaml").write_text(CARD)
    return folder / "tiny.yaml"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Snapshot:
    folder = tmp_path_factory.mktemp("series")
    return prepare(make(folder, 2), folder / "snapshots")


@pytest.mark.ray
def test_what_is_sent_does_not_grow_with_the_points(ray_local, tmp_path):
    sent = []
    for days in (2, 32):
        recipe = parse(Recipe, {
            "name": "tiny", "dataset": str(make(tmp_path / str(days), days)), "split": {"kind": "time"},
            "window": {"context": 24, "horizon": 6}, "model": {"kind": "ridge"},
        })  # fmt: skip
        data = load_data(recipe, tmp_path / "snapshots")
        windows = task_of(recipe).windows(data, recipe, "train")
        sent.append([len(data.series), len(windows), len(pickle.dumps(data)), len(pickle.dumps(windows))])
    small, large = sent
    assert large[0] > 13 * small[0] and large[1] > 10 * small[1]
    assert max(*small[2:], *large[2:]) < 3000
    assert abs(large[2] - small[2]) < 50 and abs(large[3] - small[3]) < 50  # the digits of some numbers


@pytest.mark.ray
def test_what_is_sent_of_the_demo(ray_local, tmp_path):
    recipe = load_recipe("jobs/recipes/demo.yaml")
    data = load_data(recipe, tmp_path / "snapshots")
    assert len(pickle.dumps(data)) < 100_000 < data.series.table.nbytes
    assert len(pickle.dumps(task_of(recipe).windows(data, recipe, "train"))) < 100_000


@pytest.mark.ray
def test_it_comes_back_as_the_same_memory_mapped_table(made, monkeypatch):
    series = open_series(made, CHANNELS)
    monkeypatch.setattr(Snapshot, "open", lambda path: pytest.fail("the snapshot was read, though the table is here"))
    found = pickle.loads(pickle.dumps(series))
    assert isinstance(found.table, np.memmap) and found.table.filename == series.table.filename
    assert Path(found.table.filename).is_relative_to(made.path.parent / ".cache")
    np.testing.assert_array_equal(found.table, build_series(made, CHANNELS).table)
    assert (found.origin, found.subjects, found.dt_s) == (series.origin, series.subjects, series.dt_s)
    for name in ("observed", "offsets", "subject_of", "number_of", "start_s", "utc_offset_min"):
        np.testing.assert_array_equal(getattr(found, name), getattr(series, name))


@pytest.mark.ray
def test_its_table_is_built_again_where_it_is_not(made):
    series = open_series(made, CHANNELS)
    sent = pickle.dumps(series)
    expected = np.array(series.table)
    shutil.rmtree(series.origin.folder)
    np.testing.assert_array_equal(pickle.loads(sent).table, expected)


@pytest.mark.ray
def test_a_relative_folder_means_the_same_in_another_process(made, tmp_path, monkeypatch):
    monkeypatch.chdir(made.path.parent)
    sent = tmp_path / "sent.pickle"
    sent.write_bytes(pickle.dumps(open_series(Snapshot.open(made.id), CHANNELS)))
    code = "import pickle, sys; print(len(pickle.loads(open(sys.argv[1], 'rb').read())))"  # what Ray's workers do
    done = subprocess.run([sys.executable, "-c", code, str(sent)], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == str(made.manifest["counts"]["points"]), done.stderr


@pytest.mark.ray
def scaled(folder):
    table = np.load(folder / "table.npy")
    np.save(folder / "table.npy", (table * 0.67).astype(np.float32))


def one_byte(folder):
    with (folder / "table.npy").open("r+b") as file:
        file.seek(600)
        file.write(b"\xff")


def short(folder):
    os.truncate(folder / "table.npy", 1000)


TOUCHED = {
    "scaled": scaled, "a byte": one_byte, "short": short,
    "no object": lambda folder: (folder / "series.json").write_text("[]"),
    "no index": lambda folder: (folder / "index.npz").write_text("x"),
    "no mask": lambda folder: (folder / "observed.npy").unlink(),
}  # fmt: skip


@pytest.mark.parametrize("damage", TOUCHED)
def test_a_table_that_was_written_to_is_built_again(made, tmp_path, caplog, damage):
    """Forecasts were made of what lay there, without a word, and a champion of a damaged table."""
    shutil.copytree(made.path, tmp_path / made.id)
    snapshot = Snapshot.open(tmp_path / made.id)
    first = open_series(snapshot, CHANNELS)
    before = first.table.copy()
    TOUCHED[damage](first.origin.folder)
    again = open_series(snapshot, CHANNELS)
    np.testing.assert_array_equal(again.table, before)
    assert "is built again" in caplog.text
    caplog.clear()
    TOUCHED[damage](first.origin.folder)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(again)).table, before)  # as a worker opens it
    open_series(snapshot, CHANNELS)
    assert caplog.text.count("is built again") == 1


def test_a_node_that_cannot_see_the_snapshot_says_so(made, tmp_path):
    shutil.copytree(made.path, tmp_path / made.id)
    sent = pickle.dumps(open_series(Snapshot.open(tmp_path / made.id), CHANNELS))
    shutil.rmtree(tmp_path / made.id)
    shutil.rmtree(tmp_path / ".cache")
    with pytest.raises(ValueError, match=r"can't read the snapshot .*storage that all of them share: .*s3://bucket"):
        pickle.loads(sent)
    assert not (tmp_path / ".cache").exists()


def test_a_series_of_which_nothing_is_forecast_is_another_one(made):
    forecast, whole = open_series(made, CHANNELS), open_series(made, CHANNELS, forecast=False)
    assert (len(forecast.table), len(whole.table)) == (2, 1) and whole.origin.folder != forecast.origin.folder
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(whole)).table, forecast.table[1:])


def test_without_a_snapshot_the_arrays_travel():
    series = helpers.series(2, 1)
    found = pickle.loads(pickle.dumps(series))
    assert found.origin is None
    np.testing.assert_array_equal(found.table, series.table)
    assert (found.subjects, found.channels, found.dt_s) == (series.subjects, series.channels, series.dt_s)


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(ValueError, match="No space left"):
        map_series(helpers.people(2, 1), CHANNELS, tmp_path / "series")
    assert [p.name for p in tmp_path.iterdir()] == ["series.lock"]


def test_a_table_that_another_node_finished_first_stays(tmp_path):
    source, folder = helpers.people(2, 1), tmp_path / "series"
    first = map_series(source, CHANNELS, folder)
    inode = (folder / "table.npy").stat().st_ino
    _write(source, CHANNELS, folder, True)  # a lock that did not hold, as on some network file systems
    assert (folder / "table.npy").stat().st_ino == inode and [p.name for p in tmp_path.iterdir() if p.is_dir()] == [
        "series"
    ]
    np.testing.assert_array_equal(map_series(source, CHANNELS, folder).table, first.table)


def test_reading_ahead_keeps_the_order(tmp_path):
    source = helpers.people(12, 1, gap_after=150)  # more than are read ahead
    mapped, built = map_series(source, CHANNELS, tmp_path / "series"), build_series(source, CHANNELS)
    np.testing.assert_array_equal(mapped.table, built.table)
    np.testing.assert_array_equal(mapped.observed, built.observed)
    np.testing.assert_array_equal(mapped.offsets, built.offsets)
    np.testing.assert_array_equal(mapped.subject_of, built.subject_of)
