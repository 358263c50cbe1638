"""What a data set is worth before anything is fitted: coverage, gaps, glucose metrics per subject, and a page of it.

Ranges: Battelino et al. 2019, international consensus on time in range, Diabetes Care 42:1593. Glucose management
indicator: Bergenstal et al. 2018, Diabetes Care 41:2275. Shares are of readings, not of interpolated points.
"""

from __future__ import annotations

import re
from collections import Counter
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from raycadian.config import Grid
from raycadian.data.grid import seconds
from raycadian.modalities.cgm.card import CGMCard
from raycadian.pages import figure_html, new_figure, page, paragraph, table_html
from raycadian.types import GLUCOSE, TIME_UTC, Readings, Recording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from raycadian.data.snapshot import Snapshot

# key -> (label, colour, readings in it), of whole mg/dL as in the consensus: 10.0 mmol/L is 180 mg/dL and in range
RANGES = {
    "below_54_pct": ("< 54", "#8c1d1d", lambda g: g < 54),
    "from_54_to_69_pct": ("54–69", "#d9534f", lambda g: (g >= 54) & (g <= 69)),
    "in_range_pct": ("70–180", "#4c9f70", lambda g: (g >= 70) & (g <= 180)),
    "from_181_to_250_pct": ("181–250", "#f2c94c", lambda g: (g >= 181) & (g <= 250)),
    "above_250_pct": ("> 250", "#e08a1e", lambda g: g > 250),
}
_SHOWN = 24  # subjects in a figure
_COVERAGE = {
    "days": "Days", "readings": "Readings", "interval_min": "Every (min)", "coverage_pct": "Coverage %",
    "interruptions": "Interruptions", "gaps": "Gaps", "longest_gap_h": "Longest gap (h)", "recordings": "Recordings", "points": "Points",
}  # fmt: skip
_METRICS = {
    "min_mgdl": "Min", "mean_mgdl": "Mean", "max_mgdl": "Max", "sd_mgdl": "SD", "cv_pct": "CV %", "gmi_pct": "GMI %",
} | {key: f"{label} %" for key, (label, *_) in RANGES.items()}  # fmt: skip


def quality(readings: Readings, recordings: list[Recording], grid: Grid) -> dict[str, Any]:
    """One subject's metrics, ready for JSON; None where there is too little to say.

    days: first to last reading · interval_min: median time between readings · coverage_pct: share of that span not lost
    in missed readings (time between readings beyond 1.5 intervals, less one interval) · interruptions: how often readings
    were missed · gaps: those longer than `grid.gap_min` · GMI % = 3.31 + 0.02392 mean · flags: what a researcher should know first.
    """
    frame = readings.glucose[np.isfinite(readings.glucose[GLUCOSE].to_numpy(np.float64))]
    glucose = frame[GLUCOSE].to_numpy(np.float64)
    found = _coverage(np.unique(seconds(frame[TIME_UTC])), grid) | _glucose(glucose)
    found |= {"recordings": len(recordings), "points": sum(map(len, recordings))}
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()} | {"flags": _flags(found)}


def _coverage(time_s: np.ndarray, grid: Grid) -> dict[str, Any]:
    found: dict[str, Any] = {"readings": len(time_s), "days": 0.0, "interval_min": None, "coverage_pct": None}
    found |= {"interruptions": 0, "gaps": 0, "longest_gap_h": None}
    if len(time_s) < 2:
        return found
    apart_s = np.diff(time_s).astype(np.float64)
    interval_s, span_s = float(np.median(apart_s)), float(apart_s.sum())
    missed_s = apart_s[apart_s > 1.5 * interval_s] - interval_s
    return found | {
        "days": span_s / 86400,
        "interval_min": interval_s / 60,
        "coverage_pct": 100 * (1 - float(missed_s.sum()) / (span_s + interval_s)),
        "interruptions": len(missed_s),
        "gaps": int((apart_s > grid.gap_min * 60).sum()),
        "longest_gap_h": float(apart_s.max()) / 3600,
    }


def _glucose(glucose: np.ndarray) -> dict[str, Any]:
    if not len(glucose):
        empty = ("min_mgdl", "mean_mgdl", "max_mgdl", "sd_mgdl", "cv_pct", "gmi_pct", *RANGES)
        return dict.fromkeys(empty)
    mean = float(glucose.mean())
    sd = float(glucose.std(ddof=1)) if len(glucose) > 1 else None
    return {
        "min_mgdl": float(glucose.min()),
        "mean_mgdl": mean,
        "max_mgdl": float(glucose.max()),
        "sd_mgdl": sd,
        "cv_pct": None if sd is None else 100 * sd / mean,
        "gmi_pct": 3.31 + 0.02392 * mean,
    } | {key: 100 * float(within(np.round(glucose)).mean()) for key, (_, _, within) in RANGES.items()}


def _flags(found: dict[str, Any]) -> list[str]:
    """The consensus asks for 14 days with 70% of them measured before time in range is trusted."""
    if not found["readings"]:
        return ["no readings"]
    tests = {
        "no recording long enough": not found["recordings"],
        "constant": found["readings"] > 1 and found["min_mgdl"] == found["max_mgdl"],
        "coverage below 70%": found["coverage_pct"] is not None and found["coverage_pct"] < 70,
        "under 14 days": found["days"] < 14,
    }
    return [name for name, raised in tests.items() if raised]


# --- the page ------------------------------------------------------------------------------------------------------


def quality_page(snapshot: "Snapshot") -> str:
    """The data-quality page of a snapshot, self-contained HTML. Figures show the first 24 subjects and say so."""
    if not isinstance(snapshot.card, CGMCard):
        return _counts_page(snapshot)
    found = dict(sorted(snapshot.manifest["quality"].items(), key=lambda item: _natural(item[0])))
    shown = sorted(snapshot.subjects, key=_natural)[:_SHOWN]
    sections = [
        ("Summary", _summary(snapshot, found)),
        ("Time in ranges", _figure(_ranges_figure(found, shown), "Share of readings in each range, mg/dL.", snapshot)),
        ("Daily profiles", _figure(_profiles_figure(snapshot, shown), _PROFILE_CAPTION, snapshot)),
        ("Recordings in time", _figure(_timeline_figure(snapshot, shown), _TIMELINE_CAPTION, snapshot)),
        ("Coverage by subject", _folded(_coverage_table(found), len(found)) + _note(_COVERAGE_NOTE)),
        ("Glucose by subject", _folded(_table(found, _METRICS), len(found)) + _note(_METRICS_NOTE)),
        ("Issues", _issue_list(snapshot.manifest["issues"])),
    ]
    return page(f"Data quality: {snapshot.card.name}", sections, f"Snapshot {snapshot.id}")


def _counts_page(snapshot: "Snapshot") -> str:
    """Of biosignals and actigraphy: what was counted, in all and by subject, and what was rejected why."""
    manifest = snapshot.manifest
    by_subject = sorted(manifest["quality"].items(), key=lambda item: _natural(item[0]))
    rows = [{"subject": s, **{k: v for k, v in q.items() if isinstance(v, int | float)}} for s, q in by_subject]
    rejected: Counter[str] = sum((Counter(q.get("rejected", {})) for _, q in by_subject), Counter())
    reasons = pd.DataFrame(rejected.most_common(), columns=["stretches rejected, by channel and reason", "number"])
    sections = [
        ("Summary", table_html(pd.DataFrame(manifest["counts"].items(), columns=["counted", "number"]))),
        ("Rejections", table_html(reasons) if len(reasons) else ""),
        *(
            (f"Who is left: {name}", table_html(pd.DataFrame(steps)))
            for name, steps in manifest.get("cohorts", {}).items()
        ),
        ("By subject", _folded(table_html(pd.DataFrame(rows)), len(rows))),
        ("Issues", _issue_list(manifest["issues"])),
    ]
    shown = [(head, body) for head, body in sections if body]
    return page(f"Data quality: {snapshot.card.name}", shown, f"Snapshot {snapshot.id}")


_PROFILE_CAPTION = (
    "Ambulatory glucose profile by local hour: median (line), 25–75% (dark) and 5–95% (light) of measured points. "
    "Green band: 70–180 mg/dL."
)
_TIMELINE_CAPTION = "Recordings of each subject, in days since the subject's first; white is a gap."
_COVERAGE_NOTE = (
    "Coverage: share of the time from first to last reading that no missed reading takes. Interruptions: how often readings "
    "were missed; gaps: those long enough to end a recording. The 2019 consensus asks for 14 days with 70% coverage before time in range is trusted."
)
_METRICS_NOTE = (
    "mg/dL, and % of readings. Targets of the 2019 consensus for most adults with diabetes: 70–180 above 70% of the time, "
    "below 70 under 4%, below 54 under 1%, above 250 under 5%, CV at most 36%. GMI: the HbA1c that the mean suggests."
)


def _summary(snapshot: "Snapshot", found: dict[str, dict]) -> str:
    counts, card = snapshot.manifest["counts"], snapshot.card
    text = (
        f"{_plural(counts['subjects'], 'subject')}, {counts['readings']:,} readings over {sum(q['days'] for q in found.values()):,.1f} "
        f"days: {_plural(counts['recordings'], 'recording')} of {counts['points']:,} points every {card.grid.dt_min:g} min, "
        f"{100 * counts['observed'] / counts['points']:.1f}% of them measured; {_plural(counts['events'], 'event')}."
    )
    if counts["subjects_without_recording"]:
        text += f" Without a usable recording: {_plural(counts['subjects_without_recording'], 'more subject')}."
    about = " · ".join(filter(None, (card.description, card.source, card.license and f"Licence: {card.license}")))
    flags = pd.Series([flag for q in found.values() for flag in q["flags"]], dtype=object).value_counts()
    flagged = "; ".join(f"{flag}: {n} of {_plural(len(found), 'subject')}" for flag, n in flags.items())
    cohort = _cohort_table(found) if len(found) > 1 else ""
    return paragraph(text) + _note(about) + paragraph(f"Flags: {flagged or 'none'}.") + cohort


def _cohort_table(found: dict[str, dict]) -> str:
    """How the metrics are spread over subjects."""
    names = {"days": "Days", "coverage_pct": "Coverage %"} | _METRICS
    names = {key: label for key, label in names.items() if key not in ("min_mgdl", "max_mgdl")}
    frame = pd.DataFrame([{label: q[key] for key, label in names.items()} for q in found.values()]).astype(np.float64)
    spread = frame.quantile([0, 0.25, 0.5, 0.75, 1]).set_axis(["lowest", "25%", "median", "75%", "highest"])
    return table_html(spread.rename_axis("Over subjects").reset_index(), precision=1)


def _table(found: dict[str, dict], columns: dict[str, str]) -> str:
    frame = pd.DataFrame([{"Subject": s} | {name: q[key] for key, name in columns.items()} for s, q in found.items()])
    return table_html(frame.convert_dtypes(), precision=1)


def _coverage_table(found: dict[str, dict]) -> str:
    flagged = {s: q | {"flags": ", ".join(q["flags"])} for s, q in found.items()}
    return _table(flagged, _COVERAGE | {"flags": "Flags"})


def _issue_list(issues: dict[str, dict]) -> str:
    if not issues:
        return paragraph("Nothing was repaired, skipped or dropped.")
    return "".join(
        f"<details><summary>{escape(kind)}: {found['count']:,}</summary>"
        f"<ul>{''.join(f'<li>{escape(where)}</li>' for where in found['examples'])}</ul></details>"
        for kind, found in issues.items()
    )


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>' if text else ""


def _folded(table: str, n_rows: int) -> str:
    """Long tables are closed at first."""
    return f"<details{' open' if n_rows <= _SHOWN else ''}><summary>{_plural(n_rows, 'subject')}</summary>{table}</details>"


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' if n != 1 else ''}"


def _natural(subject: str) -> list[str | int]:
    """Sorts 2 before 10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", subject))]


def _figure(figure: "Figure", caption: str, snapshot: "Snapshot") -> str:
    more = len(snapshot.subjects) - _SHOWN
    return figure_html(figure, caption + (f" {more} more subjects are not shown." if more > 0 else ""))


def _name(subject: str) -> str:
    return subject if len(subject) <= 18 else subject[:17] + "…"


def _bars(subjects: list[str]) -> tuple["Figure", "Axes"]:
    """Axes with one row a subject, the first on top."""
    figure, axes = new_figure(height=0.8 + 0.26 * len(subjects))
    axes.set_yticks(range(len(subjects)), [_name(s) for s in subjects], fontsize=8, parse_math=False)
    axes.set_ylim(len(subjects) - 0.4, -0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure, axes


def _ranges_figure(found: dict[str, dict], subjects: list[str]) -> "Figure":
    figure, axes = _bars(subjects)
    left = np.zeros(len(subjects))
    for key, (label, colour, _) in RANGES.items():
        share = np.array([found[s][key] for s in subjects])
        axes.barh(range(len(subjects)), share, left=left, color=colour, height=0.72, label=label)
        ink = "white" if key == "below_54_pct" else "#101010"
        for row, (begin, width) in enumerate(zip(left, share, strict=True)):
            if width >= 6:
                axes.text(begin + width / 2, row, f"{width:.0f}", ha="center", va="center", fontsize=7, color=ink)
        left += share
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of readings")
    figure.legend(loc="outside upper center", ncols=len(RANGES), frameon=False, fontsize=8)
    return figure


def _timeline_figure(snapshot: "Snapshot", subjects: list[str]) -> "Figure":
    figure, axes = _bars(subjects)
    for row, subject in enumerate(subjects):
        spans = [(r.start_utc.astype(np.int64), len(r) * r.dt_s) for r in snapshot.recordings(subject)]
        first = spans[0][0]
        days = [((start - first) / 86400, length_s / 86400) for start, length_s in spans]
        axes.broken_barh(days, (row - 0.3, 0.6), color="#0b6e8a")
    axes.set_xlim(left=0)
    axes.set_xlabel("days")
    return figure


def _profiles_figure(snapshot: "Snapshot", subjects: list[str]) -> "Figure":
    profiles = [daily_profile(snapshot.recordings(s)) for s in subjects]
    columns = min(4, len(subjects))
    rows = -(-len(subjects) // columns)
    figure, grid = new_figure(
        9.0, 0.5 + 1.9 * rows, nrows=rows, ncols=columns, sharex=True, sharey=True, squeeze=False
    )  # fmt: skip
    for axes, subject, profile in zip(grid.flat, subjects, profiles, strict=False):
        _draw_profile(axes, profile)
        in_range = snapshot.manifest["quality"][subject]["in_range_pct"]
        axes.set_title(f"{_name(subject)} · {in_range:.0f}% in range", fontsize=8, parse_math=False)
    for axes in grid.flat[len(subjects) :]:
        axes.set_visible(False)
    grid.flat[0].set_ylim(40, 1.05 * max(260.0, np.nan_to_num(np.stack(profiles)).max()))
    figure.supxlabel("local hour", fontsize=9)
    figure.supylabel("glucose (mg/dL)", fontsize=9)
    return figure


def daily_profile(recordings: list[Recording]) -> np.ndarray:
    """(24, 5) mg/dL: the 5, 25, 50, 75, 95% quantiles of measured points in each local hour; NaN below 3 points."""
    hours = [np.empty(0)] + [_local_h(r)[r.observed] for r in recordings]
    values = [np.empty(0)] + [r.channels[GLUCOSE][r.observed] for r in recordings]
    hour, glucose = np.concatenate(hours).astype(int), np.concatenate(values)
    found = np.full((24, 5), np.nan)
    for h in range(24):
        if (hour == h).sum() >= 3:
            found[h] = np.quantile(glucose[hour == h], [0.05, 0.25, 0.5, 0.75, 0.95])
    return found


def _local_h(recording: Recording) -> np.ndarray:
    start_s = recording.start_utc.astype(np.int64) + 60 * recording.utc_offset_min
    return (start_s + np.arange(len(recording)) * recording.dt_s) % 86400 / 3600


def _draw_profile(axes: "Axes", profile: np.ndarray) -> None:
    """The quantiles at the middle of each hour, continued over midnight."""
    hour = np.arange(-1, 25) + 0.5
    q = np.concatenate([profile[-1:], profile, profile[:1]])
    axes.axhspan(70, 180, color="#4c9f70", alpha=0.13, linewidth=0)
    axes.fill_between(hour, q[:, 0], q[:, 4], color="#0b6e8a", alpha=0.22, linewidth=0)
    axes.fill_between(hour, q[:, 1], q[:, 3], color="#0b6e8a", alpha=0.45, linewidth=0)
    axes.plot(hour, q[:, 2], color="#073b4c", linewidth=1.4)
    axes.set_xlim(0, 24)
    axes.set_xticks(range(0, 25, 6))
    axes.set_yticks([70, 180, 250, 350])
    axes.tick_params(labelsize=7, labelbottom=True)
    axes.spines[["top", "right"]].set_visible(False)
