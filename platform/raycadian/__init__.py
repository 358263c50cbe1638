"""Raycadian's Python interface: `import raycadian as rc`.

Importing it loads nothing heavy: each function imports what it needs when it is called. Tables come as pandas
DataFrames, figures as matplotlib figures; what a user can mend is a ValueError, in the same words as on the command
line. What the functions return is described in `raycadian.api`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from raycadian.api import Experiment, GlucoseForecaster, Outcome, TrainedRun
    from raycadian.config import Recipe
    from raycadian.data.snapshot import Snapshot
    from raycadian.training.tune import Sweep
    from raycadian.workflow import Comparison

    Source = str | Path | Sequence[str | Path]

__all__ = ["compare", "experiment", "load_forecaster", "open_run", "prepare", "rhythm", "run", "train", "tune"]


def prepare(
    source: Source, *, unit: str | None = None, timezone: str | None = None, subject: str | None = None,
    format: str | None = None, modality: str | None = None, settings: Mapping[str, Any] | None = None,
    snapshots: str | Path = "snapshots", quiet: bool = False,
) -> Snapshot:  # fmt: skip
    """Read data files, or those that a card names, into a snapshot: an even grid, units converted, quality counted.

    Args:
        source: One or several data files of one modality, or the path of a card (YAML).
        unit: Of the values in data files, `"mg/dL"` or `"mmol/L"`, where the files don't say it.
        timezone: Of the clock in data files, such as `"Europe/Madrid"`.
        subject: Whose the files are, where they don't say it.
        format: Of data files, in place of what is recognised by their content.
        modality: `"cgm"`, `"biosignals"` or `"actigraphy"`, where it isn't plain.
        settings: Dotted path -> value of the card that is written for data files, such as `{"grid.gap_min": 30}`.
        snapshots: Folder of the snapshots, or `s3://bucket/folder`. The card of data files is written beside them.
        quiet: Print neither what was guessed of the files nor progress.

    Returns:
        The snapshot; `.path`, `.subjects`, `.recordings(subject)`, and counts and issues in `.manifest`.

    Raises:
        ValueError: What is unclear or wrong in the files, and what to say.
        OSError: The disk is full, or storage can't be reached.
    """
    from raycadian import api

    options = api.options(unit, timezone, subject, format, modality, settings)
    return api.prepare(source, options, Path(snapshots), quiet)


def run(
    source: Source | Recipe | Mapping[str, Any], *, settings: Mapping[str, Any] | None = None, unit: str | None = None,
    timezone: str | None = None, subject: str | None = None, format: str | None = None, modality: str | None = None,
    runs: str | Path = "runs", snapshots: str | Path = "snapshots", resume: bool = False, quiet: bool = False,
) -> Outcome:  # fmt: skip
    """Prepare, tune where the recipe asks, train the model and its peers, score, promote the best, report.

    Args:
        source: A recipe (its path, a dictionary, or a `Recipe`); or a card or data files, for which a first recipe is
            written into `runs`: for glucose, ridge regression beside persistence, an hour ahead.
        settings: Dotted path -> value of the recipe, such as `{"window.horizon": 6}`; of data files also of their card.
        unit: Of data files, as in `prepare`; so are `timezone`, `subject`, `format` and `modality`.
        runs: Folder of the runs.
        snapshots: Folder of the snapshots, or `s3://bucket/folder`.
        resume: Go on with work that was interrupted, and reuse what is complete.
        quiet: Print neither guesses nor progress.

    Returns:
        The runs, best on validation data first, the leaderboard on test data, and who is champion.

    Raises:
        ValueError: What in the recipe or data does not fit, and the fix.
    """
    from raycadian import api

    options = api.options(unit, timezone, subject, format, modality, settings)
    return api.run(source, options, Path(runs), Path(snapshots), resume, quiet)


def train(
    recipe: str | Path | Recipe | Mapping[str, Any], *, settings: Mapping[str, Any] | None = None,
    runs: str | Path = "runs", snapshots: str | Path = "snapshots", resume: bool = False, quiet: bool = False,
) -> TrainedRun:  # fmt: skip
    """Train and score the recipe's model alone; arguments as in `run`. Raises ValueError."""
    from raycadian import api

    return api.train(recipe, api.as_settings(settings), Path(runs), Path(snapshots), resume, quiet)


def tune(
    recipe: str | Path | Recipe | Mapping[str, Any], *, settings: Mapping[str, Any] | None = None,
    runs: str | Path = "runs", snapshots: str | Path = "snapshots", resume: bool = False, quiet: bool = False,
) -> Sweep:  # fmt: skip
    """Sweep the recipe's search space on Ray Tune; arguments as in `run`.

    Returns:
        `.table`, a DataFrame with a row a trial, best on validation data first, and `.best`, the dotted paths and
        values of the best trial, which `settings` of `train` and `run` take.

    Raises:
        ValueError: The recipe has no `tuning`, or its space does not fit it.
    """
    from raycadian import api

    return api.tune(recipe, api.as_settings(settings), Path(runs), Path(snapshots), resume, quiet)


def experiment(
    recipe: str | Path | Recipe | Mapping[str, Any], *, settings: Mapping[str, Any] | None = None,
    runs: str | Path = "runs", snapshots: str | Path = "snapshots", resume: bool = False, quiet: bool = False,
) -> Experiment:  # fmt: skip
    """Run the recipe's `experiment`: its models on identical windows; arguments as in `run`. Raises ValueError."""
    from raycadian import api

    return api.experiment(recipe, api.as_settings(settings), Path(runs), Path(snapshots), resume, quiet)


def rhythm(
    source: Source, *, by: str = "person", scoring: str = "auto", figure: str | Path | None = None,
    timezone: str | None = None, subject: str | None = None, format: str | None = None,
    settings: Mapping[str, Any] | None = None, quiet: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Rest-activity rhythm and sleep of people's recordings of activity.

    Args:
        source: One or several recordings of activity, or the path of a card (YAML).
        by: `"person"` or `"night"`: what a row is. A night is the 24 hours from noon to noon.
        scoring: Rule for minutes asleep within a window of sleep: `"oakley"`, `"cole_kripke"`, `"sadeh"`, `"level"`
            (15% of the person's own 24 hours), or `"auto"`: the one that was made for the device.
        figure: A PNG, SVG or PDF that double-plotted actograms are drawn into.
        timezone: Of the clock in the files; so are `subject`, `format` and `settings` as in `prepare`.
        quiet: Print neither what was guessed of the files nor progress.

    Returns:
        Of people `is`, `iv`, `ra`, `l5`, `m10` with onsets, `sri`, means of sleep, `worn_h` a day; of nights
        `sleep_onset` and `sleep_offset` by the local clock, `sleep_h`, `asleep_h`, `efficiency_pct`, `l5`, `m10`, `ra`,
        `iv`, `worn_h`. `status` is `ok`, or says why something is missing. Hours of the clock end in `_onset_h`.

    Raises:
        ValueError: What is wrong in the files, or that they hold no activity.
    """
    from raycadian import api

    options = api.options(None, timezone, subject, format, None, settings)
    return api.rhythm(source, options, by, scoring, None if figure is None else Path(figure), quiet)


def open_run(run: str | Path, *, runs: str | Path = "runs") -> TrainedRun:
    """A complete run by its path, its name, or the unambiguous beginning of its name. Raises ValueError."""
    from raycadian import api

    return api.open_run(run, Path(runs))


def compare(names: Sequence[str | Path | TrainedRun], *, runs: str | Path = "runs") -> Comparison:
    """Set runs beside one another on identical test windows.

    Returns:
        `.leaderboard` and `.differences` as DataFrames: which model is better, by how much, and whether that is noise.

    Raises:
        ValueError: The runs were scored on different windows.
    """
    from raycadian import api

    return api.compare(names, Path(runs))


def load_forecaster(run: str | Path | TrainedRun | None = None, *, runs: str | Path = "runs") -> GlucoseForecaster:
    """The model of a run, ready to forecast from anybody's readings.

    Args:
        run: A run, its path or its name; or the registered name of a champion, such as `"mine-forecast-12"`. The only
            champion if left out.
        runs: Folder of the runs.

    Raises:
        ValueError: There is no such run or champion, or it does not forecast glucose.
    """
    from raycadian import api

    return api.load_forecaster(run, Path(runs))
