"""The raster of activity: days below one another, each shown twice, so that nights are whole."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raycadian.files import written_whole
from raycadian.modalities.actigraphy.rhythm import PersonRhythm
from raycadian.pages import Axes, Figure, new_figure
from raycadian.physiology.rhythms.wear import DAY_MIN

MOST_PEOPLE, MOST_DAYS = 20, 370
ENDINGS = (".png", ".svg", ".pdf")
_BIN_MIN = 5
_SLEEP, _UNWORN = "#0b6e8a", "#f3d9c9"


def actogram(people: Sequence[PersonRhythm]) -> Figure:
    """Double-plotted actograms, one below the other. Raises ValueError for more people or days than a figure holds."""
    rows = [len(person.dates) for person in people]
    if len(people) > MOST_PEOPLE or max(rows, default=0) > MOST_DAYS:
        raise ValueError(
            f"a figure of {len(people)} people and up to {max(rows)} days: at most {MOST_PEOPLE} people and "
            f"{MOST_DAYS} days; name fewer files, or leave --figure out"
        )
    heights = [max(1.6, 0.16 * n + 0.8) for n in rows]
    figure, axes = new_figure(9, sum(heights), nrows=len(people), squeeze=False, height_ratios=heights)
    for axis, person in zip(axes[:, 0], people, strict=True):
        _draw(axis, person)
    return figure


def write_figure(people: Sequence[PersonRhythm], out: Path) -> None:
    """Raises ValueError for an ending that is no figure's."""
    if out.suffix.lower() not in ENDINGS:
        raise ValueError(f"--figure {out}: expected a file that ends in {', '.join(ENDINGS)}")
    figure = actogram(people)
    with written_whole(out) as temporary:
        figure.savefig(temporary, format=out.suffix.lower()[1:], dpi=110)


def _draw(axis: Axes, person: PersonRhythm) -> None:
    """Darker is more active; below each day its windows of sleep; what was not worn is tinted."""
    from matplotlib import colormaps

    shown = _raster(person.days)
    colours = colormaps["Greys"].with_extremes(bad=_UNWORN)
    known = shown[~np.isnan(shown)]
    most = max(float(np.quantile(known, 0.99)), 1e-9) if known.size else 1.0
    extent = (0, 48, len(shown) - 0.5, -0.5)
    axis.imshow(shown, cmap=colours, vmin=0, vmax=most, aspect="auto", extent=extent, interpolation="nearest")
    first_day = person.dates[0].astype(np.int64)
    for begin, end in person.windows - DAY_MIN * first_day:
        _mark(axis, int(begin), int(end), len(shown))
    axis.set(xlim=(0, 48), ylim=(len(shown) - 0.5, -0.5))
    axis.set_xticks(range(0, 49, 6), [f"{h % 24:02d}" for h in range(0, 49, 6)], fontsize=8)
    step = max(1, len(shown) // 15)
    axis.set_yticks(range(0, len(shown), step), [str(date) for date in person.dates[::step]], fontsize=7)
    axis.set_title(f"{person.person['subject']}: activity, sleep below, not worn tinted", fontsize=9, loc="left",
        parse_math=False)  # fmt: skip


def _raster(days: np.ndarray) -> np.ndarray:
    """Square roots (D, 2 * 288) of the mean of every five minutes, of each day and the next."""
    bins = days.reshape(len(days), -1, _BIN_MIN)
    there = ~np.isnan(bins)
    mean = np.where(there, bins, 0).sum(2) / np.where(there.any(2), there.sum(2), np.nan)
    next_day = np.concatenate([mean[1:], np.full_like(mean[:1], np.nan)])
    return np.sqrt(np.concatenate([mean, next_day], axis=1))


def _mark(axis: Axes, begin: int, end: int, n_days: int) -> None:
    """A window of sleep, in minutes from the first midnight, in the rows of its day and of the day before."""
    for row in range(max(begin // DAY_MIN - 1, 0), min(end // DAY_MIN, n_days - 1) + 1):
        left, right = (np.clip((at - row * DAY_MIN) / 60, 0, 48) for at in (begin, end))
        if right > left:
            axis.hlines(row + 0.38, left, right, colors=_SLEEP, linewidth=1.6)
