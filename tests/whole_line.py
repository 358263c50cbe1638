"""A recipe through prepare, tune, train, score, promote and serve: whole_line.py RECIPE PATH LOW HIGH serve|score.

Run by tests/test_docs_examples.py with a copy of the package on PYTHONPATH, to which a page of docs/howto was applied:
what a page adds must pass everything that the package does. `PATH` of the recipe is swept between LOW and HIGH.
"""

import json
import sys
from pathlib import Path

from raycadian.serving.app import free_port, prepare_environment, serving

prepare_environment()  # before Ray is imported

from raycadian import workflow  # noqa: E402
from raycadian.cli.demo import example_request  # noqa: E402
from raycadian.config import load_recipe  # noqa: E402
from raycadian.tracking.registry import champion, registered_name  # noqa: E402
from raycadian.training.pipeline import rescore  # noqa: E402

SNAPSHOTS = Path("snapshots")


def main(recipe_file: str, path: str, low: str, high: str, last: str) -> None:
    space = {"parameters": {path: {"uniform": {"low": float(low), "high": float(high)}}}}
    Path("space.yaml").write_text(json.dumps(space))  # JSON is YAML
    tuning = "tuning={space: space.yaml, trials: 2, search: random, scheduler: fifo}"
    recipe = load_recipe(recipe_file, (tuning,))
    outcome = workflow.run(recipe, workflow.Quiet(), snapshots=SNAPSHOTS)
    trials = json.loads((outcome.sweep / "best.json").read_text())
    scored = rescore(outcome.main)
    best = champion(registered_name(scored.recipe))
    summary = {"tuned": trials, "ranked": len(outcome.ranked), "champion": best.name, "test": scored.summary["test"]}
    if last == "serve":
        with serving(scored, port=free_port()) as endpoint:
            summary["answer"] = endpoint.post("/v1/forecast", example_request(scored, SNAPSHOTS))
    print(json.dumps(summary))


if __name__ == "__main__":
    main(*sys.argv[1:])
