"""The figures of a fit, which are kept on disk: they change together with the version of the fits, or not at all."""

import numpy as np
import pytest

from raycadian.config import CMAMechanism
from raycadian.data import fits

GOLDEN = (
    1,
    {
        "d": 0.045249914,
        "taup": 1.058148767,
        "taug": 1.342374557,
        "B": 0.091940289,
        "Cm": 0.2466681,
        "toff": -0.033894681,
        "offset_mgdl": 87.388323935,
        "rmse_mgdl": 11.826496241,
        "sd_offset_mgdl": 18.561553524,
        "condition": 187.204810971,
        "sd_d": 2.547379445,
        "sd_taup": 0.407520847,
        "sd_taug": 0.128661558,
        "sd_B": 0.063314448,
        "sd_Cm": 0.211462383,
        "sd_toff": 0.865144906,
        "rmse_readings_mgdl": 15.161332835,
    },
)
"""The version, and the figures of the fit of the profile below."""


def profile() -> fits.Profile:
    """Three meals and a slow wave, every half an hour, with a gap at night."""
    hour = np.arange(48) / 2
    meals = sum(55 * np.exp(-((hour - at) ** 2) / 1.5) for at in (8.5, 13.5, 19.5))
    glucose = 105 + 8 * np.cos(2 * np.pi * (hour - 5) / 24) + meals
    glucose[4:7] = np.nan
    return fits.Profile(hour, glucose, np.where(np.isnan(glucose), 0.0, 10.0), 90.0)


def figures(record: dict) -> dict[str, float]:
    """The numbers of a record, by name."""
    return {name: round(value, 9) for name, value in record.items() if isinstance(value, float)}


def test_figures_change_with_the_version_alone():
    version, expected = GOLDEN
    (record,) = fits.fit_profiles([profile()], CMAMechanism(), on_ray=False)
    found = figures(record)
    same = found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert version == fits.VERSION, f"set GOLDEN here to ({fits.VERSION}, {found})"
    assert same, (
        f"a fit has other figures than version {version} had: fits that were kept would be reused as if it hadn't. If "
        "that "
        f"is meant, raise VERSION in data/fits.py to {version + 1} and set GOLDEN here to ({version + 1}, {found})"
    )
