"""The predictions table: what it refuses, what survives the disk, that nothing half-written is left."""

from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prediction_cases import forecasts

from raycadian.evaluation.forecast import predictions as module
from raycadian.evaluation.forecast.predictions import Predictions


def assert_equal(one: Predictions, other: Predictions) -> None:
    for f in fields(Predictions):
        mine, theirs = getattr(one, f.name), getattr(other, f.name)
        if f.name == "parts":
            assert mine.keys() == theirs.keys()
            assert all(np.array_equal(mine[k], theirs[k]) for k in mine)
        elif isinstance(mine, np.ndarray):
            assert mine.dtype == theirs.dtype and mine.shape == theirs.shape, f.name
            assert np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f"), f.name
        else:
            assert mine == theirs


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parquet_keeps_every_bit(tmp_path, dtype):
    p = forecasts(people=3)
    p = replace(p, truth=p.truth.astype(dtype), quantiles=p.quantiles.astype(dtype), dt_min=5.0)
    p.write_parquet(tmp_path / "p.parquet")
    assert_equal(Predictions.read_parquet(tmp_path / "p.parquet"), p)
    assert [f.name for f in tmp_path.iterdir()] == ["p.parquet"]


def test_parquet_of_no_windows_and_of_many_row_groups(tmp_path):
    none = forecasts().select(np.zeros(300, dtype=bool))
    none.write_parquet(tmp_path / "none.parquet")
    result = Predictions.read_parquet(tmp_path / "none.parquet")
    assert len(result) == 0 and result.quantiles.shape == (0, 12, 5) and result.past.shape == (0, 24)
    p = forecasts()
    p.write_parquet(tmp_path / "p.parquet")
    pq.write_table(pq.read_table(tmp_path / "p.parquet"), tmp_path / "groups.parquet", row_group_size=70)
    assert_equal(Predictions.read_parquet(tmp_path / "groups.parquet"), p)


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "p.parquet"
    forecasts(people=2).write_parquet(path)
    before = path.read_bytes()

    def full_disk(table, where, **options):
        where.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.pq, "write_table", full_disk)
    with pytest.raises(ValueError, match="No space left"):
        forecasts(people=3).write_parquet(path)
    assert path.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ["p.parquet"]


def test_files_that_are_no_predictions(tmp_path):
    with pytest.raises(ValueError, match="absent.parquet: not readable"):
        Predictions.read_parquet(tmp_path / "absent.parquet")
    forecasts().write_parquet(tmp_path / "p.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "p.parquet").read_bytes()[:-200])
    with pytest.raises(ValueError, match="cut.parquet: not readable"):
        Predictions.read_parquet(tmp_path / "cut.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"no table of predictions .*columns \['a'\]"):
        Predictions.read_parquet(tmp_path / "other.parquet")


def test_select_and_concat_undo_each_other():
    p = forecasts()
    mask = np.random.default_rng(0).random(len(p)) < 0.5
    halves = Predictions.concat([p.select(mask), p.select(~mask)])
    assert_equal(halves.select(np.argsort(np.r_[np.flatnonzero(mask), np.flatnonzero(~mask)])), p)
    with pytest.raises(ValueError, match="join differ"):
        Predictions.concat([p, replace(p, parts={})])


def test_scope_defaults_to_seen_people():
    assert set(replace(forecasts(), scope=None).scope) == {"id"}


def _with(p, name, index, value):
    array = getattr(p, name).copy()
    array[index] = value
    return replace(p, **{name: array})


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda p: replace(p, truth=p.truth[:, :6]), r"quantiles: expected shape \(300, 6, 5\), found \(300, 12, 5\)"),
        (lambda p: replace(p, local_h=p.local_h[:3]), r"local_h: expected shape \(300,\), found \(3,\)"),
        (lambda p: replace(p, parts={"mechanism": p.truth[:, :2]}), r"parts\['mechanism'\]: expected shape"),
        (lambda p: replace(p, past=p.past[:5]), r"past: expected shape \(300, 24\), found \(5, 24\)"),
        (lambda p: replace(p, truth=p.truth[0]), r"truth: expected \(windows, steps\)"),
        (lambda p: replace(p, levels=p.levels[::-1]), "levels rise strictly"),
        (lambda p: replace(p, levels=np.array([0.1, 0.2, 0.3, 0.4, 0.6])), "contain 0.5"),
        (lambda p: replace(p, levels=np.array([0.0, 0.2, 0.5, 0.7, 0.9])), r"inside \(0, 1\)"),
        (lambda p: replace(p, dt_min=0.0), "dt_min: expected minutes above 0"),
        (
            lambda p: _with(p, "quantiles", (7, 3, 0), np.nan),
            "not finite: the model diverged in 1 of 300 windows .*window 7",
        ),
        (lambda p: _with(p, "quantiles", (9, 3, 4), 0.0), "decrease with their level in 1 of 300 windows .*window 9"),
        (lambda p: _with(p, "truth", (2, 0), np.inf), "truth is infinite"),
        (lambda p: _with(p, "scope", 4, "xx"), r"scope: expected id or ood, found \['xx'\]"),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        change(forecasts())
