"""CMA curves and one-day fits per second against the reference implementation, pfun-cma-model 0.4.209.

The reference runs in an environment of its own (.bench-venv/, made on first use) and in a temporary working directory,
for it writes to `logs/`. Both sides see the same days of 288 readings and use one thread; seconds are the process's own
on the processor, so that other work on the machine counts little. Days are real where ../shared/data is present, else
simulated.

Sums of squares are compared on identical data, after each side's curve got its best offset and gain (>= 0), for the
reference fits a curve without either: on the reference's normalised scale, where both minimise that very sum, and in
mg/dL, which is what Raycadian fits. `as fitted` is the reference's own sum, without offset and gain. The reference's
parameters may leave its bounds, Raycadian's may not. Days on which the reference's search raises are left out. Run:
`python benchmarks/cma.py [--json] [--days 72]`. `at_least`: the share of all such days that are no worse, a lower bound
with 95% confidence (exact binomial).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
VENV = ROOT / ".bench-venv"
PACKAGE, VERSION = "pfun-cma-model", "0.4.209"
GLUCOBENCH, DATA = ROOT.parent / "shared" / "data" / "cgm" / "glucobench", ("iglu", "colas", "dubosson")
POINTS, CURVES, BATCH = 288, 64, 256  # readings of a day; curves and fits at once
MEALS_H = (6.95, 11.95, 17.95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--days", type=int, default=72, help="days to fit; the reference takes seconds for each")
    parser.add_argument("--reference", type=Path, help=argparse.SUPPRESS)  # this script inside .bench-venv
    arguments = parser.parse_args()
    if arguments.reference:
        run_reference(arguments.reference)
        return
    days, source = real_days(arguments.days) if GLUCOBENCH.is_dir() else (simulated_days(arguments.days), "simulated")
    tM = our_meal_times(days)
    theirs = reference(days, tM)
    ours = raycadian(days, tM, theirs)
    report = summary(ours, theirs) | {"days": len(days), "data": source}
    print(json.dumps(report) if arguments.json else table(report))


# --- the days ---------------------------------------------------------------------------------------------------------


def real_days(n: int) -> tuple[np.ndarray, str]:
    """(n, 288) mg/dL: of each of GlucoBench's data sets as many days, those with fewest gaps, filled linearly, as the
    reference would."""
    parts = [_whole_days(GLUCOBENCH / f"{name}.csv.gz")[: -(-n // len(DATA))] for name in DATA]
    return np.concatenate(parts)[:n], f"GlucoBench, real days of {', '.join(DATA)}"


def _whole_days(path: Path) -> np.ndarray:
    """(D, 288) mg/dL, fewest gaps first; days with more than a tenth missing are left out."""
    import pandas as pd

    table = pd.read_csv(path, parse_dates=["time"])
    bins = table.time.dt.hour * 12 + table.time.dt.minute // 5
    days = table.pivot_table("gl", [table.id, table.time.dt.date], bins).reindex(columns=range(POINTS))
    gaps = days.isna().mean(axis=1).sort_values(kind="stable")
    return days.loc[gaps.index[gaps <= 0.1]].interpolate(axis=1, limit_direction="both").to_numpy()


def simulated_days(n: int) -> np.ndarray:
    """(n, 288) mg/dL that know nothing of the CMA: three meal peaks on a random walk."""
    rng, t = np.random.default_rng(0), np.arange(POINTS) / 12
    walk = rng.normal(0, 2, (n, POINTS)).cumsum(1)
    peaks = [
        rng.uniform(20, 80, (n, 1)) * np.exp(-(((t - hour - rng.normal(0, 0.5, (n, 1))) / 1.2) ** 2))
        for hour in (8, 13, 19)
    ]
    return np.clip(110 + walk + sum(peaks), 50, 350)


def our_meal_times(days: np.ndarray) -> np.ndarray:
    from raycadian.physiology.cma.meals import meal_times

    return meal_times(np.arange(POINTS) / 12, days)


# --- the reference, in its own environment ----------------------------------------------------------------------------


def reference(days: np.ndarray, tM: np.ndarray) -> dict:
    """Run this script under the reference's interpreter; its measurements, with arrays as lists."""
    python = reference_python()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "logs").mkdir()
        np.savez(work / "in.npz", days=days, tM=tM)
        threads = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
        )
        done = subprocess.run(
            [python, __file__, "--reference", folder],
            cwd=work,
            env=os.environ | threads,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"the reference failed under {python}:\n{done.stderr[-2000:]}")
        return json.loads((work / "out.json").read_text())


def reference_python() -> str:
    """The interpreter of .bench-venv, made on first use with the reference at its exact version."""
    python = VENV / "bin" / "python"
    ask = [str(python), "-c", f"from importlib.metadata import version; print(version('{PACKAGE}'))"]
    if not python.exists() or subprocess.run(ask, capture_output=True, text=True).stdout.strip() != VERSION:
        print(f"installing {PACKAGE} {VERSION} into {VENV} (a minute, once)", file=sys.stderr)
        venv.create(VENV, clear=True, with_pip=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "-qq", f"{PACKAGE}=={VERSION}"], check=True, stdout=sys.stderr
        )
    return str(python)


def run_reference(work: Path) -> None:
    """Inside .bench-venv: time curves and fits of in.npz, write out.json."""
    import pandas as pd
    from pfun_cma_model.engine import fit
    from pfun_cma_model.engine.cma import CMASleepWakeModel

    search_s: list[float] = []
    curve_fit = fit.curve_fit

    def timed(*arguments, **keywords):  # the search alone, without the formatting of tables around it
        began = time.process_time()
        try:
            return curve_fit(*arguments, **keywords)
        finally:
            search_s.append(time.process_time() - began)

    fit.curve_fit = timed
    given = np.load(work / "in.npz")
    model = CMASleepWakeModel(N=POINTS, tM=np.array(MEALS_H))
    out = {"run_s": _each(model.run), "array_s": _each(lambda: model.g_instant), "fits": [], "failed": []}
    stamps = pd.date_range("2026-01-05", periods=POINTS, freq="5min", tz="UTC")
    _fit_reference(fit, stamps, simulated_days(1)[0], np.array(MEALS_H))  # the first call compiles
    for i, (day, tM) in enumerate(zip(given["days"], given["tM"], strict=True)):
        began = time.process_time()
        try:
            found = _fit_reference(fit, stamps, day, tM)
        except RuntimeError as error:  # "Optimal parameters not found"
            out["failed"].append(" ".join(str(error).split()))
            continue
        out["fits"].append({"day": i} | _told(found, time.process_time() - began, search_s[-1]))
    (work / "out.json").write_text(json.dumps(out))


def _fit_reference(fit, stamps, day: np.ndarray, tM: np.ndarray):
    import pandas as pd

    return fit.fit_model(pd.DataFrame({"ts_utc": stamps, "ts_local": stamps, "value": day}), tM=tM, N=POINTS)


def _told(found, seconds: float, search: float) -> dict:
    data, bounds = found.formatted_data, found.cma.bounds
    theta = np.asarray(found.popt, dtype=float)
    outside = (theta < np.asarray(bounds.lb, float)) | (theta > np.asarray(bounds.ub, float))
    return {
        "fit_s": seconds,
        "search_s": search,
        "t_h": data["t"].tolist(),
        "value": data["value"].tolist(),
        "G": data["G"].tolist(),
        "curve": found.cma.g_instant.tolist(),
        "theta": theta.tolist(),
        "left_bounds": bool(outside.any()),
    }


def _each(call, calls: int = 10, rounds: int = 20) -> float:
    """Seconds of one call, in the best of several rounds: other work on the machine only ever adds."""
    call()
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(calls):
            call()
        seconds.append((time.process_time() - began) / calls)
    return min(seconds)


# --- Raycadian --------------------------------------------------------------------------------------------------------


def raycadian(days: np.ndarray, tM: np.ndarray, theirs: dict) -> dict:
    """The same measurements; fits in batches of 256 days (the days repeated) and one at a time."""
    import torch

    from raycadian.physiology.cma import equations as cma
    from raycadian.physiology.cma.fit import fit_cma

    torch.set_num_threads(1)
    t_h = torch.arange(POINTS, dtype=torch.float64) / 12
    many = {k: torch.full((CURVES,), v, dtype=torch.float64) for k, v in cma.DEFAULTS.items()}
    meals = torch.tensor(MEALS_H, dtype=torch.float64)
    glucose, tM = torch.tensor(days), torch.tensor(tM)
    batch = torch.arange(BATCH) % len(days)
    hours = torch.tensor([f["t_h"] for f in theirs["fits"]], dtype=torch.float64)
    fitted = [f["day"] for f in theirs["fits"]]
    sums = {}
    for scale in ("G", "value"):  # the very numbers that the reference fitted, on its scale and in mg/dL
        y = torch.tensor([f[scale] for f in theirs["fits"]], dtype=torch.float64)
        found = fit_cma(hours, y, tM=tM[fitted])
        sums[scale] = ((y - found.glucose_mgdl(hours)) ** 2).sum(1).tolist()
    lower, upper = torch.tensor([cma.BOUNDS[k] for k in cma.PARAMETERS], dtype=torch.float64).unbind(1)
    theta = torch.stack(list(found.parameters.values()), 1)
    return {
        "curve_s": _each(lambda: cma.signals(t_h, **many, tM=meals)) / CURVES,
        "one_curve_s": _each(lambda: cma.signals(t_h, **cma.DEFAULTS, tM=meals)),
        "fit_s": _each(lambda: fit_cma(t_h, glucose[batch], tM=tM[batch]), 1, 5) / BATCH,
        "gains_fit_s": _each(lambda: fit_cma(t_h, glucose[batch], tM=tM[batch], gains="per_meal"), 1, 5) / BATCH,
        "one_fit_s": _each(lambda: [fit_cma(t_h, glucose[i : i + 1], tM=tM[i : i + 1]) for i in range(len(days))], 1, 3)
        / len(days),
        "sums": sums,
        "left_bounds": ((theta < lower) | (theta > upper)).any(1).tolist(),
    }


# --- the comparison ---------------------------------------------------------------------------------------------------


def best_affine_sum(y: np.ndarray, curve: np.ndarray) -> float:
    """Sum of squares after the best offset and gain >= 0."""
    y, curve = y - y.mean(), curve - curve.mean()
    gain = max(0.0, curve @ y / (curve @ curve)) if curve @ curve > 0 else 0.0
    return float(((y - gain * curve) ** 2).sum())


def summary(ours: dict, theirs: dict) -> dict:
    fits = theirs["fits"]
    mean_fit_s = float(np.mean([f["fit_s"] for f in fits]))
    mean_search_s = float(np.mean([f["search_s"] for f in fits]))
    rows = [
        _row("curve, all signals (batch of 64 | run())", ours["curve_s"], theirs["run_s"], 100),
        _row("curve, all signals (batch of 64 | g_instant, glucose alone)", ours["curve_s"], theirs["array_s"]),
        _row("curve, all signals (one | run())", ours["one_curve_s"], theirs["run_s"]),
        _row("one-day fit (batch of 256 | fit_model)", ours["fit_s"], mean_fit_s, 500),
        _row("one-day fit (batch of 256 | its search alone)", ours["fit_s"], mean_search_s),
        _row("one-day fit, a gain a meal (batch of 256 | fit_model)", ours["gains_fit_s"], mean_fit_s),
        _row("one-day fit (one | fit_model)", ours["one_fit_s"], mean_fit_s),
    ]
    raw = [float(np.sum((np.array(f["G"]) - np.array(f["curve"])) ** 2)) for f in fits]
    squares = [_squares("normalised scale, the reference as fitted", ours["sums"]["G"], raw)]
    for scale, name in (("G", "normalised scale"), ("value", "mg/dL")):
        affine = [best_affine_sum(np.array(f[scale]), np.array(f["curve"])) for f in fits]
        squares.append(_squares(f"{name}, the reference with its best offset and gain", ours["sums"][scale], affine))
    left = {"raycadian": sum(ours["left_bounds"]), "reference": sum(f["left_bounds"] for f in fits)}
    return {
        "speed": rows,
        "sum_of_squares": squares,
        "fits_outside_bounds": left,
        "reference_failed": len(theirs["failed"]),
    }


def _row(what: str, ours_s: float, theirs_s: float, target: float | None = None) -> dict:
    return {
        "what": what, "raycadian_per_s": round(1 / ours_s, 1), "reference_per_s": round(1 / theirs_s, 2),
        "ratio": round(theirs_s / ours_s, 1), "target": target,
    }  # fmt: skip


def _squares(what: str, ours: list[float], theirs: list[float]) -> dict:
    from scipy.stats import binomtest

    ratio = np.array(ours) / np.array(theirs)
    no_worse = ratio <= 1 + 1e-9
    least = binomtest(int(no_worse.sum()), len(ratio), alternative="greater").proportion_ci(0.95).low
    return {
        "what": what,
        "median_ours_over_reference": round(float(np.median(ratio)), 4),
        "worst": round(float(ratio.max()), 4),
        "days_no_worse": round(float(no_worse.mean()), 3),
        "at_least": f"{least:.1%}",
        "target": 0.95,
    }


def table(report: dict) -> str:
    import pandas as pd

    speed, squares = (
        pd.DataFrame(report[key]).to_string(index=False, na_rep="") for key in ("speed", "sum_of_squares")
    )
    left = ", ".join(f"{name} {n}" for name, n in report["fits_outside_bounds"].items())
    return (
        f"{report['days']} days ({report['data']}), one thread each\n\n{speed}\n\n{squares}\n\n"
        f"fits outside the bounds: {left}\ndays that the reference gave up on, left out above: "
        f"{report['reference_failed']}"
    )


if __name__ == "__main__":
    main()
