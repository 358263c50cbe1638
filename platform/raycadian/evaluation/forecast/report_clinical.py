"""The report's sections on what errors mean for people, and on whether what the forecast says of itself is true."""

from typing import Any

import numpy as np
import pandas as pd

from raycadian.config import Evaluation
from raycadian.evaluation import report as parts
from raycadian.evaluation.bootstrap import SubjectBootstrap
from raycadian.evaluation.forecast import figures
from raycadian.evaluation.forecast.calibration import adaptive_conformal, coverage_by_subject
from raycadian.evaluation.forecast.error_grids import GRIDS
from raycadian.evaluation.forecast.event_probability import excursion_named, fit_lows, probabilities
from raycadian.evaluation.forecast.event_scores import probability_scores, reliability_of_events
from raycadian.evaluation.forecast.glycemic import EXCURSIONS, Excursion
from raycadian.evaluation.forecast.metrics import alarm_rules, intervals
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.evaluation.forecast.summaries import glucose_summaries
from raycadian.pages import paragraph, table_html

_ALARM = {
    "sensitivity_pct": "sensitivity, %",
    "onset_sensitivity_pct": "before onset, %",
    "lead_time_min": "lead, min",
    "precision_pct": "precision, %",
    "f1_pct": "F1, %",
    "false_alarms_per_day": "false alarms a day",
}
_GLUCOSE = {
    "time_below_54_pct": "time below 54 mg/dL, %",
    "time_54_69_pct": "time 54 to 69, %",
    "time_70_180_pct": "time 70 to 180, %",
    "time_181_250_pct": "time 181 to 250, %",
    "time_above_250_pct": "time above 250, %",
    "mean_mgdl": "mean, mg/dL",
    "cv_pct": "coefficient of variation, %",
    "gmi_pct": "GMI (estimated HbA1c), %",
    "gri": "GRI (0 best, 100 worst)",
    "lbgi": "LBGI (risk of lows)",
    "hbgi": "HBGI (risk of highs)",
    "mage_mgdl": "MAGE (mean swing), mg/dL",
}
_PROBABILITY = {
    "base_rate_pct": "happens in, % of windows",
    "brier": "Brier score",
    "brier_raw": "Brier score, not calibrated",
    "brier_miscalibration": "of it miscalibration",
    "brier_discrimination": "less discrimination",
    "brier_uncertainty": "plus uncertainty",
    "brier_skill_pct": "skill against the base rate, %",
    "auroc": "AUROC",
    "auprc": "AUPRC",
}


def error_grids(name: str, p: Predictions, table: pd.DataFrame) -> str:
    """Zones by table, then each grid with its forecasts, Clarke's open."""
    note = (
        f"{name}: what a person would have done by the median instead of what was measured. A: the same; B: harmless; "
        "C: an unneeded correction; D: a low or high missed; E: the opposite treatment. More in A, fewer in D and E "
        "is better. Clarke (1987) is quoted most; Parkes (2000) has no jumps between zones, drawn up for type 1 and "
        "type 2 diabetes."
    )
    figures_ = [_grid(name, p, key) for key in GRIDS]
    shown = "".join(
        parts.folded(GRIDS[key].title, html, key == "clarke") for key, html in zip(GRIDS, figures_, strict=True)
    )
    return paragraph(note) + table_html(_zones(p, table)) + shown


def _grid(name: str, p: Predictions, key: str) -> str:
    grid = GRIDS[key]
    caption = f"{name}, {grid.title} error grid: darker where more forecasts lie; shares of all measured points."
    beyond = int((np.fmax(p.truth, p.median)[:, p.key_steps] > grid.limit_mgdl).sum())
    if beyond:
        caption += f" Not drawn: {beyond} points beyond {grid.limit_mgdl:g} mg/dL."
    return parts.figure(figures.error_grid(p, grid), caption)


def _zones(p: Predictions, table: pd.DataFrame) -> pd.DataFrame:
    steps = table[(table.scope == "all") & (table.kind == "step")]
    rows = []
    for step in p.key_steps:
        scores = steps[steps.horizon_min == p.horizon_min[step]].set_index("metric")
        for key, grid in GRIDS.items():
            zones = {
                f"{'+'.join(z.upper())}, %": parts.interval(scores.loc[f"{key}_{z}_pct"], 1) for z in ("a", "ab", "de")
            }
            rows.append({"minutes ahead": f"{p.horizon_min[step]:g}", "grid": grid.title, **zones})
    return pd.DataFrame(rows)


def events(name: str, p: Predictions, table: pd.DataFrame) -> str:
    """Alarms by the median and by each quantile."""
    scores = table[(table.scope == "all") & (table.kind == "window")].set_index("metric")
    rows = []
    for excursion in EXCURSIONS:
        for rule, position in alarm_rules(p.levels, excursion):
            alarm = {s: scores.loc[f"{excursion.name}{rule}_{s}"] for s in _ALARM}
            by = "median" if not rule else f"{100 * p.levels[position]:g}% quantile"
            rows.append(
                {"event": _words(excursion), "alarm by": by, "windows with it": alarm["sensitivity_pct"].n_windows}
                | {_ALARM[s]: parts.interval(row, 1) for s, row in alarm.items()}
            )
    whole = parts.whole(table).set_index("metric")
    tir = {m: parts.interval(whole.loc[m], 1) for m in ("tir_truth_pct", "tir_forecast_pct", "tir_error_pct")}
    note = (
        f"{name}. An event is at least 15 minutes in a row beyond the threshold within the horizon. A quantile raises "
        "more alarms than the median, true and false. Sensitivity counts events under way, too; “before onset” only "
        "those that had not begun, the hard part; “lead” is the time from the first alarm to the onset, where there "
        f"was an alarm. Time within 70 to 180 mg/dL: measured {tir['tir_truth_pct']}%, by the forecast "
        f"{tir['tir_forecast_pct']}%, difference {tir['tir_error_pct']} percentage points."
    )
    return paragraph(note) + table_html(pd.DataFrame(rows))


def _words(excursion: Excursion) -> str:
    return f"{'above' if excursion.above else 'below'} {excursion.threshold_mgdl:g} mg/dL"


def low_probability(name: str, p: Predictions, validation: Predictions | None, evaluation: Evaluation) -> str:
    """Empty without validation predictions; says why where they allow no calibration."""
    if validation is None:
        return ""
    calibrations, reasons = fit_lows(validation)
    missing = "".join(
        paragraph(f"Not calibrated: {reason} of validation; some must hold one, some none.") for reason in reasons
    )
    scores = probability_scores(p, calibrations, evaluation)
    if scores.empty:
        return missing
    note = (
        f"{name}: the probability that glucose falls below the threshold at any time within {p.horizon_min[-1]:g} "
        "minutes, from the quantiles, calibrated on validation data and judged on test data. Brier score: mean "
        "squared error of the probability, lower is better; it is miscalibration (0 is best) minus discrimination "
        "(more is better) plus the uncertainty of the base rate. AUROC: the chance that a window with a low gets the "
        "higher probability of two (0.5: chance). AUPRC: mean precision of alarms (chance: the base rate). Windows "
        "with missing points are left out."
    )
    tables = {
        _words(excursion_named(event)): reliability_of_events(p, event, probability, evaluation)
        for event, probability in probabilities(p, calibrations).items()
    }
    caption = (
        "What was said against what happened, by tenths of the probability; on the dotted line: calibrated; below it: "
        "said too often. Area: number of windows. Bars: intervals over people."
    )
    drawing = parts.figure(figures.event_reliability(tables), caption)
    return paragraph(note) + table_html(_probabilities(scores)) + drawing + missing


def _probabilities(scores: pd.DataFrame) -> pd.DataFrame:
    """A row a score, a column an event."""
    overall = scores[scores.scope == "all"].set_index("metric")
    names = overall.index.str.partition("_").get_level_values(0).unique()
    rows: list[dict[str, Any]] = [
        {"score": text}
        | {
            _words(excursion_named(n)): parts.interval(overall.loc[f"{n}_probability_{m}"], 1 if "%" in text else 3)
            for n in names
        }
        for m, text in _PROBABILITY.items()
    ]
    counts = {_words(excursion_named(n)): f"{overall.loc[f'{n}_probability_brier'].n_windows:,}" for n in names}
    return pd.DataFrame([{"score": "windows"} | counts, *rows])


def glucose(name: str, p: Predictions, table: pd.DataFrame) -> str:
    """Means over people, then a row a person."""
    scores = table[(table.scope == "all") & (table.kind == "person")].set_index("metric")
    rows = [
        {"figure": text}
        | {
            what: parts.interval(scores.loc[f"{key}_{column}"], 1 if key.endswith(("pct", "mgdl")) else 2)
            for what, column in (("measured", "truth"), ("by forecast", "forecast"), ("difference", "error"))
        }
        for key, text in _GLUCOSE.items()
    ]
    gains = [
        f"{parts.interval(row, 1)} min at {row.horizon_min:g} min"
        for _, row in scores.loc[["temporal_gain_min"]].iterrows()
    ]
    note = (
        f"What a clinic reads from a sensor, from truth and from {name}'s forecasts of the same moments; mean over "
        "people. A difference of 0 is best; forecasts that shrink to the mean show less time out of range, less "
        "variation and smaller swings. Temporal gain (how much earlier than the sensor the forecast tells; more is "
        f"better): {', '.join(gains)}."
    )
    people = glucose_summaries(p)
    columns = {f"{key}_{column}": f"{text.split(' (')[0].split(',')[0]}, {what}" for key, text in _GLUCOSE.items()
               for column, what in (("truth", "measured"), ("forecast", "forecast"))}  # fmt: skip
    each = table_html(people.rename(columns=columns), 1)
    return paragraph(note) + table_html(pd.DataFrame(rows)) + parts.folded(f"{len(people)} people", each, False)


def calibration(name: str, p: Predictions, people: SubjectBootstrap, validation: Predictions | None) -> str:
    caption = (
        f"{name}. Left: how often truth lies at or below each quantile. Middle: how often it lies inside each "
        "interval, by horizon. Right: density of truth between the quantiles; above 1 in the middle: intervals too "
        "wide, above 1 at the edges: too narrow. Dotted: perfectly calibrated. Bands: intervals over people."
    )
    return parts.figure(figures.calibration(p, people), caption) + _by_person(p, validation)


def _by_person(p: Predictions, validation: Predictions | None) -> str:
    """Coverage of each person, as forecast and adapted online; empty where no levels bound an interval."""
    table = coverage_by_subject(p).assign(intervals="as forecast")
    if table.empty:
        return ""
    if validation is not None and not np.isnan(validation.truth).all(0).any():
        low, high = intervals(p.levels)[0]
        adapted = adaptive_conformal(p, validation, coverage=float(p.levels[high] - p.levels[low]))
        table = pd.concat([table, coverage_by_subject(adapted).assign(intervals="adapted online")])
    rows = [_spread(rows, nominal, how) for (how, nominal), rows in table.groupby(["intervals", "nominal"], sort=False)]
    note = (
        "Coverage of single people, over all steps: what is right on average may be wrong for one person. Adapted "
        "online: adaptive conformal inference, which widens a person's interval after misses and narrows it after "
        "hits, each as soon as it is known."
    )
    return paragraph(note) + table_html(pd.DataFrame(rows), 1)


def _spread(rows: pd.DataFrame, nominal: float, how: str) -> dict[str, Any]:
    hits = (rows.observed.fillna(0) * rows.n).groupby(rows.subject).sum()
    n = rows.n.groupby(rows.subject).sum()
    each = (100 * hits / n)[n > 0]
    return {
        "interval": f"{100 * nominal:g}%, {how}",
        "all, %": 100 * hits.sum() / max(n.sum(), 1),
        "lowest person, %": each.min(),
        "median person, %": each.median(),
        "highest person, %": each.max(),
        "people within 5 points": f"{int((each - 100 * nominal).abs().le(5).sum())} of {len(each)}",
    }
