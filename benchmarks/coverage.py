"""How often 90% intervals hold the truth of people who were held out whole, by what they were calibrated on.

Everybody of a data set is held out once (grouped folds over people, as `split.kind: kfold` makes them). Ridge, 12 lags,
5 minutes to 1 hour ahead (`--steps 24`: to 2 hours). The choices of calibration:

    none             the quantiles of the model's own training residuals
    last days        conformal, on the last 15% of those who were trained on (split.kind hybrid or time)
    other people     conformal, on people who were not trained on (split.kind subject or kfold); every person weighs the
    same other, windows   the same, but every window weighs the same
    cross            conformal by cross-fitting: all who are not held out train, and each one's scores come from a model
                     that was trained without him (5 groups of people; Vovk 2015, Barber et al. 2021, jackknife+ / CV+)

Prints, for each data set and choice, the coverage in % at the step where it is least and most and over all steps, with
windows and with people weighing the same, people's standard deviation, and the interval's mean width. Data as the cards
in datasets/ name them. Run: `python benchmarks/coverage.py [--data NAME ...] [--steps 12] [--repeats 3] [--json]`.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from raycadian.config import Ridge, Split, Window
from raycadian.data.series import Series, build_series
from raycadian.data.split import Range, make_split
from raycadian.data.windows import Windows, cut_windows
from raycadian.modalities.prepare import prepare
from raycadian.models.base import Model, ModelSpec
from raycadian.models.build import build
from raycadian.models.conformal import conformal_offsets

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
CONTEXT, GROUPS, FOLDS = 36, 5, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["iglu", "colas", "dubosson"])
    parser.add_argument("--repeats", type=int, default=3, help="divisions of the people into folds")
    parser.add_argument("--steps", type=int, default=12, help="of 5 minutes ahead")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    window = Window(context=CONTEXT, horizon=arguments.steps, known=())
    rows = [row for name in arguments.data for row in measure(name, window, arguments.repeats)]
    print(json.dumps(rows) if arguments.json else pd.DataFrame(rows).round(1).to_string(index=False))


def measure(name: str, window: Window, repeats: int) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        series = build_series(prepare(Path(f"datasets/{name}.yaml"), Path(folder)), ("glucose_mgdl",))
    found: dict[str, list[Covered]] = {}
    for seed in range(repeats):
        for fold in range(min(FOLDS, len(series.subjects))):
            for choice, covered in one_fold(series, window, seed, fold).items():
                found.setdefault(choice, []).append(covered)
    return [{"data": name, "calibrated on": choice, **summary(parts)} for choice, parts in found.items()]


@dataclass(frozen=True)
class Covered:
    """Of held-out windows: inside (W, H), NaN where no truth; width (W, H) mg/dL; subject (W,)."""

    inside: np.ndarray
    width: np.ndarray
    subject: np.ndarray


def one_fold(series: Series, window: Window, seed: int, fold: int) -> dict[str, Covered]:
    lengths: dict[str, list[int]] = {}
    for subject, n in zip(series.subject_of, np.diff(series.offsets), strict=True):
        lengths.setdefault(series.subjects[subject], []).append(int(n))
    folds = min(FOLDS, len(lengths))
    split = make_split(lengths, Split(kind="kfold", folds=folds, fold=fold, val_subjects=0.3, seed=seed))
    train, val, test = (split.of(name) for name in ("train", "val", "test"))
    held_out = cut_windows(series, test, window, window.eval_stride)
    early, late = by_time(train + val)
    choices = {
        "none": (fitted(series, window, train + val), np.zeros((window.horizon, len(LEVELS)))),
        "last days": calibrated(series, window, early, late),
        "other people": calibrated(series, window, train, val),
        "other, windows": calibrated(series, window, train, val, by_person=False),
        "cross": crossed(series, window, train + val, seed),
    }
    return {name: covered(model, offset, held_out) for name, (model, offset) in choices.items()}


def by_time(ranges: tuple[Range, ...]) -> tuple[tuple[Range, ...], tuple[Range, ...]]:
    """The first 85% of each person's points, and the rest."""
    lengths: dict[str, list[int]] = {}
    for r in ranges:
        lengths.setdefault(r.subject, []).append(r.stop)
    split = make_split(lengths, Split(kind="time", test_fraction=0.001, val_fraction=0.15))
    return split.of("train"), split.of("val")


def fitted(series: Series, window: Window, ranges: tuple[Range, ...]) -> Model:
    spec = ModelSpec(window.context, window.horizon, series.dt_s / 60, window.past, window.known, LEVELS)
    model = build(Ridge(), spec).eval()
    model.fit_statistics(cut_windows(series, ranges, window, 1))
    return model


def calibrated(
    series: Series, window: Window, train: tuple[Range, ...], val: tuple[Range, ...], by_person: bool = True
) -> tuple[Model, np.ndarray]:
    model = fitted(series, window, train)
    scores, subject = scored(model, cut_windows(series, val, window, window.eval_stride))
    return model, conformal_offsets(scores, subject if by_person else np.zeros(len(subject)), LEVELS)


def crossed(series: Series, window: Window, ranges: tuple[Range, ...], seed: int) -> tuple[Model, np.ndarray]:
    people = np.random.default_rng(seed).permutation(sorted({r.subject for r in ranges}))
    parts = []
    for group in np.array_split(people, min(GROUPS, len(people))):
        inside = tuple(r for r in ranges if r.subject in group)
        model = fitted(series, window, tuple(r for r in ranges if r.subject not in group))
        parts.append(scored(model, cut_windows(series, inside, window, window.eval_stride)))
    scores, subject = (np.concatenate(values) for values in zip(*parts, strict=True))
    return fitted(series, window, ranges), conformal_offsets(scores, subject, LEVELS)


@torch.no_grad()
def scored(model: Model, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """y - quantile, (W, H, Q), and whose."""
    batches = list(windows.batches(1024))
    scores = [(b["target"].unsqueeze(-1) - model(b).quantiles).numpy() for b in batches]
    return np.concatenate(scores), np.concatenate([b["subject"].numpy() for b in batches])


def covered(model: Model, offset: np.ndarray, windows: Windows) -> Covered:
    """Offsets (H, Q) move the quantiles, and so the scores the other way."""
    scores, subject = scored(model, windows)
    low, high = scores[..., 0] - offset[:, 0], scores[..., -1] - offset[:, -1]
    inside = np.where(np.isnan(low), np.nan, (low >= 0) & (high <= 0))
    return Covered(inside, low - high, subject)


def summary(parts: list[Covered]) -> dict:
    inside, width = (np.concatenate([getattr(p, name) for p in parts]) for name in ("inside", "width"))
    # a person held out under several divisions counts once for each
    subject = np.concatenate([p.subject + 10_000 * k for k, p in enumerate(parts)])
    by_step = 100 * np.nanmean(inside, axis=0)
    people = 100 * pd.DataFrame(inside).groupby(subject).mean()
    each = people.mean(axis=1)
    return {
        "least %": by_step.min(), "most %": by_step.max(), "mean %": by_step.mean(),
        "people, least %": people.mean().min(), "people, most %": people.mean().max(), "people, mean %": each.mean(),
        "people, sd": each.std(), "width mg/dL": float(np.nanmean(width)), "people": len({*subject.tolist()}),
    }  # fmt: skip


if __name__ == "__main__":
    main()
