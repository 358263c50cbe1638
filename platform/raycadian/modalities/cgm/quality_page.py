"""The data-quality page of a snapshot of CGM: time in ranges, daily profiles, coverage.

Shares are of readings, not of interpolated points; ranges and targets as in cgm/quality.py.
"""

import numpy as np
import pandas as pd

from raycadian.data.snapshot import Snapshot
from raycadian.modalities.base import Section
from raycadian.modalities.cards import card_of
from raycadian.modalities.cgm.quality import RANGES
from raycadian.modalities.quality import SHOWN, folded, issue_list, natural, note, plural
from raycadian.pages import Axes, Figure, figure_html, new_figure, paragraph, table_html
from raycadian.types import GLUCOSE, Recording

_COVERAGE = {
    "days": "Days", "readings": "Readings", "interval_min": "Every (min)", "coverage_pct": "Coverage %",
    "interruptions": "Interruptions", "gaps": "Gaps", "longest_gap_h": "Longest gap (h)", "recordings": "Recordings",
    "points": "Points",
}  # fmt: skip
_METRICS = {
    "min_mgdl": "Min", "mean_mgdl": "Mean", "max_mgdl": "Max", "sd_mgdl": "SD", "cv_pct": "CV %", "gmi_pct": "GMI %",
} | {key: f"{label} %" for key, (label, *_) in RANGES.items()}  # fmt: skip


def quality_sections(snapshot: Snapshot) -> list[Section]:
    """The sections of the data-quality page. Figures show the first 24 subjects and say so."""
    metrics = dict(sorted(snapshot.quality.items(), key=lambda item: natural(item[0])))
    shown = sorted(snapshot.subjects, key=natural)[:SHOWN]
    return [
        ("Summary", _summary(snapshot, metrics)),
        ("Time in ranges", _figure(_ranges_figure(metrics, shown), _RANGES_CAPTION, snapshot)),
        ("Daily profiles", _figure(_profiles_figure(snapshot, shown), _PROFILE_CAPTION, snapshot)),
        ("Recordings in time", _figure(_timeline_figure(snapshot, shown), _TIMELINE_CAPTION, snapshot)),
        ("Coverage by subject", folded(_coverage_table(metrics), len(metrics)) + note(_COVERAGE_NOTE)),
        ("Glucose by subject", folded(_table(metrics, _METRICS), len(metrics)) + note(_METRICS_NOTE)),
        ("Issues", issue_list(snapshot.manifest["issues"])),
    ]


_RANGES_CAPTION = "Share of readings in each range, mg/dL."
_PROFILE_CAPTION = (
    "Ambulatory glucose profile by local hour: median (line), 25–75% (dark) and 5–95% (light) of measured points. "
    "Green band: 70–180 mg/dL."
)
_TIMELINE_CAPTION = "Recordings of each subject, in days since the subject's first; white is a gap."
_COVERAGE_NOTE = (
    "Coverage: share of the time from first to last reading that no missed reading takes. Interruptions: how often "
    "readings were missed; gaps: those long enough to end a recording. The 2019 consensus asks for 14 days with 70% "
    "coverage before time in range is trusted."
)
_METRICS_NOTE = (
    "mg/dL, and % of readings. Targets of the 2019 consensus for most adults with diabetes: 70–180 above 70% of the "
    "time, below 70 under 4%, below 54 under 1%, above 250 under 5%, CV at most 36%. GMI: the HbA1c that the mean "
    "suggests."
)


def _summary(snapshot: Snapshot, metrics: dict[str, dict]) -> str:
    counts, card = snapshot.manifest["counts"], card_of(snapshot)
    text = (
        f"{plural(counts['subjects'], 'subject')}, {counts['readings']:,} readings over "
        f"{sum(q['days'] for q in metrics.values()):,.1f} days: {plural(counts['recordings'], 'recording')} of "
        f"{counts['points']:,} points every {card.grid.dt_min:g} min, "
        f"{100 * counts['observed'] / counts['points']:.1f}% of them measured; {plural(counts['events'], 'event')}."
    )
    if counts["subjects_without_recording"]:
        text += f" Without a usable recording: {plural(counts['subjects_without_recording'], 'more subject')}."
    about = " · ".join(filter(None, (card.description, card.source, card.license and f"Licence: {card.license}")))
    flags = pd.Series([flag for q in metrics.values() for flag in q["flags"]], dtype=object).value_counts()
    flagged = "; ".join(f"{flag}: {n} of {plural(len(metrics), 'subject')}" for flag, n in flags.items())
    cohort = _cohort_table(metrics) if len(metrics) > 1 else ""
    return paragraph(text) + note(about) + paragraph(f"Flags: {flagged or 'none'}.") + cohort


def _cohort_table(metrics: dict[str, dict]) -> str:
    """How the metrics are spread over subjects."""
    names = {"days": "Days", "coverage_pct": "Coverage %"} | _METRICS
    names = {key: label for key, label in names.items() if key not in ("min_mgdl", "max_mgdl")}
    frame = pd.DataFrame([{label: q[key] for key, label in names.items()} for q in metrics.values()]).astype(np.float64)
    spread = frame.quantile([0, 0.25, 0.5, 0.75, 1]).set_axis(["lowest", "25%", "median", "75%", "highest"])
    return table_html(spread.rename_axis("Over subjects").reset_index(), precision=1)


def _table(metrics: dict[str, dict], columns: dict[str, str]) -> str:
    frame = pd.DataFrame([{"Subject": s} | {name: q[key] for key, name in columns.items()} for s, q in metrics.items()])
    return table_html(frame.convert_dtypes(), precision=1)


def _coverage_table(metrics: dict[str, dict]) -> str:
    flagged = {s: q | {"flags": ", ".join(q["flags"])} for s, q in metrics.items()}
    return _table(flagged, _COVERAGE | {"flags": "Flags"})


def _figure(figure: Figure, caption: str, snapshot: Snapshot) -> str:
    more = len(snapshot.subjects) - SHOWN
    return figure_html(figure, caption + (f" {more} more subjects are not shown." if more > 0 else ""))


def _name(subject: str) -> str:
    return subject if len(subject) <= 18 else subject[:17] + "…"


def _bars(subjects: list[str]) -> tuple[Figure, Axes]:
    """Axes with one row a subject, the first on top."""
    figure, axes = new_figure(height=0.8 + 0.26 * len(subjects))
    axes.set_yticks(range(len(subjects)), [_name(s) for s in subjects], fontsize=8, parse_math=False)
    axes.set_ylim(len(subjects) - 0.4, -0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure, axes


def _ranges_figure(metrics: dict[str, dict], subjects: list[str]) -> Figure:
    figure, axes = _bars(subjects)
    left = np.zeros(len(subjects))
    for key, (label, colour, _) in RANGES.items():
        share = np.array([metrics[s][key] for s in subjects])
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


def _timeline_figure(snapshot: Snapshot, subjects: list[str]) -> Figure:
    figure, axes = _bars(subjects)
    for row, subject in enumerate(subjects):
        spans = [(r.start_utc.astype(np.int64), len(r) * r.dt_s) for r in snapshot.recordings(subject)]
        first = spans[0][0]
        days = [((start - first) / 86400, length_s / 86400) for start, length_s in spans]
        axes.broken_barh(days, (row - 0.3, 0.6), color="#0b6e8a")
    axes.set_xlim(left=0)
    axes.set_xlabel("days")
    return figure


def _profiles_figure(snapshot: Snapshot, subjects: list[str]) -> Figure:
    profiles = [daily_profile(snapshot.recordings(s)) for s in subjects]
    columns = min(4, len(subjects))
    rows = -(-len(subjects) // columns)
    figure, grid = new_figure(
        9.0, 0.5 + 1.9 * rows, nrows=rows, ncols=columns, sharex=True, sharey=True, squeeze=False
    )  # fmt: skip
    for axes, subject, profile in zip(grid.flat, subjects, profiles, strict=False):
        _draw_profile(axes, profile)
        in_range = snapshot.quality[subject]["in_range_pct"]
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
    profile = np.full((24, 5), np.nan)
    for h in range(24):
        if (hour == h).sum() >= 3:
            profile[h] = np.quantile(glucose[hour == h], [0.05, 0.25, 0.5, 0.75, 0.95])
    return profile


def _local_h(recording: Recording) -> np.ndarray:
    start_s = recording.start_utc.astype(np.int64) + 60 * recording.utc_offset_min
    return (start_s + np.arange(len(recording)) * recording.dt_s) % 86400 / 3600


def _draw_profile(axes: Axes, profile: np.ndarray) -> None:
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
