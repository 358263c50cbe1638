"""The catalogue of metrics: words, units, directions."""

import pytest

from raycadian.config.tasks import Classification, Column, Forecasting, Regression
from raycadian.evaluation.forecast.metrics import METRICS, catalogue
from raycadian.evaluation.label import classification
from raycadian.evaluation.metric import label, metric_among, rankable, row_of


@pytest.mark.parametrize(
    "name, words",
    [
        ("rmse_mgdl_at_30min", "RMSE at 30 min"),
        ("rmse_mmhg", "RMSE, mmHg"),
        ("rmse", "RMSE"),
        ("mard_pct", "MARD, %"),
        ("tir_error_pct", "difference, % points"),
        ("coverage_90_pct", "90% interval covers, %"),
        ("width_90_mgdl", "90% interval width, mg/dL"),
        ("width_90", "90% interval width"),
        ("ece", "ECE"),
        ("clarke_de_pct", "Clarke D+E, %"),
        ("lead_time_min", "lead time min"),
    ],
)
def test_a_metric_in_words(name, words):
    assert label(name) == words


def test_every_computed_metric_that_ranks_has_a_row():
    assert all(row_of(name) for name in METRICS)
    for names in classification.METRICS.values():
        assert rankable(names) == list(names)
    assert row_of("coverage_90_pct") is None


def test_what_models_are_ranked_by():
    rmse = metric_among("rmse_mgdl", METRICS)
    assert (rmse.better, rmse.unit, rmse.text(31.234)) == ("low", "mg/dL", "RMSE 31.23 mg/dL")
    area = metric_among("auprc", classification.METRICS["classify"])
    assert area.better == "high" and area.beats(0.7, 0.6) and area.text(0.5) == "AUPRC 0.500"
    with pytest.raises(ValueError, match="bias_mgdl: models can't be ranked by it; choose one of rmse_mgdl, mae_mgdl"):
        metric_among("bias_mgdl", METRICS)


LABEL = Column(name="ill")
TASKS = [
    *(Forecasting(metric=name, target=t) for name in ("rmse", "mae", "pinball") for t in ("glucose_mgdl", "map_mmhg")),
    *(Classification(label=LABEL, metric=name) for name in ("auroc", "auprc", "brier")),
    *(Regression(label=LABEL, metric=name) for name in ("rmse", "mae")),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.kind}-{task.headline.name}")
def test_what_a_task_is_judged_by_is_of_the_catalogue(task):
    """config/ names it without evaluation: both must say the same of it."""
    names = catalogue(task.target) if task.kind == "forecast" else classification.METRICS[task.kind]
    own = metric_among(task.headline.name, names)
    assert (own.better, own.words, own.unit) == (task.headline.better, task.headline.words, task.headline.unit)
