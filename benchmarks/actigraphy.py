"""XPT to Parquet beside pandas.read_sas, rest-activity features beside pyActigraphy, and a day's probability.

    python benchmarks/actigraphy.py [--sizes 10 1000] [--people 5] [--json]

minutes: a synthetic PAXRAW of each size in MB (1000 takes two minutes) to Parquet in a fresh process each: rows a
second, and the peak of anonymous memory (resident less shared) above what the imports take. Ours decodes the columns
that it needs, checks them, marks wear by Choi and writes; the peer reads chunks of 100,000 rows and writes the same
columns, no more. `reading` is without writing. prepare: the same file by `raycadian prepare`, which sets the weeks on a
grid and shards them (benchmarks/memory.py's way). features: IS, IV, RA, L5 and M10, of a person's 7 days: one at a time
(`alone`), and all people in one call, against the peer one at a time, the best of 30 rounds of each, as pyActigraphy
1.2.2 computes them in an environment of its own (.bench-venv/actigraphy, made on first use; its dependency
`accelerometer`, which only reads another format, is installed without its own). It divides by n - 1 where the published
IS and IV divide by n: 3.6% and 0.6% apart in a week of hours. Where it can't be had: the same published sums in pandas,
and the output says so. nights: sleep onset and
offset of the real recordings in ../shared, where it is there, beside the peer's Roenneberg_AoT on the same minutes:
nights of three hours and more that both find within a minute, of those that either finds, and SRI by both. inference:
from a day of raw counts to a calibrated probability, as the endpoint does it without
HTTP: wear, windows, model. Random weights: speed does not depend on them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

ROOT = Path(__file__).parents[1]
VENV = ROOT / ".bench-venv" / "actigraphy"
PEER = "pyActigraphy==1.2.2"
PEER_NEEDS = ["numpy<2", "pandas<2.2", "scipy", "imbalanced-learn", "lmfit", "numba", "joblib", "plotly", "pyexcel",
    "pyexcel-ods3", "pyexcel-xlsx",
              "spm1d", "statsmodels", "stochastic", "tqdm"]  # fmt: skip
MB = 1024**2
COLUMNS = ("SEQN", "PAXDAY", "PAXN", "PAXINTEN", "PAXSTAT", "PAXCAL")
_START = pd.Timestamp("2000-01-02")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 1000], help="MB of XPT")
    parser.add_argument("--people", type=int, default=5, help="people whose features are timed")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("WHAT", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, path = options.child
        print(json.dumps(CHILDREN[what](Path(path))))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = {"minutes": [minutes(size, Path(folder)) for size in options.sizes]}
        found["features"] = features(options.people, Path(folder))
        found["nights"] = nights(Path(folder))
    found["inference"] = [inference(model) for model in ("pat small", "pat large", "boosting on rhythms")]
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(pd.DataFrame(found["minutes"]).to_string(index=False))
    print(f"\nfeatures of a person: {found['features']}\n")
    print(pd.DataFrame(found["nights"]).to_string(index=False), end="\n\n")
    print(pd.DataFrame(found["inference"]).to_string(index=False))


# --- minutes --------------------------------------------------------------------------------------------------------


def minutes(size_mb: int, folder: Path) -> dict[str, float]:
    """A row of the table: millions of rows a second and peaks in MB."""
    path = folder / f"PAXRAW_{size_mb}.XPT"
    write_counts(path, size_mb)
    ours, theirs = child("ours", path), child("pandas", path)
    row = {"xpt_mb": round(path.stat().st_size / MB), "rows": ours["rows"]}
    for name, one in (("ours", ours), ("pandas", theirs)):
        row |= {f"{name}_mrows_s": round(one["rows"] / one["s"] / 1e6, 2), f"{name}_peak_mb": round(one["peak_mb"])}
    row |= {"ratio": round(theirs["s"] / ours["s"], 2), "reading_ratio": round(theirs["read_s"] / ours["read_s"], 1)}
    row |= prepared(path)
    path.unlink()
    return row


def prepared(path: Path) -> dict[str, float]:
    """`raycadian prepare` of the file, on two cores with a Ray of its own: peaks of the driver and of the largest
    worker."""
    import memory

    card = path.with_suffix(".yaml")
    card.write_text(
        f"name: {path.stem}\nmodality: actigraphy\nfiles: [{path.name}]\nmin_valid_days: 0\n", encoding="utf-8"
    )
    return {
        f"prepare_{name}": round(mb)
        for name, mb in memory.peaks(memory.child("prepare", card), ("driver_mb", "worker_mb")).items()
    }


def write_counts(path: Path, size_mb: int) -> None:
    """A PAXRAW of about that size: twenty made-up people over and over, each time with SEQN of their own."""
    from raycadian.modalities.actigraphy.formats.xpt import Xpt
    from raycadian.modalities.actigraphy.simulate import simulate_nhanes

    once = path.parent / f"once-{size_mb}"
    xpt = Xpt.open(next(simulate_nhanes(20, once, "C", seed=0).with_suffix("").glob("PAXRAW*")))
    data = xpt.path.read_bytes()
    head, body = data[: xpt.begins_at], data[xpt.begins_at :][: xpt.rows * xpt.record_bytes]
    seqn = xpt.read(["SEQN"])["SEQN"].astype(np.int64)
    with path.open("wb") as file:
        file.write(head)
        for block in range(max(round(size_mb * MB / len(body)), 1)):
            records = np.frombuffer(bytearray(body), np.uint8).reshape(xpt.rows, xpt.record_bytes)
            records[:, :8] = ibm_of_integers(seqn + 20 * block)
            file.write(records.tobytes())
        file.write(b" " * (-file.tell() % 80))


def ibm_of_integers(values: np.ndarray) -> np.ndarray:
    """Whole numbers below 16^6 as the eight bytes of IBM's doubles, (N, 8) uint8."""
    digits = np.floor(np.log2(values) / 4).astype(np.int64) + 1  # hexadecimal
    bits = ((64 + digits).astype(np.uint64) << np.uint64(56)) | (
        values.astype(np.uint64) << (56 - 4 * digits).astype(np.uint64)
    )
    return bits.astype(">u8").view(np.uint8).reshape(-1, 8)


def child(what: str, path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", what, str(path)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def ours(path: Path) -> dict[str, float]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from raycadian.modalities.actigraphy.formats.nhanes_minutes import minutes_reader
    from raycadian.modalities.actigraphy.formats.xpt import Xpt
    from raycadian.types import Issues

    xpt = Xpt.open(path)

    def write() -> None:
        writer = None
        for recording in minutes_reader(xpt, None)(Issues()):
            table = pa.table(recording.channels | {"observed": recording.observed})
            writer = writer or pq.ParquetWriter(path.with_suffix(".ours"), table.schema, compression="zstd")
            writer.write_table(table)
        writer.close()

    with Peak() as peak:
        s = timed(write)
    read_s = timed(lambda: [None for _ in xpt.blocks(COLUMNS)])  # after: what it frees would hide a part of the peak
    return {"rows": xpt.rows, "s": s, "read_s": read_s, "peak_mb": peak.mb}


def by_pandas(path: Path) -> dict[str, float]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def chunks():
        return pd.read_sas(path, format="xport", chunksize=100_000)

    rows = 0

    def write() -> None:
        nonlocal rows
        writer = None
        for chunk in chunks():
            table = pa.Table.from_pandas(chunk[list(COLUMNS)], preserve_index=False)
            writer = writer or pq.ParquetWriter(path.with_suffix(".pandas"), table.schema, compression="zstd")
            writer.write_table(table)
            rows += len(chunk)
        writer.close()

    with Peak() as peak:
        s = timed(write)
    read_s = timed(lambda: [None for _ in chunks()])
    return {"rows": rows, "s": s, "read_s": read_s, "peak_mb": peak.mb}


class Peak:
    """The highest anonymous memory of this process above where it began, every 10 ms."""

    def __enter__(self) -> "Peak":
        self._process, self._over = psutil.Process(), threading.Event()
        self._began = self._now()
        self.mb = 0.0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self.mb = max(self.mb, self._now() - self._began)

    def _now(self) -> float:
        memory = self._process.memory_info()
        return (memory.rss - memory.shared) / MB


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# --- features -------------------------------------------------------------------------------------------------------


def features(people: int, folder: Path) -> dict[str, object]:
    """Milliseconds a person by ours and by the peer, and how far apart the indices are."""
    from raycadian.physiology.rhythms.circadian import rest_activity

    days = made_up(people)
    np.save(folder / "days.npy", days)
    python = peer_python()
    peer = json.loads(run_peer(python, folder / "days.npy")) if python else plain(folder / "days.npy")
    found = rest_activity(days)  # warm from here on, as the peer is
    together_s = min(timed(lambda: rest_activity(days)) for _ in range(30)) / people
    alone_s = min(timed(lambda: [rest_activity(days[i : i + 1]) for i in range(people)]) for _ in range(30)) / people
    apart = {k: _apart(found[k], np.array(theirs)) for k, theirs in peer["values"].items()}
    return {
        "peer": peer["peer"], "people": people, "peer_ms": round(1000 * peer["s"], 2),
        "ours_ms": round(1000 * together_s, 3),
        "ours_alone_ms": round(1000 * alone_s, 3), "ratio": round(peer["s"] / together_s, 1),
        "ratio_alone": round(peer["s"] / alone_s, 1), "largest_relative_difference": {k: round(v, 6) for k,
        v in apart.items()},
    }  # fmt: skip


def _apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, relative where there is something."""
    return float(np.max(np.abs(ours - theirs) / np.where(theirs == 0, 1, np.abs(theirs))))


def made_up(people: int) -> np.ndarray:
    """Counts (people, 7, 1440) of made-up participants."""
    from raycadian.modalities.actigraphy.simulate import _draw, activity

    rng = np.random.default_rng(0)
    drawn = _draw(people, "D", 0.3, 1.0, rng)
    return np.stack([activity(drawn, i, 7 * 1440, 0, rng)[0] for i in range(people)]).reshape(people, 7, 1440)


def peer_python() -> str | None:
    """The interpreter with the peer, made on first use; None where it can't be installed."""
    python = VENV / "bin" / "python"
    check = [str(python), "-c", "import pyActigraphy"]
    if python.exists() and subprocess.run(check, capture_output=True).returncode == 0:
        return str(python)
    print(f"installing {PEER} into {VENV} (minutes, once)", file=sys.stderr)
    venv.create(VENV, clear=True, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "-qq"]
    for wanted in (["--no-deps", PEER, "accelerometer"], PEER_NEEDS):
        subprocess.run([*pip, *wanted], stdout=sys.stderr, check=False)
    return str(python) if subprocess.run(check, capture_output=True).returncode == 0 else None


def run_peer(python: str, path: Path) -> str:
    done = subprocess.run([python, "-W", "ignore", "-c", PEER_SCRIPT, str(path)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the peer failed under {python}:\n{done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]


PEER_SCRIPT = """
import json, sys, time
import numpy as np, pandas as pd, pyActigraphy
from pyActigraphy.io import BaseRaw

days = np.load(sys.argv[1])
index = pd.date_range("2000-01-02", periods=days[0].size, freq="1min")
def one(values):
    data = pd.Series(values.ravel(), index=index)
    raw = BaseRaw("x", "x", "x", None, index[0], pd.Timedelta(len(index), "min"), pd.Timedelta(1, "min"), data, None)
    return {"interdaily_stability": raw.IS(freq="1h", binarize=False), "intradaily_variability": raw.IV(freq="1h",
    binarize=False),
            "l5": raw.L5(binarize=False), "m10": raw.M10(binarize=False), "relative_amplitude": raw.RA(binarize=False)}
one(days[0])
s = float("inf")
for _ in range(30):
    began = time.perf_counter()
    found = [one(values) for values in days]
    s = min(s, (time.perf_counter() - began) / len(days))
values = {k: [float(f[k]) for f in found] for k in found[0]}
print(json.dumps({"peer": "pyActigraphy " + pyActigraphy.__version__, "s": s, "values": values}))
"""


# --- nights -----------------------------------------------------------------------------------------------------------


def nights(folder: Path) -> list[dict[str, object]]:
    """A row a real recording; none where they or the peer are not there."""
    shared = ROOT.parent / "shared"
    files = [shared / "data/nhanes/example_01.AWD", *sorted((shared / "trouble").glob("F0[14]_*/*"))]
    python = peer_python()
    return [_nights_of(f, python, folder) for f in files if f.is_file() and f.suffix != ".yaml"] if python else []


def _nights_of(file: Path, python: str, folder: Path) -> dict[str, object]:
    from raycadian.modalities.actigraphy.card import ActigraphyCard
    from raycadian.modalities.actigraphy.readers import read_activity
    from raycadian.modalities.actigraphy.rhythm import Minutes, rhythm_of
    from raycadian.types import Issues

    card = ActigraphyCard(name="x", files=(file.name,))
    minutes = Minutes.of(list(read_activity([file], card, Issues())), [file])
    found = rhythm_of(minutes, "level", card.min_valid_hours)
    np.savez(folder / "minutes.npz", start=str(minutes.start), activity=minutes.activity)
    done = subprocess.run(
        [python, "-W", "ignore", "-c", NIGHTS_SCRIPT, str(folder / "minutes.npz")], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"the peer failed:\n{done.stderr[-2000:]}")
    peer = json.loads(done.stdout.splitlines()[-1])
    ours = {tuple(pair) for pair in found.windows.tolist() if pair[1] - pair[0] >= 180}
    theirs = {tuple(pair) for pair in peer["windows"] if pair[1] - pair[0] >= 180}
    onsets = [any(abs(a - begin) <= 1 for a, _ in theirs) for begin, _ in ours]
    both = [any(abs(a - begin) <= 1 and abs(b - end) <= 1 for a, b in theirs) for begin, end in ours]
    return {
        "file": file.name, "ours": len(ours), "peer": len(theirs), "same_onset": sum(onsets), "same_both": sum(both),
        "sri": round(found.person["sri"], 1), "peer_sri": round(peer["sri"], 1),
    }  # fmt: skip


NIGHTS_SCRIPT = """
import json, sys
import numpy as np, pandas as pd
from pyActigraphy.io import BaseRaw

arrays = np.load(sys.argv[1])
index = pd.date_range(str(arrays["start"]), periods=len(arrays["activity"]), freq="1min")
data = pd.Series(arrays["activity"], index=index)
raw = BaseRaw("x", "x", "x", None, index[0], pd.Timedelta(len(index), "min"), pd.Timedelta(1, "min"), data, None)
begins, ends = raw.Roenneberg_AoT()[::-1]
minute = lambda t: int(t.value // 60_000_000_000)
windows = [(minute(b), minute(min(e for e in ends if e > b))) for b in begins if (ends > b).any()]
print(json.dumps({"windows": windows, "sri": float(raw.SleepRegularityIndex(freq="1min"))}))
"""


def plain(path: Path) -> dict[str, object]:
    """The published sums as one would write them with pandas, a person at a time."""
    days = np.load(path)
    began = time.perf_counter()
    found = [plain_person(values.ravel()) for values in days]
    s = (time.perf_counter() - began) / len(days)
    return {"peer": "plain pandas", "s": s, "values": {k: np.array([f[k] for f in found]) for k in found[0]}}


def plain_person(values: np.ndarray) -> dict[str, float]:
    data = pd.Series(values, index=pd.date_range(_START, periods=len(values), freq="1min"))
    hours = data.resample("1h").mean()
    profile = hours.groupby(hours.index.hour).mean()
    minutes = data.groupby([data.index.hour, data.index.minute]).mean().to_numpy()
    around = pd.Series(np.concatenate([minutes, minutes]))
    l5, m10 = around.rolling(300).mean().min(), around.rolling(600).mean().max()
    return {
        "interdaily_stability": profile.var(ddof=0) / hours.var(ddof=0),
        "intradaily_variability": (hours.diff() ** 2).mean() / hours.var(ddof=0),
        "l5": l5, "m10": m10, "relative_amplitude": (m10 - l5) / (m10 + l5),
    }  # fmt: skip


# --- a day's probability --------------------------------------------------------------------------------------------


def inference(name: str) -> dict[str, object]:
    """Median milliseconds of 20 days, one after another."""
    from raycadian import config
    from raycadian.evaluation.label.decision import Calibration, Decision
    from raycadian.modalities.actigraphy.card import ActigraphyCard
    from raycadian.modalities.actigraphy.request import Activity
    from raycadian.models.base import ModelSpec
    from raycadian.models.build import build
    from raycadian.serving.label import LabelPredictor

    sections = {
        "pat "
        "small": config.PAT(), "pat "
            "large": config.PAT(size="large"), "boosting on rhythms": config.Boosting(features="rhythm"),
    }  # fmt: skip
    spec = ModelSpec(1440, 0, 1.0, ("activity_counts",), (), (), task="classify")
    window = config.LabelWindow(past=spec.past, window_s=86_400, step_s=86_400, eval_step_s=86_400, max_missing=0.5)
    task = config.Classification(label=config.Column(name="depressed"))
    card, decision = ActigraphyCard(name="x", files=("*",)), Decision(1, "soft", 0.0, Calibration("none"), 0.5)
    served = LabelPredictor("day", build(sections[name], spec), card, window, task, decision)
    days = made_up(3).reshape(-1, 1440)[:21]
    start = np.datetime64("2026-01-05T00:00", "s")
    sent = [Activity(None, "activity_counts", start, 60.0, day) for day in days]
    seconds = [timed(lambda one=one: served.answer(one)) for one in sent]
    return {"what": name, "ms": round(1000 * float(np.median(seconds[1:])), 2)}


CHILDREN = {"ours": ours, "pandas": by_pandas}

if __name__ == "__main__":
    main()
