"""`raycadian VERB`: every verb imports what it needs when it runs, so that --help is instant."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click


def _place(text: str | Path) -> Path:
    """A folder or a URL such as s3://bucket/folder."""
    from raycadian.data.storage import resolve_path

    return resolve_path(text)


def _kept(ctx: click.Context, option: click.Parameter, folder: Path) -> Path:
    """Refuse a place in a job's own folder, which Ray deletes after the job and other nodes don't see."""
    from raycadian.cluster import JOB

    if os.environ.get(JOB) and not folder.is_absolute():
        raise ValueError(
            f"--{option.name} {folder} would be lost with the job's folder: name storage that every node sees, "
            f"e.g. --{option.name} /mnt/raycadian/{folder}, or set {option.envvar or 'it'} on the cluster"
        )
    return folder


RUNS = click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), envvar="RAYCADIAN_RUNS", callback=_kept,
    help="Folder of the runs.",
)  # fmt: skip
SNAPSHOTS = click.option(
    "--snapshots", type=_place, metavar="PATH", default=Path("snapshots"), envvar="RAYCADIAN_SNAPSHOTS",
    callback=_kept, help="Folder of the snapshots, or s3://bucket/folder.",
)  # fmt: skip
PEOPLE = click.option(
    "--people", type=click.Path(path_type=Path), default=Path("people"), envvar="RAYCADIAN_PEOPLE", callback=_kept,
    help="Private folder of the people who calibrated.",
)  # fmt: skip
SUBJECT = click.option(
    "--subject", required=True, metavar="ID", help="Letters, digits, _ . -; nothing that names the person."
)
SET = click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override, e.g. training.epochs=3.")


def _only_json(context: click.Context, _: click.Parameter, asked: bool) -> bool:
    """What libraries print meanwhile, such as Ray's messages from the cluster, goes to stderr: stdout is the JSON alone."""
    if asked:
        from raycadian.cli.terminal import STDOUT

        context.meta[STDOUT] = sys.stdout
        context.with_resource(redirect_stdout(sys.stderr))
    return asked


JSON = click.option("--json", "as_json", is_flag=True, callback=_only_json, help="JSON on stdout, for machines.")
RESUME = click.option("--resume", is_flag=True, help="Go on with work that was interrupted; reuse what is complete.")
YAML = click.Path(path_type=Path)
ADDRESS = click.option(
    "--address", envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"], help="The cluster's dashboard, http://HOST:8265."
)


class Verbs(click.Group):
    """User errors become one message and exit status 2; Ctrl-C leaves what was there intact and exits 130."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:
            click.echo(f"raycadian: {error}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("raycadian: interrupted; nothing half-written is listed; --resume goes on", err=True)
            ctx.exit(130)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of work, not of the alphabet


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="raycadian")
def main() -> None:
    """Distributed experimentation on Ray for physiological time series."""
    from raycadian.cluster import prepare_environment
    from raycadian.telemetry import configure_logs

    prepare_environment()
    configure_logs()


@main.command()
@RUNS
@SNAPSHOTS
@click.option("--port", default=8000, show_default=True, help="Port of the endpoint during the demo.")
def demo(runs: Path, snapshots: Path, port: int) -> None:
    """From the demo cohort to a leaderboard, a report and a served forecast."""
    from raycadian.cli.demo import run_demo
    from raycadian.cli.terminal import Terminal

    run_demo(runs, snapshots, port, Terminal("mg/dL"))


@main.command()
@JSON
def doctor(as_json: bool) -> None:
    """Versions, processors, Ray, storage; what is missing and how to get it."""
    from raycadian.cli.doctor import examine
    from raycadian.cli.terminal import show_json

    found = examine()
    if as_json:
        show_json([vars(f) for f in found])
    else:
        for item in found:
            click.echo(
                f"{'ok ' if item.ok else 'MISSING'}  {item.name}: {item.found}"
                + (f"\n         {item.fix}" if item.fix else "")
            )
    if not all(item.ok for item in found):
        sys.exit(1)


@main.command()
@click.argument("card", type=YAML)
@SNAPSHOTS
@JSON
def prepare(card: Path, snapshots: Path, as_json: bool) -> None:
    """Read a data set's files into a snapshot: even grid, quality, content hash."""
    from raycadian.cli.terminal import console, show_json
    from raycadian.data.snapshot import prepare as prepare_snapshot

    with console.status(f"preparing {card}"):
        snapshot = prepare_snapshot(card, snapshots)
    manifest = snapshot.manifest
    if as_json:
        show_json({"snapshot": snapshot.id, "path": str(snapshot.path), **manifest})
        return
    click.echo(f"{snapshot.path}")
    for name, value in manifest["counts"].items():
        click.echo(f"  {name}: {value}")
    for kind, found in manifest["issues"].items():
        click.echo(f"  {kind}: {found['count']} (e.g. {', '.join(found['examples'][:3])})")


@main.command()
@click.argument("snapshot", type=_place)
@click.option("--out", type=YAML, help="HTML file; <snapshot>-quality.html if left out.")
@JSON
def inspect(snapshot: Path, out: Path | None, as_json: bool) -> None:
    """Data quality of a snapshot as a page, or as JSON."""
    from raycadian.cli.terminal import show_json
    from raycadian.data.snapshot import Snapshot
    from raycadian.modalities.cgm.quality import quality_page

    opened = Snapshot.open(snapshot)
    if as_json:
        manifest = opened.manifest
        body = {"snapshot": opened.id, "quality": manifest["quality"], "issues": manifest["issues"]}
        show_json(body | ({"cohorts": manifest["cohorts"]} if "cohorts" in manifest else {}))
        return
    out = out or Path(f"{opened.id}-quality.html")
    out.write_text(quality_page(opened), encoding="utf-8")
    click.echo(out)


@main.command()
@click.argument("recipe", type=YAML)
@SET
@RUNS
@SNAPSHOTS
@RESUME
@JSON
def train(recipe: Path, overrides: tuple[str, ...], runs: Path, snapshots: Path, resume: bool, as_json: bool) -> None:
    """Train and score the recipe's model; one worker in this process, more on Ray Train."""
    from raycadian.config import headline, load_recipe

    loaded = load_recipe(recipe, overrides)  # a typo is told before anything heavy is imported
    from raycadian import workflow
    from raycadian.cli.terminal import Terminal
    from raycadian.training.pipeline import load_data

    run = workflow.train(
        loaded, load_data(loaded, snapshots), Terminal(headline(loaded.task).unit), runs=runs, resume=resume
    )
    _show_run(run, as_json)


@main.command()
@click.argument("recipe", type=YAML)
@SET
@RUNS
@SNAPSHOTS
@RESUME
@JSON
def tune(recipe: Path, overrides: tuple[str, ...], runs: Path, snapshots: Path, resume: bool, as_json: bool) -> None:
    """Sweep the recipe's search space on Ray Tune; choose on validation data."""
    from raycadian.config import headline, load_recipe

    loaded = load_recipe(recipe, overrides)
    from raycadian import workflow
    from raycadian.cli.terminal import Terminal, show_json, show_table
    from raycadian.training.pipeline import load_data

    found = workflow.tune(
        loaded, load_data(loaded, snapshots), Terminal(headline(loaded.task).unit), runs=runs, resume=resume
    )
    if as_json:
        show_json({"path": str(found.path), "best": found.best, "trials": found.table.to_dict("records")})
        return
    shown = found.table.drop(columns=["error", "status", "best/val/mae", "best/val/loss"], errors="ignore")
    shown = shown.rename(columns=lambda path: ".".join(path.split(".")[-2:]))  # adapter.rank for model.inner...
    show_table(shown, f"{len(shown)} trials, best first: {found.path}")
    click.echo("best: " + " ".join(f"--set {path}={value}" for path, value in found.best.items()))


@main.command()
@click.argument("recipe", type=YAML)
@SET
@RUNS
@SNAPSHOTS
@RESUME
@JSON
def run(recipe: Path, overrides: tuple[str, ...], runs: Path, snapshots: Path, resume: bool, as_json: bool) -> None:
    """Prepare, tune, train the model and its peers, score, promote the best, report."""
    from raycadian.config import headline, load_recipe

    loaded = load_recipe(recipe, overrides)
    from raycadian import workflow
    from raycadian.cli.terminal import Terminal

    outcome = workflow.run(loaded, Terminal(headline(loaded.task).unit), runs=runs, snapshots=snapshots, resume=resume)
    show_outcome(outcome, as_json)


@main.command()
@click.argument("run")
@RUNS
@JSON
def score(run: str, runs: Path, as_json: bool) -> None:
    """Score a run's predictions again and rewrite its tables and report."""
    from raycadian.training.pipeline import rescore
    from raycadian.training.run import open_run

    _show_run(rescore(open_run(run, runs)), as_json)


@main.command()
@click.argument("run", nargs=-1, required=True)
@RUNS
@JSON
def compare(run: tuple[str, ...], runs: Path, as_json: bool) -> None:
    """Runs on identical test windows: a leaderboard, and for each pair what is better and whether it is noise."""
    from raycadian import workflow
    from raycadian.cli.terminal import show_json, show_table
    from raycadian.training.run import open_run

    found = workflow.compare([open_run(name, runs) for name in run])
    if as_json:
        ranks = found.ranks and vars(found.ranks) | {"groups": found.ranks.groups()}
        body = {"protocol": found.protocol, "leaderboard": found.leaderboard.to_dict("records")}
        show_json(body | {"differences": found.differences.to_dict("records"), "ranks": ranks})
        return
    show_table(found.leaderboard, found.protocol)
    columns = ["model", "other", "horizon_min", "difference", "diff_low", "diff_high", "p", "p_holm", "verdict"]
    whole, over = found.differences, ""
    if "kind" in whole:  # forecasts: single steps are in the JSON
        whole, over = whole[whole.kind == "cumulative"], " over the whole horizon"
    if len(whole):
        shown = whole[[c for c in columns if c in whole]]
        show_table(shown, f"pairs{over}, the better first; intervals over subjects")
    for sentence in whole.sentence:
        click.echo(sentence)


@main.command()
@click.argument("recipe", type=YAML)
@SET
@RUNS
@SNAPSHOTS
@RESUME
@JSON
def experiment(
    recipe: Path, overrides: tuple[str, ...], runs: Path, snapshots: Path, resume: bool, as_json: bool
) -> None:
    """Run the recipe's experiment: its models on identical windows, a figure, a table, what is better in words."""
    from raycadian.config import headline, load_recipe

    loaded = load_recipe(recipe, overrides)
    from raycadian.cli.terminal import Terminal, show_json
    from raycadian.experiments.runner import run as run_experiment

    done = run_experiment(loaded, Terminal(headline(loaded.task).unit), runs=runs, snapshots=snapshots, resume=resume)
    table = done.table
    if as_json:
        show_json({"path": str(done.path), **table})
        return
    click.echo(table["protocol"])
    for row in table["differences"]:
        if row["kind"] == "cumulative":
            click.echo(f"  {row['group'] + ': ' if row['group'] else ''}{row['sentence']}")
    click.echo(done.path / "report.html")


@main.command("runs")
@RUNS
@JSON
def list_runs(runs: Path, as_json: bool) -> None:
    """Complete runs, and the champions."""
    import pandas as pd

    from raycadian.cli.terminal import show_json, show_table
    from raycadian.config import headline
    from raycadian.tracking.registry import champions
    from raycadian.training.run import list_runs as complete_runs

    crowned, rows = {run: name for name, run in champions(runs).items()}, []
    for r in complete_runs(runs):
        metric = headline(r.recipe.task).name
        row = {"run": r.name, "model": r.metadata["model"], f"val_{metric}": r.summary["val"][metric]["value"]}
        rows.append(row | {"champion_of": crowned.get(r.name, "")})
    show_json(rows) if as_json else show_table(pd.DataFrame(rows))


@main.command()
@click.argument("run")
@RUNS
@click.option("--force", is_flag=True, help="Replace the champion without comparing.")
@JSON
def promote(run: str, runs: Path, force: bool, as_json: bool) -> None:
    """Make a run the champion, if it beats the present one on the same snapshot and split."""
    from raycadian.cli.terminal import show_json
    from raycadian.tracking import registry
    from raycadian.training.run import open_run

    done = registry.promote(open_run(run, runs), runs=runs, force=force)
    if as_json:
        show_json(vars(done))
    else:
        click.echo(
            f"{done.run} is {'now' if done.promoted else 'NOT'} the champion of {done.registered}: {done.reason}"
        )
    if not done.promoted:
        sys.exit(1)


@main.command()
@click.option("--run", "run_name", help="Run to serve; the champion if left out.")
@click.option("--champion", "champion_name", help="Registered name; the only one if left out.")
@RUNS
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True)
@click.option(
    "--cases",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of biosignals that a request may name in place of samples; none if left out.",
)
@PEOPLE
def serve(
    run_name: str | None, champion_name: str | None, runs: Path, host: str, port: int, cases: Path | None, people: Path
) -> None:
    """Serve forecasts on Ray Serve until interrupted; the API key's place is printed."""
    from raycadian.serving.app import serve_forever
    from raycadian.tracking.registry import champion

    follow = None if run_name else lambda: champion(champion_name, runs=runs)  # a promoted champion is taken over
    serve_forever(
        _chosen(run_name, champion_name, runs), host=host, port=port, cases=cases, people=people, follow=follow
    )


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--run", "run_name", help="Run to use; the champion if left out.")
@click.option("--champion", "champion_name", help="Registered name; the only one if left out.")
@click.option(
    "--card", type=YAML, help="Data-set card that says how to read the file; recognised by content if left out."
)
@click.option(
    "--meal",
    "meals",
    multiple=True,
    metavar="HH:MM[xSIZE]",
    help="What if the meals after the last reading were these? E.g. --meal 20:00 or, half the usual, --meal 20:00x0.5.",
)
@click.option("--no-meals", is_flag=True, help="What if nothing were eaten after the last reading?")
@RUNS
@JSON
def forecast(
    file: Path,
    run_name: str | None,
    champion_name: str | None,
    card: Path | None,
    meals: tuple[str, ...],
    no_meals: bool,
    runs: Path,
    as_json: bool,
) -> None:
    """Forecast from the end of a file of readings: the same code as the endpoint.

    With --meal (as often as there are meals) or --no-meals the forecast under these meals stands beside the usual one.
    """  # fmt: skip
    if meals and no_meals:
        raise ValueError("--meal and --no-meals exclude one another; give one")
    from dataclasses import replace

    from raycadian.cli.terminal import show_json, show_table
    from raycadian.physiology.cma.meals import parse_meal
    from raycadian.serving.forecaster import Forecaster, read_history

    asked = tuple(map(parse_meal, meals)) if meals or no_meals else None
    forecaster = Forecaster.load(_chosen(run_name, champion_name, runs).path)
    found = forecaster.forecast(replace(read_history(file, card), what_if=asked))
    show_json(found.as_dict()) if as_json else show_table(found.as_frame(), found.title)


@main.command()
@SUBJECT
@click.option(
    "--recording", type=click.Path(path_type=Path), help="The person's export: actigraphy, Apple Health, or glucose."
)
@click.option(
    "--episodes", type=click.Path(path_type=Path),
    help="CSV of labelled days: start, end (both included), label (1 in an episode, 0 not).",
)  # fmt: skip
@click.option("--update", is_flag=True, help="Somebody who calibrated before: new labels and days are added.")
@click.option("--delete", is_flag=True, help="Delete everything that is kept of them; the same as `raycadian forget`.")
@click.option("--new-key", is_flag=True, help="Only give them a new key; the old one opens nothing any more.")
@click.option(
    "--channel", metavar="NAME", help="Channel of the recording in place of the model's, brought to its level: steps."
)
@click.option("--card", type=YAML, help="Data-set card that says how to read the recording.")
@click.option("--run", "run_name", help="Run to calibrate; the champion if left out.")
@click.option("--champion", "champion_name", help="Registered name; the only one if left out.")
@PEOPLE
@RUNS
@JSON
def calibrate(
    subject: str, recording: Path | None, episodes: Path | None, update: bool, delete: bool, new_key: bool,
    channel: str | None, card: Path | None, run_name: str | None, champion_name: str | None, people: Path, runs: Path,
    as_json: bool,
) -> None:  # fmt: skip
    """Adapt a run's model to one person, from their own export; prints their key, once.

    A classifier of activity needs 28 days worn and 14 labelled ones (--episodes), a forecaster of glucose 14 days of readings.
    The last days are held out: where the adapter is not better on them, the population's model is kept, and this says so.
    Nothing leaves this machine, and recordings are not kept. docs/personal.md
    """
    if delete or new_key:
        given = {
            "--new-key": delete and new_key, "--recording": recording, "--episodes": episodes, "--update": update,
            "--channel": channel, "--card": card, "--run": run_name, "--champion": champion_name,
        }  # fmt: skip
        if odd := ", ".join(name for name, value in given.items() if value):
            raise ValueError(f"--{'delete' if delete else 'new-key'} calibrates nobody, found {odd} too; leave it out")
    if delete:
        _forget(subject, people, as_json)
        return
    from raycadian.personal.store import Store

    store = Store(people)
    store.folder(subject)  # a bad id is told before anything is read
    if new_key:
        _give_key(subject, store, as_json)
        return
    if recording is None:
        raise ValueError("--recording is missing: the person's export")
    from raycadian.cli.terminal import show_json
    from raycadian.personal import calibrate as personal

    # an update stays with the run that was calibrated
    run_name = run_name or (store.read(subject).metadata["run"] if update and not champion_name else None)
    asked = personal.Asked(_chosen(run_name, champion_name, runs), subject, recording, episodes, card, channel)
    found = personal.calibrate(asked, store, update=update, tell=lambda text: click.echo(text, err=True))
    if as_json:
        show_json(found.person.metadata | {"path": str(store.folder(subject)), "key": found.key})
        return
    about = found.person.metadata
    for kind, n in found.issues.counts.items():
        click.echo(f"  {kind}: {n}")
    click.echo(f"{store.folder(subject)}: {about['parameters']:,} weights in {about['seconds']:g} s")
    click.echo(about["verdict"])
    if found.key:
        click.echo(_key_in_words(subject, found.key))


@main.command()
@SUBJECT
@click.option("--recording", required=True, type=click.Path(path_type=Path), help="The person's export.")
@click.option("--day", metavar="YYYY-MM-DD", help="Only this day; all days of the recording if left out.")
@click.option("--card", type=YAML, help="Data-set card that says how to read the recording.")
@PEOPLE
@RUNS
@JSON
def predict(
    subject: str, recording: Path, day: str | None, card: Path | None, people: Path, runs: Path, as_json: bool
) -> None:
    """What the model says of a person who calibrated: the risk of each day, or the forecast from the last reading."""
    from raycadian.personal.store import Store

    store = Store(people)
    person = store.read(subject)
    from raycadian.cli.terminal import show_json, show_table
    from raycadian.serving.forecaster import read_history
    from raycadian.serving.personal import PersonalForecaster, open_person
    from raycadian.training.run import open_run

    own = open_person(open_run(person.metadata["run"], runs), person, store)
    if isinstance(own, PersonalForecaster):
        if day:
            raise ValueError("a forecast begins at the last reading; leave out --day, and cut the recording")
        found = own.forecast(read_history(recording, card))
        show_json(found.as_dict()) if as_json else show_table(found.as_frame(), found.title)
        return
    estimate = own.of_file(recording, card).of_day(day)
    if as_json:
        show_json(estimate.as_dict())
        return
    show_table(estimate.as_frame(), f"{estimate.title}\n{person.metadata['verdict']}")


@main.command()
@SUBJECT
@PEOPLE
@JSON
def forget(subject: str, people: Path, as_json: bool) -> None:
    """Delete everything that is kept of a person who calibrated: adapter, baseline, labels, key."""
    _forget(subject, people, as_json)


def _forget(subject: str, people: Path, as_json: bool) -> None:
    from raycadian.cli.terminal import show_json
    from raycadian.personal.store import Store

    files = Store(people).forget(subject)
    show_json({"subject": subject, "files": files}) if as_json else click.echo(f"{subject}: {files} files deleted")


def _give_key(subject: str, store: Any, as_json: bool) -> None:
    from raycadian.cli.terminal import show_json
    from raycadian.personal.calibrate import give_new_key

    key = give_new_key(subject, store)
    show_json({"subject": subject, "key": key}) if as_json else click.echo(_key_in_words(subject, key))


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--card", type=YAML, help="Data-set card that says how to read the file; recognised by content if left out."
)
@click.option("--out", type=YAML, help="CSV file; indices.csv if left out, with --json none.")
@JSON
def indices(file: Path, card: Path | None, out: Path | None, as_json: bool) -> None:
    """mood_ml's 36 indices of one person's sleep and circadian rhythm, a row a day.

    FILE holds sleep episodes (CSV: sleep_start, sleep_end, minutes_sleep), or is an Apple Health export, or a recording of
    activity, whose stretches of rest are taken for sleep. docs/nhanes.md
    """
    from raycadian.cli.terminal import show_json
    from raycadian.modalities.actigraphy.episodes import card_of, indices_table, read_episodes, write_indices
    from raycadian.types import Issues

    issues = Issues()
    episodes = read_episodes(file, card_of(card), issues)
    table = indices_table(episodes)
    if out is not None or not as_json:
        write_indices(table, out := out or Path("indices.csv"))
    if as_json:
        about = {"episodes": len(episodes.start), "days": len(table), "issues": issues.as_dict()}
        show_json(about | {"indices": table.to_dict("records")})
        return
    for kind, n in issues.counts.items():
        click.echo(f"  {kind}: {n}")
    click.echo(f"{out}: {len(table)} days from {len(episodes.start)} sleep episodes")


@main.command()
@click.option("--modality", type=click.Choice(["cgm", "biosignals", "actigraphy"]), default="cgm", show_default=True)
@click.option(
    "--patients",
    default=10,
    show_default=True,
    help="Number of virtual patients; biosignals: of operations; actigraphy: of people.",
)
@click.option("--days", default=14.0, show_default=True, help="cgm: of each patient.")
@click.option("--minutes", default=30.0, show_default=True, help="biosignals: of each operation.")
@click.option(
    "--cycle", type=click.Choice(["C", "D", "G", "H"]), default="D", show_default=True, help="actigraphy: of NHANES."
)
@click.option("--seed", default=42, show_default=True)
@click.option(
    "--out", type=YAML, default=Path("simulated.parquet"), show_default=True, callback=_kept,
    help="biosignals, actigraphy: a new folder, called so without the ending.",
)  # fmt: skip
def simulate(modality: str, patients: int, days: float, minutes: float, cycle: str, seed: int, out: Path) -> None:
    """Simulate a cohort (extra `sim`); prints the path of its card.

    cgm: UVA/Padova patients, in parallel on Ray. biosignals: operations with planted hypotension, as .vital files.
    actigraphy: a week of activity of people some of whom are depressed, as XPT files in the layout of an NHANES cycle.
    """
    from raycadian.cli.terminal import console

    with console.status(f"simulating {patients}") as status:

        def progress(done: int, total: int) -> None:
            status.update(f"{done} of {total} simulated")

        folder = out.with_name(out.name.removesuffix(".parquet"))
        match modality:
            case "biosignals":
                from raycadian.modalities.biosignals.simulate import simulate_cases

                card = simulate_cases(patients, minutes, seed, folder, progress=progress)
            case "actigraphy":
                from raycadian.modalities.actigraphy.simulate import simulate_nhanes

                card = simulate_nhanes(patients, folder, cycle, seed, progress=progress)
            case _:
                from raycadian.modalities.cgm.simulate import simulate_cohort

                card = simulate_cohort(patients, days, seed, out, progress)
    click.echo(card)


@main.command()
@click.argument("run")
@click.option("--to", "target", type=YAML, required=True, help="New folder.")
@RUNS
def export(run: str, target: Path, runs: Path) -> None:
    """Export a run's TTM in Hugging Face's format, to start another recipe from (`pretrained:`)."""
    from raycadian.models import checkpoint
    from raycadian.training.run import open_run

    checkpoint.export_pretrained(checkpoint.load(open_run(run, runs).path / "checkpoint"), target)
    click.echo(target)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("verb")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@ADDRESS
@click.option("--no-wait", is_flag=True, help="Return when the job is submitted; its id is printed.")
@JSON
@click.pass_context
def submit(
    ctx: click.Context, verb: str, arguments: tuple[str, ...], address: str | None, no_wait: bool, as_json: bool
) -> None:
    """Run a verb as a job on a cluster: raycadian submit tune RECIPE --set a.b=c --runs /shared/runs.

    The verb's own arguments follow it. The working tree is uploaded, the job's output is followed, and its exit status
    is this command's. Ctrl-C leaves the job running.
    """
    from raycadian.cli import submit as jobs
    from raycadian.cli import upload

    given = _given(ctx, verb, arguments)
    uploaded = upload.plan(Path.cwd())
    needs = jobs.check(uploaded, verb, given)
    with jobs.cluster(address) as client:
        for line in (f"upload: {uploaded}", *needs):
            click.echo(line, err=True)
        job = jobs.send(client, uploaded, verb, arguments, given)
        click.echo(f"job {job} submitted", err=True)
        if no_wait:
            _show_job({"job": job, "status": "SUBMITTED", "exit_code": None}, as_json)
            return
        _follow(client, job, as_json)


@main.group("jobs", cls=Verbs)
def jobs_group() -> None:
    """Jobs of a cluster: list, logs, stop, fetch what they made."""


@jobs_group.command("list")
@ADDRESS
@JSON
def list_jobs(address: str | None, as_json: bool) -> None:
    """Submitted jobs, newest first."""
    from raycadian.cli import submit as jobs
    from raycadian.cli.terminal import show_json, show_table

    with jobs.cluster(address) as client:
        rows = jobs.listing(client)
    if as_json:
        show_json(rows)
        return
    import pandas as pd

    show_table(pd.DataFrame(rows, columns=["job", "verb", "status", "started_utc", "seconds", "exit_code"]))


@jobs_group.command()
@click.argument("job")
@ADDRESS
@click.option("--follow", is_flag=True, help="Until the job ends; its exit status is this command's.")
def logs(job: str, address: str | None, follow: bool) -> None:
    """What a job has printed."""
    from raycadian.cli import submit as jobs

    with jobs.cluster(address) as client:
        if follow:
            _follow(client, job)
        else:
            click.echo(client.get_job_logs(job), nl=False)


@jobs_group.command()
@click.argument("job")
@ADDRESS
def stop(job: str, address: str | None) -> None:
    """End a job; what it had finished stays, and --resume goes on."""
    from raycadian.cli import submit as jobs

    with jobs.cluster(address) as client:
        click.echo(f"job {job}: {jobs.stop(client, job)}")


@jobs_group.command()
@click.argument("job")
@click.option("--to", type=YAML, default=Path("runs"), show_default=True, help="Folder here.")
@click.option(
    "--runs", help="Folder of the runs on the cluster, where neither the job nor RAYCADIAN_RUNS there says so."
)
@ADDRESS
@JSON
def fetch(job: str, to: Path, runs: str | None, address: str | None, as_json: bool) -> None:
    """Bring a job's complete runs and sweeps here."""
    from raycadian.cli import submit as jobs
    from raycadian.cli.terminal import console, show_json

    with jobs.cluster(address) as client, console.status(f"fetching what {job} made"):
        found = jobs.fetch(client, job, to, runs)
    show_json([str(path) for path in found]) if as_json else click.echo("\n".join(map(str, found)))


@main.group(cls=Verbs)
def benchmark() -> None:
    """Published benchmarks, run with any model of the platform."""


@benchmark.command()
@click.option("--data", required=True, type=YAML, help="CSV (also .gz) with the columns id, time, gl in mg/dL.")
@click.option(
    "--protocol", required=True, metavar="NAME|KEY=VALUE,...",
    help="iglu, colas, dubosson, hall, weinstock; or gap=45,min_points=240,length_segment=240,max_input=192[,horizon=12].",
)  # fmt: skip
@click.option(
    "--models", multiple=True, default=["ridge:lags=12,alpha=0", "blend"], show_default=True, metavar="MODEL...",
    help="A kind with settings (ridge:lags=12), blend, or a recipe's path; several behind one another.",
)  # fmt: skip
@click.argument("more_models", nargs=-1)
@click.option(
    "--pretrain", multiple=True, type=YAML, metavar="CSV",
    help="Other people's data: every model that trains is trained on it first, beside the plain one; several times.",
)  # fmt: skip
@click.option("--seeds", default="10:20", show_default=True, help="first:beyond, or numbers with commas.")
@click.option("--out", type=YAML, help="CSV with a row for each model, seed and split.")
@click.option("--name", help="The data set's name in the results; else the protocol's, or the file's.")
@JSON
def glucobench(
    data: Path, protocol: str, models: tuple[str, ...], more_models: tuple[str, ...], pretrain: tuple[Path, ...],
    seeds: str, out: Path | None, name: str | None, as_json: bool,
) -> None:  # fmt: skip
    """GlucoBench's protocol: an hour ahead, for the people trained on (id) and for others (ood), beside its figures."""
    from raycadian.cli.terminal import console, show_json, show_table
    from raycadian.experiments import glucobench as bench

    done = 0

    def on_done(rows: Any, total: int) -> None:
        nonlocal done
        done += 1
        cells = " · ".join(f"{r.split} {r.mean_rmse:.2f}/{r.mean_mae:.2f}" for r in rows.itertuples())
        console.print(f"  {done} of {total} · {rows.model[0]} · seed {rows.seed[0]} · RMSE/MAE {cells} mg/dL")

    table = bench.benchmark(
        data, protocol, [*models, *more_models], bench.parse_seeds(seeds), dataset=name, pretrain=pretrain,
        on_done=on_done,
    )  # fmt: skip
    if out is not None:
        bench.write_results(table, out)
    found = bench.summary(table)
    if as_json:
        show_json({"results": table.to_dict("records"), "summary": found.to_dict("records")})
        return
    show_table(
        found, "GlucoBench, mean over forecasts, then seeds; mg/dL; ahead: cells below the best published figure"
    )


@main.command()
@click.argument("kind", type=click.Choice(["recipe", "card", "space"]))
def schema(kind: str) -> None:
    """JSON schema of a recipe, card or search space, for editors that check YAML."""
    from raycadian.cli.terminal import show_json
    from raycadian.modalities.cards import SCHEMAS

    show_json(SCHEMAS[kind].model_json_schema())


def _chosen(run_name: str | None, champion_name: str | None, runs: Path) -> Any:
    from raycadian.tracking.registry import champion
    from raycadian.training.run import open_run

    if run_name and champion_name:
        raise ValueError("--run and --champion exclude one another; name one")
    return open_run(run_name, runs) if run_name else champion(champion_name, runs=runs)


def _key_in_words(subject: str, key: str) -> str:
    return f"key of {subject}, shown this once (the endpoint asks for it): {key}"


def _given(ctx: click.Context, verb: str, arguments: tuple[str, ...]) -> dict[str, Any]:
    """What the verb's own parser makes of its arguments, defaults and this machine's variables left out."""
    command = main.commands.get(verb)
    if command is None or isinstance(command, click.Group):
        return {}
    with command.make_context(verb, list(arguments), parent=ctx.parent) as inner:
        said = click.core.ParameterSource.COMMANDLINE
        return {name: value for name, value in inner.params.items() if inner.get_parameter_source(name) == said}


def _follow(client: Any, job: str, as_json: bool = False) -> None:
    """Show a job's output until it ends, and end with its exit status. Where the output is JSON, it goes to stderr."""
    from raycadian.cli.submit import ending
    from raycadian.cli.submit import follow as follow_job

    try:
        found = follow_job(client, job, lambda text: click.echo(text, nl=False, err=as_json))
    except KeyboardInterrupt:
        click.echo(
            f"\njob {job} goes on: `raycadian jobs logs {job} --follow` shows it, `raycadian jobs stop {job}` ends it",
            err=True,
        )
        sys.exit(130)
    code, words = ending(found)
    click.echo(words, err=True)
    if as_json:
        _show_job({"job": job, "status": str(found.status.value), "exit_code": code}, as_json)
    sys.exit(code)


def _show_job(body: dict[str, Any], as_json: bool) -> None:
    from raycadian.cli.terminal import show_json

    show_json(body) if as_json else click.echo(body["job"])


def _show_run(run: Any, as_json: bool) -> None:
    from raycadian.cli.terminal import show_json

    if as_json:
        show_json({"run": run.name, "path": str(run.path), **run.metadata, "metrics": run.summary})
        return
    click.echo(f"{run.path}\n  {_score_in_words(run)}")
    click.echo(f"  {run.path / 'report.html'}")


def _score_in_words(run: Any) -> str:
    """The headline score of test data, or of validation data where nothing is tested (pretraining)."""
    from raycadian.config import Forecasting, headline

    recipe = run.recipe
    best, summary = headline(recipe.task), run.summary
    if "test" not in summary:
        return f"validation {best.text(summary['val'][best.name]['value'])}"
    unit = f" {best.unit}".rstrip()
    over = ", whole horizon" if isinstance(recipe.task, Forecasting) else ", over held-out people"
    text = f"test {best.words} {_three(summary['test'][best.name], 2 if best.unit else 3)}{unit}"
    if "ece_chance" in summary["test"]:
        ece, chance = (_three(summary["test"][name], 3) for name in ("ece", "ece_chance"))
        text += f", ECE after calibration {ece} (by chance {chance})"
    return text + over


def _three(found: dict[str, float | None], digits: int) -> str:
    """0.855 [0.831, 0.878]; no brackets where too few people give no interval."""
    from raycadian.evaluation.report_parts import brackets

    value, low, high = (float("nan") if found[k] is None else found[k] for k in ("value", "low", "high"))
    return brackets(value, low, high, digits)


def show_outcome(outcome: Any, as_json: bool = False) -> None:
    """The end of `run` and of `demo`: leaderboard, champion, report."""
    from raycadian.cli.terminal import show_json, show_table

    report = outcome.main.path / "report.html"
    if as_json:
        show_json({
            "runs": [r.name for r in outcome.ranked], "leaderboard": outcome.leaderboard.to_dict("records"),
            "promotion": vars(outcome.promotion), "report": str(report), "sweep": outcome.sweep,
            "cohort": outcome.main.metadata.get("cohort"),
        })  # fmt: skip
        return
    board = outcome.leaderboard
    columns = [
        board.columns[1],
        "low",
        "high",
        "difference",
        "diff_low",
        "diff_high",
        "verdict",
        *(name for name in board.columns if name.startswith("mae")),
        "auprc",
        "ece",
    ]
    show_table(
        board[["model", *(c for c in columns if c in board)]], "test data, identical windows, intervals over subjects"
    )
    for run in outcome.ranked:
        click.echo(f"{run.metadata['model']}: {_score_in_words(run)}")
    done = outcome.promotion
    click.echo(f"champion of {done.registered}: {done.run if done.promoted else done.previous} ({done.reason})")
    click.echo(f"report: {os.path.relpath(report)}")


if __name__ == "__main__":
    main()
