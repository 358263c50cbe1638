"""What `prepare` writes of a small input a modality, by its hash: it changes together with the modality's version, or
not at all."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raycadian.modalities import MODALITIES
from raycadian.modalities.prepare import prepare

GOLDEN = {
    "cgm": (2, "cad4f7f022f23cdac8338399bda554a7e07157a848f5765154c7b170e556d06c"),
    "biosignals": (1, "0126342048de98a99b6a87ac6aedcd747252943089258a24fc0721dfabdb1161"),
    "actigraphy": (1, "9f7fb004d359b9deb2f1725d108bcc983dfccfa21e67ba1377a706d5c61e5318"),
}
"""Modality -> its version, and the content hash of what it writes of the input below."""


def cgm(folder: Path) -> Path:
    """Two people: one in mg/dL with meals, boluses, a low and a gap, one in mmol/L over a change of the clock."""
    t = np.arange(200)
    clock = pd.Timestamp("2024-03-30 20:00") + pd.to_timedelta(t * 5 + np.where(t > 120, 90, 0), unit="min")
    first = pd.DataFrame({"who": "ann", "when": clock, "sugar": (120 + 60 * np.sin(t / 9)).round(0).astype(int)})
    first["sugar"] = first["sugar"].astype(object).where(t != 50, "Low")
    first["carbs"], first["insulin"] = np.where(t % 48 == 7, 40.5, np.nan), np.where(t % 48 == 6, 3.2, np.nan)
    first.to_csv(folder / "first.csv", index=False)
    second = first.assign(who="bob", sugar=(7 + 3 * np.cos(t / 11)).round(1))
    second.drop(index=[3, 4]).to_csv(folder / "second.csv", index=False)
    columns = "columns: {subject: who, time: when, glucose: sugar, carbs_g: carbs, bolus_u: insulin}"
    about = f"{columns}\ntimezone: Europe/Berlin\ngrid: {{min_points: 12}}\n"
    return card(folder, f"modality: cgm\nfiles: [first.csv, second.csv]\n{about}")


def biosignals(folder: Path) -> Path:
    """A case of a pressure at 100 Hz with a gap, an ECG at 250 Hz in volts, and a numeric; whole numbers of a counter
    make the samples, so that no library of signals stands behind the hash."""
    n = np.arange(40 * 100)
    phase = (n % 80) / 80
    pressure = (80 + 40 * np.exp(-8 * (phase - 0.2) ** 2)).round(2)
    pressure[1500:1700] = np.nan
    beat = (np.arange(40 * 250) % 200) / 200
    ecg = (np.exp(-2000 * (beat - 0.3) ** 2) + 0.15 * np.exp(-200 * (beat - 0.6) ** 2)).round(4) * 1e-3
    arrays = {"ART": pressure, "ART.rate_hz": 100.0, "ART.unit": "mmHg", "II": ecg, "II.rate_hz": 250.0, "II.unit": "V"}
    arrays |= {"MBP": np.array([91.0, 93.0, 92.0]), "MBP.times_s": np.array([2.0, 12.0, 30.5]), "MBP.unit": "mmHg"}
    np.savez(folder / "case7.npz", **arrays)
    tracks = "waveforms: {abp_mmhg: [ART], ecg_ii_mv: [II]}\nnumerics: {map_mmhg: [MBP]}"
    return card(folder, f"modality: biosignals\nfiles: [case7.npz]\n{tracks}\n")


def actigraphy(folder: Path) -> Path:
    """Two people, by the minute and by half a minute, with hours not worn and a night between days."""
    minutes = np.arange(3 * 1440)
    counts = np.where((minutes % 1440 > 420) & (minutes % 1440 < 1380), (minutes * 7919) % 401, 0)
    clock = pd.Timestamp("2024-05-01 18:30") + pd.to_timedelta(minutes, unit="min")
    frame = pd.DataFrame({"id": "p1", "time": clock, "activity": counts, "worn": (minutes % 1440 >= 90).astype(int)})
    half = frame.assign(id="p2", time=clock[0] + pd.to_timedelta(30 * minutes, unit="s"))
    pd.concat([frame, half]).to_csv(folder / "people.csv", index=False)
    return card(folder, "modality: actigraphy\nfiles: [people.csv]\ncolumns: {subject: id, time: time, worn: worn}\n")


def card(folder: Path, text: str) -> Path:
    path = folder / "small.yaml"
    path.write_text(f"name: small\n{text}")
    return path


INPUTS = {"cgm": cgm, "biosignals": biosignals, "actigraphy": actigraphy}


@pytest.mark.parametrize("name", INPUTS)
def test_what_is_written_changes_with_the_version_alone(name, tmp_path):
    version, sha256 = GOLDEN[name]
    snapshot = prepare(INPUTS[name](tmp_path), tmp_path / "snapshots")
    snapshot.verify()
    written, modality = snapshot.manifest["content_sha256"], MODALITIES[name]
    assert modality.version == version or written != sha256, (
        f"{name} has version {modality.version}, but writes what version {version} wrote: take the version back"
    )
    assert (modality.version, written) == (version, sha256), (
        f"{name} writes something else than it did: snapshots of before would be reused as if it hadn't. If that is "
        "meant, "
        f"raise `version` of {type(modality).__name__} (modalities/{name}/modality.py) to {version + 1} and set "
        f"GOLDEN[{name!r}] here to ({version + 1}, {written!r})"
    )


def test_every_modality_has_a_golden_snapshot():
    assert set(GOLDEN) == set(INPUTS) == set(MODALITIES)


@pytest.mark.slow
def test_a_case_more_is_read_alone(tmp_path):
    path, progress = biosignals(tmp_path), []
    path.write_text(path.read_text().replace("case7.npz", "'*.npz'") + "same_readings: kept\n")
    for case in ("case7", "case8", "case9"):
        shutil.copy(tmp_path / "case7.npz", tmp_path / f"{case}-x.npz")
        made = prepare(path, tmp_path / "snapshots", lambda *step: progress.append(step[0]), on_ray=False)
    assert "1 read, 3 taken from snapshot small-" in progress[-1]
    fresh = prepare(path, tmp_path / "fresh", on_ray=False)
    assert all((made.path / f).read_bytes() == (fresh.path / f).read_bytes() for f in fresh.manifest["files"])
    (tmp_path / "case7.npz").unlink()
    assert len(prepare(path, tmp_path / "snapshots").subjects) == 3
