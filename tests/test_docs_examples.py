"""The worked examples of docs/howto/add_a_*.md: each page, applied to a copy of the package, does what it says."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r'(?ms)^```(\w+) title="([^"]+)"\n(.*?)^```$')


def _apply(page, folder):
    """Write a page's titled blocks below `folder`: files as they stand, and diffs into files that are there."""
    for language, name, text in BLOCK.findall((ROOT / "docs" / "howto" / page).read_text(encoding="utf-8")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_patched(path.read_text(), text) if language == "diff" else text, encoding="utf-8")


def _patched(body, diff):
    """A file with a diff applied; what the diff takes out, or leaves, must be there once."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if not line.startswith("+"))
    after = "".join(line[1:] for line in lines if not line.startswith("-"))
    assert body.count(before) == 1, f"stands there {body.count(before)} times:\n{before}"
    return body.replace(before, after)


def _raycadian(folder, *arguments):
    """A verb with the copy of the package."""
    code = "from raycadian.cli.main import main; main()"
    environment = os.environ | {"PYTHONPATH": str(folder / "platform"), "RAYCADIAN_CACHE": str(folder / "cache")}
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture
def package(tmp_path):
    """A working directory with a copy of the package and of the demo cohort."""
    shutil.copytree(ROOT / "platform", tmp_path / "platform", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "datasets", tmp_path / "datasets")
    return tmp_path


def _temperatures(path):
    """Four people's skin temperature every 5 minutes over 4 days, warmer at night, with some readings off the skin."""
    times = pd.date_range("2026-03-02", periods=4 * 288, freq="5min", tz="UTC")
    random, people = np.random.default_rng(0), []
    for subject in "abcd":
        night = np.cos(2 * np.pi * (times.hour + times.minute / 60 - 4) / 24)
        values = (33 + night + 0.1 * random.standard_normal(len(times))).to_numpy()
        values[random.choice(len(times), 5, replace=False)] = 5.0
        people.append(pd.DataFrame({"subject": subject, "time": times, "temperature": values}))
    pd.concat(people).to_csv(path, index=False)


def _whole_line(package, path, low, high, last="serve"):
    """Prepare, tune, train, score, promote and serve the page's recipe; what tests/whole_line.py found."""
    environment = os.environ | {"PYTHONPATH": str(package / "platform"), "RAYCADIAN_CACHE": str(package / "cache")}
    command = [sys.executable, str(ROOT / "tests" / "whole_line.py"), "recipe.yaml", path, str(low), str(high), last]
    result = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    summary = json.loads(result.stdout.splitlines()[-1])
    assert list(summary["tuned"]) == [path] and low <= summary["tuned"][path] <= high
    assert summary["champion"].partition("-")[0] in (package / "recipe.yaml").read_text()
    return summary


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_a_modality(package):
    """Forecasts of another channel than glucose are scored, not served."""
    _apply("add_a_modality.md", package)
    (package / "platform/raycadian/modalities/temperature/__init__.py").touch()
    _temperatures(package / "temperature.csv")
    assert "temperature outside 15 to 45 °C: 20" in _raycadian(package, "prepare", "temperature.yaml")
    summary = _whole_line(package, "model.alpha", 0.1, 10.0, "score")
    assert summary["ranked"] == 2 and 0 < summary["test"]["rmse"]["value"] < 1
    assert list((package / "runs").glob("skin-*/report.html"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_a_task(package):
    _apply("add_a_task.md", package)
    summary = _whole_line(package, "model.alpha", 0.1, 10.0)
    assert summary["test"]["grmse_mgdl"]["value"] > 0
    assert len(summary["answer"]["median_mgdl"]) == 12
    (lows,) = (package / "runs").glob("guard-*/lows.json")
    assert 0 <= json.loads(lows.read_text())["test"] <= 100


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_a_model(package):
    _apply("add_a_model.md", package)
    summary = _whole_line(package, "model.damping", 0.5, 0.95)
    assert len(summary["answer"]["median_mgdl"]) == 12 and summary["test"]["rmse_mgdl"]["value"] > 0
    (config,) = (package / "runs").glob("trend-*/checkpoint/config.json")
    assert '"trend"' in config.read_text()
