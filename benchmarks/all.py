"""Every benchmark in turn, as one table in Markdown: what was measured against whom, and whether the target was met.

    python benchmarks/all.py [--only windows memory] [--update-docs]

`--update-docs` writes the table between `<!-- benchmarks -->` and `<!-- /benchmarks -->` of docs/benchmarks.md: rows of
benchmarks that were not asked for stay as they are, with the day of their own measurement. A benchmark that
can't run here stands in the table with its reason. Targets are those of the project: nothing here changes them.
"""

import argparse
import contextlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from between import markdown, write_between

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
HEADER = ("benchmark", "what", "ours", "peer", "ratio", "target", "met", "measured")
NEAR_LINEAR = 1.8  # of two processes over one; they share caches and memory
FLAT = 1.2  # the target at 16 times the subjects: allocator and sampling


class Row(NamedTuple):
    benchmark: str
    what: str
    ours: str
    peer: str
    ratio: float
    target: str
    met: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--update-docs", action="store_true")
    arguments = parser.parse_args()
    rows = [line for name in ROWS for line in (measured(name) if name in arguments.only else written(name))]
    text = f"{machine()}\n\n{markdown(HEADER, rows)}"
    print(text)
    if arguments.update_docs:
        write_between(PAGE, BEGIN, END, text)


def measured(name: str) -> list[list[str]]:
    """Lines of the table for one benchmark, as measured now; one with the reason where it did not run."""
    print(f"running benchmarks/{name}.py ...", file=sys.stderr, flush=True)
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    try:
        return [[*_cells(row), today] for row in ROWS[name](run(name))]
    except (RuntimeError, KeyError) as error:
        reason = f"did not run: {error}".replace("|", "/").replace("\n", " ")
        return [[name, reason, "", "", "", "", "**no**", today]]


def written(name: str) -> list[list[str]]:
    """Lines of the table for one benchmark, as the page has them."""
    table = PAGE.read_text(encoding="utf-8").split(BEGIN)[-1].split(END)[0]
    lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()]
    return [line for line in lines if line[0] == name]


def run(name: str) -> Any:
    """What a script prints with --json. Raises RuntimeError with the last line of what it said where it fails."""
    script = HERE / f"{name}.py"
    if not script.is_file():
        raise RuntimeError(f"{script.name} is absent")
    done = subprocess.run([sys.executable, str(script), "--json"], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise RuntimeError(f"status {done.returncode}, {said[-1]}")
    lines = done.stdout.splitlines()
    for first, line in enumerate(lines):  # Ray and torch may speak first, in brackets too
        if line.startswith(("{", "[")):
            with contextlib.suppress(json.JSONDecodeError):
                return json.loads("\n".join(lines[first:]))
    raise RuntimeError("it printed no JSON")


def machine() -> str:
    """Where."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory_gb = psutil.virtual_memory().total / 1e9
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray"))
    return (
        f"Measured with `python benchmarks/all.py` on {cores} cores of {_processor()}, "
        f"{memory_gb:.0f} GB; Python {platform.python_version()}, {versions}."
    )


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    names = [line for line in file.read_text().splitlines() if line.startswith("model name")] if file.is_file() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


def _cells(row: Row) -> list[str]:
    ratio = "" if math.isnan(row.ratio) else f"{row.ratio:,.0f}" if row.ratio >= 100 else f"{row.ratio:.3g}"
    cells = [row.benchmark, row.what, row.ours, row.peer, ratio, row.target, "yes" if row.met else "**no**"]
    return [cell.replace(" | ", " against ") for cell in cells]


# --- a benchmark's JSON as rows ---------------------------------------------------------------------------------------


def at_least(benchmark: str, what: str, ours: str, peer: str, ratio: float, target: float) -> Row:
    return Row(benchmark, what, ours, peer, ratio, f"≥ {target:.3g}", ratio >= target)


def at_most(benchmark: str, what: str, ours: str, peer: str, ratio: float, target: float) -> Row:
    return Row(benchmark, what, ours, peer, ratio, f"≤ {target:.3g}", ratio <= target)


def windows_rows(found: list[dict[str, Any]]) -> list[Row]:
    by_peer = {row["peer"]: row for row in found}
    ours = f"{by_peer['raycadian']['windows_per_s']:,}"
    return [
        at_least(
            "windows", "windows per second", ours, f"{peer}: {by_peer[peer]['windows_per_s']:,}",
            by_peer[peer]["raycadian_over_peer"], target,
        )
        for peer, target in (("ForecastDFDataset", 100), ("plain copy", 1 / 3))
    ]  # fmt: skip


def cma_rows(found: dict[str, Any]) -> list[Row]:
    """Speed where the project set a target; on how many days the sum of squares is no worse; bounds."""
    rows = [
        at_least(
            "cma", f"{row['what']}, per "
                "second", f"{row['raycadian_per_s']:,}", f"pfun-cma-model: {row['reference_per_s']:,}",
            row["ratio"], row["target"],
        )
        for row in found["speed"] if row["target"]
    ]  # fmt: skip
    fitted = found["days"] - found["reference_failed"]  # a day that the reference gave up on can't be compared
    for row in found["sum_of_squares"]:
        what = f"share of {fitted} real days whose sum of squares is no worse ({row['what']})"
        share, how = row["days_no_worse"], f"median ratio {row['median_ours_over_reference']}, worst {row['worst']}"
        ours = f"{share:.1%}, of all days {row['at_least']} at least; {how}"
        rows.append(at_least("cma", what, ours, "pfun-cma-model", share, row["target"]))
    outside = found["fits_outside_bounds"]
    ours, theirs = outside["raycadian"], outside["reference"]
    rows.append(Row("cma", "fits outside the bounds", str(ours), f"pfun-cma-model: {theirs}", math.nan, "0", ours == 0))
    return rows


def serve_rows(found: dict[str, Any]) -> list[Row]:
    """At 64 clients, against either way of writing the plain application."""
    at = {row["peer"]: row for row in found["rows"] if row["clients"] == 64}
    ours, rows = at["raycadian"], []
    for ratio in (r for r in found["ratios"] if r["clients"] == 64):
        peer = at[ratio["against"]]
        what, name = "64 clients, " + found["client"], ratio["against"]
        rows += [
            at_least(
                "serve", f"requests/s, {what}", f"{ours['requests_per_s']:,}", f"{name}: {peer['requests_per_s']:,}",
                ratio["requests_per_s"], 10,
            ),
            at_most(
                "serve", f"p99, {what}", f"{ours['p99_ms']:,} ms", f"{name}: {peer['p99_ms']:,} ms", ratio["p99"], 1 / 3
            ),
        ]  # fmt: skip
    return rows


def memory_rows(found: dict[str, Any]) -> list[Row]:
    """Peak at 16 times the subjects over the peak at 1x: the peer is ourselves."""
    what = {"driver_mb": "driver, private", "worker_mb": "largest worker, private", "anonymous_mb": "process, private",
            "rss_mb": "process, with pages of the mapped series"}  # fmt: skip
    rows = []
    for stage, growth in found["growth_16x_over_1x"].items():
        first, last = found[stage][0], found[stage][-1]
        for name, ratio in growth.items():
            ours = f"{last[name]:,.0f} MB at {last['subjects']} subjects"
            peer = f"{first[name]:,.0f} MB at {first['subjects']}"
            rows.append(at_most("memory", f"{stage}: {what[name]}, peak", ours, peer, ratio, FLAT))
    return rows


def train_rows(found: list[dict[str, Any]]) -> list[Row]:
    return [_per_second("train", f"windows trained on per second, {row['ours']}", row) for row in found]


def streaming_rows(found: list[dict[str, Any]]) -> list[Row]:
    return [_per_second("streaming", f"windows per second, {row['what']}", row) for row in found]


def room_rows(found: list[dict[str, Any]]) -> list[Row]:
    """Streamed, the peaks of a node over those at 1x; mapped, whether what has no room is refused."""
    streamed = [row for row in found if row["mode"] == "streamed" and row["outcome"] == "trained"]
    first, last = streamed[0], streamed[-1]
    what = {"memory_mb": "memory of a node", "scratch_mb": "disk of a node"}
    return [
        at_most(
            "room", f"streamed: {text}, peak", f"{last[name]:,.0f} MB of a table of {last['table_mb']:,} MB",
            f"{first[name]:,.0f} MB of {first['table_mb']:,}", last[f"growth_{name}"], FLAT,
        )
        for name, text in what.items()
    ]  # fmt: skip


def _per_second(benchmark: str, what: str, row: dict[str, Any]) -> Row:
    peer = f"{row['peer']}: {row['peer_windows_per_s']:,}"
    return at_least(benchmark, what, f"{row['windows_per_s']:,}", peer, row["ratio"], row["target"])


def cohort_rows(found: list[dict[str, Any]]) -> list[Row]:
    return [
        at_least(
            "cohort", row["what"], f"{row['ours']:,} {row['unit']}", f"{row['peer_is']}: {row['peer']:,}", row["ratio"],
            row["target"],
        )
        if "ours" in row
        else Row("cohort", row["what"], "", row["peer_is"], math.nan, "", False)
        for row in found
    ]  # fmt: skip


def snapshots_rows(found: list[dict[str, Any]]) -> list[Row]:
    files, *people = found
    speed = at_least("snapshots", files["what"], f"{files['ours']} s", f"{files['peer']} s", files["ratio"], 1.7)
    return [speed] + [
        at_most("snapshots", row["what"], str(row["ours"]), str(row["peer"]), row["ratio"], row["target"])
        for row in people
    ]


def sweep_rows(found: dict[str, Any]) -> list[Row]:
    trials, start = found["trials"], found["trial_start_s"]
    return [
        at_least(
            "sweep", f"{trials} short trials, seconds of the peer over ours", f"{found['sweep_s']} s",
            f"{trials} processes: {found['processes_s']} s", found["processes_over_sweep"], 5,
        ),
        at_most(
            "sweep", f"ASHA, {found['asha_epochs']} epochs, best RMSE {found['asha_best']:.2f}", f"{found['asha_s']} s",
            f"FIFO, {found['fifo_epochs']} epochs, {found['fifo_best']:.2f}: {found['sweep_s']} s",
            found["asha_over_fifo_s"], 1,
        ),
        Row("sweep", "next trial of one epoch, start to end", f"{start} s", "", math.nan, "≤ 1 s", start <= 1),
    ]  # fmt: skip


def waveforms_rows(found: dict[str, Any]) -> list[Row]:
    """Preparing waveforms: against neurokit2 on one core, two processes against one, the memory of a case of 3 h."""
    speed, two = found["speed"], found["processes"]
    rate, cases = speed["channel_hours_per_s"], found["memory"]
    once, most = cases[0]["peak_mb"], max(m["peak_mb"] for m in cases)
    hours, several = cases[0]["hours"], cases[-1]["cases"]
    what = f"{hours:g} h of 3 channels, .vital to Parquet, peak of the process, {several} cases of a person"
    return [
        at_least("waveforms", "channel-hours prepared per second, one core", f"{rate['raycadian']}",
                 f"neurokit2: {rate['neurokit2']}", speed["raycadian_over_neurokit2"], 10),
        at_least("waveforms", "two processes, channel-hours per second", f"{two['two']}", f"one: {two['one']}",
                 two["two_over_one"], NEAR_LINEAR),
        Row("waveforms", what, f"{most:,.0f} MB", f"one case: {once:,.0f} MB", most / once, "< 400 MB", most < 400),
    ]  # fmt: skip


def actigraphy_rows(found: dict[str, Any]) -> list[Row]:
    """XPT to Parquet: rows a second, and the peak from the smallest file to the largest; features of a person; a day's
    answer."""
    sizes, features = found["minutes"], found["features"]
    first, last = sizes[0], sizes[-1]
    rows = [
        at_least("actigraphy", f"XPT of {row['xpt_mb']:,} MB to Parquet, million rows per "
            "second", f"{row['ours_mrows_s']}",
                 f"pandas.read_sas: {row['pandas_mrows_s']}", row["ratio"], 1)
        for row in sizes
    ]  # fmt: skip
    rows.append(
        at_most("actigraphy", "XPT to Parquet: peak of private "
            "memory", f"{last['ours_peak_mb']:,} MB at {last['xpt_mb']:,} MB",
                f"{first['ours_peak_mb']:,} MB at {first['xpt_mb']:,} "
                "MB", last["ours_peak_mb"] / max(first["ours_peak_mb"], 1), FLAT)
    )  # fmt: skip
    for who in ("driver", "worker"):
        large, small = last[f"prepare_{who}_mb"], first[f"prepare_{who}_mb"]
        rows.append(
            at_most("actigraphy", f"`raycadian prepare` of the XPT: {who}, private, "
                "peak", f"{large:,} MB at {last['xpt_mb']:,} MB",
                    f"{small:,} MB at {first['xpt_mb']:,} MB", large / small, FLAT)
        )  # fmt: skip
    for how, one in (("a person at a time", "_alone"), (f"{features['people']} people at once", "")):
        rows.append(
            at_least("actigraphy", f"IS, IV, RA, L5, M10 of a person's week, {how}", f"{features[f'ours{one}_ms']} ms",
                     f"{features['peer']}: {features['peer_ms']} ms", features[f"ratio{one}"], 50)
        )  # fmt: skip
    return rows + [
        Row("actigraphy", "a day's minutes to a probability, "
            f"{one['what']}", f"{one['ms']} ms", "", math.nan, "≤ 100 ms", one["ms"] <= 100)
        for one in found["inference"]
    ]  # fmt: skip


def label_inference_rows(found: list[dict[str, Any]]) -> list[Row]:
    """Against the demand of windows a second where there is one, else against the peer."""
    return [
        Row("label_inference", "per second, "
            f"{row['what']}", f"{row['per_s']:,}", f"{row['peer']}: {row['peer_per_s']:,}",
            row["ratio"], f"{row['wanted_per_s']:,}/s", row["per_s"] >= row["wanted_per_s"])
        if row["wanted_per_s"]
        else at_least("label_inference", f"per second, {row['what']}", f"{row['per_s']:,}",
                      f"{row['peer']}: {row['peer_per_s']:,}", row["ratio"], 1)
        for row in found
    ]  # fmt: skip


def startup_rows(rows: list[dict[str, Any]]) -> list[Row]:
    return [
        at_most("startup", f"seconds at the shell: {row['command']} ({row['wanted_s']:g} s on a quiet machine)",
                f"{row['s']:g} s", f"import torch, pandas: {row['peer_s']:g} s", row["ratio"], row["wanted_ratio"])
        for row in rows
    ]  # fmt: skip


def personal_rows(found: list[dict[str, Any]]) -> list[Row]:
    """Against the project's own demands: 5 minutes to calibrate to one person, 100 ms for a day of theirs."""
    calibration = [
        Row("personal", "calibration to one person, "
            f"{row['what']}", f"{row['calibration_s']} s", "", math.nan, "≤ 300 s",
            row["calibration_s"] <= 300)
        for row in found
    ]  # fmt: skip
    return calibration + [
        Row("personal", "an estimate by their adapter, "
            f"{row['what']}", f"{row['day_ms']} ms", "", math.nan, "≤ 100 ms", row["day_ms"] <= 100)
        for row in found
    ]  # fmt: skip


ROWS: dict[str, Callable[[Any], list[Row]]] = {
    "windows": windows_rows,
    "cma": cma_rows,
    "serve": serve_rows,
    "memory": memory_rows,
    "train": train_rows,
    "streaming": streaming_rows,
    "room": room_rows,
    "cohort": cohort_rows,
    "snapshots": snapshots_rows,
    "sweep": sweep_rows,
    "waveforms": waveforms_rows,
    "label_inference": label_inference_rows,
    "actigraphy": actigraphy_rows,
    "personal": personal_rows,
    "startup": startup_rows,
}


if __name__ == "__main__":
    main()
