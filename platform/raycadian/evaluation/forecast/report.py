"""The sections of a report on forecasts; pairs of models in words, and ranks over people as a diagram."""

from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from raycadian.config import Evaluation, in_unit_of, unit_of
from raycadian.evaluation import report as parts
from raycadian.evaluation.bootstrap import MIN_SUBJECTS, SubjectBootstrap
from raycadian.evaluation.forecast import figures
from raycadian.evaluation.forecast import report_clinical as clinical
from raycadian.evaluation.forecast.compare import differences, rank_models
from raycadian.evaluation.forecast.metrics import score
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.evaluation.forecast.significance import Ranks
from raycadian.evaluation.metric import label
from raycadian.evaluation.report import INK, MODELS, STYLE
from raycadian.pages import Figure, Section, new_figure, paragraph, table_html

_PARAMETERS = {
    "d": "circadian phase (d, h)", "taup": "exposure to light (taup)", "taug": "clearance after meals (taug)",
    "B": "baseline (B)", "Cm": "sensitivity to cortisol (Cm)",
}  # fmt: skip


def sections(
    predictions: dict[str, Predictions], leaderboard: pd.DataFrame, insights: list[dict[str, Any]] | None = None,
    validation: Predictions | None = None,
) -> list[Section]:  # fmt: skip
    """What a run's report shows of its forecasts, those without a body left empty.

    `predictions`: model name -> test predictions on identical windows, the run's own model first. `leaderboard`: of
    `compare.leaderboard` over them; its settings of the bootstrap hold for every interval of the page. `insights`: a
    row a person of the fitted mechanism in words, or none. `validation`: the run's own validation predictions, which
    probabilities of lows and adaptive intervals are calibrated on; without them those are left out.
    """
    name, own = next(iter(predictions.items()))
    evaluation = Evaluation(**leaderboard.attrs)
    confidence = evaluation.confidence
    tables = {model: score(p, evaluation) for model, p in predictions.items()}
    people = SubjectBootstrap(own.subject, evaluation)
    with mpl.rc_context(STYLE):
        return [
            Section("At a glance", _glance(name, own, tables[name], leaderboard)),
            Section("Leaderboard", _leaderboard(leaderboard, confidence)),
            Section("What is better", comparison(predictions, leaderboard, evaluation)),
            Section("Example forecasts", _examples(name, own)),
            Section("Error by horizon", _by_horizon(tables, confidence, own.target)),
            Section("Seen and held-out people", _by_scope(tables, own.target)),
            *(_of_glucose(name, predictions, tables[name], people, validation, evaluation) if own.glycemic else ()),
            Section("Calibration", clinical.calibration(name, own, people, validation)),
            Section("Mechanism in words", _insights(insights or [])),
            Section("All scores", _all_scores(name, tables[name])),
        ]


def _of_glucose(
    name: str, predictions: dict[str, Predictions], table: pd.DataFrame, people: SubjectBootstrap,
    validation: Predictions | None, evaluation: Evaluation,
) -> list[Section]:  # fmt: skip
    """What only glucose has: a local clock, error grids, lows and highs, a clinic's figures."""
    own = predictions[name]
    return [
        Section("Error by hour of day", _by_hour(predictions, people)),
        Section("Error grids", clinical.error_grids(name, own, table)),
        Section("Lows and highs", clinical.events(name, own, table)),
        Section("Probability of a low", clinical.low_probability(name, own, validation, evaluation)),
        Section("Glucose of each person", clinical.glucose(name, own, table)),
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
            tiles.append((label(metric).removesuffix(", %"), f"{whole[metric]:.1f}", "%"))
    tiles += [("people", f"{len(set(p.subject.tolist()))}", ""), ("windows", f"{len(p):,}", "")]
    return paragraph(_in_words(name, p, parts.whole(table).set_index("metric").loc[rmse], board)) + parts.tiles(tiles)


def _in_words(name: str, p: Predictions, rmse: pd.Series, board: pd.DataFrame) -> str:
    between = "" if np.isnan(rmse.low) else f", interval over people {rmse.low:.1f} to {rmse.high:.1f}"
    what = "glucose" if p.glycemic else p.target
    error = f"{rmse.value:.1f} {unit_of(p.target)}".rstrip()
    text = f"{name} forecasts {what} up to {p.horizon_min[-1]:g} minutes ahead with an RMSE of {error}{between}."
    if len(board) < 2 or name not in set(board.model):
        return text
    row, other = board.set_index("model").loc[name], _compared_with(board)
    best = f"the best {label(board.columns[1]).split(',')[0]} of {len(board)} models on the same windows"
    if name == board.model.iloc[0]:
        return f"{text} It has {best}; the verdicts below say where that is more than noise."
    return f"{text} {board.model.iloc[0]} has {best}; against {other}, {name} is: {row.verdict}."


def _compared_with(board: pd.DataFrame) -> str:
    """The model of the differences: of the row that is compared with itself."""
    return str(board.model[board.verdict.isin(["best", "reference"])].iloc[0])


def _leaderboard(board: pd.DataFrame, confidence: float) -> str:
    note = (
        f"{label(board.columns[1]).split(',')[0]} is pooled over the whole horizon. The difference is to "
        f"{_compared_with(board)}; brackets hold {confidence:.0%} intervals from resampling people, for differences "
        "the same people on both sides, and the verdict says no more than they do."
    )
    text = parts.identical_windows(board) + note + _too_few(board.n_subjects.min())
    return paragraph(text) + parts.leaderboard(board, digits=2)


def _too_few(people: int) -> str:
    if people >= MIN_SUBJECTS:
        return ""
    return f" There are fewer than {MIN_SUBJECTS} people: intervals can't be given, and none are."


def _examples(name: str, p: Predictions) -> str:
    caption = (
        f"Six forecasts of {name}, chosen by the rank of their RMSE among all test windows with at least half of the "
        "truth measured."
    )
    if p.glycemic:
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
            scores = parts.whole(table, scope).set_index("metric")
            if len(scores):
                known = [m for m in (rmse, mae, "mard_pct", "clarke_a_pct") if m in scores.index]
                values = {label(m): parts.interval(scores.loc[m]) for m in known}
                counts = {"number": scores.n_subjects[rmse], "windows": scores.n_windows[rmse]}
                rows.append({"model": name, "people": words, **values, **counts})
    if len({row["people"] for row in rows}) < 2:
        return ""
    note = (
        "Over the whole horizon. People seen in training are scored on other days of theirs; held-out people gave "
        "nothing to training."
    )
    return paragraph(note) + table_html(pd.DataFrame(rows))


def _by_hour(predictions: dict[str, Predictions], people: SubjectBootstrap) -> str:
    caption = (
        "RMSE over all steps of the horizon, by the local hour at which glucose was measured; bands: intervals over "
        "people"
    )
    return parts.figure(figures.by_hour(predictions, people), caption)


def _insights(insights: list[dict[str, Any]]) -> str:
    if not insights:
        return ""
    note = (
        "The parameters of the cortisol-melatonin-adiponectin model as fitted to each person's glucose, in words by "
        "its authors' thresholds. They describe a fit, often a poorly determined one: ± is a standard deviation of "
        "the posterior; as assumed means that the data narrow what was assumed beforehand by less than a tenth; RMSE "
        "is of the readings about the fit, and above 30 mg/dL it describes them poorly. Not a diagnosis."
    )
    frame = pd.DataFrame(insights).fillna("").rename(columns=_PARAMETERS)
    return paragraph(note) + parts.folded(f"{len(frame)} fits", table_html(frame), len(frame) <= 12)


def _all_scores(name: str, table: pd.DataFrame) -> str:
    """Every pooled metric by horizon, at single steps and over all steps up to them; up to twelve horizons."""
    body = ""
    for kind, words in (("step", "at this horizon alone"), ("cumulative", "over all steps up to this horizon")):
        rows = table[(table.scope == "all") & (table.kind == kind)]
        wide = rows.pivot(index="horizon_min", columns="metric", values="value")[list(dict.fromkeys(rows.metric))]
        wide = wide.iloc[np.unique(np.linspace(0, len(wide) - 1, 12).round().astype(int))].rename(columns=label)
        wide.insert(0, "minutes ahead", wide.index.map("{:g}".format))
        body += parts.folded(f"{name}, {words}", table_html(wide), False)
    return body + paragraph("With intervals and by scope: detailed_results.csv in the run's folder.")


_NOTE = (
    "The better model of each pair comes first. The difference is of {label}; brackets hold {confidence:.0%} "
    "intervals from resampling people: would it hold in other people? p: the Diebold-Mariano test over the windows of "
    "all people with the small-sample correction of Harvey, Leybourne and Newbold: would it hold for these people on "
    "other days? It is corrected by Holm's method for the {tests} comparisons over the whole horizon, and apart for "
    "those at single steps. Better: both say so. Better for these people: only the test does."
)


def comparison(named: dict[str, Predictions], board: pd.DataFrame, evaluation: Evaluation) -> str:
    """Every pair over the whole horizon, at single steps folded, and the ranks; empty for one model."""
    if len(named) < 2:
        return ""
    metric, confidence = str(board.columns[1]), evaluation.confidence
    pairs = differences_html(differences(named, evaluation, metric=metric), metric, confidence)
    return pairs + ranks_html(named, metric, confidence)


def differences_html(table: pd.DataFrame, metric: str, confidence: float) -> str:
    """The table of `compare.differences` for people, and how to read it."""
    return note(table, label(metric).split(",")[0], confidence) + pairs_html(table)


def note(table: pd.DataFrame, metric: str, confidence: float) -> str:
    """How to read pairs of models."""
    tests = int(table.p_holm[table.kind == "cumulative"].notna().sum())
    return paragraph(_NOTE.format(label=metric, confidence=confidence, tests=tests))


def pairs_html(table: pd.DataFrame) -> str:
    """Pairs in words and as a table; those at single steps folded."""
    whole = table.kind == "cumulative"
    sentences = "".join(f"<li>{escape(text)}</li>" for text in table.sentence[whole])
    rest = "" if whole.all() else parts.folded("At single steps", table_html(_shown(table[~whole])), False)
    return f"<ul>{sentences}</ul>" + table_html(_shown(table[whole])) + rest


def ranks_html(named: dict[str, Predictions], metric: str, confidence: float) -> str:
    """The critical-difference diagram, where there are three models and two people at least."""
    people = len(set(next(iter(named.values())).subject.tolist()))
    if len(named) < 3 or people < 2:
        return ""
    ranks = rank_models(named, metric, 1 - confidence)
    caption = (
        f"Mean rank over {ranks.n_subjects} people by their own {label(metric).split(',')[0]}; 1 is best. Bars join "
        f"models that Nemenyi's test can't tell apart (critical difference {ranks.critical:.2f}). Friedman's test that "
        f"all rank the same: p {p_value(ranks.p)}."
    )
    return parts.figure(critical_difference(ranks), caption)


def critical_difference(ranks: Ranks) -> Figure:
    """Models along an axis of mean ranks, bars over those that can't be told apart (Demšar 2006, figure 1)."""
    names, groups = sorted(ranks.mean, key=ranks.mean.__getitem__), ranks.groups()
    figure, axis = new_figure(9, 0.9 + 0.26 * len(names) + 0.16 * len(groups))
    for row, group in enumerate(groups):
        y = -0.4 - 0.5 * row
        axis.plot([ranks.mean[group[0]], ranks.mean[group[-1]]], [y, y], color=INK, lw=4, solid_capstyle="round")
    top = -0.4 - 0.5 * len(groups)
    for i, name in enumerate(names):  # the leftmost reaches lowest: no label is crossed
        x, y = ranks.mean[name], top - 0.8 * (len(names) - i)
        axis.plot([x, x], [0, y], color=MODELS[i % len(MODELS)], lw=1)
        axis.text(x, y, f" {name}  {x:.2f}", va="center", fontsize=9, parse_math=False)
    axis.plot([1, 1 + ranks.critical], [0.7, 0.7], color=INK, lw=1.5, marker="|")
    axis.text(1, 0.85, f"critical difference {ranks.critical:.2f}", fontsize=8, va="bottom")
    axis.set(
        xlim=(0.95, max(len(names), 1 + ranks.critical) + 0.9), ylim=(top - 0.8 * len(names) - 0.5, 1.8), yticks=[]
    )
    axis.set_xticks(range(1, len(names) + 1))
    axis.xaxis.tick_top()
    axis.grid(False)
    axis.spines[["left", "bottom", "right"]].set_visible(False)
    axis.spines["top"].set_visible(True)
    return figure


def p_value(p: float) -> str:
    return "–" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({
        "model": table.model, "against": table.other, "minutes": table.horizon_min.map("{:g}".format),
        "difference": parts.with_interval(table, "difference", "diff_low", "diff_high"),
        "%": table.relative_pct.map("{:.1f}".format), "p": table.p.map(p_value), "p, Holm": table.p_holm.map(p_value),
        "verdict": table.verdict,
    })  # fmt: skip
