"""Synthetic operations: real .vital files, what was planted is what the labels find, and nothing of it is in the
clinical table."""

import filecmp

import numpy as np
import pandas as pd
import pytest

from raycadian.modalities.biosignals.clinical import read_clinical, row_of
from raycadian.modalities.biosignals.readers import read_case
from raycadian.modalities.biosignals.simulate import KINDS, make_person, simulate_cases, subjects_of
from raycadian.modalities.cards import load_card
from raycadian.tasks import hypotension as low
from raycadian.types import Issues

N, MINUTES = 12, 30.0


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return simulate_cases(N, MINUTES, 1, tmp_path_factory.mktemp("simulated") / "cases").parent


def test_the_card_and_every_file_say_that_they_are_synthetic(cohort):
    card = load_card(cohort / "synthetic_cases.yaml")
    assert "synthetic" in card.name and "No real person's data" in card.description
    files = sorted(cohort.glob("*.vital"))
    assert len(files) == N and all("synthetic" in path.name for path in cohort.iterdir())
    table = read_clinical(cohort / "synthetic_clinical.csv", Issues())
    assert sorted(table.index) == [path.stem for path in files]
    assert 1 < table["subjectid"].nunique() <= N and table["subjectid"].str.startswith("synthetic").all()


def test_planted_episodes_are_what_the_labels_find(cohort):
    planted = pd.read_csv(cohort / "synthetic_episodes.csv")
    table = read_clinical(cohort / "synthetic_clinical.csv", Issues())
    onsets, found = [], 0
    for path in sorted(cohort.glob("*.vital")):
        case = read_case(path, tracks={"map": "Solar8000/ART_MBP"}, clinical=row_of(table, path.stem))
        events = low.events(case.tracks["map"].values, case.tracks["map"].times_s)
        mine = planted[(planted["caseid"] == case.case) & (planted["kind"] != KINDS[3])]
        for episode in mine.itertuples():
            (met,) = [e for e in events.certain if e[0] < episode.end_s and e[1] > episode.begin_s]
            onsets.append(met[0] - episode.begin_s)
        found += len(events.certain)
    assert found == len(onsets) > 4  # all of them, and no other
    assert np.abs(onsets).max() < 30


def test_waves_carry_the_pressure_of_the_numerics(cohort):
    """The mean of the arterial wave over each beat is the monitor's mean pressure, where nothing disturbs it."""
    case = read_case(cohort / "synthetic-0001.vital", subject="a")
    abp, shown = case.tracks["SNUADC/ART"], case.tracks["Solar8000/ART_MBP"]
    assert abp.unit == "mmHg" and abp.rate_hz == 125.0
    means = np.array([np.nanmean(abp.values[max(0, int((t - 8) * 125)) : int(t * 125)]) for t in shown.times_s])
    good = (shown.values < 200) & (np.abs(means) < 200)
    assert np.median(np.abs(means - shown.values)[good]) < 2
    assert case.start_utc == np.datetime64("2100-01-01T00:00:00.000")


def test_the_same_seed_gives_the_same_signals(tmp_path):
    one, other, third = (
        simulate_cases(2, 12, seed, tmp_path / name).parent for seed, name in ((3, "a"), (3, "b"), (4, "c"))
    )
    for name in ("synthetic-0001.vital", "synthetic-0002.vital"):
        a, b, c = (read_case(folder / name, subject="a").tracks for folder in (one, other, third))
        assert all(np.array_equal(a[track].values, b[track].values, equal_nan=True) for track in a)
        assert not all(np.array_equal(a[track].values, c[track].values, equal_nan=True) for track in a)
    assert filecmp.cmp(one / "synthetic_episodes.csv", other / "synthetic_episodes.csv", shallow=False)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_some_subjects_have_two_cases():
    subjects = subjects_of(200, 1)
    assert len(subjects) == 200 and 150 < len(set(subjects)) < 190
    assert max(subjects.count(s) for s in set(subjects)) == 2


@pytest.mark.parametrize("arguments", [(0, 30, 1), (1, 5, 1), (1, 30, -1), (1, 30, 1, 5.0)])
def test_what_can_not_be_simulated(tmp_path, arguments):
    n, minutes, seed, *rate = arguments
    with pytest.raises(ValueError, match="expected at least 1 case"):
        simulate_cases(n, minutes, seed, tmp_path / "x", *rate)
    (tmp_path / "x").mkdir()
    with pytest.raises(ValueError, match="is there already"):
        simulate_cases(1, 12, 1, tmp_path / "x")


def test_the_command_line(tmp_path):
    from click.testing import CliRunner

    from raycadian.cli.main import main

    asked = f"simulate --modality biosignals --patients 1 --minutes 10 --seed 1 --out {tmp_path / 'c'}".split()
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0 and load_card(done.stdout.strip()).modality == "biosignals"
    again = CliRunner().invoke(main, asked)
    assert again.exit_code == 2 and "is there already" in again.output


def test_episodes_from_the_arterial_wave_are_those_of_the_numerics(cohort):
    """Without a monitor's mean pressure, the means of beats find the same onsets."""
    from raycadian.physiology.waveforms import pipeline as waveforms

    apart = []
    for path in sorted(cohort.glob("*.vital"))[:8]:
        case = read_case(path, tracks={"abp": "SNUADC/ART", "map": "Solar8000/ART_MBP"}, subject="a")
        wave, shown = case.tracks["abp"], case.tracks["map"]
        prepared = waveforms.prepare(wave.values, wave.rate_hz, "abp")
        feet = prepared.beats.feet
        means = np.add.reduceat(prepared.values[: feet[-1]].astype(float), feet[:-1]) / np.diff(feet)
        means[np.diff(feet) > 3 * waveforms.RATE_HZ] = np.nan
        from_wave = low.events(means, feet[:-1] / waveforms.RATE_HZ).certain
        from_numerics = low.events(shown.values, shown.times_s).certain
        assert len(from_wave) == len(from_numerics)
        apart += np.abs(from_wave[:, 0] - from_numerics[:, 0]).tolist()
    assert len(apart) > 2 and np.median(apart) < 15  # a pressure that hovers at 65 may cross it a minute apart
    assert max(apart) < 120


def test_a_person_whose_r_waves_are_cut_by_the_sampling_has_an_ecg_too():
    """Subject 98 of seed 7: the highest of ECGSYN's five R waves is twice the lowest."""
    person = make_person(np.random.default_rng([7, 2, 98]))
    assert person.ecg_mv.max() == person.ecg_mv[0] == 1.0
