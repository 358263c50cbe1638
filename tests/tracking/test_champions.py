"""Who is champion is read from MLflow's file without MLflow: it says what MLflow says."""

import subprocess
import sys
from pathlib import Path

import pytest

from raycadian.config import Tracking
from raycadian.runs import Run
from raycadian.tracking import registry


def _register(runs: Path, name: str, run: str) -> None:
    (runs / run).mkdir(parents=True, exist_ok=True)
    (runs / run / "metadata.json").write_text("{}")
    with registry._store(Tracking(), runs) as client:
        version = registry._register(client, name, Run(runs / run), {"run": run})
        client.set_registered_model_alias(name, registry.ALIAS, version.version)


@pytest.mark.slow
def test_the_champions_are_mlflows(tmp_path):
    runs = tmp_path / "runs"
    for name, run in (("a-forecast-12", "first"), ("b-forecast-6", "other"), ("a-forecast-12", "second")):
        _register(runs, name, run)
    with registry._store(Tracking(), runs) as client:
        by_mlflow = {
            model.name: client.get_model_version_by_alias(model.name, registry.ALIAS).tags["run"]
            for model in client.search_registered_models()
        }
    assert registry.champions(runs) == by_mlflow == {"a-forecast-12": "second", "b-forecast-6": "other"}
    assert registry.champion("a-forecast-12", runs=runs).name == "second"
    with pytest.raises(ValueError, match="registered: a-forecast-12 .*, b-forecast-6 .* --champion a-forecast-12,"):
        registry.champion(runs=runs)


def test_asking_makes_nothing_and_imports_no_mlflow(tmp_path):
    code = (
        "import sys; from pathlib import Path; from raycadian.tracking.registry import champions; "
        f"print(champions(Path({str(tmp_path)!r})), 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{} False"
    assert not list(tmp_path.iterdir())
