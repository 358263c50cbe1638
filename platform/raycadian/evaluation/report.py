"""report.html: what a run found, as figures where people would look rather than read. One file, opens offline."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from raycadian.config import in_unit_of, unit_of
from raycadian.evaluation import report_parts as parts
from raycadian.evaluation.bootstrap import MIN_SUBJECTS, SubjectBootstrap
from raycadian.evaluation.forecast import figures, metrics, report_comparison
from raycadian.evaluation.forecast import report_clinical as clinical
from raycadian.evaluation.forecast.metrics import score
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.files import written_whole
from raycadian.pages import page, paragraph, table_html
from raycadian.types import GLUCOSE

_PARAMETERS = {
    "d": "circadian phase (d, h)", "taup": "exposure to light (taup)", "taug": "clearance after meals (taug)",
    "B": "baseline (B)", "Cm": "sensitivity to cortisol (Cm)",
}  # fmt: skip


def write_report(
    folder: Path,
    *,
    title: str,
    subtitle: str,
    leaderboard: pd.DataFrame,
    predictions: dict[str, Predictions],
    insights: list[dict[str, Any]] | None,
    metadata: dict[str, Any],
    validation: Predictions | None = None,
) -> Path:
    """Write `folder`/report.html, whole or not at all, and return its path.

    `predictions`: model name -> test predictions on identical windows, the run's own model first. `leaderboard`: of
    `compare.leaderboard` over them; its settings of the bootstrap hold for every interval of the page. `insights`: a row a person of the fitted mechanism in words, or none. `validation`: the run's own validation predictions, which probabilities
    of lows and adaptive intervals are calibrated on; without them those are left out.
    """
    name, own = next(iter(predictions.items()))
    drawn = {"bootstrap": 1000, "confidence": 0.95, "seed": 0} | leaderboard.attrs
    confidence = drawn["confidence"]
    tables = {model: score(p, **drawn) for model, p in predictions.items()}
    people = SubjectBootstrap(own.subject, resamples=drawn["bootstrap"], confidence=confidence, seed=drawn["seed"])
    with mpl.rc_context(parts.STYLE):
        sections = [
            ("At a glance", _glance(name, own, tables[name], leaderboard)),
            ("Leaderboard", _leaderboard(leaderboard, confidence)),
            ("What is better", report_comparison.comparison(predictions, leaderboard, drawn)),
            ("Example forecasts", _examples(name, own)),
            ("Error by horizon", _by_horizon(tables, confidence, own.target)),
            ("Seen and held-out people", _by_scope(tables, own.target)),
            *(_of_glucose(name, predictions, tables[name], people, validation, drawn) if own.target == GLUCOSE else ()),
            ("Calibration", clinical.calibration(name, own, people, validation)),
            ("Mechanism in words", _insights(insights or [])),
            ("All scores", _all_scores(name, tables[name])),
            ("Run", metadata_section(metadata)),
            ("Definitions", f'<pre style="white-space:pre-wrap;font-size:.8rem">{escape(metrics.__doc__ or "")}</pre>'),
        ]
        html = page(title, [(head, body) for head, body in sections if body], subtitle)
    path = Path(folder) / "report.html"
    with written_whole(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def _of_glucose(
    name: str, predictions: dict[str, Predictions], table: pd.DataFrame, people: SubjectBootstrap,
    validation: Predictions | None, drawn: dict[str, Any],
) -> list[tuple[str, str]]:  # fmt: skip
    """What only glucose has: a local clock, error grids, lows and highs, a clinic's figures."""
    own = predictions[name]
    return [
        ("Error by hour of day", _by_hour(predictions, people)),
        ("Error grids", clinical.error_grids(name, own, table)),
        ("Lows and highs", clinical.events(name, own, table)),
        ("Probability of a low", clinical.low_probability(name, own, validation, drawn)),
        ("Glucose of each person", clinical.glucose(name, own, table)),
    ]


def _glance(name: str, p: Predictions, table: pd.DataFrame, board: pd.DataFrame) -> str:
    last = p.horizon_min[-1]
    whole = parts.whole(table).set_index("metric").value
    rmse, unit = in_unit_of("rmse_mgdl", p.target), unit_of(p.target) or ""
    steps = table[(table.scope == "all") & (table.metric == rmse) & (table.kind == "step")]
    tiles = [
        (f"RMSE at {row.horizon_min:g} min", f"{row.value:.1f}", unit)
        for row in steps[steps.horizon_min.isin([30.0, last])].itertuples()
    ]
    covers = next((m for m in whole.index if m.startswith("coverage_")), None)
    for metric in ("mard_pct", "clarke_a_pct", *([covers] if covers else [])):
        if metric in whole.index:
            tiles.append((parts.label(metric).removesuffix(", %"), f"{whole[metric]:.1f}", "%"))
    tiles += [("people", f"{len(set(p.subject.tolist()))}", ""), ("windows", f"{len(p):,}", "")]
    found = parts.whole(table).set_index("metric").loc[rmse]
    return paragraph(_in_words(name, p.target, last, found, board)) + parts.tiles(tiles)


def _in_words(name: str, target: str, last: float, rmse: pd.Series, board: pd.DataFrame) -> str:
    between = "" if np.isnan(rmse.low) else f", interval over people {rmse.low:.1f} to {rmse.high:.1f}"
    what = "glucose" if target == GLUCOSE else target
    error = f"{rmse.value:.1f} {unit_of(target)}".rstrip()
    text = f"{name} forecasts {what} up to {last:g} minutes ahead with an RMSE of {error}{between}."
    if len(board) < 2 or name not in set(board.model):
        return text
    row, other = board.set_index("model").loc[name], _compared_with(board)
    best = f"the best {parts.label(board.columns[1]).split(',')[0]} of {len(board)} models on the same windows"
    if name == board.model.iloc[0]:
        return f"{text} It has {best}; the verdicts below say where that is more than noise."
    return f"{text} {board.model.iloc[0]} has {best}; against {other}, {name} is: {row.verdict}."


def _compared_with(board: pd.DataFrame) -> str:
    """The model of the differences: of the row that is compared with itself."""
    return str(board.model[board.verdict.isin(["best", "reference"])].iloc[0])


def _leaderboard(board: pd.DataFrame, confidence: float) -> str:
    metric = board.columns[1]
    shown = pd.DataFrame({"model": board.model, parts.label(metric): parts.with_interval(board, metric, "low", "high")})
    shown["difference"] = parts.with_interval(board, "difference", "diff_low", "diff_high")
    shown["verdict"] = board.verdict
    rest = board.columns[list(board.columns).index("verdict") + 1 :].drop(["n_subjects", "n_windows"], errors="ignore")
    for column in rest:
        shown[parts.label(column)] = board[column].map("{:.2f}".format)
    note = (
        f"Test data, {board.n_windows.iloc[0]:,} identical windows of {board.n_subjects.iloc[0]} people for every model, the "
        f"best first. {parts.label(metric).split(',')[0]} is pooled over the whole horizon. The difference is to {_compared_with(board)}; brackets "
        f"hold {confidence:.0%} intervals from resampling people, for differences the same people on both sides, and the "
        "verdict says no more than they do."
    )
    return paragraph(note + _too_few(board.n_subjects.min())) + table_html(shown)


def _too_few(people: int) -> str:
    if people >= MIN_SUBJECTS:
        return ""
    return f" There are fewer than {MIN_SUBJECTS} people: intervals can't be given, and none are."


def _examples(name: str, p: Predictions) -> str:
    caption = (
        f"Six forecasts of {name}, chosen by the rank of their RMSE among all test windows with at least half of the truth "
        "measured."
    )
    if p.target == GLUCOSE:
        caption += " Green: 70 to 180 mg/dL."
    if p.parts:
        caption += " The forecast is the mechanism plus what the lower panels show."
    return parts.figure(figures.examples(p), caption)


def _by_horizon(tables: dict[str, pd.DataFrame], confidence: float, target: str) -> str:
    caption = f"RMSE and MAE at each step of the horizon alone; bands: {confidence:.0%} intervals over people"
    return parts.figure(figures.by_horizon(tables, target), caption)


def _by_scope(tables: dict[str, pd.DataFrame], target: str) -> str:
    """Empty where nobody was held out: then the leaderboard says it all."""
    rmse, mae = (in_unit_of(f"{m}_mgdl", target) for m in ("rmse", "mae"))
    rows = []
    for name, table in tables.items():
        for scope, words in (("id", "seen in training"), ("ood", "held out")):
            found = parts.whole(table, scope).set_index("metric")
            if len(found):
                values = {
                    parts.label(m): parts.interval(found.loc[m])
                    for m in (rmse, mae, "mard_pct", "clarke_a_pct")
                    if m in found.index
                }
                counts = {"number": found.n_subjects[rmse], "windows": found.n_windows[rmse]}
                rows.append({"model": name, "people": words, **values, **counts})
    if len({row["people"] for row in rows}) < 2:
        return ""
    note = "Over the whole horizon. People seen in training are scored on other days of theirs; held-out people gave nothing to training."
    return paragraph(note) + table_html(pd.DataFrame(rows))


def _by_hour(predictions: dict[str, Predictions], people: SubjectBootstrap) -> str:
    caption = "RMSE over all steps of the horizon, by the local hour at which glucose was measured; bands: intervals over people"
    return parts.figure(figures.by_hour(predictions, people), caption)


def _insights(insights: list[dict[str, Any]]) -> str:
    if not insights:
        return ""
    note = (
        "The parameters of the cortisol-melatonin-adiponectin model as fitted to each person's glucose, in words by its authors' "
        "thresholds. They describe a fit, often a poorly determined one: ± is a standard deviation of the posterior; as assumed means "
        "that the data narrow what was assumed beforehand by less than a tenth; RMSE is of the readings about the fit, and "
        "above 30 mg/dL it describes them poorly. Not a diagnosis."
    )
    frame = pd.DataFrame(insights).fillna("").rename(columns=_PARAMETERS)
    return paragraph(note) + parts.folded(f"{len(frame)} fits", table_html(frame), len(frame) <= 12)


def _all_scores(name: str, table: pd.DataFrame) -> str:
    """Every pooled metric by horizon, at single steps and over all steps up to them; up to twelve horizons."""
    body = ""
    for kind, words in (("step", "at this horizon alone"), ("cumulative", "over all steps up to this horizon")):
        rows = table[(table.scope == "all") & (table.kind == kind)]
        wide = rows.pivot(index="horizon_min", columns="metric", values="value")[list(dict.fromkeys(rows.metric))]
        wide = wide.iloc[np.unique(np.linspace(0, len(wide) - 1, 12).round().astype(int))].rename(columns=parts.label)
        wide.insert(0, "minutes ahead", wide.index.map("{:g}".format))
        body += parts.folded(f"{name}, {words}", table_html(wide), False)
    return body + paragraph("With intervals and by scope: detailed_results.csv in the run's folder.")


def metadata_section(metadata: dict[str, Any]) -> str:
    """What a run recorded about itself."""
    rows = [(key, str(value)) for key, value in _flat(metadata).items() if not key.startswith("training.history")]
    short = [(key, value if len(value) <= 160 else value[:157] + "...") for key, value in rows]
    return parts.folded(
        f"{len(short)} facts about the run", table_html(pd.DataFrame(short, columns=["key", "value"])), len(short) <= 12
    )


def _flat(nested: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(nested, dict) or not nested:
        return {prefix[:-1]: nested}
    return {k: v for name, value in nested.items() for k, v in _flat(value, f"{prefix}{name}.").items()}
