"""Scores side by side with other packages': how far apart they are. In an environment of its own, as some are under the
GPL:

    python -m venv /tmp/peers && /tmp/peers/bin/pip install numpy scipy pandas pyarrow methcomp==1.0.0
    error-grids==0.1.0 \
        iglu-python==0.4.3 py-agata==0.0.8 scoringrules==0.10.0
    PYTHONPATH=platform /tmp/peers/bin/python benchmarks/metrics_peers.py

A made-up week of glucose, and a dense grid of pairs; nothing random. docs/concepts/evaluation.md quotes the output.
"""

import numpy as np
import pandas as pd
from scipy.stats import norm

from raycadian.evaluation.forecast import summaries
from raycadian.evaluation.forecast.error_grids import parkes_zones
from raycadian.evaluation.forecast.metrics import Points


def parkes() -> None:
    import methcomp
    from error_grids import parkes_error_zone_detailed

    reference, predicted = np.meshgrid(np.arange(20.5, 600, 2.5), np.arange(20.5, 600, 2.5))
    for kind in (1, 2):
        ours = np.searchsorted(list("ABCDE"), parkes_zones(reference, predicted, kind)).ravel()
        theirs = methcomp.parkeszones(kind, reference.ravel(), predicted.ravel(), "mg/dl", numeric=True)
        detailed = np.array([0, 1, 1, 2, 2, 3, 3, 4])[parkes_error_zone_detailed(reference, predicted, kind)].ravel()
        say(f"Parkes type {kind}, methcomp", f"{int((ours != theirs).sum())} of {ours.size} zones differ")
        say(f"Parkes type {kind}, error-grids", f"{int((ours != detailed).sum())} of {ours.size} zones differ")


def glucose() -> None:
    import iglu_python as iglu
    import py_agata.risk as agata

    week = made_up_week()
    ours = summaries.summary(week)
    time = pd.date_range("2026-01-01", periods=len(week), freq="5min")
    table = pd.DataFrame({"id": "a", "time": time, "gl": week})
    for name, peer in (("gmi_pct", "gmi"), ("cv_pct", "cv_glu"), ("gri", "gri"), ("lbgi", "lbgi"), ("hbgi", "hbgi")):
        say(f"{name}, iglu-python", f"{ours[name]:.9f}, {float(getattr(iglu, peer)(table).iloc[0, 1]):.9f}")
    say(
        "mage_mgdl, iglu-python (avg)",
        f"{ours['mage_mgdl']:.2f}, {float(iglu.mage(table, direction='avg').iloc[0, 1]):.2f}",
    )
    for name in ("gri", "lbgi", "hbgi"):
        found = float(getattr(agata, name)(pd.DataFrame({"t": time, "glucose": week})))
        say(f"{name}, py-agata", f"{ours[name]:.9f}, {found:.9f}")


def crps() -> None:
    import scoringrules

    truth = made_up_week()
    forecast = np.roll(truth, 12)
    closed = float(np.mean(scoringrules.crps_normal(truth, forecast, 20.0)))
    for name, levels in (
        ("ten even levels", np.arange(0.05, 1, 0.1)),
        ("5, 25, 50, 75, 95%", np.array([0.05, 0.25, 0.5, 0.75, 0.95])),
    ):
        quantiles = forecast[:, None] + 20 * norm.ppf(levels)
        theirs = float(np.mean(scoringrules.crps_quantile(truth, quantiles, levels)))
        ours = float(Points(truth, quantiles, levels).crps.mean())
        say(f"CRPS, {name}, scoringrules", f"{ours:.4f}, {theirs:.4f}; of the normal itself {closed:.4f}")


def made_up_week() -> np.ndarray:
    i = np.arange(2016)
    return 140 + 70 * np.sin(i / 30) + 35 * np.sin(i / 71.3) + 9 * np.sin(i / 2.3)


def say(what: str, found: str) -> None:
    print(f"{what:34} {found}")


if __name__ == "__main__":
    parkes()
    glucose()
    crps()
