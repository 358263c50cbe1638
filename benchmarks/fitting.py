"""The fit of the mechanism: how its intervals cover planted parameters, where Ray pays, what keeping fits saves.

Coverage: people whose parameters are drawn from the default priors, inside the bounds, their day of 288 readings under
noise correlated over two hours (AR(1), rho 0.92 at 5 minutes: what the fit takes for granted), or under white noise;
the share of intervals of nominal 90% that hold the planted value, of the parameters that are not at a bound; and the
share of fits in which the data say something of a parameter (posterior sd under 0.9 of the prior's). Run:
`python benchmarks/fitting.py [--json] [--people 1000] [--fits 4096]`.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))  # helpers: synthetic people

T_H = torch.arange(288, dtype=torch.float64) / 12
MEALS_H, OFFSET_MGDL = (6.95, 12.2, 18.6), 90.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--fits", type=int, default=4096)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    noises = [
        ("one", 3.0, 0.92),
        ("one", 10.0, 0.92),
        ("one", 20.0, 0.92),
        ("one", 10.0, 0.0),
        ("per_meal", 10.0, 0.92),
    ]
    report = {
        "coverage": [coverage(arguments.people, *noise) for noise in noises],
        "distributed": distributed(arguments.fits),
        "kept": kept(arguments.fits),
    }
    print(json.dumps(report) if arguments.json else table(report))


def coverage(n: int, gains: str, noise_mgdl: float, rho: float) -> dict[str, Any]:
    from raycadian.config import Prior
    from raycadian.physiology.cma import equations as cma
    from raycadian.physiology.cma.fit import fit_cma

    glucose, tM, theta, gain = planted(n, gains, noise_mgdl, rho)
    found = fit_cma(T_H, glucose, tM=tM, prior=Prior(), gains=gains)
    estimate = torch.stack(list(found.parameters.values()), 1)
    away = {name: ((estimate - theta)[:, i], found.sd[:, i]) for i, name in enumerate(cma.PARAMETERS)}
    away |= {
        "offset": (found.offset_mgdl - OFFSET_MGDL, found.sd_offset_mgdl),
        "gain": (found.gain_mgdl - gain, found.sd_gain_mgdl),
    }
    informed = found.informed.double().mean(0).tolist()
    return {
        "gains": gains, "noise_mgdl": noise_mgdl, "rho": rho,
        "covered": {name: _covered(*values) for name, values in away.items()},
        "informed": dict(zip(cma.PARAMETERS, informed, strict=True)), "condition": found.condition.median().item(),
    }  # fmt: skip


def _covered(away: torch.Tensor, sd: torch.Tensor) -> float:
    free = ~sd.isnan()
    return ((away.abs() < 1.645 * sd)[free]).double().mean().item()


def planted(n: int, gains: str, noise_mgdl: float, rho: float) -> tuple[torch.Tensor, ...]:
    """Glucose (n, 288), meal times, parameters (n, 6), gains (n, 3)."""
    from raycadian.config import Prior
    from raycadian.physiology.cma import equations as cma

    g = torch.Generator().manual_seed(1)
    mean, sd = (torch.tensor([getattr(getattr(Prior(), k), what) for k in cma.PARAMETERS]) for what in ("mean", "sd"))
    lower, upper = torch.tensor([cma.BOUNDS[k] for k in cma.PARAMETERS], dtype=torch.float64).unbind(1)
    drawn = mean + sd * torch.randn(40 * n, 6, generator=g, dtype=torch.float64)
    theta = drawn[((drawn > lower) & (drawn < upper)).all(1) & (drawn[:, 2] > 0.35)][:n]  # a response of 5 minutes
    tM = torch.tensor(MEALS_H, dtype=torch.float64).expand(n, 3)
    gain = 60 + 60 * torch.rand(n, 3 if gains == "per_meal" else 1, generator=g, dtype=torch.float64).expand(n, 3)
    share = cma.periodic(T_H, **dict(zip(cma.PARAMETERS, theta.unbind(1), strict=True)), tM=tM)["g"]
    noise = torch.randn(n, 288, generator=g, dtype=torch.float64)
    for i in range(1, 288):
        noise[:, i] = rho * noise[:, i - 1] + math.sqrt(1 - rho**2) * noise[:, i]
    return OFFSET_MGDL + (gain[:, :, None] * share).sum(1) + noise_mgdl * noise, tM, theta, gain


def distributed(n: int) -> dict[str, float]:
    """Seconds of n fits here and on Ray's workers, and of what Ray adds before the first fit."""
    import helpers

    from raycadian import cluster
    from raycadian.config import CMAMechanism
    from raycadian.data.fits import Profile, fit_profiles

    rng = np.random.default_rng(0)
    days = [helpers.day_curve(1, seed=i) for i in range(64)]
    profiles = [
        Profile(np.arange(288) / 12, days[i % 64] + rng.normal(0, 3, 288), np.full(288, 14.0), 50.0) for i in range(n)
    ]
    config, seconds = CMAMechanism(), {}
    began = time.perf_counter()
    cluster.connect()
    seconds["connect_s"] = time.perf_counter() - began
    seconds["first_part_s"] = _seconds(lambda: fit_profiles(profiles[:1], config, on_ray=True))
    seconds["here_s"] = _seconds(lambda: fit_profiles(profiles, config, on_ray=False))
    seconds["on_ray_s"] = _seconds(lambda: fit_profiles(profiles, config, on_ray=True))
    return seconds | {"fits": n, "cpus": cluster.cpus()}


def kept(n: int) -> dict[str, float]:
    """Seconds on the processor of a mechanism's fits along a series, made and found again."""
    import helpers

    from raycadian.config import CMAMechanism
    from raycadian.data.mechanism import fit_mechanism
    from raycadian.data.series import Origin, build_series
    from raycadian.data.split import Range

    rng, base = np.random.default_rng(0), helpers.day_curve(56)
    names = [f"p{i:03}" for i in range(max(1, n // 27))]
    people = {name: [helpers.recording(base + rng.normal(0, 4, len(base)), name)] for name in names}
    series = build_series(helpers.People(people), ("glucose_mgdl",))
    train = tuple(Range(name, 0, 0, 8000, "train", "id") for name in names)
    with tempfile.TemporaryDirectory() as folder:
        series = replace(series, origin=Origin(f"{folder}/snapshot", ("glucose_mgdl",)))
        seconds = []
        for _ in range(2):
            began = time.process_time()
            found = fit_mechanism(series, CMAMechanism(refit_days=2), 156, train=train)
            seconds.append(time.process_time() - began)
    return {"fits": len(found.records), "made_s": seconds[0], "found_s": seconds[1]}


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def table(report: dict[str, Any]) -> str:
    import pandas as pd

    def rows(key: str) -> str:
        return pd.DataFrame([
            {"gains": r["gains"], "noise, "
                "mg/dL": r["noise_mgdl"], "rho": r["rho"], **r[key]} for r in report["coverage"]
        ]).round(2).to_string(index=False)  # fmt: skip

    lines = [
        f"{name}: " + ", ".join(f"{k} {v:.2f}" for k, v in report[name].items()) for name in ("distributed", "kept")
    ]
    return "\n\n".join([f"covered by 90%\n{rows('covered')}", f"informed by the data\n{rows('informed')}", *lines])


if __name__ == "__main__":
    main()
