"""Numerics as what is forecast: on a grid, without what no pressure can be; recipes that ask for glucose's own
things."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from raycadian.config import Recipe, Window, load_recipe
from raycadian.data.marks import Marks
from raycadian.data.split import Range
from raycadian.data.windows import cut_windows
from raycadian.modalities.biosignals.numerics import open_numerics


@dataclass(frozen=True)
class Snapshot:
    """The interface of a snapshot of biosignals, with one person's case of 20 minutes."""

    marked: dict[str, list[Marks]]
    id: str = "cases"
    path: Path = Path("cases")
    manifest: dict = field(default_factory=lambda: {"card": CARD})

    @property
    def subjects(self) -> list[str]:
        return sorted(self.marked)

    def marks(self, subject: str) -> list[Marks]:
        return self.marked[subject]


CARD = {
    "name": "few", "modality": "biosignals", "files": ["*.vital"], "waveforms": {"abp_mmhg": ["ART"]},
    "numerics": {"map_mmhg": ["MBP"], "hr": ["HR"]},
}  # fmt: skip


def case(subject: str, **numerics: tuple[np.ndarray, np.ndarray]) -> Marks:
    return Marks(subject, 0, 20 * 60 * 125, 1 / 125, numerics=numerics)


@pytest.fixture
def snapshot() -> Snapshot:
    """A pressure that is 60 + its minute, flushed to 290 for minute 4, silent in minute 7; one case without it."""
    times_s = np.arange(0, 1200, 2.0)
    values = 60 + times_s // 60
    values[(times_s >= 240) & (times_s < 300)] = 290
    kept = ~((times_s >= 420) & (times_s < 480))
    hr = (times_s, np.full(len(times_s), 70.0))
    return Snapshot({"a": [case("a", map_mmhg=(times_s[kept], values[kept]), hr=hr)], "b": [case("b", hr=hr)]})


def test_a_pressure_by_the_minute(snapshot):
    series = open_numerics(snapshot, ("map_mmhg", "hr"))
    assert series.subjects == ("a",) and series.dt_s == 60 and len(series) == 20
    expected = 60.0 + np.arange(20)
    expected[[4, 7]] = np.nan
    np.testing.assert_array_equal(series.table[0], expected)
    np.testing.assert_array_equal(series.observed, np.isfinite(expected))
    carried = np.where(np.isnan(expected), np.arange(20) + 59.0, expected)
    np.testing.assert_array_equal(series.table[1], carried)  # what is missing is what came before, never after
    assert (series.table[2] == 70).all()
    window = Window(context=5, horizon=3, past=("map_mmhg", "hr"), known=(), max_missing=0.5)
    batch = next(cut_windows(series, (Range("a", 0, 0, 20, "test", "ood"),), window, 1).batches(100))
    assert batch["past"].shape[1:] == (5, 2) and batch["known"].shape[2] == 0
    np.testing.assert_array_equal(
        batch["target"][0], [66, np.nan, 68]
    )  # the first whose last point was measured ends at 5


def test_a_numeric_that_the_card_does_not_have(snapshot):
    with pytest.raises(ValueError, match="window.past names .'bis'.*map_mmhg, hr"):
        open_numerics(snapshot, ("bis",))
    with pytest.raises(ValueError, match="no recordings"):
        open_numerics(Snapshot({"b": snapshot.marked["b"]}), ("map_mmhg",))


def test_the_recipe_of_pressure():
    recipe = load_recipe(Path(__file__).parents[2] / "jobs" / "recipes" / "vitaldb_map.yaml")
    assert recipe.task.headline[:4] == ("rmse_mmhg", "low", "RMSE", "mmHg")
    assert (recipe.window.context, recipe.window.horizon) == (30, 15)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": {"kind": "forecast"}}, "target glucose_mgdl is not the first of window.past, map_mmhg"),
        ({"window": {"past": ["map_mmhg"]}}, "clock of a case is not known"),
        ({"window": {"past": ["map_mmhg"], "known": [], "anchor": "midnight"}}, "anchor is one of days"),
        ({"window": {"past": ["map_mmhg", "carbs_g"], "known": []}}, "don't go with map_mmhg"),
        ({"window": {"past": ["glucose_mgdl", "map_mmhg"]}}, "don't go with glucose_mgdl"),
        ({"experiment": {"kind": "nocturnal"}}, "experiment nocturnal is one of glucose"),
        (
            {"model": {"kind": "residual", "mechanism": {"kind": "cma"}, "inner": {"kind": "ridge"}}},
            "residual knows glucose",
        ),
        ({"compare": [{"kind": "lstm"}]}, "lstm knows glucose alone"),
    ],
)
def test_what_only_glucose_has_is_refused(changes, words):
    raw = {
        "name": "x", "dataset": "x.yaml", "window": {"past": ["map_mmhg"], "known": []},
        "task": {"kind": "forecast", "target": "map_mmhg"}, "model": {"kind": "persistence"},
    }  # fmt: skip
    Recipe.model_validate(raw)
    with pytest.raises(ValueError, match=words):
        Recipe.model_validate(raw | changes)


def test_a_cuff_is_held_or_refused_with_what_leads_on():
    times_s = np.arange(0, 1200, 300.0)
    sparse = Snapshot({"a": [case("a", map_mmhg=(times_s, 60.0 + np.arange(4)))]})
    message = r"map_mmhg is measured at 20% of the points.* typically every 300 s: add --set hold_s=300"
    with pytest.raises(ValueError, match=message):
        open_numerics(sparse, ("map_mmhg",))
    held = Snapshot(sparse.marked, manifest={"card": CARD | {"hold_s": 300}})
    np.testing.assert_array_equal(open_numerics(held, ("map_mmhg",)).table[0], 60.0 + np.arange(20) // 5)
    wide = Snapshot(sparse.marked, manifest={"card": CARD | {"numerics_every_s": 300}})
    np.testing.assert_array_equal(open_numerics(wide, ("map_mmhg",)).table[0], 60.0 + np.arange(4))
