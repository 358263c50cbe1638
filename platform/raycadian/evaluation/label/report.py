"""The sections of a report on classify, regress and pretrain, their figures and the cohort's flow chart."""

import textwrap
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from scipy.special import expit

from raycadian.config import Evaluation
from raycadian.evaluation import report as parts
from raycadian.evaluation.bootstrap import SubjectBootstrap
from raycadian.evaluation.label.classification import curves, equal_mass, reliability, score_labels
from raycadian.evaluation.label.decision import Decided, Decision, JoinedDecisions
from raycadian.evaluation.label.predictions import LabelPredictions
from raycadian.evaluation.metric import label
from raycadian.evaluation.report import SOFT, STYLE
from raycadian.pages import Axes, Figure, Section, new_figure, paragraph, table_html

Named = dict[str, Decided]


def sections(
    predictions: Named, leaderboard: pd.DataFrame, unit: str = "", flow: dict[str, Any] | None = None,
    further: dict[str, tuple[Named, pd.DataFrame]] | None = None,
) -> list[Section]:  # fmt: skip
    """What a run's report shows of its label, those without a body left empty.

    `predictions`: model name -> test predictions on identical windows and what was decided on validation windows, the
    run's own model first. `leaderboard`: of `compare.leaderboard` over them, whose settings of the bootstrap hold for
    every interval of the page. `unit`: of the label of a regression, where it has one. `flow`: steps of the cohort, and
    people of each split · `further`: label -> predictions and leaderboard of each further one.
    """
    with mpl.rc_context(STYLE):
        first = _OfLabel(predictions, leaderboard, unit)
        return [
            Section("At a glance", first.glance()),
            Section("Who is in it", "" if flow is None else flow_chart(flow["steps"], flow["people"])),
            Section("Leaderboard", first.leaderboard()),
            *first.figures(),
            Section("All scores", first.scores()),
            *(Section(f"Also: {name}", _OfLabel(*own, unit).body()) for name, own in (further or {}).items()),
        ]


def pretraining_sections(history: Sequence[dict[str, Any]]) -> list[Section]:
    """Of a run that learns without labels: its loss by epoch."""
    table = pd.DataFrame(history)
    with mpl.rc_context(STYLE):
        figure, axis = new_figure()
        for column in ("train/loss", "val/loss"):
            axis.plot(table["epoch"], table[column], label=column)
        axis.set(xlabel="epoch", ylabel="loss, standardised")
        axis.legend(frameon=False)
        return [Section("Loss", parts.figure(figure, "Loss of rebuilding what was hidden, in variances of the signal"))]


class _OfLabel:
    """What a page shows of one label: the run's own model first, its peers beside it."""

    def __init__(self, predictions: Named, board: pd.DataFrame, unit: str):
        self.predictions, self.board, self.unit = predictions, board, unit
        self.name, (self.own, self.decision) = next(iter(predictions.items()))
        evaluation = Evaluation(**board.attrs)
        self.confidence = evaluation.confidence
        self.table = score_labels(self.own, self.decision, evaluation)
        self.people = SubjectBootstrap(self.own.subject, evaluation)

    def body(self) -> str:
        """In one section, but for the alarms over a case."""
        return self.glance() + self.leaderboard() + "".join(f.body for f in self.figures()[:2]) + self.scores()

    def figures(self) -> list[Section]:
        if self.decision is None:
            return [Section("Truth and estimate", _scatter(self.name, self.own, self.unit))]
        own = (self.name, self.own, self.decision)
        return [
            Section("How well windows are told apart", _curves(self.predictions)),
            Section("Do probabilities mean what they say?", _reliability(*own, self.people, self.table)),
            Section("Alarms over a case", _case(*own)),
        ]

    def glance(self) -> str:
        return _glance(self.name, self.own, self.table, self.board, self.unit)

    def leaderboard(self) -> str:
        note = (
            f"Brackets hold {self.confidence:.0%} intervals from resampling people, for differences to the best the "
            "same people on both sides."
        )
        return paragraph(parts.identical_windows(self.board) + note) + parts.leaderboard(self.board, digits=3)

    def scores(self) -> str:
        values = parts.with_interval(self.table, "value", "low", "high", digits=3)
        shown = pd.DataFrame({"metric": self.table.metric, "value": values})
        return parts.folded(f"{self.name}, with {self.confidence:.0%} intervals over people", table_html(shown), True)


def _glance(name: str, p: LabelPredictions, table: pd.DataFrame, board: pd.DataFrame, unit: str) -> str:
    shown = table.set_index("metric")
    wanted = ("auroc", "auprc", "sensitivity", "specificity", "ece", "lead_time_min", "mae", "rmse", "ccc", "r2")
    tiles = [(label(m), f"{shown.value[m]:.3g}", _between(shown.loc[m])) for m in wanted if m in shown.index]
    tiles += [("people", f"{shown.n_subjects.iloc[0]}", ""), ("cases", f"{len(set(p.case.tolist())):,}", "")]
    tiles += [("windows", f"{len(p):,}", "")]
    metric = board.columns[1]
    best = f"{board.model.iloc[0]} leads" if len(board) > 1 else f"{name} stands alone"
    score = f"{parts.interval(shown.loc[metric], 3)} {unit}".rstrip()
    words = f"{name}: {label(metric)} {score} on held-out people; {best}."
    return paragraph(words) + parts.tiles(tiles)


def _between(row: pd.Series) -> str:
    return "" if np.isnan(row.low) else f"[{row.low:.3g}, {row.high:.3g}]"


def _curves(predictions: Named) -> str:
    figure, axes = new_figure(9.0, 4.2, ncols=2)
    for name, (p, decision) in predictions.items():
        fpr, tpr, precision = curves(decision.probability(p.score, p.case), p.label, p.weight)
        axes[0].plot(fpr, tpr, label=name)
        axes[1].plot(tpr, precision, label=name)
    p = next(iter(predictions.values()))[0]
    axes[0].plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=":")
    axes[1].axhline(np.average(p.label, weights=p.weight), color=SOFT, linewidth=0.8, linestyle=":")
    axes[0].set(xlabel="1 - specificity", ylabel="sensitivity")
    axes[1].set(xlabel="sensitivity", ylabel="precision", ylim=(0, 1.02))
    axes[1].legend(frameon=False, fontsize=8)
    return parts.figure(figure, "ROC and precision-recall curves over all test windows; dotted: chance")


def _reliability(
    name: str, p: LabelPredictions, decision: Decision, people: SubjectBootstrap, table: pd.DataFrame
) -> str:
    figure, axes = new_figure(9.0, 4.2, ncols=2, sharey=True)
    calibrated = decision.probability(p.score, p.case)
    titled = ((axes[0], "before calibration", expit(p.score)), (axes[1], "calibrated", calibrated))
    for axis, title, probability in titled:
        _reliability_of(axis, reliability(probability, p.label, p.weight, people, equal_mass(probability, 10)))
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
        f"Expected calibration error {ece} after calibration, {raw} before. With as many people, calibrated "
        f"probabilities give {chance} by chance alone, {says}."
    )


def _reliability_of(axis: Axes, table: pd.DataFrame) -> None:
    axis.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=":")
    axis.plot(table.predicted, table.observed, marker="o", markersize=3)
    axis.vlines(table.predicted, table.low, table.high, linewidth=1.2)


def _case(name: str, p: LabelPredictions, decision: Decision) -> str:
    figure, case = longest_case(p, decision)
    caption = (
        f"{name} over case {case}, the test case with most windows that have the label (shaded); dashed: the "
        "alarm's threshold, from validation windows"
    )
    return parts.figure(figure, caption)


def _scatter(name: str, p: LabelPredictions, unit: str) -> str:
    figure, n_shown = scatter(p, unit)
    return parts.figure(figure, f"{name}: {n_shown:,} of {len(p):,} test windows, evenly spaced; dotted: equal")


_SHOWN = 2000  # windows of a scatter plot


def longest_case(p: LabelPredictions, decision: Decision | JoinedDecisions) -> tuple[Figure, str]:
    """The probability over the case with most windows that have the label (shaded), and that case."""
    cases, of = np.unique(p.case, return_inverse=True)
    chosen = p.case == cases[np.argmax(np.bincount(of, p.label))]
    case = p.select(chosen)
    minutes = (case.time_utc - case.time_utc[0]).astype(np.int64) / 60
    figure, axis = new_figure()
    axis.fill_between(minutes, 0, 1, where=case.label == 1, step="mid", alpha=0.2, linewidth=0)
    axis.plot(minutes, decision.probability(case.score, case.case))
    axis.axhline(decision.threshold, color=SOFT, linewidth=0.8, linestyle="--")
    axis.set(xlabel="minutes of the case", ylabel="probability", ylim=(0, 1))
    return figure, str(case.case[0])


def scatter(p: LabelPredictions, unit: str) -> tuple[Figure, int]:
    """Estimates over labels, and of how many windows."""
    shown = np.linspace(0, len(p) - 1, min(len(p), _SHOWN)).round().astype(int)
    figure, axis = new_figure(5.0, 4.6)
    axis.scatter(p.label[shown], p.score[shown], s=5, alpha=0.4, linewidths=0, rasterized=True)
    ends = [min(p.label.min(), p.score.min()), max(p.label.max(), p.score.max())]
    axis.plot(ends, ends, color=SOFT, linewidth=0.8, linestyle=":")
    axis.set(**{f"{side}label": f"{what}, {unit}".rstrip(", ") for side, what in (("x", "label"), ("y", "estimate"))})
    return figure, len(shown)


_WIDTH, _TRUNK, _RIGHT = 360, 76, 208  # of the drawing, of the trunk's place, of the boxes of those who leave
_LINE, _PAD, _GAP = 15, 8, 18
_NAMES = {"train": "training", "val": "validation", "test": "test"}
_INK, _SOFT, _PANEL = "var(--ink)", "var(--soft)", "var(--panel)"  # the page's own, light or dark


def flow_chart(steps: Sequence[dict[str, Any]], people: dict[str, int]) -> str:
    """`steps`: step, excluded, left of each, in order: recordings that belong to nobody, everybody, then who leaves
    and why. `people`: of each split, at the end."""
    nobodys, everybody, *leaving = steps
    parts, y = [_box(2, 2, 2 * (_TRUNK - 2), [everybody["step"], f"{everybody['left']:,}"])], 2.0
    y += 2 * _LINE + 2 * _PAD
    top = y
    for step in (s for s in leaving if s["excluded"]):
        words = textwrap.wrap(f"{step['step']}: {step['excluded']:,}", 32)
        y += _GAP
        parts.append(_box(_WIDTH - _RIGHT - 2, y, _RIGHT, words, dashed=True))
        parts.append(_arrow(_TRUNK, y + _height(words) / 2, _WIDTH - _RIGHT - 2))
        y += _height(words)
        parts.append(f'<text x="{_TRUNK - 6}" y="{y + _GAP - 5:g}" text-anchor="end">{step["left"]:,}</text>')
    y += _GAP
    parts.insert(0, f'<path d="M{_TRUNK} {top:g}V{y:g}" stroke="{_SOFT}"/>')
    width = (_WIDTH - 4 - 8 * (len(people) - 1)) / max(len(people), 1)
    for i, (name, count) in enumerate(people.items()):
        parts.append(_box(2 + i * (width + 8), y, width, [_NAMES.get(name, name), f"{count:,}"]))
    y += 2 * _LINE + 2 * _PAD
    text = "; ".join(f"{s['step']}: {s['excluded']:,} leave, {s['left']:,} left" for s in steps)
    stray = f" Beside them {nobodys['excluded']:,} {nobodys['step']}." if nobodys["excluded"] else ""
    caption = f"People, and on the right who leaves at each step.{stray}"
    return (
        f'<figure style="background:var(--bg)"><svg role="img" aria-label="{escape(text, quote=True)}" '
        f'viewBox="0 0 {_WIDTH} {y + 2:g}" fill="{_INK}" style="max-width:{1.3 * _WIDTH:.0f}px;margin:auto" '
        f'font-family="system-ui,sans-serif" font-size="12">{"".join(parts)}</svg>'
        f"<figcaption><small>{escape(caption)}</small></figcaption></figure>"
    )


def _height(words: list[str]) -> float:
    return len(words) * _LINE + 2 * _PAD


def _box(x: float, y: float, width: float, words: list[str], dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    lines = "".join(
        f'<text x="{x + width / 2:g}" y="{y + _PAD + _LINE * (i + 0.8):g}" text-anchor="middle">{escape(word)}</text>'
        for i, word in enumerate(words)
    )
    box = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{_height(words):g}" rx="4"'
    return f'<rect {box} fill="{_PANEL}" stroke="{_SOFT}"{dash}/>' + lines


def _arrow(begin: float, y: float, end: float) -> str:
    path = f"M{begin:g} {y:g}H{end:g}M{end - 6:g} {y - 4:g}L{end:g} {y:g}L{end - 6:g} {y + 4:g}"
    return f'<path d="{path}" stroke="{_SOFT}" fill="none"/>'
