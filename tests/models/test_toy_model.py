"""What adding a model takes, done to a copy of the package: a file, a schema, a line of the table."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCHEMA = '''
class Slope(ModelConfig):
    """The last slope goes on, as far as training finds it does."""

    trains = True

    kind: Literal["slope"] = "slope"
    points: Count = 4

    def check(self, recipe: "Recipe") -> None:
        if self.points >= recipe.window.context:
            raise ValueError(f"slope.points {self.points} needs a longer window.context; lower points")


MODELS: '''

MODEL = """
import torch
from torch import nn

from raycadian.models.base import Forecaster
from raycadian.models.heads import around
from raycadian.types import Prediction


class Slope(Forecaster):
    def __init__(self, spec, section):
        super().__init__(spec, section)
        self.share = nn.Parameter(torch.zeros(spec.horizon))
        self.steps = nn.Parameter(torch.zeros(spec.horizon, len(spec.quantiles) - 1))
        self.register_buffer("spread_mgdl", torch.ones(()))

    def forward(self, batch):
        last, before = batch["past"][:, -1, 0], batch["past"][:, -1 - self.config.points, 0]
        median = last[:, None] + self.share * (last - before)[:, None]
        steps = self.steps.exp() * self.spread_mgdl
        return Prediction(around(median, steps.expand(len(median), -1, -1), self.spec.middle))

    @torch.no_grad()
    def fit_statistics(self, windows):
        moves = [(b["target"] - b["past"][:, -1:, 0]).square().nanmean() for b in windows.batches(256)]
        self.spread_mgdl.copy_(torch.stack(moves).mean().sqrt() / 4)
"""

USE = """
import json, sys
import model_cases, torch
from pathlib import Path
from raycadian import config
from raycadian.config import models as sections
from raycadian.models import checkpoint
from raycadian.models.build import build
from raycadian.training import loop

def refusal(model):
    try:
        recipe(model)
    except ValueError as error:
        return str(error)

def recipe(model):
    return config.parse(config.Recipe, {"name": "x", "dataset": "d.yaml", "model": model})

plain = {"kind": "slope", "points": 3}
around = {"kind": "ensemble", "members": [{"kind": "residual", "inner": plain}, {"kind": "ridge"}]}
training, validation = model_cases.windows(), model_cases.windows(stop=700)
result = {"kinds": sections.kinds(lambda model: model.trains), "name": config.model_name(recipe(around).model)}
result["refused"] = [refusal(plain | {"points": 500}), refusal({"kind": "staged", "rounds": 0, "inner": plain})]
result["unknown"] = refusal(plain | {"pionts": 3})
for name, section in (("plain", recipe(plain).model), ("around", recipe(around).model)):
    model = build(section, model_cases.SPEC)
    model.fit_statistics(training)
    settings = config.Training(epochs=3, batch_size=64, lr=0.05, early_stopping=None)
    rows = loop.train(model, training, validation, settings).history
    model.eval().calibrate(validation)
    checkpoint.save(model, Path(name))
    batch = validation.batch(torch.arange(8))
    same = torch.equal(checkpoint.load(Path(name))(batch).quantiles, model(batch).quantiles)
    result[name] = {"rmse": [row["val/rmse"] for row in rows], "same": same}
print(json.dumps(result))
"""


@pytest.fixture
def package(tmp_path):
    """A copy of the package with the toy in it: nothing but the three edits."""
    shutil.copytree(ROOT / "platform", tmp_path / "platform", ignore=shutil.ignore_patterns("__pycache__"))
    package = tmp_path / "platform" / "raycadian"
    (package / "models" / "slope.py").write_text(MODEL)
    edit(package / "config" / "models.py", "\nMODELS: ", SCHEMA)
    edit(package / "config" / "models.py", "    Persistence, Seasonal,", "    Slope, Persistence, Seasonal,")
    table = package / "models" / "build.py"
    edit(table, "\nMODELS: ", "\nfrom raycadian.models.slope import Slope\n\nMODELS: ")
    edit(table, '    "ridge": Ridge,\n', '    "ridge": Ridge,\n    "slope": Slope,\n')
    return tmp_path


def edit(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new))


@pytest.mark.slow
def test_a_model_is_a_file_a_schema_and_a_table_line(package):
    paths = f"{package / 'platform'}{os.pathsep}{ROOT / 'tests'}"
    command = [sys.executable, "-c", USE]
    done = subprocess.run(command, cwd=package, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert "slope" in result["kinds"] and result["name"] == "ensemble-residual-slope_ridge"
    assert "slope.points 500 needs a longer window.context" in result["refused"][0]
    assert result["refused"][1] is None  # it has weights that train, so that stages may stand around it
    assert "did you mean 'points'?" in result["unknown"]
    for name in ("plain", "around"):
        assert result[name]["same"] and len(result[name]["rmse"]) == 3
    assert result["plain"]["rmse"][-1] < result["plain"]["rmse"][0]
