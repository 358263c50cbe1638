"""One person's sleep episodes: from a table (mood_ml's example.csv), from Apple Health's records, or from activity."""

from pathlib import Path

import numpy as np
import pandas as pd

from raycadian.data.clock import parse_times
from raycadian.data.source import Source, header_of
from raycadian.files import written_whole
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.formats.apple_health import parse_export, sleep_episodes
from raycadian.modalities.actigraphy.readers import detect_format
from raycadian.modalities.cards import load_card
from raycadian.modalities.cells import parse_column
from raycadian.modalities.cgm.formats.tables import read_small
from raycadian.modalities.naming import naming
from raycadian.physiology.rhythms.sleep import COLUMNS, Episodes, episodes_of, mood_indices, rest
from raycadian.physiology.rhythms.wear import by_day
from raycadian.types import ACTIVITY_COUNTS, ACTIVITY_MIMS, ACTIVITY_WRIST, Issues

_COLUMNS = ("sleep_start", "sleep_end", "minutes_sleep")


def card_of(path: Path | None) -> ActigraphyCard | None:
    """Raises ValueError for a card of another modality."""
    card = None if path is None else load_card(path)
    if not isinstance(card, ActigraphyCard | None):
        raise ValueError(f"{path}: expected a card of `modality: actigraphy`, found {card.modality}")
    return card


def read_episodes(path: Path, card: ActigraphyCard | None, issues: Issues) -> Episodes:
    """Sleep episodes by local clock, in order. Of a table the columns sleep_start, sleep_end and minutes_sleep; of
    Apple Health its records of sleep; of a recording (which `card` may describe) the rest in its activity. Episodes
    that can't be are left out and counted. Raises ValueError."""
    with naming(path):
        return _read_episodes(path, card, issues)


def _read_episodes(path: Path, card: ActigraphyCard | None, issues: Issues) -> Episodes:
    kind = detect_format(path)
    if kind == "apple_health":
        zone, source = (card.timezone, card.sleep_source) if card else (None, None)
        episodes = _episodes(sleep_episodes(parse_export(path, issues, source), zone=zone))
    elif kind == "table" and _lists_episodes(path):
        episodes = _of_table(path, card.time_format if card else None, issues)
    else:
        episodes = _of_activity(path, card, issues)
    possible = episodes.possible
    begins = str(episodes.start[~possible][0]) if not possible.all() else ""
    issues.add("sleep episode that can't be (left out)", f"{path.name}: {begins}", int((~possible).sum()))
    if not possible.any():
        raise ValueError(f"{path}: no sleep episode in it that can be used; bring a longer record, with nights")
    try:
        return Episodes(episodes.start[possible], episodes.end[possible], episodes.asleep_h[possible]).checked()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def indices_table(episodes: Episodes) -> pd.DataFrame:
    """A row a day: date (YYYY-MM-DD) and mood_ml's 36 columns, in its order. Raises ValueError without two days."""
    days, values = mood_indices(episodes)
    table = pd.DataFrame(values, columns=list(COLUMNS))
    table.insert(0, "date", days.astype(str))
    return table


def write_indices(table: pd.DataFrame, out: Path) -> None:
    """As CSV, with nine decimals as in mood_ml's test.csv."""
    with written_whole(out) as temporary:
        table.to_csv(temporary, index=False, float_format="%.9f")


def _lists_episodes(path: Path) -> bool:
    return "sleep_start" in header_of(Source.of(path))


def _of_table(path: Path, time_format: str | None, issues: Issues) -> Episodes:
    """Raises ValueError for a table without the columns; a row that isn't understood is left out and counted."""
    table = read_small(path, "sleep episodes")
    if lacking := [name for name in _COLUMNS if name not in table]:
        raise ValueError(
            f"{path}: no column {', '.join(lacking)}; found {', '.join(table)}; sleep episodes have "
            f"{', '.join(_COLUMNS)}"
        )
    clock = {name: parse_times(table[name], time_format)[0] for name in _COLUMNS[:2]}
    minutes, _ = parse_column(table["minutes_sleep"], f"{path}: minutes_sleep")
    rows = pd.DataFrame({**clock, "minutes_sleep": minutes})
    unclear = rows.isna().any(axis=1).to_numpy()
    for line in np.flatnonzero(unclear) + 2:
        issues.add("row not understood (left out)", f"{path.name}:{line}")
    return _episodes(rows[~unclear])


def _episodes(table: pd.DataFrame) -> Episodes:
    start, end = (table[name].to_numpy("datetime64[s]") for name in _COLUMNS[:2])
    return Episodes(start, end, table["minutes_sleep"].to_numpy(np.float64) / 60)


def _of_activity(path: Path, card: ActigraphyCard | None, issues: Issues) -> Episodes:
    """Stretches of rest (physiology/sleep.py) of a recording's whole days, minutes not worn being not known."""
    from raycadian.modalities.actigraphy.prepare import recordings_of_person  # with pandas: episodes don't need it

    usual = ActigraphyCard(name="recording", files=(path.name,))
    parts = []
    for recording in recordings_of_person(path, card, usual, issues):
        name = next(
            (name for name in (ACTIVITY_COUNTS, ACTIVITY_WRIST, ACTIVITY_MIMS) if name in recording.channels), None
        )
        if name is None:
            raise ValueError(
                f"{path}: {', '.join(recording.channels)} by the minute doesn't tell sleep; give activity, or sleep "
                "episodes"
            )
        activity = np.where(recording.observed, recording.channels[name].astype(np.float64), np.nan)
        local = recording.start_utc + np.timedelta64(60 * recording.utc_offset_min, "s")
        parts.append(episodes_of(rest(by_day(activity)).ravel(), local))
    return Episodes(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("start", "end", "asleep_h")))
