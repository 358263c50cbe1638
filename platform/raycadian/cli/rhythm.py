"""The verb `rhythm`: rest-activity rhythm and sleep of people's recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raycadian.cli.options import JSON, YAML, LateChoice, file_options, written_to
from raycadian.cli.terminal import console, preparing, show_json, show_table

if TYPE_CHECKING:
    import pandas as pd

    from raycadian.quickstart import CardOptions


def _scorings() -> tuple[str, ...]:
    from raycadian.modalities.actigraphy.rhythm import SCORINGS

    return SCORINGS


@click.command()
@file_options
@click.option(
    "--scoring", type=LateChoice(_scorings), default="auto", show_default=True,
    help="Rule for minutes asleep within a window of sleep; auto: the one that was made for the device.",
)  # fmt: skip
@click.option("--figure", type=YAML, callback=written_to, help="PNG, SVG or PDF: double-plotted actograms.")
@JSON
def rhythm(files: tuple[str, ...], options: CardOptions, scoring: str, figure: Path | None, as_json: bool) -> None:
    """Rest-activity rhythm and sleep: a row a person, a row a night, and why one lacks what.

    FILE is a card, or recordings of activity. Per person IS, IV, RA, L5 and M10 with onsets, SRI, usual sleep, wear;
    per night sleep onset, offset, duration and efficiency, L5, M10, RA, IV, wear. docs/howto/rhythm.md
    """
    from raycadian import quickstart
    from raycadian.modalities.actigraphy.actogram import write_figure
    from raycadian.modalities.actigraphy.rhythm import read_rhythms, tables

    with preparing(" ".join(files)) as progress:
        card, folder = quickstart.card_of(quickstart.sources_of(files), options, console.print)
        everybody, issues = read_rhythms(card, folder, scoring, progress)
    if figure is not None:
        write_figure(everybody, figure)
    persons, nights = tables(everybody)
    if as_json:
        show_json({"people": records(persons), "nights": records(nights), "issues": issues.as_dict()})
        return
    for title, table in _parts(persons, nights).items():
        show_table(_readable(table), title)
    for kind, n in issues.counts.items():
        click.echo(f"  {kind}: {n}")
    if figure is not None:
        click.echo(figure)


def _parts(persons: pd.DataFrame, nights: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What fits beside one another on a screen: what all rows share is left out, and said in the title."""
    subject, sleep = persons.columns[0], list(persons.columns).index("nights")
    about = f"{', '.join(persons['channel'].unique())}; minutes asleep by {', '.join(persons['scoring'].unique())}"
    rhythm = persons.iloc[:, [0, *range(persons.columns.get_loc("days"), sleep)]]
    alone = [subject] if len(persons) == 1 else []
    unchanged = [] if nights["clock_change_min"].any() else ["clock_change_min"]
    return {
        f"rhythm ({about})": rhythm,
        "usual sleep": persons[[subject, *persons.columns[sleep:]]],
        "nights, from noon to noon": nights.drop(columns=[*alone, *unchanged]),
    }


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON: dates and times as text, what is missing as None."""
    plain = table.astype(object).where(table.notna(), None)
    plain = plain.assign(night=_dates(table)) if "night" in table else plain
    return [{name: _text(value) for name, value in row.items()} for row in plain.to_dict("records")]


def _text(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def _dates(nights: pd.DataFrame) -> list[str]:
    return [str(date)[:10] for date in nights["night"]]


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """Hours as clocks, times without their date where the night has it, missing ones as a dash."""
    clocks: dict[str, Callable[[Any], str]] = {
        name: _clock for name in table.columns if name.endswith(("onset_h", "offset_h"))
    }
    times = {name: _of_day for name in ("sleep_onset", "sleep_offset") if name in table}
    shown = table.assign(**{name: table[name].map(form) for name, form in (clocks | times).items()})
    return shown.assign(night=_dates(table)) if "night" in table else shown


def _clock(hours: float) -> str:
    minutes = None if hours != hours else round(60 * hours) % 1440
    return "–" if minutes is None else f"{minutes // 60:02d}:{minutes % 60:02d}"


def _of_day(time: pd.Timestamp) -> str:
    return "–" if time != time else time.strftime("%H:%M")


VERBS = {"rhythm": rhythm}
