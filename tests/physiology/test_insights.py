"""Parameters in words."""

import pytest

from raycadian.physiology.cma.insights import DISCLAIMER, insights

NORMAL = {"d": 0.0, "taup": 1.0, "taug": 1.0, "B": 0.05, "Cm": 0.5, "toff": 0.0, "ok": True, "at_bound": []}


@pytest.mark.parametrize(
    ("name", "value", "reading"),
    [
        ("d", 0.0, "aligned"), ("d", -0.51, "advanced (morning type)"), ("d", 0.51, "delayed (evening type)"),
        ("d", -0.5, "aligned"), ("d", 0.5, "aligned"),
        ("taup", 1.49, "normal"), ("taup", 1.5, "extended"), ("taup", 2.5, "very long"),
        ("taug", 0.79, "rapid"), ("taug", 0.8, "normal"), ("taug", 1.5, "slow"),
        ("B", 0.079, "normal"), ("B", 0.08, "elevated"), ("B", 0.15, "high"),
        ("Cm", 0.29, "low"), ("Cm", 0.3, "normal"), ("Cm", 1.0, "high"),
    ],
)  # fmt: skip
def test_thresholds(name, value, reading):
    found = {item.parameter: item for item in insights(NORMAL | {name: value})}
    assert list(found) == ["d", "taup", "taug", "B", "Cm"]
    assert found[name].reading == reading and reading in found[name].sentence
    assert found[name].value == value and f"{value:.2f}" in found[name].sentence


def test_every_sentence_says_what_it_is_not():
    assert DISCLAIMER == "not a diagnosis"
    assert all(item.sentence.endswith("not a diagnosis.") for item in insights(NORMAL))


def test_a_parameter_at_its_bound_is_read_with_caution():
    found = {item.parameter: item for item in insights(NORMAL | {"d": -12.0, "at_bound": ["d"]})}
    assert found["d"].at_bound and "with caution" in found["d"].sentence
    assert not found["B"].at_bound and "with caution" not in found["B"].sentence


def test_nothing_is_said_of_a_fit_that_failed():
    with pytest.raises(ValueError, match="all missing"):
        insights(NORMAL | {"ok": False, "reason": "all missing", "d": None})


def test_uncertainty_stands_beside_the_value():
    record = NORMAL | {"d": 0.4, "sd_d": 0.2, "sd_taug": 0.25, "sd_B": None, "at_bound": ["B"], "informed": ["d"]}
    found = {item.parameter: item for item in insights(record)}
    assert found["d"].number == "0.40 ± 0.20 h" and "(d = 0.40 ± 0.20 h)" in found["d"].sentence
    assert found["taug"].number == "1.00 ± 0.25" and "say little beyond" in found["taug"].sentence
    assert found["B"].number == "0.05" and "say little" not in found["B"].sentence and found["B"].at_bound
    assert found["d"].informed and not found["taug"].informed


def test_records_without_uncertainty_are_read_without():
    found = {item.parameter: item for item in insights(NORMAL)}
    assert found["d"].sd is None and found["d"].informed and "±" not in found["d"].sentence
