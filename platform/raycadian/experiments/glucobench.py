"""GlucoBench, built in: any model of the platform under its protocol, next to the figures that it published.

One task of Ray for each model and seed. Models are trained on a seed's training part, stopped and blended on its
validation part; its test part (the same people, later) and the people held out whole are forecast once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from raycadian.cluster import connect
from raycadian.config import Grid, Recipe, Split, load_recipe, override, parse
from raycadian.data.split import Range, SplitManifest
from raycadian.data.windows import cut_windows, windows_begin
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.experiments.glucobench_protocol import (
    DT_MIN,
    EXCLUDED,
    PROTOCOLS,
    STRIDE,
    Piece,
    Protocol,
    parse_protocol,
    read_pieces,
    series_of,
    split,
)  # fmt: skip
from raycadian.files import written_whole
from raycadian.models.build import build
from raycadian.tasks import TASKS
from raycadian.tasks.forecast import ForecastData, predict
from raycadian.training.pipeline import fit_model
from raycadian.types import ID

COLUMNS = (
    "dataset", "model", "seed", "split", "mean_rmse", "mean_mae", "median_rmse", "median_mae", "n_forecasts",
)  # fmt: skip
PRETRAINED = "+pretrained"
_CELLS = ("id_rmse", "id_mae", "ood_rmse", "ood_mae")

# Sergazinov et al., GlucoBench, ICLR 2024, and its repository's results (CC BY): linear regression without covariates,
# and for each cell the best of all models, with or without covariates; mg/dL.
PUBLISHED = {
    "iglu": {"linear regression": (19.435, 12.918, 21.185, 13.395), "best of all": (19.162, 12.103, 21.185, 13.395)},
    "colas": {"linear regression": (9.738, 5.951, 9.479, 5.881), "best of all": (9.517, 5.951, 9.464, 5.881)},
    "dubosson": {
        "linear regression": (24.722, 14.158, 26.152, 15.854),
        "best of all": (24.722, 14.158, 24.021, 15.854),
    },
    "hall": {"linear regression": (14.104, 8.835, 14.082, 8.869), "best of all": (13.791, 8.663, 12.842, 8.594)},
    "weinstock": {
        "linear regression": (24.954, 15.813, 27.233, 17.617),
        "best of all": (24.466, 15.546, 25.855, 16.421),
    },
}

_TRAINING = {"epochs": 30, "batch_size": 256, "weight_decay": 1e-3, "early_stopping": {"patience": 5}, "device": "cpu"}
_WINDOW = {"eval_stride": 3, "known": ["hour_sin", "hour_cos"]}
_MOST_WINDOWS = 120_000  # of training: neighbours are alike, and ten seeds of a large data set shall take half an hour


@dataclass(frozen=True)
class Entry:
    """A model under a name, with the window and training of its recipe; its context is cut to the protocol's."""

    name: str
    recipe: Recipe


def parse_entry(text: str, protocol: Protocol) -> Entry:
    """A recipe's path, or a model's kind with settings, such as ridge:lags=12,alpha=0. Raises ValueError."""
    return _from_recipe(text, protocol) if text.endswith((".yaml", ".yml")) else _from_kind(text, protocol)


def _from_recipe(path: str, protocol: Protocol) -> Entry:
    recipe, most = load_recipe(path), protocol.max_input
    changes: dict[str, Any] = {"window.horizon": protocol.horizon}
    if recipe.window.context > most:
        model = recipe.model.model_dump(mode="json", exclude_unset=True)
        changes |= {"window.context": most, "model": _looking_back(model, most)}
    return Entry(Path(path).stem, override(recipe, changes, path))


def _from_kind(text: str, protocol: Protocol) -> Entry:
    kind, _, settings = text.partition(":")
    parts = [part for part in settings.split(",") if part]
    body, context = {"kind": kind}, protocol.max_input
    if kind == "ridge" and (lags := [part.removeprefix("lags=") for part in parts if part.startswith("lags=")]):
        context = min(int(lags[0]), context)  # more windows fit where the model looks back less
        body |= {"lags": context}
    window = _WINDOW | {"context": context, "horizon": protocol.horizon}
    raw = {"name": "glucobench", "dataset": "glucobench", "window": window, "training": _TRAINING, "model": body}
    return Entry(text, parse(Recipe, raw, tuple(f"model.{part}" for part in parts), f"--models {text}"))


def _looking_back(model: dict[str, Any], most: int) -> dict[str, Any]:
    """A model with so few lags that it looks back no more than `most` points, of which changes take one more."""
    members = [_looking_back(member, most) for member in model.get("members", ())]
    lags = min(model.get("lags", 0), most - 1)
    return model | ({"members": members} if members else {}) | ({"lags": lags} if lags else {})


def parse_seeds(text: str) -> list[int]:
    """10:20 is 10 to 19, as in Python; 10,12 and 10 are what they say. Raises ValueError."""
    try:
        if ":" in text:
            first, last = text.split(":")
            return list(range(int(first), int(last)))
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds {text}: expected first:beyond, such as 10:20, or numbers") from None


def benchmark(
    path: Path,
    protocol: str,
    models: Sequence[str],
    seeds: Sequence[int],
    *,
    dataset: str | None = None,
    pretrain: Sequence[Path] = (),
    on_done: Callable[[pd.DataFrame, int], None] = lambda rows, total: None,
) -> pd.DataFrame:
    """One row for each model, seed and split (id, ood), with COLUMNS; mg/dL.

    mean_rmse is the square root of the mean over forecasts of their mean squared error, median_rmse that of the median;
    mean_mae and median_mae are the mean and median over forecasts of their mean absolute error. `pretrain`: files of
    other people, which every model that trains is first trained on, once; its rows then stand beside the plain ones, as
    MODEL+pretrained. `on_done` gets the rows of each model and seed as they come, and the number of all. Raises
    ValueError.
    """
    settings = parse_protocol(protocol)
    dataset = dataset or (protocol if protocol in PROTOCOLS else path.name.split(".")[0])
    entries = [parse_entry(text, settings) for text in models]
    others = [p for file in pretrain for p in _foreign(file, settings, path)]
    pieces = read_pieces(path, settings, EXCLUDED.get(dataset, ()))
    ray = connect()
    task, shared = ray.remote(num_cpus=1)(evaluate), ray.put(pieces)
    begins = {e.name: (e, None) for e in entries} | _pretrained_on(ray, others, settings, entries)
    waiting = {
        task.remote(shared, settings, e.recipe, seed, weights): (name, seed)
        for seed in seeds
        for name, (e, weights) in begins.items()
    }
    tables = []
    for name, seed, rows in _as_done(ray, waiting):
        tables.append(pd.DataFrame([{"dataset": dataset, "model": name, "seed": seed, **row} for row in rows]))
        on_done(tables[-1], len(begins) * len(seeds))
    order = {name: i for i, name in enumerate(begins)}
    table = pd.concat(tables).sort_values(
        ["model", "seed", "split"], key=lambda c: c.map(order) if c.name == "model" else c
    )
    return table.reset_index(drop=True)[list(COLUMNS)]


def _pretrained_on(
    ray: Any, others: list[Piece], protocol: Protocol, entries: Sequence[Entry]
) -> dict[str, tuple[Entry, Any]]:
    """The entries that train, each with its weights after other people's pieces, where there are any."""
    if not others:
        return {}
    task, shared = ray.remote(num_cpus=1)(pretrained), ray.put(others)
    return {e.name + PRETRAINED: (e, task.remote(shared, protocol, e.recipe)) for e in entries if trains(e.recipe)}


def _as_done(ray: Any, waiting: dict[Any, tuple[str, int]]) -> Iterator[tuple[str, int, list[dict[str, Any]]]]:
    """Model, seed and rows of each task as it ends."""
    while waiting:
        (done,), _ = ray.wait(list(waiting))
        name, seed = waiting.pop(done)
        yield name, seed, _result(ray, done, name)


def _result(ray: Any, done: Any, name: str) -> list[dict[str, Any]]:
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise ValueError(f"{name}: {error.cause}") from error


def evaluate(
    pieces: list[Piece], protocol: Protocol, recipe: Recipe, seed: int, weights: dict[str, torch.Tensor] | None = None
) -> list[dict[str, Any]]:
    """One model on one seed, trained from `weights` on: a row for id and one for ood."""
    torch.set_num_threads(1)
    recipe = override(recipe, {"training.seed": seed})
    parts = _parts(pieces, protocol, recipe, seed)
    data = _data(pieces, parts["train"] + parts["val"], f"glucobench seed {seed}")
    fitted = fit_model(data, _bounded(recipe, data), weights=weights)
    rows = []
    for name, ranges in (("id", parts["test"]), ("ood", parts["ood"])):
        windows = cut_windows(data.series, ranges, recipe.window, STRIDE, fitted.mechanism)
        rows.append({"split": name, **scores(predict(fitted.model, windows, set()))})
    return rows


def pretrained(pieces: list[Piece], protocol: Protocol, recipe: Recipe) -> dict[str, torch.Tensor]:
    """The weights of a model trained on other people's pieces, split as for a seed: whom that holds out trains here."""
    torch.set_num_threads(1)
    parts = _parts(pieces, protocol, recipe, recipe.training.seed)
    context = recipe.window.context
    held_out = tuple(replace(r, start=windows_begin(r, context), split="train", scope=ID) for r in parts["ood"])
    data = _data(pieces, parts["train"] + held_out + parts["val"], "glucobench pretraining")
    fitted = fit_model(data, _bounded(recipe, data))
    return {name: parameter.detach() for name, parameter in fitted.model.named_parameters()}


def trains(recipe: Recipe) -> bool:
    model = build(recipe.model, TASKS["forecast"].spec(recipe, 60 * DT_MIN))
    return any(p.requires_grad for p in model.parameters())


def _foreign(path: Path, protocol: Protocol, own: Path) -> list[Piece]:
    """Other people's pieces, whose names can't be those of the data set's own. Raises ValueError."""
    if path.resolve() == own.resolve():
        raise ValueError(
            f"--pretrain {path}: that is the data set itself, whose test part would be learned; name others"
        )
    name = path.name.split(".")[0]
    return [replace(p, subject=f"{name}/{p.subject}") for p in read_pieces(path, protocol, EXCLUDED.get(name, ()))]


def _parts(pieces: list[Piece], protocol: Protocol, recipe: Recipe, seed: int) -> dict[str, tuple[Range, ...]]:
    """GlucoBench's split, of which val, test and ood begin with the first point that is forecast, so that a model which
    looks back less than the protocol lets forecasts the same points."""
    parts = split(pieces, protocol, seed)
    return parts | {
        name: tuple(_forecast(r, protocol.max_input) for r in parts[name]) for name in ("val", "test", "ood")
    }


def _data(pieces: list[Piece], ranges: tuple[Range, ...], name: str) -> ForecastData:
    return ForecastData(name, series_of(pieces), SplitManifest(Split(), name, ranges), grid=Grid(dt_min=DT_MIN))


def _bounded(recipe: Recipe, data: ForecastData) -> Recipe:
    """Of more training windows than _MOST_WINDOWS that many are drawn, unless the recipe draws fewer itself."""
    many = (
        len(TASKS["forecast"].windows(data, override(recipe, {"window.train_windows": None}), "train")) > _MOST_WINDOWS
    )
    drawn = {"window.train_windows": _MOST_WINDOWS} if many and not recipe.window.train_windows else {}
    return override(recipe, drawn)


def _forecast(r: Range, history: int) -> Range:
    """What is forecast of a range that begins with its history."""
    return replace(r, start=min(r.start + history, r.stop))


def scores(p: Predictions) -> dict[str, float]:
    error = p.median - p.truth
    square, absolute = (error**2).mean(1), np.abs(error).mean(1)
    return {
        "mean_rmse": float(np.sqrt(square.mean())), "mean_mae": float(absolute.mean()),
        "median_rmse": float(np.sqrt(np.median(square))), "median_mae": float(np.median(absolute)),
        "n_forecasts": len(p),
    }  # fmt: skip


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row a model, its figures averaged over seeds as the paper does (the mean squared error before its root), then
    the published ones; `ahead` counts the cells that are below the best published figure, where there are any."""
    dataset, rows = table.dataset.iloc[0], []
    best = PUBLISHED.get(dataset, {}).get("best of all")
    for name, own in table.groupby("model", sort=False):
        cells = _averaged(own)
        row = {"model": name, **dict(zip(_CELLS, cells, strict=True)), "seeds": own.seed.nunique()}
        rows.append(row | ({"ahead": sum(a < b for a, b in zip(cells, best, strict=True))} if best else {}))
    for name, cells in PUBLISHED.get(dataset, {}).items():
        rows.append({"model": f"published: {name}", **dict(zip(_CELLS, cells, strict=True))})
    return pd.DataFrame(rows)


def _averaged(rows: pd.DataFrame) -> list[float]:
    cells = []
    for part in ("id", "ood"):
        own = rows[rows.split == part]
        cells += [float(np.sqrt((own.mean_rmse**2).mean())), float(own.mean_mae.mean())]
    return cells


def write_results(table: pd.DataFrame, path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        table.to_csv(temporary, index=False)
