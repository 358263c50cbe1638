"""report.html of classify, regress and pretrain, with the parts that the report of forecasts is made of."""

from __future__ import annotations

from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from scipy.special import expit

from raycadian.evaluation import report_parts as parts
from raycadian.evaluation.bootstrap import SubjectBootstrap
from raycadian.evaluation.forecast import figures
from raycadian.evaluation.label import classification
from raycadian.evaluation.label.classification import curves, equal_mass, reliability, score_labels
from raycadian.evaluation.label.decision import Decision
from raycadian.evaluation.label.flow_chart import flow_chart
from raycadian.evaluation.label.predictions import LabelPredictions
from raycadian.evaluation.report import metadata_section
from raycadian.files import written_whole
from raycadian.pages import new_figure, page, paragraph, table_html

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Named = dict[str, tuple[LabelPredictions, Decision | None]]


def write_report(
    folder: Path, *, title: str, subtitle: str, leaderboard: pd.DataFrame, predictions: Named, metadata: dict[str, Any],
    unit: str = "", flow: dict[str, Any] | None = None, further: dict[str, tuple[Named, pd.DataFrame]] | None = None,
) -> Path:  # fmt: skip
    """Write `folder`/report.html, whole or not at all, and return its path.

    `predictions`: model name -> test predictions on identical windows and what was decided on validation windows, the
    run's own model first. `leaderboard`: of `classification.leaderboard` over them, whose settings of the bootstrap hold
    for every interval of the page. `unit`: of the label of a regression, where it has one.
    `flow`: steps of the cohort, and people of each split · `further`: label -> predictions and leaderboard of each further one.
    """
    name, (own, decision) = next(iter(predictions.items()))
    drawn = leaderboard.attrs
    people = SubjectBootstrap(
        own.subject, resamples=drawn["bootstrap"], confidence=drawn["confidence"], seed=drawn["seed"]
    )
    table = score_labels(own, decision, **drawn)
    with mpl.rc_context(parts.STYLE):
        if decision is None:
            figures_of = [("Truth and estimate", partial(_scatter, name, own, unit))]
        else:
            figures_of = [
                ("How well windows are told apart", partial(_curves, predictions)),
                ("Do probabilities mean what they say?", partial(_reliability, name, own, decision, people, table)),
                ("Alarms over a case", partial(_case, name, own, decision)),
            ]
        sections = [
            ("At a glance", _glance(name, own, table, leaderboard, unit)),
            ("Who is in it", "" if flow is None else flow_chart(flow["steps"], flow["people"])),
            ("Leaderboard", _leaderboard(leaderboard)),
            *((head, draw()) for head, draw in figures_of),
            ("All scores", _scores(name, table, drawn["confidence"])),
            *((f"Also: {label}", _further(*found, unit)) for label, found in (further or {}).items()),
            ("Run", metadata_section(metadata)),
            ("Definitions", _definitions()),
        ]
    return _write(folder, title, [(head, body) for head, body in sections if body], subtitle)


def _further(predictions: Named, board: pd.DataFrame, unit: str) -> str:
    """What is said of the first label, of another."""
    name, (own, decision) = next(iter(predictions.items()))
    drawn = board.attrs
    table = score_labels(own, decision, **drawn)
    people = SubjectBootstrap(
        own.subject, resamples=drawn["bootstrap"], confidence=drawn["confidence"], seed=drawn["seed"]
    )
    drawings = (
        _scatter(name, own, unit)
        if decision is None
        else _curves(predictions) + _reliability(name, own, decision, people, table)
    )
    scores = _scores(name, table, drawn["confidence"])
    return _glance(name, own, table, board, unit) + _leaderboard(board) + drawings + scores


def write_pretraining(folder: Path, title: str, subtitle: str, metadata: dict[str, Any]) -> Path:
    """The same of a run that learns without labels: its loss by epoch."""
    history = pd.DataFrame(metadata["training"]["history"])
    with mpl.rc_context(parts.STYLE):
        figure, axis = new_figure()
        for column in ("train/loss", "val/loss"):
            axis.plot(history["epoch"], history[column], label=column)
        axis.set(xlabel="epoch", ylabel="loss, standardised")
        axis.legend(frameon=False)
        losses = parts.figure(figure, "Loss of rebuilding what was hidden, in variances of the signal")
    return _write(folder, title, [("Loss", losses), ("Run", metadata_section(metadata))], subtitle)


def _write(folder: Path, title: str, sections: list[tuple[str, str]], subtitle: str) -> Path:
    path = Path(folder) / "report.html"
    with written_whole(path) as temporary:
        temporary.write_text(page(title, sections, subtitle), encoding="utf-8")
    return path


def _definitions() -> str:
    return f'<pre style="white-space:pre-wrap;font-size:.8rem">{escape(classification.__doc__ or "")}</pre>'


def _glance(name: str, p: LabelPredictions, table: pd.DataFrame, board: pd.DataFrame, unit: str) -> str:
    shown = table.set_index("metric")
    wanted = ("auroc", "auprc", "sensitivity", "specificity", "ece", "lead_time_min", "mae", "rmse", "ccc", "r2")
    tiles = [(parts.label(m), f"{shown.value[m]:.3g}", _between(shown.loc[m])) for m in wanted if m in shown.index]
    tiles += [("people", f"{shown.n_subjects.iloc[0]}", ""), ("cases", f"{len(set(p.case.tolist())):,}", "")]
    tiles += [("windows", f"{len(p):,}", "")]
    metric = board.columns[1]
    best = f"{board.model.iloc[0]} leads" if len(board) > 1 else f"{name} stands alone"
    score = f"{parts.interval(shown.loc[metric], 3)} {unit}".rstrip()
    words = f"{name}: {parts.label(metric)} {score} on held-out people; {best}."
    return paragraph(words) + parts.tiles(tiles)


def _between(row: pd.Series) -> str:
    return "" if np.isnan(row.low) else f"[{row.low:.3g}, {row.high:.3g}]"


def _leaderboard(board: pd.DataFrame) -> str:
    metric = board.columns[1]
    shown = pd.DataFrame({"model": board.model, parts.label(metric): _three(board, metric, "low", "high")})
    shown["difference"] = _three(board, "difference", "diff_low", "diff_high")
    shown["verdict"] = board.verdict
    rest = board.columns[list(board.columns).index("verdict") + 1 :].drop(["n_subjects", "n_windows"])
    for column in rest:
        shown[parts.label(column)] = board[column].map("{:.3f}".format)
    note = (
        f"Test data, {board.n_windows.iloc[0]:,} identical windows of {board.n_subjects.iloc[0]} people for every model, the "
        f"best first. Brackets hold {board.attrs['confidence']:.0%} intervals from resampling people, for differences to the "
        "best the same people on both sides."
    )
    return paragraph(note) + table_html(shown)


def _three(frame: pd.DataFrame, value: str, low: str, high: str) -> list[str]:
    return [parts.brackets(*row, digits=3) for row in frame[[value, low, high]].itertuples(index=False)]


def _curves(predictions: Named) -> str:
    figure, axes = new_figure(9.0, 4.2, ncols=2)
    for name, (p, decision) in predictions.items():
        fpr, tpr, precision = curves(decision.probability(p.score, p.case), p.label, p.weight)
        axes[0].plot(fpr, tpr, label=name)
        axes[1].plot(tpr, precision, label=name)
    p = next(iter(predictions.values()))[0]
    axes[0].plot([0, 1], [0, 1], color=figures.SOFT, linewidth=0.8, linestyle=":")
    axes[1].axhline(np.average(p.label, weights=p.weight), color=figures.SOFT, linewidth=0.8, linestyle=":")
    axes[0].set(xlabel="1 - specificity", ylabel="sensitivity")
    axes[1].set(xlabel="sensitivity", ylabel="precision", ylim=(0, 1.02))
    axes[1].legend(frameon=False, fontsize=8)
    return parts.figure(figure, "ROC and precision-recall curves over all test windows; dotted: chance")


def _reliability(
    name: str, p: LabelPredictions, decision: Decision, people: SubjectBootstrap, table: pd.DataFrame
) -> str:
    figure, axes = new_figure(9.0, 4.2, ncols=2, sharey=True)
    said = decision.probability(p.score, p.case)
    for axis, title, found in ((axes[0], "before calibration", expit(p.score)), (axes[1], "calibrated", said)):
        _reliability_of(axis, reliability(found, p.label, p.weight, people, equal_mass(found, 10)))
        axis.set(title=title, xlabel="probability said")
    axes[0].set_ylabel("share with the label")
    caption = (
        f"{name}: ten bins of equal numbers of test windows; bars: intervals over people. "
        f"Calibration: {decision.calibration.kind}, fitted on validation windows"
    )
    return parts.figure(figure, caption) + paragraph(_calibration_in_words(table.set_index("metric")))


def _calibration_in_words(shown: pd.DataFrame) -> str:
    ece, raw, chance = (parts.interval(shown.loc[m], 3) for m in ("ece", "ece_raw", "ece_chance"))
    within = shown.value["ece"] <= shown.high["ece_chance"]
    says = "so nothing speaks against the probabilities" if within else "so they are off by more than chance explains"
    return (
        f"Expected calibration error {ece} after calibration, {raw} before. With as many people, calibrated probabilities give "
        f"{chance} by chance alone, {says}."
    )


def _reliability_of(axis: "Axes", table: pd.DataFrame) -> None:
    axis.plot([0, 1], [0, 1], color=figures.SOFT, linewidth=0.8, linestyle=":")
    axis.plot(table.said, table.observed, marker="o", markersize=3)
    axis.vlines(table.said, table.low, table.high, linewidth=1.2)


def _case(name: str, p: LabelPredictions, decision: Decision) -> str:
    """The test case with most windows that have the label."""
    cases, of = np.unique(p.case, return_inverse=True)
    chosen = p.case == cases[np.argmax(np.bincount(of, p.label))]
    case = p.select(chosen)
    minutes = (case.time_utc - case.time_utc[0]).astype(np.int64) / 60
    figure, axis = new_figure()
    axis.fill_between(minutes, 0, 1, where=case.label == 1, step="mid", alpha=0.2, linewidth=0)
    axis.plot(minutes, decision.probability(case.score, case.case))
    axis.axhline(decision.threshold, color=figures.SOFT, linewidth=0.8, linestyle="--")
    axis.set(xlabel="minutes of the case", ylabel="probability", ylim=(0, 1))
    caption = (
        f"{name} over case {case.case[0]}, the test case with most windows that have the label (shaded); dashed: the alarm's "
        "threshold, from validation windows"
    )
    return parts.figure(figure, caption)


def _scatter(name: str, p: LabelPredictions, unit: str) -> str:
    shown = np.linspace(0, len(p) - 1, min(len(p), 2000)).round().astype(int)
    figure, axis = new_figure(5.0, 4.6)
    axis.scatter(p.label[shown], p.score[shown], s=5, alpha=0.4, linewidths=0, rasterized=True)
    ends = [min(p.label.min(), p.score.min()), max(p.label.max(), p.score.max())]
    axis.plot(ends, ends, color=figures.SOFT, linewidth=0.8, linestyle=":")
    axis.set(**{f"{side}label": f"{what}, {unit}".rstrip(", ") for side, what in (("x", "label"), ("y", "estimate"))})
    return parts.figure(figure, f"{name}: {len(shown):,} of {len(p):,} test windows, evenly spaced; dotted: equal")


def _scores(name: str, table: pd.DataFrame, confidence: float) -> str:
    shown = pd.DataFrame({"metric": table.metric, "value": _three(table, "value", "low", "high")})
    return parts.folded(f"{name}, with {confidence:.0%} intervals over people", table_html(shown), True)
