"""OhioT1DM: one XML file a patient and period; glucose, meals, boluses, basal and temporary basal rates.

Marling and Bunescu 2020, The OhioT1DM dataset for blood glucose level prediction. Times are local, dd-mm-yyyy HH:MM:SS.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from defusedxml.ElementTree import iterparse

from raycadian.data.source import DEEPEST, NESTED, Source, check_count, open_bytes
from raycadian.modalities.cgm.builder import MGDL, ReadingsBuilder
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.cgm.formats.doses import given_over
from raycadian.types import BASAL, BOLUS, CARBS, SUBJECT, Issues, Readings

_TIME_FORMAT = "%d-%m-%Y %H:%M:%S"
_ATTRIBUTES = ("ts", "ts_begin", "ts_end", "value", "carbs", "dose", "type")
_SECTIONS = ("glucose_level", "basal", "temp_basal", "bolus", "meal", "finger_stick")


def read_ohio(source: Source, card: CGMCard, issues: Issues) -> Iterator[Readings]:
    """One patient's file. A square bolus is spread over its time. Raises ValueError."""
    patient, sections = _events(source)
    subject = patient or card.named(source.path) or source.stem
    builder = ReadingsBuilder(source.path, card, issues, MGDL, place=" event ")
    levels = _rows(sections["glucose_level"], subject, "ts", builder)
    levels["glucose"] = builder.numbers(levels["value"], levels["line"], "glucose")
    builder.note("finger-stick or calibration (not a CGM reading)", np.array([n for n, _ in sections["finger_stick"]]))
    yield from builder.readings(levels)
    yield from builder.events(_rows(sections["meal"], subject, "ts", builder), "carbs", CARBS)
    boluses = _rows(sections["bolus"], subject, "ts_begin", builder)
    ends, _ = builder.times(boluses["ts_end"], _TIME_FORMAT)
    minutes = (ends - boluses["clock"].to_numpy("datetime64[ns]")) / np.timedelta64(1, "m")
    square = boluses["type"].str.contains("square", case=False).to_numpy(bool)
    yield from given_over(
        boluses, BOLUS, builder.numbers(boluses["dose"], boluses["line"], BOLUS), np.where(square, minutes, 0), builder
    )
    yield from builder.readings(_basal(sections, subject, builder))
    builder.finish()


def _events(source: Source) -> tuple[str, dict[str, list[tuple[int, dict]]]]:
    """The patient's id and, per section, its events as (number in the file, attributes). Streamed."""
    events: dict[str, list[tuple[int, dict]]] = {section: [] for section in _SECTIONS}
    patient, section, number, depth = "", "", 0, 0
    with open_bytes(source.path) as stream:
        for action, element in iterparse(stream, events=("start", "end"), forbid_dtd=True):
            depth += 1 if action == "start" else -1
            if depth > DEEPEST:
                raise ValueError(f"{source.path}: {NESTED}")
            if action == "start":
                if element.tag == "patient":
                    patient = element.get("id", "")
                elif element.tag != "event":
                    section = element.tag
            elif element.tag == "event":
                number += 1
                check_count(number, source.path, what="events")
                if section in events:
                    events[section].append((number, dict(element.attrib)))
            if action == "end":
                element.clear()
    return patient, events


def _rows(events: list[tuple[int, dict]], subject: str, time: str, builder: ReadingsBuilder) -> pd.DataFrame:
    """One section's events as rows with their attributes and their clock."""
    rows = pd.DataFrame([attributes for _, attributes in events], columns=_ATTRIBUTES, dtype=object)
    rows = rows.where(rows.notna(), "")
    rows[SUBJECT], rows["line"] = subject, np.array([number for number, _ in events], dtype=np.int64)
    rows["clock"], rows["offset_min"] = builder.times(rows[time], _TIME_FORMAT)
    return rows


def _basal(sections: dict, subject: str, builder: ReadingsBuilder) -> pd.DataFrame:
    """The rate in force: the schedule, except from ts_begin to ts_end of a temporary rate, and the schedule again."""
    base = _rows(sections["basal"], subject, "ts", builder)
    base["value"] = builder.numbers(base["value"], base["line"], BASAL)
    base = base[base["value"].notna() & base["clock"].notna()].sort_values("clock", kind="stable")
    temporary = _rows(sections["temp_basal"], subject, "ts_begin", builder)
    temporary["value"] = builder.numbers(temporary["value"], temporary["line"], BASAL)
    temporary["end"], _ = builder.times(temporary["ts_end"], _TIME_FORMAT)
    unclear = temporary["value"].isna() | temporary["clock"].isna() | ~(temporary["end"] > temporary["clock"])
    builder.note("temporary basal rate without a rate or an end (skipped)", temporary["line"][unclear])
    temporary = temporary[~unclear].sort_values("clock", kind="stable")
    following = temporary["clock"].shift(-1)
    ended = temporary["end"].where(~(following < temporary["end"]), following)
    hidden = _inside(base["clock"].to_numpy(), temporary["clock"].to_numpy(), ended.to_numpy())
    back = temporary.assign(clock=ended)[~(following <= ended)]  # no other temporary rate takes over
    scheduled = np.searchsorted(base["clock"].to_numpy(), back["clock"].to_numpy(), side="right") - 1
    in_turn = np.append(base["value"].to_numpy(np.float64), np.nan)  # index -1, before the schedule begins: unknown
    back = back.assign(value=in_turn[scheduled])
    rates = pd.concat([rates for rates in (base[~hidden], temporary, back) if len(rates)] or [base])
    return rates.sort_values("clock", kind="stable").assign(kind=BASAL)


def _inside(times: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Which times lie in one of the sorted, disjoint intervals [begin, end]."""
    at = np.searchsorted(begin, times, side="right") - 1
    return (at >= 0) & (times <= np.append(end, np.datetime64("NaT", "ns"))[at])
