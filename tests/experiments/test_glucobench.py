"""GlucoBench's protocol: pieces, splits, scores; its published sizes and linear regression."""

import json
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from raycadian.cli.main import main
from raycadian.config import override
from raycadian.experiments import glucobench
from raycadian.experiments.glucobench_protocol import (
    EXCLUDED,
    PROTOCOLS,
    Piece,
    Protocol,
    parse_protocol,
    read_pieces,
    series_of,
    split,
)  # fmt: skip
from raycadian.training.pipeline import fit_model

BLEND = str(Path(__file__).parents[2] / "jobs/recipes/blend.yaml")
SMALL = Protocol(gap=45, min_points=60, length_segment=36, max_input=48)


def pieces_of(lengths: dict[str, list[int]]) -> list[Piece]:
    start = np.datetime64("2026-01-05T00:00", "s")
    return [Piece(s, start, np.full(n, 100.0)) for s, ns in lengths.items() for n in ns]


def test_protocols_are_read_by_name_or_by_value():
    text = "gap=45,min_points=240,length_segment=240,max_input=192"
    assert parse_protocol(text) == parse_protocol("iglu") == PROTOCOLS["iglu"]
    assert parse_protocol(text + ",horizon=6").horizon == 6


@pytest.mark.parametrize(
    "text", ["igloo", "gap=45", "gap=45,min_points=x,length_segment=2,max_input=3", "gap=45,depth=3"]
)
def test_unknown_protocols_are_refused(text):
    with pytest.raises(ValueError, match="expected one of iglu, colas"):
        parse_protocol(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("10:20", list(range(10, 20))), ("3", [3]), ("1,5", [1, 5]), ("2:3", [2])]
)
def test_seeds(text, expected):
    assert glucobench.parse_seeds(text) == expected


def test_seeds_that_are_none_are_refused():
    with pytest.raises(ValueError, match="first:beyond"):
        glucobench.parse_seeds("all")


def test_pieces_end_at_gaps_and_are_interpolated_from_their_first_row(tmp_path):
    time = pd.to_datetime("2026-01-05 00:02:20") + pd.to_timedelta(
        [*range(0, 300, 5), *range(400, 730, 10)], unit="min"
    )
    table = pd.DataFrame({"id": 7, "time": time, "gl": 100.0 + np.arange(len(time))})
    table.to_csv(tmp_path / "a.csv", index=False)
    with (tmp_path / "a.csv").open("a") as file:
        file.write("7,,5.0\n7,2026-01-05 03:00:00,\n")  # dropped
    (long,) = read_pieces(tmp_path / "a.csv", SMALL)  # the second has 33 rows
    assert (long.subject, len(long), long.start) == ("7", 60, np.datetime64("2026-01-05T00:02"))
    both = read_pieces(tmp_path / "a.csv", Protocol(45, 30, 36, 48))
    assert [len(p) for p in both] == [60, 65]
    np.testing.assert_allclose(both[1].glucose_mgdl[:4], [160, 160.5, 161, 161.5])


def test_a_table_of_something_else_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("id,when,gl\n1,2,3\n")
    with pytest.raises(ValueError, match="columns id, time, gl"):
        read_pieces(tmp_path / "a.csv", SMALL)
    (tmp_path / "b.csv").write_text("id,time,gl\n1,2026-01-05,5.4\n1,2026-01-06,6.4\n")
    with pytest.raises(ValueError, match="aren't glucose in mg/dL"):
        read_pieces(tmp_path / "b.csv", SMALL)


@given(
    lengths=st.lists(st.lists(st.integers(60, 400), min_size=1, max_size=3), min_size=2, max_size=12),
    seed=st.integers(0, 2**32 - 1),
)
def test_nothing_is_trained_on_that_is_forecast(lengths, seed):
    people = {f"p{i}": ns for i, ns in enumerate(lengths)}
    parts = split(pieces_of(people), SMALL, seed)
    held_out = {r.subject for r in parts["ood"]}
    assert len(held_out) == int(np.ceil(0.1 * len(people)))
    assert not held_out & {r.subject for name in ("train", "val", "test") for r in parts[name]}
    history = SMALL.max_input
    for subject, ns in people.items():
        for i, n in enumerate(ns):
            seen = np.zeros(n, int)
            for name in ("train", "val", "test", "ood"):
                for r in (r for r in parts[name] if (r.subject, r.recording) == (subject, i)):
                    begin = r.start if name in ("train", "ood") or r.start == 0 else r.start + history
                    seen[begin : r.stop] += 1
            assert (seen == 1).all()  # every point in one part, histories aside


def pieces_from(shared, name):
    path = shared / "cgm" / "glucobench" / f"{name}.csv.gz"
    if not path.is_file():
        pytest.skip(f"GlucoBench's {name} is not here: {path} is absent")
    return read_pieces(path, PROTOCOLS[name], EXCLUDED.get(name, ()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("colas", [72164, 35885, 38469, 11468]),
        ("iglu", [9056, 1774, 1848, 1300]),
        ("dubosson", [4825, 2016, 2057, 969]),
    ],
)
def test_the_sizes_of_the_first_split(shared, name, sizes):
    """Points of train, val, test, ood for seed 10, by its published rule."""
    pieces = pieces_from(shared, name)
    parts = split(pieces, PROTOCOLS[name], 10)
    assert [sum(r.stop - r.start for r in parts[part]) for part in ("train", "val", "test", "ood")] == sizes
    assert len(series_of(pieces)) == sum(map(len, pieces))


# h = 48 points of history, s = 36 of a segment
@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([156], [("train", 0, 0, 84), ("val", 0, 36, 120), ("test", 0, 72, 156)]),
        ([155], [("train", 0, 0, 119), ("test", 0, 71, 155)]),
        ([60, 155], [("train", 0, 0, 60), ("val", 1, 0, 119), ("test", 1, 71, 155)]),
        ([119], [("train", 0, 0, 119)]),
        ([119, 60], [("train", 0, 0, 119), ("test", 1, 0, 60)]),
        ([120, 60], [("train", 0, 0, 84), ("val", 0, 36, 120), ("test", 1, 0, 60)]),
        ([400, 120, 60], [("train", 0, 0, 400), ("train", 1, 0, 84), ("val", 1, 36, 120), ("test", 2, 0, 60)]),
    ],
)
def test_short_last_pieces(lengths, expected):
    """The exact rule, a case a row."""
    people = {"q": lengths} | {f"p{i}": [400] for i in range(4)}
    seed = next(s for s in range(50) if "q" not in {r.subject for r in split(pieces_of(people), SMALL, s)["ood"]})
    parts = split(pieces_of(people), SMALL, seed)
    own = [(name, r.recording, r.start, r.stop) for name in parts for r in parts[name] if r.subject == "q"]
    assert sorted(own) == sorted(expected)


# least squares under this protocol, which is GlucoBench's linear regression: RMSE and MAE of id, then of ood
LEAST_SQUARES = {
    "colas": (12, (9.767, 5.961, 9.485, 5.877)),
    "iglu": (192, (19.433, 12.913, 20.997, 13.319)),
    "dubosson": (12, (24.762, 14.173, 26.250, 15.917)),
}


@pytest.mark.parametrize(
    "name", ["dubosson", *(pytest.param(name, marks=pytest.mark.slow) for name in ("colas", "iglu"))]
)
def test_least_squares_is_the_published_linear_regression(shared, name):
    """Over ten seeds: to the digits of the published rule, and within 1% of what GlucoBench published."""
    protocol, pieces, (lags, figures) = PROTOCOLS[name], pieces_from(shared, name), LEAST_SQUARES[name]
    entry = glucobench.parse_entry(f"ridge:lags={lags},alpha=0", protocol)
    rows = [
        {"dataset": name, "model": entry.name, "seed": seed, **row}
        for seed in range(10, 20)
        for row in glucobench.evaluate(pieces, protocol, entry.recipe, seed)
    ]
    ours, published = glucobench.summary(pd.DataFrame(rows))[["id_rmse", "id_mae", "ood_rmse", "ood_mae"]].to_numpy()[
        :2
    ]
    np.testing.assert_allclose(ours, figures, atol=1e-3)
    np.testing.assert_allclose(ours, published, rtol=0.01)


@pytest.mark.ray
def test_the_verb_writes_a_row_for_each_model_seed_and_split(tmp_path, ray_local):
    helpers.write_csv(tmp_path / "people.csv", n=4, days=3)
    table = pd.read_csv(tmp_path / "people.csv").rename(columns={"subject": "id", "glucose": "gl"})
    table.to_csv(tmp_path / "bench.csv", index=False)
    recipe = {"name": "x", "dataset": "y", "window": {"context": 13}, "model": {"kind": "mlp", "lags": 12, "hidden": 4},
              "training": {"epochs": 1}}  # fmt: skip
    (tmp_path / "small.yaml").write_text(json.dumps(recipe))
    protocol = "gap=45,min_points=60,length_segment=36,max_input=48"
    command = [
        "benchmark", "glucobench", "--data", tmp_path / "bench.csv", "--protocol", protocol, "--models", "ridge:lags=6",
        tmp_path / "small.yaml", "--seeds", "1:3", "--out", tmp_path / "results.csv", "--json",
    ]  # fmt: skip
    done = CliRunner().invoke(main, list(map(str, command)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    results = pd.read_csv(tmp_path / "results.csv", float_precision="round_trip")
    assert tuple(results.columns) == glucobench.COLUMNS
    assert results.model.unique().tolist() == ["ridge:lags=6", "small"]
    assert results.groupby(["model", "seed", "split"]).size().eq(1).all()
    assert len(results) == 8
    same = results.pivot_table(index=["seed", "split"], columns="model", values="n_forecasts")
    assert (same["small"] == same["ridge:lags=6"]).all()  # the same anchors, whatever the context
    assert json.loads(done.stdout)["results"] == results.to_dict("records")


def test_pretraining_gives_what_trains_and_never_sees_the_data_set(tmp_path):
    rng = np.random.default_rng(0)
    people = {f"p{i}": [400] for i in range(4)}
    walk = [replace(p, glucose_mgdl=140 + rng.normal(0, 4, len(p)).cumsum() / 4) for p in pieces_of(people)]
    recipe = glucobench.parse_entry("mlp:lags=12,hidden=4", SMALL).recipe
    recipe = override(recipe, {"training.epochs": 2, "training.batch_size": 64})
    weights = glucobench.pretrained(walk, SMALL, recipe)
    assert not torch.equal(weights["linear.weight"], glucobench.pretrained(walk[:2], SMALL, recipe)["linear.weight"])
    plain, begun = (glucobench.evaluate(walk, SMALL, recipe, 3, w) for w in (None, weights))
    assert plain[0]["mean_rmse"] != begun[0]["mean_rmse"]
    assert plain[0]["n_forecasts"] == begun[0]["n_forecasts"]
    assert not glucobench.trains(glucobench.parse_entry("ridge:lags=12", SMALL).recipe)
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ValueError, match="the data set itself"):
        glucobench.benchmark(tmp_path / "a.csv", "iglu", ["mlp"], [1], pretrain=[tmp_path / "." / "a.csv"])


def test_of_very_many_windows_a_part_is_trained_on(monkeypatch):
    seen = []
    monkeypatch.setattr(glucobench, "_MOST_WINDOWS", 500)
    monkeypatch.setattr(
        glucobench, "fit_model", lambda data, recipe, **how: seen.append(recipe) or fit_model(data, recipe, **how)
    )
    recipe = glucobench.parse_entry("ridge:lags=12", SMALL).recipe
    for length in (240, 800):
        days = pieces_of({f"p{i}": [length] for i in range(4)})
        curve = [replace(p, glucose_mgdl=120 + 30 * np.sin(np.arange(length) / 20)) for p in days]
        glucobench.evaluate(curve, SMALL, recipe, 3)
    assert [one.window.train_windows for one in seen] == [None, 500]


def test_a_model_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="--models rigde"):
        glucobench.parse_entry("rigde", SMALL)


@pytest.mark.parametrize(
    ("text", "context", "kind"),
    [(BLEND, 97, "ensemble"), ("ridge:lags=6", 6, "ridge"), ("mlp:lags=24,hour=false", 120, "mlp")],
)
def test_models_look_back_as_far_as_they_need(text, context, kind):
    recipe = glucobench.parse_entry(text, Protocol(45, 60, 36, 120)).recipe
    assert (recipe.window.context, recipe.model.kind) == (context, kind)


@pytest.mark.parametrize("most", [24, 36, 96])
def test_the_blend_keeps_within_what_a_protocol_lets_it_see(most):
    protocol = replace(SMALL, max_input=most)
    recipe = glucobench.parse_entry(BLEND, protocol).recipe
    assert recipe.window.context == most
    rng = np.random.default_rng(0)
    pieces = pieces_of({f"p{i}": [400] for i in range(4)})
    walk = [replace(p, glucose_mgdl=140 + rng.normal(0, 4, len(p)).cumsum() / 4) for p in pieces]
    quick = override(recipe, {"training.epochs": 1, "training.early_stopping": None})
    assert all(np.isfinite(row["mean_rmse"]) for row in glucobench.evaluate(walk, protocol, quick, 1))
