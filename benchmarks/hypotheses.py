"""Does the mechanism help a learned model? Every strategy against its model without the mechanism, on four data sets.

Runs jobs/recipes/hypotheses.yaml (30, 60 and 120 minutes ahead), hypotheses_overnight.yaml (the night from midnight)
and hypotheses_efficiency.yaml (the share of the training windows) by `raycadian experiment` on each data set, on
identical windows, and writes the tables of docs/hypotheses.md and of each page in docs/concepts/strategies/. The
figures are test RMSE with 95% intervals over people; nothing was chosen on them.

Run: `python benchmarks/hypotheses.py [--data NAME ...] [--recipes NAME ...] [--runs FOLDER] [--update-docs]`. What is
complete in FOLDER is not run again. All of it takes about an hour on 2 cores.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from between import markdown, write_between


@dataclass(frozen=True)
class DataSet:
    """name: in the tables · windows: of the efficiency recipe · changes: what differs from the recipes."""

    name: str
    windows: tuple[int, ...]
    changes: tuple[str, ...] = ()


DATA = {
    "iglu": DataSet("iglu", (250, 500, 1000, 2000)),
    "dubosson": DataSet("dubosson", (200, 400, 800)),
    # people wore the sensor for 2 days: whole people are held out; 208 of them give windows enough
    "colas": DataSet("colas", (500, 1000, 2000, 4000), ("split.kind=subject", "window.stride=8")),
    "demo_cgm": DataSet("UVA/Padova (simulated)", (500, 1000, 2000, 4000)),
}
AHEAD, NIGHT, EFFICIENCY = RECIPES = ("hypotheses", "hypotheses_overnight", "hypotheses_efficiency")
STEPS_MIN = (30.0, 60.0, 120.0)
AGAINST = {  # a form with the mechanism -> the same model without it
    "residual-ttm": "ttm", "exogenous-ttm": "ttm", "physics-ttm": "ttm", "staged-residual-ttm": "ttm",
    "ensemble-residual-ttm_ttm": "ttm", "residual-ridge": "ridge 1", "exogenous-ridge": "ridge 2",
    "ensemble-ridge_residual-ridge": "ridge 1",
}  # fmt: skip
CALLED = {"ridge 1": "ridge", "ridge 2": "ridge with the hour"}  # experiments number equal names
PAGES = {  # docs/concepts/strategies/PAGE.md -> forms that it measures
    "residual": ("residual-ttm", "residual-ridge"),
    "exogenous": ("exogenous-ttm", "exogenous-ridge"),
    "physics": ("physics-ttm",),
    "staged": ("staged-residual-ttm",),
    "ensemble": ("ensemble-residual-ttm_ttm", "ensemble-ridge_residual-ridge"),
}
DOCS = Path("docs")
MODELS = (*dict.fromkeys(AGAINST.values()), *AGAINST, "cma")
BOLD = "Bold: shown in other people (interval) and on other days (Diebold-Mariano, Holm's correction)."
MEASURED = "Change of the test RMSE, mg/dL [95% interval over people] and %: below 0 the mechanism helps."
BEGIN, END = "<!-- benchmarks/hypotheses.py: begin -->", "<!-- benchmarks/hypotheses.py: end -->"


@dataclass(frozen=True)
class Found:
    """One experiment on one data set: the errors of its table.csv, the pairs of its differences.csv."""

    rows: pd.DataFrame
    pairs: pd.DataFrame

    def error(self, model: str, minutes: float | None, x: float | None = None) -> str:
        """RMSE [interval] in mg/dL at one step, or over the whole horizon (None)."""
        kind, at = ("cumulative", self.rows.horizon_min.max()) if minutes is None else ("step", minutes)
        wanted = {"model": model, "metric": "rmse_mgdl", "kind": kind, "horizon_min": at} | (
            {} if x is None else {"x": x}
        )
        row = self.rows[(self.rows[list(wanted)] == pd.Series(wanted)).all(axis=1)].iloc[0]
        return f"{row.value:.1f} [{row.low:.1f}, {row.high:.1f}]"

    def change(self, model: str, other: str, minutes: float | None, group: str | None = None) -> str:
        """The model's RMSE less the other's, in mg/dL and in %; bold where people and corrected test both show it."""
        kind = "cumulative" if minutes is None else "step"
        found = self.pairs[self.pairs.kind == kind]
        found = found if minutes is None else found[found.horizon_min == minutes]
        found = found[found.group == group] if group else found
        row = found[found.model.isin([model, other]) & found.other.isin([model, other])].iloc[0]
        one, low, high, percent = row.difference, row.diff_low, row.diff_high, row.relative_pct
        if row.model != model:
            one, low, high, percent = -one, -high, -low, 100 * (1 / (1 + percent / 100) - 1)
        words = f"{one:+.2f} [{low:+.2f}, {high:+.2f}], {percent:+.1f}%"
        return f"**{words}**" if row.verdict == "better" else words


Experiments = dict[tuple[str, str], Found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--runs", type=Path, default=Path("runs/hypotheses"))
    parser.add_argument("--update-docs", action="store_true", help="needs all data sets and recipes")
    asked = parser.parse_args()
    if asked.update_docs and (set(asked.data), set(asked.recipes)) != (set(DATA), set(RECIPES)):
        parser.error("--update-docs writes whole tables; leave --data and --recipes out")
    found = {(data, recipe): experiment(data, recipe, asked.runs) for recipe in asked.recipes for data in asked.data}
    for (data, recipe), one in found.items():
        print(f"\n{recipe} · {DATA[data].name}")
        print("\n".join(one.pairs[one.pairs.kind == "cumulative"].sentence))
    if asked.update_docs:
        write_between(
            DOCS / "hypotheses.md", BEGIN, END, "\n\n".join([errors(found), changes(found), efficiency(found)])
        )
        for page, forms in PAGES.items():
            write_between(DOCS / "concepts" / "strategies" / f"{page}.md", BEGIN, END, strategy(found, forms))


def experiment(data: str, recipe: str, runs: Path) -> Found:
    changes = [f"dataset=datasets/{data}.yaml", *DATA[data].changes]
    if recipe == EFFICIENCY:
        changes.append(f"experiment.windows={list(DATA[data].windows)}")
    command = [
        sys.executable,
        "-m",
        "raycadian.cli.main",
        "experiment",
        f"jobs/recipes/{recipe}.yaml",
        "--runs",
        str(runs),
    ]
    command += ["--resume", "--json", *(x for change in changes for x in ("--set", change))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    folder = Path(json.loads(done.stdout)["path"])
    return Found(pd.read_csv(folder / "table.csv"), pd.read_csv(folder / "differences.csv"))


def scopes(found: Experiments, data: str) -> list[tuple[str, Found, float | None]]:
    """The columns of the tables: (title, experiment, minutes ahead; None: the whole horizon)."""
    ahead, night = found[data, AHEAD], found[data, NIGHT]
    return [*((f"{m:g} min", ahead, m) for m in STEPS_MIN), ("night, 8 h", night, None)]


def errors(found: Experiments) -> str:
    """Every model's RMSE on every data set."""
    rows = [
        {"data": one.name, "model": called(model)}
        | {title: table.error(model, minutes) for title, table, minutes in scopes(found, data)}
        for data, one in DATA.items()
        for model in MODELS
    ]
    return f"Test RMSE in mg/dL [95% interval over people].\n\n{markdown(list(rows[0]), map(dict.values, rows))}"


def changes(found: Experiments) -> str:
    """What each form changes against its model without the mechanism, and against the mechanism alone."""
    pairs = [*AGAINST.items(), ("residual-ttm", "cma")]
    rows = [
        {"form": called(form), "against": called(other), "data": one.name}
        | {title: table.change(form, other, minutes) for title, table, minutes in scopes(found, data)}
        for form, other in pairs
        for data, one in DATA.items()
    ]
    return f"{MEASURED}\n{BOLD}\n\n{markdown(list(rows[0]), map(dict.values, rows))}"


def efficiency(found: Experiments) -> str:
    """The residual form against the network alone, by the number of training windows."""
    rows = [
        {
            "data": one.name, "training windows": n, "`ttm`": table.error("ttm", None, n),
            "`residual-ttm`": table.error("residual-ttm", None, n),
            "change": table.change("residual-ttm", "ttm", None, f"{n} windows"),
        }
        for data, one in DATA.items()
        for n, table in ((n, found[data, EFFICIENCY]) for n in one.windows)
    ]  # fmt: skip
    table = markdown(list(rows[0]), map(dict.values, rows))
    return f"Test RMSE over two hours by the number of windows that were trained on.\n\n{table}"


def strategy(found: Experiments, forms: tuple[str, ...]) -> str:
    """What a strategy's forms change, for its page."""
    rows = [
        {"form": f"{called(form)} against {called(AGAINST[form])}", "data": one.name}
        | {title: table.change(form, AGAINST[form], minutes) for title, table, minutes in scopes(found, data)}
        for form in forms
        for data, one in DATA.items()
    ]
    return f"{MEASURED}\n{BOLD}\n\n{markdown(list(rows[0]), map(dict.values, rows))}"


def called(model: str) -> str:
    return f"`{CALLED.get(model, model)}`"


if __name__ == "__main__":
    main()
