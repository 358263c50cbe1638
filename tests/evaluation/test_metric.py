"""The catalogue of metrics: words, units, directions."""

from __future__ import annotations

import pytest

from raycadian.evaluation.forecast.metrics import METRICS
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
