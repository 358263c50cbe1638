"""Zones of the error grids: published corners, two other implementations, and laws of any grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycadian.evaluation.forecast.error_grids import (
    GRIDS,
    PARKES_ABOVE,
    PARKES_BELOW,
    clarke_zones,
    parkes_zones,
)

glucose = st.floats(20, 600)
types = st.sampled_from([1, 2])


@pytest.mark.parametrize(
    "reference, predicted, zone",
    [
        (100, 100, "A"), (100, 120, "A"), (100, 80, "A"), (60, 40, "A"), (70, 70, "A"), (300, 359, "A"),
        (100, 121, "B"), (100, 79, "B"), (200, 290, "B"), (300, 200, "B"), (350, 479, "B"),
        (150, 261, "C"), (71, 182, "C"), (160, 40, "C"), (180, 69.9, "E"), (140, 10, "C"),
        (50, 100, "D"), (65, 90, "D"), (250, 100, "D"), (240, 180, "D"), (300, 70.1, "D"),
        (50, 200, "E"), (70, 180, "E"), (200, 60, "E"), (300, 70, "E"),
        (np.nan, 100, ""), (100, np.nan, ""),
    ],
)  # fmt: skip
def test_clarke_zone_of_a_point(reference, predicted, zone):
    assert clarke_zones(reference, predicted) == zone


def test_clarke_zones_of_a_dense_grid_equal_those_of_two_other_implementations():
    """Counts on 23,104 points by the packages error-grids 0.1.0 and clarke-error-grid 0.1.4, which agree point by
    point."""
    reference, predicted = np.meshgrid(np.arange(20.5, 400, 2.5), np.arange(20.5, 400, 2.5))
    zones = clarke_zones(reference, predicted)
    assert {z: int((zones == z).sum()) for z in "ABCDE"} == {"A": 4949, "B": 6895, "C": 4057, "D": 3683, "E": 3520}


def _clarke_one_by_one(r: float, p: float) -> str:
    """The published conditions, one branch after the other."""
    if (r <= 70 and p <= 70) or abs(p - r) <= 0.2 * r:
        return "A"
    if (r >= 180 and p <= 70) or (r <= 70 and p >= 180):
        return "E"
    if (70 <= r <= 290 and p >= r + 110) or (130 <= r <= 180 and p <= 7 / 5 * r - 182):
        return "C"
    if (r >= 240 and 70 <= p <= 180) or (r <= 175 / 3 and 70 <= p <= 180) or (175 / 3 <= r <= 70 and p >= 1.2 * r):
        return "D"
    return "B"


@given(glucose, glucose)
@settings(max_examples=300)
def test_clarke_zones_partition_the_plane(reference, predicted):
    assert clarke_zones(reference, predicted) == _clarke_one_by_one(reference, predicted)


@given(glucose, st.floats(-0.199, 0.199))
@settings(max_examples=100)
def test_within_a_fifth_is_zone_a(reference, relative):
    assert clarke_zones(reference, reference * (1 + relative)) == "A"


@pytest.mark.parametrize(
    "diabetes_type, reference, predicted, zone",
    [
        (1, 100, 100, "A"), (1, 20, 49, "A"), (1, 20, 51, "B"), (1, 20, 61, "C"), (1, 20, 101, "D"), (1, 20, 155, "E"),
        (1, 140, 169, "A"), (1, 140, 171, "B"), (1, 60, 96, "C"), (1, 60, 94, "B"),
        (1, 80, 216, "D"), (1, 80, 214, "C"),
        (1, 40, 290, "E"), (1, 40, 280, "D"), (1, 170, 146, "A"), (1, 170, 144, "B"),
        (1, 260, 129, "C"), (1, 260, 131, "B"),
        (1, 400, 94, "D"), (1, 400, 96, "C"), (1, 249, 10, "C"), (1, 251, 10, "D"), (1, 51, 10, "B"), (1, 49, 10, "A"),
        (2, 100, 100, "A"), (2, 230, 329, "A"), (2, 230, 331, "B"), (2, 30, 61, "C"),
        (2, 30, 86, "D"), (2, 30, 84, "C"),
        (2, 35, 201, "E"), (2, 35, 199, "D"), (2, 90, 79, "B"), (2, 90, 81, "A"),
        (2, 330, 229, "B"), (2, 330, 231, "A"),
        (2, 410, 109, "D"), (2, 410, 111, "C"), (2, 175, 64, "C"), (2, 175, 66, "B"), (2, 95, 3, "C"), (2, 89, 1, "B"),
        (2, np.nan, 100, ""), (1, 100, np.nan, ""),
    ],
)  # fmt: skip
def test_parkes_zone_of_a_point(diabetes_type, reference, predicted, zone):
    assert parkes_zones(reference, predicted, diabetes_type) == zone


def test_parkes_zones_of_a_dense_grid_equal_methcomp():
    """53,824 points by methcomp 1.0.0: type 2 is equal point by point; type 1 but for 303 points between C and D
    below the diagonal, where methcomp takes the corner (410, 110) of type 2."""
    reference, predicted = np.meshgrid(np.arange(20.5, 600, 2.5), np.arange(20.5, 600, 2.5))
    counts = {t: {z: int((parkes_zones(reference, predicted, t) == z).sum()) for z in "ABCDE"} for t in (1, 2)}
    assert counts[2] == {"A": 13980, "B": 15940, "C": 13343, "D": 9006, "E": 1555}
    assert counts[1] == {"A": 12360, "B": 17784, "C": 12588 + 303, "D": 9370 - 303, "E": 1722}


@pytest.mark.parametrize("diabetes_type", [1, 2])
def test_each_published_corner_parts_its_zone_from_the_milder_one(diabetes_type):
    for lines, outward in ((PARKES_ABOVE[diabetes_type], 1e-6), (PARKES_BELOW[diabetes_type], -1e-6)):
        for zone, line in lines.items():
            for x, y in [corner for corner in line if corner[1] > 0 and corner[0] > 0][1:]:
                assert parkes_zones(x, y + outward, diabetes_type) >= zone
                assert parkes_zones(x, y - outward, diabetes_type) < zone
                assert parkes_zones(x, y, diabetes_type) < zone  # on the line: the milder one


@given(glucose, glucose, st.floats(0, 400), types)
@settings(max_examples=300)
def test_a_larger_error_is_in_no_milder_parkes_zone(reference, predicted, further, diabetes_type):
    zone = parkes_zones(reference, predicted, diabetes_type)
    beyond = predicted + (further if predicted >= reference else -min(further, predicted))
    assert parkes_zones(reference, beyond, diabetes_type) >= zone
    assert parkes_zones(reference, reference, diabetes_type) == "A"


@given(st.lists(st.tuples(glucose, glucose), min_size=1, max_size=20))
@settings(max_examples=100)
def test_every_point_has_one_zone_in_every_grid(points):
    reference, predicted = np.array(points).T
    for grid in GRIDS.values():
        zones = grid.zones(reference, predicted)
        assert zones.shape == reference.shape and set(zones) <= set("ABCDE")
        assert (grid.zones(reference[::-1], predicted[::-1])[::-1] == zones).all()


def test_letters_stand_in_their_zones():
    for grid in GRIDS.values():
        for zone, places in grid.letters.items():
            assert all(grid.zones(x, y) == zone for x, y in places), (grid.title, zone)


def test_types_are_1_or_2():
    with pytest.raises(ValueError, match="expected 1 or 2, found 3"):
        parkes_zones(100, 100, 3)
