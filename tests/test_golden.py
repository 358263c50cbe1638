"""Whole lines say what they said before the modules moved: scores, predictions, splits, served answers."""

import subprocess
import sys

import golden
import numpy as np
import pytest


def ask(*words: object) -> subprocess.CompletedProcess:
    """The recorder, in a process of its own: its libraries are loaded for one thread."""
    return subprocess.run([sys.executable, golden.__file__, *map(str, words)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def now(request, tmp_path_factory):
    """A folder of what the chosen lines say now, all from one process, and what it printed."""
    chosen = {item.callspec.params["line"] for item in request.session.items if item.originalname == "test_a_line"}
    folder = tmp_path_factory.mktemp("now")
    return folder, ask("record", *(line for line in golden.LINES if line in chosen), "--to", folder).stderr


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("line", golden.LINES)
def test_a_line(line, request):
    if line in golden.NEEDS:
        request.getfixturevalue("shared")
    if missing := golden.missing(line):
        pytest.skip(f"real data not here: {missing} is absent")
    folder, printed = request.getfixturevalue("now")
    said = folder / golden.golden_file(line).name
    assert said.is_file(), printed
    words, good = golden.told(line, golden.read(golden.golden_file(line)), golden.read(said))
    assert good, words


@pytest.mark.long
@pytest.mark.ray
def test_another_seed_shows():
    found = ask("compare", "vitaldb_map", "--set", "training.seed=43")
    assert found.returncode == 1 and "vitaldb_map: DIFFERENT" in found.stdout, found.stdout + found.stderr
    changed = [row for row in found.stdout.splitlines() if row.startswith("  BAD")]
    assert changed and all("ridge" not in row and "persistence" not in row for row in changed if "predictions" in row)


@pytest.mark.parametrize(("change", "good"), [(0, True), (1e-5, True), (1e-2, False)])
def test_one_value_of_many_shows(change, good):
    values = np.random.default_rng(0).normal(120, 30, 10_000)
    changed = values.copy()
    changed[5000] += change
    before, after = ({"runs": {"a": {"q0.5": golden.numbers_record(x, True)}}} for x in (values, changed))
    words, same = golden.told("line", before, after)
    assert same == good, words


def test_what_is_absent_and_what_is_no_number_shows():
    golden_body = {"leaderboard": {"0": {"model": "ridge", "n": 3, "rmse": 1.0}}}
    for other in ({"model": "ttm"}, {"n": 4}, {"rmse": None}, {"more": 1.0}):
        changed = {"leaderboard": {"0": golden_body["leaderboard"]["0"] | other}}
        assert not golden.told("line", golden_body, changed)[1]
    assert golden.told("line", golden_body, golden_body)[1]
