"""Golden behaviour: what whole lines of the platform said before its modules moved, and whether they still say it.

    python tests/golden.py record [LINE...]     writes tests/golden/LINE.json.gz
    python tests/golden.py compare [LINE...]    each part's largest difference; status 1 where one is too large

A line goes from data to a served answer by the command line alone, small and on one thread, and is read back from the
folders of its runs. Of an array are kept eight weighted sums, moments and quantiles; of simulated data a sample too.
Where a move gives something another name, RENAMED says so.
"""

import argparse
import contextlib
import functools
import gzip
import hashlib
import importlib
import itertools
import json
import math
import os
import re
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
SHARED = ROOT.parent / "shared" / "data"
TOLERANCE = 1e-6
"""Of a number itself, or of the typical size of the array that it describes, whichever is larger."""
NOTHING = 1e-9
"""An absolute difference that never counts."""
RENAMED: dict[str, str] = {}
"""A part's present name -> the one that the golden files know it by."""

STEADY = {
    "PYTHONPATH": str(ROOT / "platform"),  # this tree's package, here and in Ray's workers
    "PYTHONHASHSEED": "0",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "RAYCADIAN_RUNS": "", "RAYCADIAN_SNAPSHOTS": "", "RAYCADIAN_PEOPLE": "", "RAY_ADDRESS": "",
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
    # the same instructions on every x86 machine of the last ten years
    "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "AVX2", "OPENBLAS_CORETYPE": "Haswell",
}  # fmt: skip
"""Variables of the process that records; an empty one is unset."""

SMALL = (
    "training.epochs=2", "training.max_steps_per_epoch=6", "training.batch_size=32", "training.warmup_steps=2",
    "training.device=cpu", "training.precision=fp32", "training.workers=1", "training.early_stopping=null",
    "evaluation.bootstrap=40", "tracking.mlflow=off", "tracking.tensorboard=false",
)  # fmt: skip
OF_A_RUN = {
    "model", "run", "runs", "snapshot", "path", "report", "key", "seconds", "note", "adapter", "version", "source",
    "weights_sha256", "calibrated_utc", "made_utc", "previous", "reason",
}  # fmt: skip
"""Keys of answers that name a run, a place or a moment."""


# --- the command line -------------------------------------------------------------------------------------------------


class Refused(Exception):
    """A verb ended with 2, the status of a user's error."""


@functools.cache
def _main() -> Any:
    """The command that pyproject.toml installs as raycadian."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, name = scripts["raycadian"].split(":")
    return getattr(importlib.import_module(module), name)


def ask(*words: object) -> str:
    """What a verb prints. Raises Refused, RuntimeError."""
    from click.testing import CliRunner

    found = CliRunner().invoke(_main(), [str(w) for w in words])
    if found.exit_code:
        kind = Refused if found.exit_code == 2 else RuntimeError
        raise kind(f"raycadian {' '.join(map(str, words))}\n{found.output}") from found.exception
    return found.stdout


def ask_json(*words: object) -> Any:
    return json.loads(ask(*words, "--json"))


# --- the lines --------------------------------------------------------------------------------------------------------


class Place:
    """A folder to work in, and the verbs with its options."""

    def __init__(self, folder: Path, changes: tuple[str, ...] = ()):
        """`changes`: of every recipe."""
        self.folder, self.runs, self.changes = folder, folder / "runs", changes

    def file(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def run(self, recipe: str, card: Path, *changes: str) -> "Done":
        """`raycadian run` on a recipe of this repository."""
        return Done(self, ask_json("run", ROOT / recipe, *self._options(card, changes)))

    def train(self, recipe: str, card: Path, *changes: str) -> Path:
        """`raycadian train`; the run's folder."""
        return Path(ask_json("train", ROOT / recipe, *self._options(card, changes))["path"])

    def _options(self, card: Path, changes: tuple[str, ...]) -> Iterator[object]:
        for change in (f"dataset={card}", *SMALL, *changes, *self.changes):
            yield from ("--set", change)
        yield from ("--runs", self.runs, "--snapshots", self.folder / "snapshots")

    @functools.cached_property
    def cases(self) -> Path:
        """The card of synthetic operations."""
        return self._simulated("biosignals", 28, "--minutes", 30)

    @functools.cached_property
    def people(self) -> Path:
        """The card of made-up participants."""
        return self._simulated("actigraphy", 90)

    def _simulated(self, modality: str, patients: int, *more: object) -> Path:
        out = self.file(f"simulated/{modality}_{patients}")
        asked = ("--modality", modality, "--patients", patients, "--seed", 7, *more, "--out", out)
        return Path(ask("simulate", *asked).strip())


class Done:
    """What `raycadian run` left."""

    def __init__(self, place: Place, outcome: dict[str, Any]):
        self._place, self.outcome = place, outcome
        self.main = Path(outcome["report"]).parent
        self.runs = [place.runs / name for name in outcome["runs"]]
        self.champion = next(run for run in self.runs if run.name == outcome["promotion"]["run"])

    def record(self, private: bool, served: Any) -> dict[str, Any]:
        """Everything that is compared. `private`: of real people, so that no more than summaries are kept."""
        return {
            "ranked on validation": [recipe_of(run) for run in self.runs],
            "champion": recipe_of(self.champion),
            "leaderboard": {str(i): plain(row, {"run"}) for i, row in enumerate(self.outcome["leaderboard"])},
            "split": split_of(self.main, private),
            "runs": {recipe_of(run): run_record(run, private) for run in self.runs},
            "served": served,
        }


def demo(place: Place) -> dict[str, Any]:
    """The demo's base, its exported weights, the hybrid that starts from them, its peers; the champion's forecast."""
    card, person = demo_cohort(place, people=4, days=6)
    small = ("model.d_model=16", "model.layers=1")
    base = place.train("jobs/recipes/demo_base.yaml", card, *small)
    exported = place.folder / "exports" / "base"
    ask("export", base, "--to", exported, "--runs", place.runs)
    inner = tuple(f"model.inner.{change.removeprefix('model.')}" for change in small)
    done = place.run(
        "jobs/recipes/demo.yaml", card, f"model.inner.pretrained={exported}", "tuning=null", *inner, *QUICK_CMA
    )
    compared = ask_json("compare", base, *done.runs, "--runs", place.runs)
    served = forecast_of(done.champion, place, person)
    hybrid = forecast_of(done.main, place, person, "--meal", "20:00x0.5")
    return done.record(False, {"champion": served, "hybrid, another meal": hybrid}) | {
        "base": run_record(base, False),
        "beside the base": {str(i): plain(row, {"run"}) for i, row in enumerate(compared["leaderboard"])},
        "differences": {str(i): plain(row, {"run"}) for i, row in enumerate(compared["differences"])},
    }


QUICK_CMA = ("model.mechanism.starts=1", "compare.1.mechanism.starts=1")


def demo_cohort(place: Place, people: int, days: int) -> tuple[Path, Path]:
    """The card of the first people and days of the demo cohort, and the readings of one whom the split holds out."""
    import pandas as pd
    import yaml

    table = pd.read_parquet(ROOT / "datasets" / "demo_cgm.parquet")
    chosen = sorted(table.subject.unique())[:people]
    table = table[table.subject.isin(chosen) & (table.time < table.time.min() + pd.Timedelta(days=days))]
    raw = yaml.safe_load((ROOT / "datasets" / "demo_cgm.yaml").read_text(encoding="utf-8"))
    table.to_parquet(place.file("demo/cohort.parquet"), index=False)
    card = place.file("demo/card.yaml")
    card.write_text(yaml.safe_dump(raw | {"files": ["cohort.parquet"]}), encoding="utf-8")
    one = table[table.subject == chosen[-1]].rename(columns={"glucose_mgdl": "glucose"})[["time", "glucose"]]
    one.assign(time=one.time.astype(str)).dropna().to_csv(person := place.file("demo/person.csv"), index=False)
    return card, person


def glucobench(name: str, people: list[str], days: int, place: Place) -> dict[str, Any]:
    """The recipe of iglu on some people and days of a real file of GlucoBench; the hybrid's forecast of one of them."""
    import pandas as pd
    import yaml

    table = pd.read_csv(SHARED / "cgm" / "glucobench" / f"{name}.csv.gz", dtype={"id": str})
    table = table[table.id.isin(people)]
    first = pd.to_datetime(table.groupby("id").time.transform("min"))
    table = table[pd.to_datetime(table.time) < first + pd.Timedelta(days=days)]
    table.to_csv(place.file(f"{name}/cut.csv"), index=False)
    raw = yaml.safe_load((ROOT / "datasets" / f"{name}.yaml").read_text(encoding="utf-8"))
    raw |= {"files": ["cut.csv"], "exclude_subjects": []}
    card = place.file(f"{name}/card.yaml")
    card.write_text(yaml.safe_dump(raw), encoding="utf-8")
    one = table[table.id == people[-1]].rename(columns={"gl": "glucose"})[["time", "glucose"]]
    one.to_csv(person := place.file(f"{name}/person.csv"), index=False)
    small = ("model.inner.d_model=16", "model.inner.layers=1", "compare.3.d_model=16", "compare.3.layers=1")
    done = place.run("jobs/recipes/iglu.yaml", card, f"name={name}", *small, *QUICK_CMA)
    served = forecast_of(done.main, place, person)
    return done.record(True, {name: value for name, value in served.items() if "time" not in name})


def vitaldb_hypotension(place: Place) -> dict[str, Any]:
    """Synthetic operations to probabilities; the endpoint's answer on a stored case."""
    card = place.cases
    trees = ("model.trees=30", "model.min_weight=1", "window.step_s=20")
    small = (f"compare.{i}.{change}" for i in (1, 2) for change in ("d_model=16", "layers=1"))
    done = place.run("jobs/recipes/vitaldb_hypotension.yaml", card, *trees, *small)
    served = {
        recipe_of(run): label_answer(run, {"case": "synthetic-0003.vital"}, cases=card.parent) for run in done.runs
    }
    return done.record(False, served)


def vitaldb_map(place: Place) -> dict[str, Any]:
    """Synthetic operations to quantiles of the pressure. No endpoint answers it, and that is recorded."""
    small = ("model.d_model=16", "model.layers=1")
    done = place.run("jobs/recipes/vitaldb_map.yaml", place.cases, "window.context=10", "window.horizon=5", *small)
    try:
        served: Any = forecast_of(done.main, place, demo_cohort(place, people=4, days=2)[1])
    except Refused:
        served = "refused"
    return done.record(False, served)


def nhanes_wear(place: Place) -> dict[str, Any]:
    """Real wear flags of some participants to weighted scores; the answer on made-up flags."""
    card = wear_card(place, every=4)
    done = place.run("jobs/recipes/nhanes_wear.yaml", card, "model.trees=30", "model.min_weight=1")
    worn = [float(n > 0) for n in made_up_days([False] * 7, seed=3)]
    body = {"unit": "worn", "start": "2026-03-02T00:00:00", "values": worn}
    return done.record(True, {recipe_of(run): label_answer(run, body) for run in done.runs})


def wear_card(place: Place, every: int) -> Path:
    """NHANES's own tables beside the wear flags of every so many-th person."""
    import numpy as np
    import yaml

    flags = np.load(SHARED / "nhanes" / "wear_flags_D.npz")
    kept = np.isin(flags["SEQN"], np.unique(flags["SEQN"])[::every])
    cut = place.file("nhanes_wear/wear_flags_D.npz")
    np.savez(cut, **{name: flags[name][kept] for name in flags})
    tables = [str(SHARED / "nhanes" / name) for name in ("DEMO_D.XPT", "DPQ_D.XPT")]
    raw = yaml.safe_load((ROOT / "datasets" / "nhanes_wear.yaml").read_text(encoding="utf-8"))
    card = place.file("nhanes_wear/card.yaml")
    card.write_text(yaml.safe_dump(raw | {"files": [str(cut), *tables]}), encoding="utf-8")
    return card


def nhanes_depression(place: Place) -> dict[str, Any]:
    """Made-up participants to probabilities by a stack of PAT and trees; the answer on a made-up week."""
    small = ("model.members.1.trees=20", "compare.1.trees=20", "training.batch_size=8", "training.epochs=3")
    done = place.run("jobs/recipes/nhanes_depression.yaml", place.people, *small)
    body = {"unit": "counts", "start": "2026-03-02T00:00:00", "values": made_up_days([True] * 7, seed=3)}
    return done.record(False, {recipe_of(run): label_answer(run, body) for run in done.runs})


def personal(place: Place) -> dict[str, Any]:
    """PAT on days of made-up participants, calibrated to a made-up person; what `predict` says of their days."""
    changes = (
        "name=population", "model={kind: pat, size: small}", "compare=[]", "window.windows=1", "window.max_missing=0.5",
        "training.epochs=3", "training.batch_size=16", "training.max_steps_per_epoch=20", "training.lr=1e-3",
    )  # fmt: skip
    run = place.train("jobs/recipes/nhanes_depression.yaml", place.people, *changes)
    recording, episodes = made_up_export(place)
    person = ("--subject", "made-up", "--recording", recording, "--people", place.folder / "own", "--runs", place.runs)
    about = ask_json("calibrate", *person, "--episodes", episodes, "--run", run)
    return {
        "population": run_record(run, False),
        "calibrated": plain(about, OF_A_RUN),
        "served": plain(ask_json("predict", *person), OF_A_RUN),
    }


def made_up_days(ill: list[bool], seed: int) -> list[float]:
    """Counts by the minute of one person: on ill days later and less active, by amounts that days vary by."""
    import numpy as np

    rng, minute, found = np.random.default_rng(seed), np.arange(1440), []
    for sick in ill:
        level, wake = rng.normal(0.75 if sick else 1.0, 0.12), rng.normal(8.0 if sick else 7.0, 0.6)
        awake = (minute >= wake * 60) & (minute < wake * 60 + 960)
        drive = level * (1 + np.sin((minute / 60 - wake) / 16 * np.pi))
        found.append(np.where(awake, 250 * drive * rng.gamma(1.0, 1.0, 1440), 5.0 * (rng.random(1440) < 0.1)))
    return [float(x) for x in np.concatenate(found).round()]


def made_up_export(place: Place) -> tuple[Path, Path]:
    """Sixty days of a person with three ill stretches, and the labels of all but the first days."""
    import numpy as np
    import pandas as pd

    edges = (9, 17, 27, 35, 44, 52, 60)
    ill = [sum(day >= edge for edge in edges) % 2 == 1 for day in range(60)]
    start, counts = np.datetime64("2026-03-02", "D"), made_up_days(ill, seed=1)
    times = start.astype("datetime64[m]") + np.arange(len(counts))
    recording, episodes = place.file("personal/watch.csv"), place.file("personal/episodes.csv")
    pd.DataFrame({"time": times.astype(str), "activity": np.int64(counts)}).to_csv(recording, index=False)
    rows = [(start + a, start + b - 1, int(ill[a])) for a, b in itertools.pairwise((3, *edges))]
    pd.DataFrame(rows, columns=["start", "end", "label"]).to_csv(episodes, index=False)
    return recording, episodes


def forecast_of(run: Path, place: Place, person: Path, *more: object) -> dict[str, Any]:
    """`raycadian forecast`: the same code as the endpoint."""
    return plain(ask_json("forecast", person, "--run", run, "--runs", place.runs, *more), OF_A_RUN)


def label_answer(run: Path, body: dict[str, Any], cases: Path | None = None) -> dict[str, Any]:
    """What /v1/biosignal or /v1/actigraphy answers a request's body. The only door here that isn't the command line."""
    from raycadian.modalities import MODALITIES
    from raycadian.serving.load import load_predictor

    schema = MODALITIES["actigraphy" if "unit" in body else "biosignals"].request()
    return plain(load_predictor(run, cases).answer(schema.model_validate(body).data()).as_dict(), OF_A_RUN)


LINES: dict[str, Callable[[Place], dict[str, Any]]] = {
    "demo": demo,
    "iglu": functools.partial(glucobench, "iglu", ["Subject 1", "Subject 2", "Subject 3"], 5),
    "dubosson": functools.partial(glucobench, "dubosson", ["1.0", "2.0", "6.0", "8.0"], 4),
    "vitaldb_hypotension": vitaldb_hypotension,
    "vitaldb_map": vitaldb_map,
    "nhanes_wear": nhanes_wear,
    "nhanes_depression": nhanes_depression,
    "personal": personal,
}
NEEDS = {
    "iglu": "cgm/glucobench/iglu.csv.gz",
    "dubosson": "cgm/glucobench/dubosson.csv.gz",
    "nhanes_wear": "nhanes/wear_flags_D.npz",
}
"""Real data, below SHARED."""


def missing(line: str) -> Path | None:
    """The real data that a line needs and that are not here."""
    path = SHARED / NEEDS[line] if line in NEEDS else None
    return None if path is None or path.is_file() else path


# --- what is kept of a run --------------------------------------------------------------------------------------------


def recipe_of(run: Path) -> str:
    """The name of a run's recipe and model, without its moment and hash."""
    return re.sub(r"-\d{8}T\d{6}(\.\d+)?-[0-9a-f]+$", "", run.name)


def run_record(run: Path, private: bool) -> dict[str, Any]:
    """Scores, and each table of predictions, whatever it is called."""
    (scores,) = run.rglob("metrics_summary.json")
    tables = {path.stem: table_record(path, private) for path in sorted(run.rglob("*predictions*.parquet"))}
    return {"scores": plain(json.loads(scores.read_text(encoding="utf-8"))), "predictions": tables}


def split_of(run: Path, private: bool) -> dict[str, list[str]]:
    """split -> who and when, in order; of real people a digest of that."""
    (file,) = run.rglob("split.json")
    split: dict[str, list[str]] = {}
    for row in json.loads(file.read_text(encoding="utf-8"))["ranges"]:
        words = f"{row['subject']} {row['recording']} {row['start']}:{row['stop']} {row['scope']}"
        split.setdefault(row["split"], []).append(words)
    if not private:
        return split
    digests = {name: hashlib.sha256("\n".join(rows).encode()).hexdigest() for name, rows in split.items()}
    return {name: [f"{len(rows)} ranges", digests[name]] for name, rows in split.items()}


def table_record(path: Path, private: bool) -> dict[str, Any]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return {name: column_record(table[name].to_pylist(), private) for name in sorted(table.column_names)}


def column_record(values: list[Any], private: bool) -> dict[str, Any]:
    """Numbers (also lists of them), times, or names and how often each stands there."""
    import numpy as np
    import pandas as pd

    while values and isinstance(values[0], list):
        values = list(itertools.chain.from_iterable(values))
    if values and isinstance(values[0], str):
        return names_record(values)
    if values and hasattr(values[0], "timestamp"):
        after = (pd.Series(values) - values[0]).dt.total_seconds().to_numpy()
        return {"begins": "" if private else str(values[0]), "seconds after": numbers_record(after, private)}
    return numbers_record(np.array(values, dtype=np.float64), private)


def names_record(values: list[str]) -> dict[str, Any]:
    """The hash of all in order and, where few are different, how often each stands there."""
    found = {name: values.count(name) for name in sorted(set(values))} if len(set(values)) <= 40 else {}
    return {"values": len(values), "hash": digest("\n".join(values).encode()), "of each": found}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def numbers_record(values: Any, private: bool) -> dict[str, Any]:
    """An array (N,) without the array, so that a change shows, and how large it is. `size`: root mean square.

    If all values change at random by d, so does each of `sums`; if one does, they do by d sqrt(2/N) at most.
    """
    import numpy as np

    known = values[np.isfinite(values)]
    if not len(known):
        return {"values": len(values), "known": 0}
    at, filled = np.arange(1, len(values) + 1, dtype=np.float64), np.where(np.isfinite(values), values, 0.0)
    weights = (np.sin(at * math.sqrt(prime)) for prime in (2, 3, 5, 7, 11, 13, 17, 19))
    found = {
        "values": len(values), "known": len(known), "size": short(np.sqrt(np.mean(known**2))),
        "mean": short(known.mean()), "sd": short(known.std()),
        "quantiles": short(np.quantile(known, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1))),
        "sums": short([float(np.sum(w * filled)) * math.sqrt(2 / len(values)) for w in weights]),
        "sha256": digest(np.array([short(x) or 0.0 for x in values.tolist()]).tobytes()),
    }  # fmt: skip
    return found if private else found | {"sample": short(values[:: max(1, len(values) // 24)])}


def short(value: Any) -> Any:
    """Twelve significant digits of a number or of each; None where it is not finite."""
    if hasattr(value, "__len__"):
        return [short(x) for x in value]
    return float(f"{float(value):.12g}") if math.isfinite(value) else None


def plain(value: Any, without: set[str] = frozenset()) -> Any:
    """JSON with short numbers, and without some keys at any depth."""
    if isinstance(value, dict):
        return {str(key): plain(inner, without) for key, inner in value.items() if key not in without}
    if isinstance(value, list):
        return [plain(inner, without) for inner in value]
    return short(value) if isinstance(value, float) else value


# --- recording and comparing ------------------------------------------------------------------------------------------


def record(lines: list[str], folder: Path, changes: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """What each line says now, worked out below `folder`; one that fails is left out. In a process of `steadily`."""
    import torch

    torch.set_num_threads(1)
    place, found = Place(folder, changes), {}
    for line in lines:
        began = time.perf_counter()
        try:
            found[line] = json.loads(json.dumps(LINES[line](place), allow_nan=False))
        except Exception:
            traceback.print_exc()
        print(f"{line}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return found


def golden_file(line: str) -> Path:
    return GOLDEN / f"{line}.json.gz"


def write(path: Path, body: Any) -> None:
    """The same bytes of the same body."""
    text = json.dumps(body, indent=0, sort_keys=True, allow_nan=False)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def read(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()))


def leaves(value: Any, path: tuple[str, ...] = (), size: float = 0.0) -> Iterator[tuple[tuple[str, ...], Any, float]]:
    """Path, plain value, and the typical size of the array that the value describes."""
    if isinstance(value, dict):
        own = value.get("size", size) if "sums" in value else size
        for key, inner in value.items():
            yield from leaves(inner, (*path, RENAMED.get(key, key)), own)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from leaves(inner, (*path, str(i)), size)
    else:
        yield path, value, size


def differences(golden: Any, now: Any) -> dict[tuple[str, ...], tuple[Any, Any, float]]:
    """Path -> golden value, present value, the difference in tolerances: more than 1 is too much. Without `sha256`."""
    before = {path: (value, size) for path, value, size in leaves(golden) if path[-1] != "sha256"}
    after = {path: value for path, value, _ in leaves(now) if path[-1] != "sha256"}
    found = {}
    for path in {**before, **after}:
        (value, size), present = before.get(path, ("(absent)", 0.0)), after.get(path, "(absent)")
        if value != present or type(value) is not type(present):
            found[path] = (value, present, _tolerances(value, present, size))
    return found


def _tolerances(golden: Any, now: Any, size: float) -> float:
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (golden, now))
    if not numbers or isinstance(golden, int):
        return math.inf
    return abs(golden - now) / max(TOLERANCE * max(abs(golden), size), NOTHING)


def same_bits(golden: Any, now: Any) -> bool:
    """Whether the hashes of all arrays are the same too: to twelve digits, value by value."""
    hashes = [{path: value for path, value, _ in leaves(x) if path[-1] == "sha256"} for x in (golden, now)]
    return hashes[0] == hashes[1]


def parts(found: dict[tuple[str, ...], tuple[Any, Any, float]]) -> dict[str, tuple[str, Any, Any, float]]:
    """The largest difference of every part of a line: where, golden, now, in tolerances."""
    worst: dict[str, tuple[str, Any, Any, float]] = {}
    for path, (golden, now, large) in found.items():
        part = " / ".join(path[: 4 if path[0] == "runs" else 2])
        if part not in worst or large > worst[part][3]:
            worst[part] = (" / ".join(path), golden, now, large)
    return worst


def told(line: str, golden: Any, now: Any) -> tuple[str, bool]:
    """A line's comparison in words, and whether it is within the tolerance."""
    found = differences(golden, now)
    good = all(large <= 1 for _, _, large in found.values())
    n, bits = (
        sum(1 for _ in leaves(golden)),
        "arrays the same to 12 digits" if same_bits(golden, now) else "arrays differ",
    )
    rows = [f"{line}: {'same' if good else 'DIFFERENT'}; {len(found)} of {n} values differ; {bits}"]
    for where, was, value, large in sorted(parts(found).values(), key=lambda row: -row[3]):
        size = f"{abs(value - was):.3g}, {large * TOLERANCE:.2g} relative" if math.isfinite(large) else "exact"
        rows.append(f"  {'ok ' if large <= 1 else 'BAD'} {where}: {was!r} -> {value!r} ({size})")
    return "\n".join(rows), good


@contextlib.contextmanager
def work(kept: Path | None) -> Iterator[Path]:
    """A folder to work in, that is gone afterwards unless it was named."""
    if kept is not None:
        kept.mkdir(parents=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        yield Path(folder)


def steadily() -> None:
    """Start this program again with STEADY's variables, unless it has them: libraries read them while they load."""
    wanted = {name: value or None for name, value in STEADY.items()}
    if {name: os.environ.get(name) for name in STEADY} != wanted:
        kept = {name: value for name, value in os.environ.items() if name not in STEADY}
        os.execve(
            sys.executable, [sys.executable, *sys.argv], kept | {name: value for name, value in STEADY.items() if value}
        )


def main() -> int:
    asked = arguments()
    steadily()
    lines = asked.lines or list(LINES)
    for line in filter(missing, lines):
        print(f"{line}: left out: {missing(line)} is not here", file=sys.stderr)
    lines = [line for line in lines if not missing(line)]
    with work(asked.work) as folder:
        now = record(lines, folder.absolute(), tuple(asked.changes))
    if asked.what == "record":
        asked.to.mkdir(parents=True, exist_ok=True)
        for line, body in now.items():
            write(asked.to / golden_file(line).name, body)
        return 0 if len(now) == len(lines) else 1
    results = [told(line, read(golden_file(line)), body) for line, body in now.items()]
    print("\n".join(words for words, _ in results))
    return 0 if len(now) == len(lines) and all(good for _, good in results) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["record", "compare"])
    parser.add_argument("lines", nargs="*", metavar="LINE", help=f"all if left out: {', '.join(LINES)}")
    parser.add_argument("--to", type=Path, default=GOLDEN, help="record: a folder instead of tests/golden")
    parser.add_argument("--work", type=Path, help="a new folder to work in, which is kept")
    parser.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="PATH=VALUE",
        help="a change of every recipe, to see how much it shows",
    )  # fmt: skip
    asked = parser.parse_args()
    if odd := [line for line in asked.lines if line not in LINES]:
        parser.error(f"no line {', '.join(odd)}; there are {', '.join(LINES)}")
    return asked


if __name__ == "__main__":
    sys.exit(main())
