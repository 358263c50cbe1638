"""The command line: its verbs and flags are pinned, its errors are one message, its JSON is JSON."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from helpers import write_csv

from raycadian.cli import main as cli
from raycadian.cli.main import main
from raycadian.modalities import MODALITIES
from raycadian.modalities.cards import SCHEMAS

REPO = Path(__file__).parents[2]
RECIPE_FLAGS = {"--set", "--runs", "--snapshots", "--resume", "--json"}
# A change of this table is a change of what people and scripts type: make it deliberately, and say so in the CHANGELOG.
FILE_FLAGS = {"--set", "--unit", "--timezone", "--subject", "--format", "--modality"}
CALIBRATE_FLAGS = {
    "--subject", "--recording", "--episodes", "--update", "--delete", "--new-key", "--channel", "--card", "--run",
    "--champion",
    "--people", "--runs", "--json",
}  # fmt: skip
FLAGS: dict[str, tuple[list[str], set[str]]] = {
    "demo": ([], {"--runs", "--snapshots", "--port"}),
    "doctor": ([], {"--ray", "--json"}),
    "prepare": (["files"], FILE_FLAGS | {"--snapshots", "--json"}),
    "inspect": (["files"], FILE_FLAGS | {"--out", "--snapshots", "--json"}),
    "init": (["files"], FILE_FLAGS | {"--out", "--snapshots"}),
    "train": (["recipe"], RECIPE_FLAGS),
    "tune": (["recipe"], RECIPE_FLAGS),
    "run": (["files"], FILE_FLAGS | RECIPE_FLAGS),
    "score": (["run"], {"--runs", "--json"}),
    "compare": (["run"], {"--all", "--runs", "--json"}),
    "experiment": (["recipe"], RECIPE_FLAGS),
    "runs": ([], {"--runs", "--json"}),
    "promote": (["run"], {"--runs", "--snapshots", "--force", "--json"}),
    "verify": (["run"], {"--runs", "--key", "--json"}),
    "serve": ([], {"--run", "--champion", "--runs", "--host", "--port", "--cases", "--people", "--replicas"}),
    "forecast": (
        ["file"],
        FILE_FLAGS
        | {"--run", "--champion", "--card", "--person", "--meal", "--no-meals", "--runs", "--snapshots", "--json"}
        | {"--out", "--windows"},
    ),
    "calibrate": ([], CALIBRATE_FLAGS),
    "predict": (
        ["file"],
        {
            "--subject",
            "--recording",
            "--day",
            "--card",
            "--out",
            "--windows",
            "--run",
            "--champion",
            "--people",
            "--runs",
            "--snapshots",
            "--json",
        },
    ),
    "forget": ([], {"--subject", "--people", "--json"}),
    "rhythm": (["files"], FILE_FLAGS | {"--scoring", "--figure", "--json"}),
    "indices": (["file"], {"--card", "--out", "--json"}),
    "simulate": ([], {"--modality", "--patients", "--days", "--minutes", "--cycle", "--seed", "--out"}),
    "export": (["run"], {"--to", "--runs"}),
    "submit": (["verb", "arguments"], {"--address", "--no-wait", "--json"}),
    "jobs": ([], set()),
    "benchmark": ([], set()),
    "schema": (["kind"], set()),
}
BENCHMARK_FLAGS: dict[str, tuple[list[str], set[str]]] = {
    "glucobench": (
        ["more_models"],
        {"--data", "--protocol", "--models", "--seeds", "--pretrain", "--out", "--name", "--json"},
    ),
}
JOBS_FLAGS: dict[str, tuple[list[str], set[str]]] = {
    "list": ([], {"--address", "--json"}),
    "logs": (["job"], {"--address", "--follow"}),
    "stop": (["job"], {"--address"}),
    "fetch": (["job"], {"--address", "--to", "--runs", "--json"}),
}


def invoke(*arguments: object):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def verbs_of(group: click.Group) -> dict[str, click.Command]:
    context = click.Context(group)
    return {name: group.get_command(context, name) for name in group.list_commands(context)}


def flags_of(verb: click.Command) -> tuple[list[str], set[str]]:
    arguments = [p.name for p in verb.params if isinstance(p, click.Argument)]
    return arguments, {name for p in verb.params if isinstance(p, click.Option) for name in p.opts}


@pytest.fixture
def card(tmp_path) -> Path:
    """A tiny data set: two people, two days."""
    write_csv(tmp_path / "tiny.csv", n=2, days=2)
    path = tmp_path / "tiny.yaml"
    path.write_text("name: tiny\nfiles: [tiny.csv]\nformat: generic\nunit: mg/dL\ncolumns: {subject: subject}\n")
    return path


# --- verbs and flags ------------------------------------------------------------------------------------------------


def test_the_verbs_and_flags_are_the_pinned_ones():
    verbs = verbs_of(main)
    assert {name: flags_of(verb) for name, verb in verbs.items()} == FLAGS
    assert {name: flags_of(verb) for name, verb in verbs_of(verbs["jobs"]).items()} == JOBS_FLAGS
    assert {name: flags_of(verb) for name, verb in verbs_of(verbs["benchmark"]).items()} == BENCHMARK_FLAGS


def test_the_list_of_verbs_says_what_the_verbs_say():
    """--help reads a table in place of the modules: the table is true, and no module has a verb that it lacks."""
    verbs = verbs_of(main)
    assert {name: verb.summary for name, verb in main.verbs.items()} == {
        name: verb.help.split("\n\n")[0].replace("\n", " ") for name, verb in verbs.items()
    }
    assert {name for verb in main.verbs.values() for name in verb.load()} == set(verbs)


def test_help_lists_every_verb_in_the_order_of_work():
    done = invoke("--help")
    assert done.exit_code == 0
    listed = [line.split()[0] for line in done.output.split("Commands:")[1].splitlines() if line.strip()]
    assert listed == list(FLAGS)


@pytest.mark.parametrize("verb", FLAGS)
def test_help_of_a_verb_names_its_flags(verb):
    done = invoke(verb, "-h")
    assert done.exit_code == 0
    assert verbs_of(main)[verb].help, "a verb without a word of help"
    for flag in FLAGS[verb][1]:
        assert flag in done.output


def test_version():
    assert "0.1" in invoke("--version").output


# --- schemas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "example"),
    [
        ("recipe", "jobs/recipes/demo.yaml"),
        ("space", "search_spaces/demo.yaml"),
        ("card", "datasets/demo_cgm.yaml"),
        ("card-cgm", "datasets/demo_cgm.yaml"),
        ("card", "datasets/synthetic_cases.yaml"),
        ("card", "datasets/nhanes_wear.yaml"),
    ],
)
def test_schema_is_json_schema_that_accepts_ours_and_refuses_a_typo(kind, example):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(invoke("schema", kind).stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    body = yaml.safe_load((REPO / example).read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    assert list(validator.iter_errors(body)) == []
    assert list(validator.iter_errors(body | {"no_such_key": 1}))


def test_schema_of_something_else_is_refused():
    done = invoke("schema", "model")
    assert done.exit_code == 2
    assert "recipe" in done.output


# --- prepare and inspect ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_prepare_and_inspect(card, tmp_path):
    done = invoke("prepare", card, "--snapshots", tmp_path / "snapshots", "--json")
    assert done.exit_code == 0, done.output
    prepared = json.loads(done.stdout)
    assert prepared["counts"]["subjects"] == 2
    assert prepared["counts"]["readings"] == 2 * 288 * 2 + 72  # two days each, the second a quarter of a day more
    assert prepared["counts"]["recordings"] == 2

    done = invoke("inspect", prepared["path"], "--json")
    assert done.exit_code == 0, done.output
    inspected = json.loads(done.stdout)
    assert inspected["snapshot"] == prepared["snapshot"]
    assert inspected["quality"] == prepared["quality"]

    done = invoke("inspect", prepared["path"], "--out", tmp_path / "quality.html")
    assert done.exit_code == 0, done.output
    assert "<html" in (tmp_path / "quality.html").read_text(encoding="utf-8")


def test_prepare_for_people_prints_counts_and_issues(card, tmp_path):
    done = invoke("prepare", card, "--snapshots", tmp_path / "snapshots")
    assert done.exit_code == 0, done.output
    assert "  subjects: 2" in done.output
    assert "local clock without a time zone" in done.output


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prepare", "absent.yaml"], "absent.yaml: no such file"),
        (["inspect", "."], "no snapshot here"),
        (["train", "absent.yaml"], "absent.yaml: no such file"),
        (["train", REPO / "jobs/recipes/demo.yaml", "--set", "training.epoch=1"], "did you mean 'epochs'"),
        (["train", REPO / "jobs/recipes/demo.yaml", "--set", "training.epochs"], "expected dotted.path=value"),
        (["train", REPO / "jobs/recipes/demo.yaml"], "dataset: datasets/demo_cgm.yaml: no such card"),
        (["run", REPO / "jobs/recipes/demo.yaml"], "dataset: datasets/demo_cgm.yaml: no such card"),
        (["score", "no-such-run"], "no-such-run"),
        (["score", "../../etc"], "etc"),
        (["compare", "no-such-run"], "no-such-run"),
        (["promote", "no-such-run"], "no-such-run"),
        (["serve"], "champion"),
        (["serve", "--run", "a", "--champion", "b"], "exclude one another"),
        (["export", "no-such-run", "--to", "x"], "no-such-run"),
        (["forecast", "absent.csv"], "absent.csv: no such file"),
    ],
)
def test_an_error_is_one_message_and_exit_code_2(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("raycadian: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.rglob("*") if p.name not in {"runs", "mlflow.db"}] == []  # nothing made on the way


def test_an_unknown_verb_and_an_unknown_flag_are_refused():
    assert invoke("trian").exit_code == 2
    assert invoke("doctor", "--yaml").exit_code == 2


def test_a_file_of_another_kind_is_named(card, tmp_path):
    (tmp_path / "tiny.csv").write_bytes(b"PK\x03\x04 a workbook")
    done = invoke("prepare", card, "--snapshots", tmp_path / "snapshots")
    assert done.exit_code == 2
    assert "tiny.csv: a ZIP archive that is damaged" in done.stderr
    assert list((tmp_path / "snapshots").iterdir()) == []


def test_json_is_alone_on_stdout(monkeypatch):
    def chatty(start_ray):
        print("(raylet) a message from the cluster")
        return []

    monkeypatch.setattr("raycadian.cli.doctor.examine", chatty)
    done = invoke("doctor", "--json")
    assert json.loads(done.stdout) == [] and "(raylet)" in done.stderr


def test_interrupt_exits_130(monkeypatch):
    def interrupted(start_ray):
        raise KeyboardInterrupt

    monkeypatch.setattr("raycadian.cli.doctor.examine", interrupted)
    done = invoke("doctor")
    assert done.exit_code == 130
    assert "interrupted" in done.stderr


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9")]
)
def test_out_of_memory_is_one_message(error, monkeypatch):
    def greedy(start_ray):
        raise error

    monkeypatch.setattr("raycadian.cli.doctor.examine", greedy)
    done = invoke("doctor")
    assert done.exit_code == 2 and "out of memory" in done.stderr and "training.batch_size" in done.stderr


@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_reading_leaves_nothing(tmp_path):
    """A real SIGINT to a real process that reads a file of some 140,000 rows."""
    write_csv(tmp_path / "big.csv", n=8, days=60)
    (tmp_path / "big.yaml").write_text("name: big\nfiles: [big.csv]\nunit: mg/dL\ncolumns: {subject: subject}\n")
    command = [sys.executable, "-m", "raycadian.cli.main", "prepare", "big.yaml"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("snapshots/.preparing-*/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    # Python ends itself by the signal where it came within an `exec` of a string; a shell says 130 of both
    assert process.returncode in (130, -signal.SIGINT), said
    assert "interrupted" in said
    assert "Traceback" not in said
    assert list((tmp_path / "snapshots").iterdir()) == []


def test_the_module_is_what_the_command_runs():
    from importlib.metadata import entry_points

    (found,) = entry_points(group="console_scripts", name="raycadian")
    assert found.load() is cli.main


MISTAKEN = """
import json, sys
from click.testing import CliRunner
from raycadian.cli.main import main
answers = []
for arguments in json.loads(sys.argv[1]):
    result = CliRunner().invoke(main, arguments)
    heavy = sorted({"torch", "pandas", "ray", "scipy"} & set(sys.modules))
    answers.append({"message": result.output, "heavy": heavy})
print(json.dumps(answers))
"""


@pytest.mark.slow
def test_a_mistake_is_told_before_anything_heavy_is_imported(card, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: x\ndataset: {card.with_name('tny.yaml')}\nmodel: {{kind: ridge}}\n")
    calibrate = ["calibrate", "--subject", "a", "--recording"]
    mistakes = [
        ["train", str(recipe)], ["score", "none"], ["compare", "none", "other"], ["promote", "none"],
        ["export", "none", "--to", "x"], ["serve", "--run", "none"], ["forecast", "none.csv"], [*calibrate, "none.csv"],
        ["forecast", str(recipe), "--run", "none"], [*calibrate, str(recipe), "--run", "none"],
        ["predict", "--subject", "a", "--recording", "none.csv"], ["predict", "none.yaml", "--day", "2026-01-01"],
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", MISTAKEN, json.dumps(mistakes)], capture_output=True, text=True, cwd=tmp_path
    )
    told = json.loads(done.stdout)
    assert f"did you mean '{card}'?" in told[0]["message"]
    for arguments, answer in zip(mistakes, told, strict=True):
        assert any(word in answer["message"] for word in ("none", "tny", "FILE")) and answer["heavy"] == [], (
            arguments,
            answer,
        )


@pytest.mark.slow
def test_a_window_that_fits_nowhere_is_told_before_training(card, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    window = "{context: 24, horizon: 1200}"
    recipe.write_text(f"name: x\ndataset: {card}\nmodel: {{kind: ridge}}\nsplit: {{kind: time}}\nwindow: {window}\n")
    done = invoke("train", recipe, "--snapshots", tmp_path / "s", "--runs", tmp_path / "r")
    assert done.exit_code == 2 and "no window fits: context 24 + horizon 1200" in done.stderr
    assert "train ridge" not in done.stderr


def test_what_can_be_chosen_of_modalities_and_schemas_is_their_tables():
    """A new modality needs no change of the command line."""
    (modality,) = (option for option in main.get_command(None, "simulate").params if option.name == "modality")
    assert modality.type.choices == tuple(MODALITIES)
    assert main.get_command(None, "schema").params[0].type.choices == tuple(SCHEMAS)
    assert invoke("simulate", "--modality", "ecg").exit_code == invoke("schema", "crad").exit_code == 2
