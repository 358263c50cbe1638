"""report.html: what a run found, as figures where people would look rather than read. One file, opens offline."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from raycadian.evaluation import figures, metrics
from raycadian.evaluation.bootstrap import MIN_SUBJECTS, SubjectBootstrap
from raycadian.evaluation.glycemic import EXCURSIONS
from raycadian.evaluation.metrics import alarm_rules, score
from raycadian.evaluation.predictions import Predictions, written_whole
from raycadian.pages import figure_html, page, paragraph, table_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABELS = {
    "rmse_mgdl": "RMSE, mg/dL", "mae_mgdl": "MAE, mg/dL", "mape_pct": "MAPE, %", "mard_pct": "MARD, %",
    "bias_mgdl": "bias, mg/dL", "pinball_mgdl": "pinball loss, mg/dL", "clarke_a_pct": "Clarke A, %",
    "clarke_ab_pct": "Clarke A+B, %", "tir_truth_pct": "in range, %", "tir_forecast_pct": "in range by forecast, %",
    "tir_error_pct": "difference, % points",
}  # fmt: skip
_PARAMETERS = {
    "d": "circadian phase (d, h)", "taup": "exposure to light (taup)", "taug": "clearance after meals (taug)",
    "B": "baseline (B)", "Cm": "sensitivity to cortisol (Cm)",
}  # fmt: skip
_STYLE = {  # real text in the SVG: small, searchable; the page's colours take the place of these
    "svg.fonttype": "none", "svg.hashsalt": "raycadian", "text.color": figures.INK, "axes.labelcolor": figures.INK,
    "axes.edgecolor": figures.LINE, "xtick.color": figures.SOFT, "ytick.color": figures.SOFT, "axes.grid": True,
    "grid.color": figures.LINE, "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "savefig.dpi": 150,
}  # fmt: skip
_THEME = {figures.INK: "var(--ink)", figures.SOFT: "var(--soft)", figures.LINE: "var(--line)"}


def write_report(
    folder: Path,
    *,
    title: str,
    subtitle: str,
    leaderboard: pd.DataFrame,
    predictions: dict[str, Predictions],
    insights: list[dict[str, Any]] | None,
    metadata: dict[str, Any],
) -> Path:
    """Write `folder`/report.html, whole or not at all, and return its path.

    `predictions`: model name -> test predictions on identical windows, the run's own model first. `leaderboard`: of
    `compare.leaderboard` over them; its settings of the bootstrap hold for every interval of the page. `insights`: a row a person of the fitted mechanism in words, or none.
    """
    name, own = next(iter(predictions.items()))
    drawn = {"bootstrap": 1000, "confidence": 0.95, "seed": 0} | leaderboard.attrs
    confidence = drawn["confidence"]
    tables = {model: score(p, **drawn) for model, p in predictions.items()}
    people = SubjectBootstrap(own.subject, resamples=drawn["bootstrap"], confidence=confidence, seed=drawn["seed"])
    with mpl.rc_context(_STYLE):
        sections = [
            ("At a glance", _glance(name, own, tables[name], leaderboard)),
            ("Leaderboard", _leaderboard(leaderboard, confidence)),
            ("Example forecasts", _examples(name, own)),
            ("Error by horizon", _by_horizon(tables, confidence)),
            ("Seen and held-out people", _by_scope(tables)),
            ("Error by hour of day", _by_hour(predictions, people)),
            ("Clarke error grid", _clarke(name, own)),
            ("Lows and highs", _events(name, own, tables[name])),
            ("Calibration", _calibration(name, own, people)),
            ("Mechanism in words", _insights(insights or [])),
            ("All scores", _all_scores(name, tables[name])),
            ("Run", _metadata(metadata)),
            ("Definitions", f'<pre style="white-space:pre-wrap;font-size:.8rem">{escape(metrics.__doc__ or "")}</pre>'),
        ]
        html = page(title, [(head, body) for head, body in sections if body], subtitle)
    path = Path(folder) / "report.html"
    with written_whole(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def _glance(name: str, p: Predictions, table: pd.DataFrame, board: pd.DataFrame) -> str:
    last = p.horizon_min[-1]
    whole = _whole(table).set_index("metric").value
    steps = table[(table.scope == "all") & (table.metric == "rmse_mgdl") & (table.kind == "step")]
    tiles = [
        (f"RMSE at {row.horizon_min:g} min", f"{row.value:.1f}", "mg/dL")
        for row in steps[steps.horizon_min.isin([30.0, last])].itertuples()
    ]
    covers = next((m for m in whole.index if m.startswith("coverage_")), None)
    for metric in ("mard_pct", "clarke_a_pct", *([covers] if covers else [])):
        tiles.append((_label(metric).removesuffix(", %"), f"{whole[metric]:.1f}", "%"))
    tiles += [("people", f"{len(set(p.subject.tolist()))}", ""), ("windows", f"{len(p):,}", "")]
    return paragraph(_in_words(name, last, _whole(table).set_index("metric").loc["rmse_mgdl"], board)) + _tiles(tiles)


def _in_words(name: str, last: float, rmse: pd.Series, board: pd.DataFrame) -> str:
    between = "" if np.isnan(rmse.low) else f", interval over people {rmse.low:.1f} to {rmse.high:.1f}"
    text = f"{name} forecasts glucose up to {last:g} minutes ahead with an RMSE of {rmse.value:.1f} mg/dL{between}."
    if len(board) < 2 or name not in set(board.model):
        return text
    row, other = board.set_index("model").loc[name], _compared_with(board)
    best = f"the best {_label(board.columns[1]).split(',')[0]} of {len(board)} models on the same windows"
    if name == board.model.iloc[0]:
        return f"{text} It has {best}; the verdicts below say where that is more than noise."
    return f"{text} {board.model.iloc[0]} has {best}; against {other}, {name} is: {row.verdict}."


def _compared_with(board: pd.DataFrame) -> str:
    """The model of the differences: of the row that is compared with itself."""
    return str(board.model[board.verdict.isin(["best", "reference"])].iloc[0])


def _tiles(tiles: list[tuple[str, str, str]]) -> str:
    box = "background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:10px 14px;min-width:120px"
    body = "".join(
        f'<div style="{box}"><div style="font-size:1.5rem;font-weight:600">{escape(value)} '
        f'<small style="font-size:.8rem">{escape(unit)}</small></div><small>{escape(label)}</small></div>'
        for label, value, unit in tiles
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:10px">{body}</div>'


def _leaderboard(board: pd.DataFrame, confidence: float) -> str:
    metric = board.columns[1]
    shown = pd.DataFrame({"model": board.model, _label(metric): _with_interval(board, metric, "low", "high")})
    shown["difference"] = _with_interval(board, "difference", "diff_low", "diff_high")
    shown["verdict"] = board.verdict
    rest = board.columns[list(board.columns).index("verdict") + 1 :].drop(["n_subjects", "n_windows"], errors="ignore")
    for column in rest:
        shown[_label(column)] = board[column].map("{:.2f}".format)
    note = (
        f"Test data, {board.n_windows.iloc[0]:,} identical windows of {board.n_subjects.iloc[0]} people for every model, the "
        f"best first. {_label(metric).split(',')[0]} is pooled over the whole horizon. The difference is to {_compared_with(board)}; brackets "
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
        "measured. Green: 70 to 180 mg/dL."
    )
    if p.parts:
        caption += " The forecast is the mechanism plus what the lower panels show."
    return _figure(figures.examples(p), caption)


def _by_horizon(tables: dict[str, pd.DataFrame], confidence: float) -> str:
    caption = f"RMSE and MAE at each step of the horizon alone; bands: {confidence:.0%} intervals over people"
    return _figure(figures.by_horizon(tables), caption)


def _by_scope(tables: dict[str, pd.DataFrame]) -> str:
    """Empty where nobody was held out: then the leaderboard says it all."""
    rows = []
    for name, table in tables.items():
        for scope, words in (("id", "seen in training"), ("ood", "held out")):
            found = _whole(table, scope).set_index("metric")
            if len(found):
                values = {
                    _label(m): _interval(found.loc[m]) for m in ("rmse_mgdl", "mae_mgdl", "mard_pct", "clarke_a_pct")
                }
                counts = {"number": found.n_subjects["rmse_mgdl"], "windows": found.n_windows["rmse_mgdl"]}
                rows.append({"model": name, "people": words, **values, **counts})
    if len({row["people"] for row in rows}) < 2:
        return ""
    note = "Over the whole horizon. People seen in training are scored on other days of theirs; held-out people gave nothing to training."
    return paragraph(note) + table_html(pd.DataFrame(rows))


def _by_hour(predictions: dict[str, Predictions], people: SubjectBootstrap) -> str:
    caption = "RMSE over all steps of the horizon, by the local hour at which glucose was measured; bands: intervals over people"
    return _figure(figures.by_hour(predictions, people), caption)


def _clarke(name: str, p: Predictions) -> str:
    caption = (
        f"{name}: the median against what was measured. A: within 20% or both low; B: harmless; C: would overcorrect; D: a low or "
        "high missed; E: opposite treatment. Shares over all windows."
    )
    beyond = int((np.fmax(p.truth, p.median)[:, figures.clarke_steps(p)] > figures.CLARKE_MGDL).sum())
    if beyond:
        caption += f" Not drawn: {beyond} points beyond {figures.CLARKE_MGDL:g} mg/dL."
    return _figure(figures.clarke(p), caption)


def _events(name: str, p: Predictions, table: pd.DataFrame) -> str:
    scores = table[(table.scope == "all") & (table.kind == "window")].set_index("metric")
    rows = []
    for excursion in EXCURSIONS:
        what = f"{'above' if excursion.above else 'below'} {excursion.threshold_mgdl:g} mg/dL"
        for rule, position in alarm_rules(p.levels, excursion):
            found = {s: scores.loc[f"{excursion.name}{rule}_{s}"] for s in _ALARM}
            by = "median" if not rule else f"{100 * p.levels[position]:g}% quantile"
            rows.append({"event": what, "alarm by": by, "windows with it": found["sensitivity_pct"].n_windows}
                        | {_ALARM[s]: _interval(row, 1) for s, row in found.items()})  # fmt: skip
    whole = _whole(table).set_index("metric")
    tir = {m: _interval(whole.loc[m], 1) for m in ("tir_truth_pct", "tir_forecast_pct", "tir_error_pct")}
    note = (
        f"{name}. An event is at least 15 minutes in a row beyond the threshold within the horizon. A quantile raises more "
        f"alarms than the median, true and false. Time within 70 to 180 mg/dL: measured {tir['tir_truth_pct']}%, by the forecast "
        f"{tir['tir_forecast_pct']}%, difference {tir['tir_error_pct']} percentage points."
    )
    return paragraph(note) + table_html(pd.DataFrame(rows))


_ALARM = {
    "sensitivity_pct": "sensitivity, %",
    "precision_pct": "precision, %",
    "f1_pct": "F1, %",
    "false_alarms_per_day": "false alarms a day",
}


def _calibration(name: str, p: Predictions, people: SubjectBootstrap) -> str:
    caption = (
        f"{name}. Left: how often truth lies at or below each quantile. Middle: how often it lies inside each interval, by "
        "horizon. Right: density of truth between the quantiles; above 1 in the middle: intervals too wide, above 1 at the "
        "edges: too narrow. Dotted: perfectly calibrated. Bands: intervals over people."
    )
    return _figure(figures.calibration(p, people), caption)


def _insights(insights: list[dict[str, Any]]) -> str:
    if not insights:
        return ""
    note = (
        "The parameters of the cortisol-melatonin-adiponectin model as fitted to each person's glucose, in words by its authors' "
        "thresholds. They describe a fit, often a poorly determined one. Not a diagnosis."
    )
    frame = pd.DataFrame(insights).fillna("").rename(columns=_PARAMETERS)
    return paragraph(note) + _folded(f"{len(frame)} fits", table_html(frame), len(frame) <= 12)


def _all_scores(name: str, table: pd.DataFrame) -> str:
    """Every pooled metric by horizon, at single steps and over all steps up to them; up to twelve horizons."""
    body = ""
    for kind, words in (("step", "at this horizon alone"), ("cumulative", "over all steps up to this horizon")):
        rows = table[(table.scope == "all") & (table.kind == kind)]
        wide = rows.pivot(index="horizon_min", columns="metric", values="value")[list(dict.fromkeys(rows.metric))]
        wide = wide.iloc[np.unique(np.linspace(0, len(wide) - 1, 12).round().astype(int))].rename(columns=_label)
        wide.insert(0, "minutes ahead", wide.index.map("{:g}".format))
        body += _folded(f"{name}, {words}", table_html(wide), False)
    return body + paragraph("With intervals and by scope: detailed_results.csv in the run's folder.")


def _metadata(metadata: dict[str, Any]) -> str:
    rows = [(key, str(value)) for key, value in _flat(metadata).items() if not key.startswith("training.history")]
    short = [(key, value if len(value) <= 160 else value[:157] + "...") for key, value in rows]
    return _folded(
        f"{len(short)} facts about the run", table_html(pd.DataFrame(short, columns=["key", "value"])), len(short) <= 12
    )


def _flat(nested: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(nested, dict) or not nested:
        return {prefix[:-1]: nested}
    return {k: v for name, value in nested.items() for k, v in _flat(value, f"{prefix}{name}.").items()}


def _figure(figure: "Figure", caption: str) -> str:
    """Inline SVG in the page's own ink, so that it reads on light and dark ground."""
    html = figure_html(figure, caption).replace("<figure>", '<figure style="background:var(--bg)">', 1)
    for color, variable in _THEME.items():
        html = html.replace(color, variable)
    return html


def _folded(summary: str, body: str, is_open: bool) -> str:
    return f"<details{' open' * is_open}><summary>{escape(summary)}</summary>{body}</details>"


def _whole(table: pd.DataFrame, scope: str = "all") -> pd.DataFrame:
    """Pooled metrics over the whole horizon."""
    rows = table[(table.scope == scope) & (table.kind == "cumulative")]
    return rows[rows.horizon_min == rows.horizon_min.max()]


def _label(metric: str) -> str:
    """rmse_mgdl_at_30min -> RMSE, mg/dL at 30 min; coverage_90_pct -> 90% interval covers, %."""
    base, _, step = metric.partition("_at_")
    words = base.split("_")
    if words[0] == "coverage":
        name = f"{words[1]}% interval covers, %"
    elif words[0] == "width":
        name = f"{words[1]}% interval width, mg/dL"
    else:
        name = _LABELS[base]
    return name if not step else f"{name.split(',')[0]} at {step.removesuffix('min')} min"


def _with_interval(frame: pd.DataFrame, value: str, low: str, high: str) -> list[str]:
    return [_brackets(*row, digits=2) for row in frame[[value, low, high]].itertuples(index=False)]


def _interval(row: pd.Series, digits: int = 2) -> str:
    return _brackets(row.value, row.low, row.high, digits)


def _brackets(value: float, low: float, high: float, digits: int) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:.{digits}f}" + ("" if np.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]")
