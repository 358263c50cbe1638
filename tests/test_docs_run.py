"""What README and the notebook show is run as it stands, on a small generated export of one person."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_actigraphy import write_awd

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    """A working directory with export.csv, one person's glucose every 5 minutes over 6 days, with a daily rhythm, and
    watch.AWD, 6 days of their activity."""
    times = pd.date_range("2026-03-02", periods=6 * 288, freq="5min")
    random = np.random.default_rng(0)
    wander = np.convolve(random.standard_normal(len(times) + 11), np.ones(12), "valid")
    glucose = 130 + 30 * np.sin(2 * np.pi * times.hour / 24) + 5 * wander
    pd.DataFrame({"time": times, "glucose": glucose.round()}).to_csv(tmp_path / "export.csv", index=False)
    hour = np.arange(6 * 1440) / 60 % 24
    write_awd(tmp_path / "watch.AWD", np.where((hour >= 7) & (hour < 23), random.integers(100, 900, len(hour)), 0))
    return tmp_path


def _run(folder, *command):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "platform"), "MPLBACKEND": "agg"}
    result = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def _blocks(language):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", text)


def test_readme_in_python(folder):
    (code,) = _blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    printed = _run(folder, "-c", code)
    assert "persistence" in printed and "q0.95" in printed
    assert (folder / "forecasts.png").stat().st_size > 10_000


def test_readme_in_the_shell(folder):
    lines = [line.partition("#")[0] for block in _blocks("bash") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if re.match(r"raycadian (?!serve)", line)]
    assert {command[0] for command in commands} >= {"prepare", "inspect", "run", "forecast", "init"}
    main = "from raycadian.cli.main import main; main()"
    printed = {command[0]: _run(folder, "-c", main, *command) for command in commands}
    assert "persistence" in printed["run"] and "report.html" in printed["run"]
    assert "example" in printed["rhythm"] and "oakley" in printed["rhythm"]
    assert list(folder.glob("*-quality.html")) and list(folder.glob("*.yaml"))


@pytest.mark.long
def test_the_notebook(folder):
    notebook = json.loads((ROOT / "docs/tutorials/first_forecast.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len([line for cell in cells for line in cell.splitlines() if line.strip()]) <= 15
    assert "ahead_min" in _run(folder, "-c", "\n".join(cells))
    assert len(list((folder / "runs").glob("*/report.html"))) == 4
