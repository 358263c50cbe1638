"""`raycadian VERB`: the verbs, each in a module that is imported when it is called, so that --help is instant."""

from collections.abc import Mapping

import click

from raycadian.cli.group import LazyVerbs, Verb


def _show() -> Mapping[str, click.Command]:
    from raycadian.cli import show

    return show.VERBS


def _data() -> Mapping[str, click.Command]:
    from raycadian.cli import data

    return data.VERBS


def _rhythm() -> Mapping[str, click.Command]:
    from raycadian.cli import rhythm

    return rhythm.VERBS


def _train() -> Mapping[str, click.Command]:
    from raycadian.cli import train

    return train.VERBS


def _runs() -> Mapping[str, click.Command]:
    from raycadian.cli import runs

    return runs.VERBS


def _serve() -> Mapping[str, click.Command]:
    from raycadian.cli import serve

    return serve.VERBS


def _personal() -> Mapping[str, click.Command]:
    from raycadian.cli import personal

    return personal.VERBS


def _jobs() -> Mapping[str, click.Command]:
    from raycadian.cli import jobs

    return jobs.VERBS


def _benchmark() -> Mapping[str, click.Command]:
    from raycadian.cli import benchmark

    return benchmark.VERBS


VERBS = {  # in the order of work
    "demo": Verb(_show, "From the demo cohort to a leaderboard, a report and a served forecast."),
    "doctor": Verb(
        _show, "Versions, processors, memory, storage; what is missing and how to get it. With --ray: does Ray run?"
    ),
    "prepare": Verb(_data, "Read a data set's files into a snapshot: even grid, quality, content hash."),
    "inspect": Verb(_data, "Data quality of a snapshot as a page, or as JSON."),
    "init": Verb(
        _data, "Write a card and a first recipe for data files, with comments, to change before `raycadian run RECIPE`."
    ),
    "train": Verb(_train, "Train and score the recipe's model; one worker in this process, more on Ray Train."),
    "tune": Verb(_train, "Sweep the recipe's search space on Ray Tune; choose on validation data."),
    "run": Verb(_train, "Prepare, tune, train the model and its peers, score, promote the best, report."),
    "score": Verb(_runs, "Score a run's predictions again and rewrite its tables and report."),
    "compare": Verb(
        _runs,
        "Runs on identical test windows: a leaderboard, and for each pair what is better and whether it is noise.",
    ),
    "experiment": Verb(
        _train,
        "Run the recipe's experiment: its models on identical windows, a figure, a table, what is better in words.",
    ),
    "runs": Verb(_runs, "Complete runs, the champions, and runs that are broken, with the file that is damaged."),
    "promote": Verb(_runs, "Make a run the champion, if it beats the present one on the same snapshot and split."),
    "verify": Verb(_runs, "Check every file of a run against the hashes that were written with it, and its signature."),
    "serve": Verb(_serve, "Serve forecasts on Ray Serve until interrupted; the API key's place is printed."),
    "forecast": Verb(_serve, "Forecast from the end of a file of readings: the same code as the endpoint."),
    "calibrate": Verb(_personal, "Adapt a run's model to one person, from their own export; prints their key, once."),
    "predict": Verb(
        _personal,
        "What a model says of a person who calibrated, or of everybody of FILE with --out.",
    ),
    "forget": Verb(
        _personal, "Delete everything that is kept of a person who calibrated: adapter, baseline, labels, key."
    ),
    "rhythm": Verb(_rhythm, "Rest-activity rhythm and sleep: a row a person, a row a night, and why one lacks what."),
    "indices": Verb(_data, "mood_ml's 36 indices of one person's sleep and circadian rhythm, a row a day."),
    "simulate": Verb(_data, "Simulate a cohort (extra `sim`); prints the path of its card."),
    "export": Verb(_runs, "Export a run's TTM in Hugging Face's format, to start another recipe from (`pretrained:`)."),
    "submit": Verb(
        _jobs, "Run a verb as a job on a cluster: raycadian submit tune RECIPE --set a.b=c --runs /shared/runs."
    ),
    "jobs": Verb(_jobs, "Jobs of a cluster: list, logs, stop, fetch what they made."),
    "benchmark": Verb(_benchmark, "Published benchmarks, run with any model of the platform."),
    "schema": Verb(
        _data,
        "JSON schema of a recipe, a card (of any modality, or of one) or a search space, for editors that check YAML.",
    ),
}


@click.group(
    cls=LazyVerbs, verbs=VERBS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="raycadian")
def main() -> None:
    """Distributed experimentation on Ray for physiological time series."""
    from raycadian.cluster import prepare_environment
    from raycadian.telemetry import configure_logs

    prepare_environment()
    configure_logs()


if __name__ == "__main__":
    main()
