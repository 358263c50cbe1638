"""Verbs of one person: `calibrate`, `predict`, `forget`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raycadian.cli.cohort import cohort_options, everybody
from raycadian.cli.options import CHAMPION, JSON, PEOPLE, RUNS, SNAPSHOTS, SUBJECT, YAML, chosen_run, run_option
from raycadian.cli.terminal import show_json, show_table

if TYPE_CHECKING:
    from raycadian.cohort import Which
    from raycadian.personal.calibrate import Calibrated
    from raycadian.personal.store import Store
    from raycadian.runs import Run

CARD = click.option("--card", type=YAML, help="Data-set card that says how to read the recording.")


@click.command()
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
@CARD
@run_option("calibrate")
@CHAMPION
@PEOPLE
@RUNS
@JSON
def calibrate(
    subject: str, recording: Path | None, episodes: Path | None, update: bool, delete: bool, new_key: bool,
    channel: str | None, card: Path | None, run_name: str | None, champion_name: str | None, people: Path, runs: Path,
    as_json: bool,
) -> None:  # fmt: skip
    """Adapt a run's model to one person, from their own export; prints their key, once.

    A classifier of activity needs 28 days worn and 14 labelled ones (--episodes), a forecaster of glucose 14 days of
    readings. The last days are held out: where the adapter is not better on them, the population's model is kept, and
    this says so. Nothing leaves this machine, and recordings are not kept. docs/howto/personal.md
    """
    if delete or new_key:
        _refuse_others("delete" if delete else "new-key", {
            "--new-key": delete and new_key, "--recording": recording, "--episodes": episodes, "--update": update,
            "--channel": channel, "--card": card, "--run": run_name, "--champion": champion_name,
        })  # fmt: skip
    if delete:
        _forget(subject, people, as_json)
        return
    for file in (recording, episodes, card):
        _require_there(file)
    if run_name or champion_name:
        chosen_run(run_name, champion_name, runs)  # a mistake is told before anything heavy is imported
    store = _store(people)
    store.folder(subject)  # a bad id is told before anything is read
    if new_key:
        _give_key(subject, store, as_json)
        return
    if recording is None:
        raise ValueError("--recording is missing: the person's export")
    # an update stays with the run that was calibrated
    run_name = run_name or (store.read(subject).metadata["run"] if update and not champion_name else None)
    from raycadian.personal import calibrate as personal

    run = chosen_run(run_name, champion_name, runs)
    inputs = personal.CalibrationInputs(run, subject, recording, episodes, card, channel)
    calibrated = personal.calibrate(inputs, store, update=update, report=lambda text: click.echo(text, err=True))
    _show_calibrated(calibrated, store.folder(subject), as_json)


def _require_there(file: Path | None) -> None:
    if file is not None and not file.exists():
        raise ValueError(f"{file}: no such file")


def _refuse_others(flag: str, given: dict[str, Any]) -> None:
    if others := ", ".join(name for name, value in given.items() if value):
        raise ValueError(f"--{flag} calibrates nobody, found {others} too; leave it out")


def _store(people: Path) -> Store:
    from raycadian.personal.store import Store

    return Store(people)


def _show_calibrated(calibrated: Calibrated, folder: Path, as_json: bool) -> None:
    metadata = calibrated.person.metadata
    if as_json:
        show_json(metadata | {"path": str(folder), "key": calibrated.key})
        return
    for kind, n in calibrated.issues.counts.items():
        click.echo(f"  {kind}: {n}")
    click.echo(f"{folder}: {metadata['parameters']:,} weights in {metadata['seconds']:g} s")
    click.echo(metadata["verdict"])
    if calibrated.key:
        click.echo(_key_in_words(calibrated.person.subject, calibrated.key))


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--subject", metavar="ID", help="Who calibrated.")
@click.option("--recording", type=click.Path(path_type=Path), help="The person's export.")
@click.option("--day", metavar="YYYY-MM-DD", help="Only this day; all days of the recording if left out.")
@CARD
@cohort_options
@run_option("ask, of a cohort")
@CHAMPION
@PEOPLE
@RUNS
@SNAPSHOTS
@JSON
def predict(
    file: Path | None, subject: str | None, recording: Path | None, day: str | None, card: Path | None,
    out: str | None, windows: Which, run_name: str | None, champion_name: str | None, people: Path, runs: Path,
    snapshots: Path, as_json: bool,
) -> None:  # fmt: skip
    """What a model says of a person who calibrated, or of everybody of FILE with --out.

    With --subject and --recording: the risk of each day, or the forecast from the last reading. With FILE (a card, a
    snapshot or data files) and --out: a whole cohort into Parquet; interrupted, the same command goes on where it was.
    docs/howto/cohort.md
    """
    of_one = {"--subject": subject, "--recording": recording, "--day": day, "--card": card}
    of_many = {"FILE": file, "--out": out, "--run": run_name, "--champion": champion_name}
    mixed = [name for name, value in of_one.items() if value and any(of_many.values())]
    if mixed or not (file and out if any(of_many.values()) else subject and recording):
        given = ", ".join(name for name, value in (of_one | of_many).items() if value) or "nothing"
        raise ValueError(f"give --subject and --recording of one person, or FILE and --out of a cohort; found {given}")
    if file is not None and out is not None:
        _predict_everybody(file, out, windows, chosen_run(run_name, champion_name, runs), snapshots, as_json)
    elif subject is not None and recording is not None:
        _predict_one(subject, recording, day, card, people, runs, as_json)


def _predict_everybody(file: Path, out: str, windows: Which, run: Run, snapshots: Path, as_json: bool) -> None:
    from raycadian.quickstart import CardOptions

    everybody(file, CardOptions(), run, snapshots, out, windows, as_json)


def _predict_one(
    subject: str, recording: Path, day: str | None, card: Path | None, people: Path, runs: Path, as_json: bool
) -> None:
    _require_there(recording)
    store = _store(people)
    person = store.read(subject)
    from raycadian.runs import open_run
    from raycadian.serving.load import open_person

    predictor = open_person(open_run(person.metadata["run"], runs), person, store)
    answer = predictor.answer(predictor.read(recording, card)).of_day(day)
    show_json(answer.as_dict()) if as_json else show_table(answer.as_frame(), answer.title)


@click.command()
@SUBJECT
@PEOPLE
@JSON
def forget(subject: str, people: Path, as_json: bool) -> None:
    """Delete everything that is kept of a person who calibrated: adapter, baseline, labels, key."""
    _forget(subject, people, as_json)


def _forget(subject: str, people: Path, as_json: bool) -> None:
    files = _store(people).forget(subject)
    show_json({"subject": subject, "files": files}) if as_json else click.echo(f"{subject}: {files} files deleted")


def _give_key(subject: str, store: Store, as_json: bool) -> None:
    from raycadian.personal.calibrate import give_new_key

    key = give_new_key(subject, store)
    show_json({"subject": subject, "key": key}) if as_json else click.echo(_key_in_words(subject, key))


def _key_in_words(subject: str, key: str) -> str:
    return f"key of {subject}, shown this once (the endpoint asks for it): {key}"


VERBS = {"calibrate": calibrate, "predict": predict, "forget": forget}
