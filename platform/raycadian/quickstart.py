"""From data files to a card and a first recipe, so that nobody writes YAML before the first result.

What a user names is a recipe, a card, a snapshot, or data files: `sources_of` tells which. Cards and recipes that are
made here are written beside the result, never over another file, and say in comments what they hold.
"""

from __future__ import annotations

import glob
import os
import shlex
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from raycadian.config.schema import assignment, parse, read_yaml, with_value
from raycadian.made import is_edited, kept_beside, there, write_new

if TYPE_CHECKING:
    from raycadian.config import Recipe
    from raycadian.data.snapshot import Snapshot
    from raycadian.modalities.base import Progress
    from raycadian.modalities.cgm.request import History
    from raycadian.modalities.guesses import Guess
    from raycadian.types import Readings

Kind = Literal["recipe", "card", "snapshot", "files"]
Tell = Callable[[str], object]
_YAML = (".yaml", ".yml")


class Sources(NamedTuple):
    """What a user named."""

    kind: Kind
    paths: tuple[Path, ...]

    @property
    def path(self) -> Path:
        """The one card, recipe or snapshot."""
        return self.paths[0]


def sources_of(paths: Sequence[str | Path]) -> Sources:
    """Tell a recipe, a card, a snapshot and data files apart: YAML by what it says, a folder by its manifest.

    Raises ValueError where something isn't there, and for a card or recipe among other files.
    """
    from raycadian.data.storage import resolve_path

    resolved = tuple(resolve_path(path) for path in paths)
    if not resolved:
        raise ValueError("name data files, a card or a recipe")
    special = [path for path in resolved if path.suffix.lower() in _YAML or (path / "manifest.json").is_file()]
    if not special:
        return Sources("files", tuple(map(_existing, resolved)))
    if len(resolved) > 1:
        raise ValueError(
            f"{special[0]} among {len(resolved)} files: name one card or recipe alone, or data files alone"
        )
    if special[0].suffix.lower() in _YAML:
        return Sources(_kind_of_yaml(special[0]), resolved)
    return Sources("snapshot", resolved)


def _existing(path: Path) -> Path:
    if path.is_dir():
        raise ValueError(f"{path}: no snapshot here, but a folder; name the files in it")
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    return path


def _kind_of_yaml(path: Path) -> Kind:
    """A recipe names a model, a card names files; what has neither is refused as the card that it isn't."""
    return "recipe" if {"model", "dataset"} & read_yaml(path).keys() else "card"


# --- a card ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CardOptions:
    """What a user says of data files, in place of what would be guessed. settings: `dotted.path=value` of the card."""

    unit: str | None = None
    timezone: str | None = None
    subject: str | None = None
    format: str | None = None
    modality: str | None = None
    settings: tuple[str, ...] = ()

    @property
    def overrides(self) -> tuple[str, ...]:
        named = {"unit": self.unit, "timezone": self.timezone, "subject": self.subject, "format": self.format}
        return (*(f"{name}={value}" for name, value in named.items() if value is not None), *self.settings)

    def require_none(self, sources: Sources) -> None:
        """Raises ValueError where something is said of the files of a card or recipe, which say it themselves."""
        names = ("unit", "timezone", "subject", "format", "modality")
        named = [f"--{name}" for name in names if getattr(self, name)] + ["--set"] * bool(self.settings)
        if named:
            raise ValueError(
                f"{', '.join(named)} goes with data files; {sources.path} is a {sources.kind}: set it there"
            )


@dataclass(frozen=True)
class Dataset:
    """A snapshot, with the card that it was prepared from, and what was guessed for a card made here."""

    snapshot: Snapshot
    card: Path | None = None
    guesses: tuple[Guess, ...] = ()


def prepare(
    sources: Sources, options: CardOptions, snapshots: Path, progress: Progress | None = None,
    tell: Tell = lambda text: None, *, cards: Path | None = None,
) -> Dataset:  # fmt: skip
    """The snapshot of a card, of data files, or the one that is named. Raises ValueError, OSError.

    Of data files a card is written into the folder `cards`; else beside the snapshots, or where these lie in object
    storage into the working folder. `tell`: called with each guess, before anything is read.
    """
    from raycadian.data.snapshot import Snapshot
    from raycadian.modalities.prepare import prepare as prepare_snapshot

    if sources.kind == "files":
        return _prepare_files(sources, options, snapshots, progress, tell, cards or _beside(snapshots))
    options.require_none(sources)
    if sources.kind == "recipe":
        raise ValueError(f"{sources.path} is a recipe, which `raycadian run` takes; expected a card or data files")
    if sources.kind == "snapshot":
        return Dataset(Snapshot.open(sources.path))
    return Dataset(prepare_snapshot(sources.path, snapshots, progress), sources.path)


def card_of(sources: Sources, options: CardOptions, tell: Tell = lambda text: None) -> tuple[Any, Path]:
    """The card that is named, or that data files are recognised by, and the folder that its files are relative to.
    Nothing is read yet. Raises ValueError for a recipe or a snapshot."""
    from raycadian.modalities.cards import load_card

    if sources.kind == "files":
        return _guessed_card(sources, options, tell).card, Path()
    options.require_none(sources)
    if sources.kind != "card":
        raise ValueError(f"{sources.path} is a {sources.kind}; name the card or the data files that it is made from")
    return load_card(sources.path), sources.path.parent


def _beside(snapshots: Path) -> Path:
    return Path(snapshots) if "://" not in str(snapshots) else Path()


def _prepare_files(
    sources: Sources, options: CardOptions, snapshots: Path, progress: Progress | None, tell: Tell, folder: Path
) -> Dataset:
    """Recognise data files, read them, and write their card into a folder: last, so that a wrong one leaves nothing."""
    from raycadian.modalities.cards import load_card
    from raycadian.modalities.detect import card_yaml
    from raycadian.modalities.prepare import prepare_card

    read_by = _edited_card(sources, options, folder, tell) or _guessed_card(sources, options, tell)
    card, guesses = read_by.card, read_by.guesses
    snapshot = prepare_card(card, folder, snapshots, progress)
    path = read_by.path or write_new(folder, card.name, card_yaml(card, guesses), lambda path: load_card(path) == card)
    tell(f"card: {path}{'' if read_by.path else kept_beside(path, card.name)}")
    return Dataset(snapshot, path, guesses)


class _ReadBy(NamedTuple):
    """The card that data files are read by: where it lies, if it does, and what was guessed for it."""

    card: Any
    path: Path | None = None
    guesses: tuple[Guess, ...] = ()


def _guessed_card(sources: Sources, options: CardOptions, tell: Tell) -> _ReadBy:
    from raycadian.modalities.detect import make_card

    card, guesses = make_card(sources.paths, modality=options.modality, overrides=options.overrides)
    for guess in guesses:
        tell(f"  {guess}")
    return _ReadBy(card, guesses=tuple(guesses))


def _edited_card(sources: Sources, options: CardOptions, folder: Path, tell: Tell) -> _ReadBy | None:
    """The card of these files in the folder that somebody edited or wrote, the newest, with what the user says now."""
    path = next(filter(is_edited, _cards_there(sources, folder)), None)
    if path is None:
        return None
    tell(f"using your edited card {path}{_also(options.overrides)}; remove it to guess anew")
    return _card_there(path, options)


def _card_there(path: Path, options: CardOptions) -> _ReadBy:
    """A card that was made before; where the user says more than it does, one that lies nowhere yet. Raises
    ValueError."""
    from raycadian.modalities.cards import load_card, parse_card

    there, raw = load_card(path), read_yaml(path)
    for name, value in map(assignment, options.overrides):
        raw = with_value(raw, name, value)
    card = parse_card(raw, source=f"{path}, with what is said on the command line")
    return _ReadBy(card, path if card == there else None)


def _cards_there(sources: Sources, folder: Path) -> Iterator[Path]:
    """The cards in a folder that are of exactly these files, the newest first."""
    named = {glob.escape(os.path.abspath(path)) for path in sources.paths}

    def is_of_these(raw: dict[str, Any]) -> bool:
        files = raw.get("files")
        return isinstance(files, list) and {os.path.abspath(folder / str(file)) for file in files} == named

    return there(folder, "*.yaml", is_of_these)


def _also(overrides: Sequence[str]) -> str:
    return f" with {', '.join(overrides)}" if overrides else ""


# --- one person's readings ------------------------------------------------------------------------------------------


def history(
    file: Path, options: CardOptions, snapshots: Path | None, tell: Tell = lambda text: None, *,
    card: Path | None = None, person: str | None = None,
) -> History:  # fmt: skip
    """One person's readings of glucose in a data file, for a forecast.

    The file is read by `card`; else by the card of it that lies beside the snapshots (where these are named), which
    `prepare` or `run` wrote or somebody edited; else as it is recognised. `person`: whom of several. Raises ValueError.
    """
    from raycadian.modalities.cards import modality_of
    from raycadian.modalities.cgm.readers import read_people
    from raycadian.modalities.cgm.request import History
    from raycadian.types import Issues

    sources = sources_of([file])
    if sources.kind != "files":
        raise ValueError(
            f"{file} is a {sources.kind}; a forecast begins at a file of readings, or takes everybody with --out FOLDER"
        )
    read_by = _card_for(sources, options, card, snapshots, tell)
    modality = modality_of(read_by.card)
    if modality.request().path != History.path:
        raise ValueError(
            f"{file} holds {modality.name}, and a forecast begins at readings of glucose; `raycadian inspect {file}` "
            f"shows what is in it, and a model of it needs a label, in a recipe: `{modality.example_task}`"
        )
    issues = Issues()
    return History.of(_one_of(read_people(file, read_by.card, issues), file, person), issues)


def champion_name(file: Path, snapshots: Path, runs: Path) -> str | None:
    """Of several champions that forecast, the one of the data set that `file` is, or is of; None where none is."""
    from raycadian.tracking.registry import champions

    sources = sources_of([file])
    cards = _cards_there(sources, _beside(snapshots)) if sources.kind == "files" else iter(sources.paths)
    names = {path.stem if path.suffix else path.name.rpartition("-")[0] for path in cards}
    own = [name for name in champions(runs) if name.rpartition("-forecast-")[0] in names]
    return own[0] if len(own) == 1 else None


def _card_for(sources: Sources, options: CardOptions, card: Path | None, snapshots: Path | None, tell: Tell) -> _ReadBy:
    if card is not None:
        options.require_none(Sources("card", (card,)))
        return _card_there(card, options)
    if snapshots is None:
        return _guessed_card(sources, options, tell)
    return _card_of_result(sources, options, _beside(snapshots), tell)


def _card_of_result(sources: Sources, options: CardOptions, cards: Path, tell: Tell) -> _ReadBy:
    there = list(_cards_there(sources, cards))
    path = next(filter(is_edited, there), there[0] if there else None)
    if path is None:
        return _guessed_card(sources, options, tell)
    tell(f"read by the card {path}{_also(options.overrides)}, as `run` and `prepare` do")
    return _card_there(path, options)


def _one_of(people: Mapping[str, Readings], file: Path, person: str | None) -> Readings:
    if person is None and len(people) == 1:
        return next(iter(people.values()))
    if person in people:
        return people[person]
    listed = ", ".join(sorted(people)[:20])
    if person is None:
        raise ValueError(
            f"{file} holds {len(people)} people: {listed}; choose one: "
            f"--person {shlex.quote(min(people))}, or forecast everybody: --out FOLDER"
        )
    raise ValueError(f"{file}: no person {person!r} in it; --person is one of {listed}")


# --- a recipe -------------------------------------------------------------------------------------------------------

_SCALES_H = ((2.0, 1.0), (1.0, 0.5), (0.5, 0.25))  # hours of history and ahead, the usual first
_LEAST_WINDOWS = 20  # of each split, for a first look
_DENSE_POINTS = 50_000  # more points: not every window is needed


def recipe(
    sources: Sources, options: CardOptions, runs: Path, snapshots: Path, progress: Progress | None = None,
    tell: Tell = lambda text: None, *, cards: Path | None = None,
) -> tuple[Recipe, Path]:  # fmt: skip
    """The recipe that is named; or, of a card or data files, a first one, which is written into the folder `runs`.

    options.settings: of the recipe, or of the card. Raises ValueError, also where the data can't be forecast without
    being told what a label is, or are too few.
    """
    from raycadian.config import load_recipe
    from raycadian.modalities.cards import require_dataset

    if sources.kind == "recipe":
        replace(options, settings=()).require_none(sources)
        named = load_recipe(sources.path, options.settings)
        require_dataset(named)
        return named, sources.path
    of_card, of_recipe = _split_settings(options.settings)
    dataset = prepare(sources, replace(options, settings=of_card), snapshots, progress, tell, cards=cards)
    for edited, is_of_card in _edited_recipes(sources, dataset, runs):
        if is_of_card:
            tell(f"using your edited recipe {edited}{_also(of_recipe)}; remove it to have one made anew")
            return load_recipe(edited, of_recipe), edited
        tell(f"your edited recipe {edited} is of another card of these files, and is not used")
    path = _first_recipe(dataset, runs, of_recipe)
    first = load_recipe(path)
    tell(f"recipe: {path}{kept_beside(path, f'{first.name}.recipe')}")
    return first, path


def _edited_recipes(sources: Sources, dataset: Dataset, folder: Path) -> Iterator[tuple[Path, bool]]:
    """First recipes in the folder that somebody edited, the newest first, and whether each is of the data set's card or
    of another one of the same files."""
    card = os.path.abspath(dataset.card or "")
    others = {os.path.abspath(path) for path in _cards_there(sources, Path(card).parent)}
    for only in ({card}, others - {card}):
        own = there(folder, "*.recipe*.yaml", lambda raw, only=only: os.path.abspath(str(raw.get("dataset"))) in only)
        yield from ((path, card in only) for path in own if is_edited(path))


def _split_settings(settings: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What of `--set` belongs to a card, and what to a recipe; a name to both. Raises ValueError for what is of
    neither."""
    from raycadian.config import Recipe
    from raycadian.modalities import MODALITIES

    of_recipe = set(Recipe.model_fields)
    of_cards = {name for modality in MODALITIES.values() for name in modality.Card.model_fields} - of_recipe | {"name"}
    heads = {text: text.partition("=")[0].partition(".")[0] for text in settings}
    for text, head in heads.items():
        if head not in of_cards | of_recipe:
            near = get_close_matches(head, of_cards | of_recipe, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"--set {text}: neither a card nor a recipe has {head!r}{hint}")
    return tuple(t for t in settings if heads[t] in of_cards), tuple(t for t in settings if heads[t] in of_recipe)


def _first_recipe(dataset: Dataset, folder: Path, settings: tuple[str, ...]) -> Path:
    from raycadian.config import Recipe, load_recipe

    sections = _first_sections(dataset)
    raw = {name: value for name, (value, _) in sections.items()}
    for path, value in map(assignment, settings):
        raw = with_value(raw, path, value)
    first = parse(Recipe, raw, source="the first recipe, with what --set says")
    text = _as_yaml(raw, {name: why if raw[name] == value else "by --set" for name, (value, why) in sections.items()})
    return write_new(folder, f"{first.name}.recipe", text, lambda path: load_recipe(path) == first)


def _as_yaml(raw: dict[str, Any], comments: dict[str, str]) -> str:
    """A section a line, with its comment above."""
    import yaml

    lines = [
        "# A first recipe, made by raycadian: change it, and run it again with `raycadian run`. Anything can also be "
        "set",
        "# for one run, e.g. --set window.horizon=6; `raycadian schema recipe` lists every key.",
    ]
    for name, value in raw.items():
        lines += textwrap.wrap(comments.get(name, "by --set"), 118, initial_indent="# ", subsequent_indent="# ")
        flow = None if isinstance(value, dict | list) else False
        lines.append(yaml.safe_dump({name: value}, default_flow_style=flow, sort_keys=False, width=118).rstrip())
    return "\n".join(lines) + "\n"


Sections = dict[str, tuple[Any, str]]
"""Of a recipe: name -> what it says, and why."""


def _first_sections(dataset: Dataset) -> Sections:
    """Raises ValueError where there is nothing to forecast."""
    from raycadian.modalities.cards import modality_of

    if dataset.card is None:
        raise ValueError(f"{dataset.snapshot.id} is a snapshot: run takes the card or the files that it was made from")
    modality = modality_of(dataset.snapshot)
    if modality.example_task:
        raise ValueError(
            f"{dataset.snapshot.id} holds {modality.name}: a model of it needs a label, which no recording says by "
            f"itself. Write a recipe with `dataset: {_shown(dataset.card)}` and what is to be told, e.g. "
            f"`{modality.example_task}`; jobs/recipes/ has whole ones. `raycadian inspect` shows what is in the data."
        )
    return _forecast_sections(dataset.card, dataset.snapshot)


def _forecast_sections(card: Path, snapshot: Snapshot) -> Sections:
    _require_changes(snapshot)
    window = _first_window(snapshot)
    length = f"{window.hours(window.context)} of history, {window.hours(window.horizon)} ahead"
    whole = ", and some people whole" if window.split is _SEVERAL else ""
    return {
        "name": (snapshot.name, ""),
        "description": ("Ridge regression beside persistence", ""),
        "dataset": (_shown(card), "the card, which says how the files are read; below the folder that you work in"),
        "split": (window.split, f"for validation and test: the last stretch of everyone{whole}"),
        "window": (
            {"context": window.context, "horizon": window.horizon, "stride": window.stride, "eval_stride": 3},
            f"points of {window.dt_min:g} minutes: {length}",
        ),
        "model": (
            {"kind": "ridge", "lags": window.context},
            "least squares on the whole history: hard to beat within an hour. A network: {kind: ttm, d_model: 32}, "
            "with "
            "a longer context, a multiple of its patch_length",
        ),
        "compare": ([{"kind": "persistence"}], "scored beside it on the same windows: the last reading stays as it is"),
    }


def _require_changes(snapshot: Snapshot) -> None:
    from raycadian.modalities.cgm.prepare import CONSTANT

    constant = snapshot.manifest["issues"].get(CONSTANT, {"count": 0, "examples": []})
    if constant["count"] >= len(snapshot.subjects):
        raise ValueError(
            f"{snapshot.id}: every reading of {', '.join(constant['examples'])} is the same value: nothing can be "
            "learnt; is it the column of glucose? --set columns.glucose=NAME"
        )


class _FirstWindow(NamedTuple):
    dt_min: float
    context: int
    horizon: int
    stride: int
    split: dict[str, Any]

    def hours(self, points: int) -> str:
        return f"{points * self.dt_min / 60:g} h"


def _first_window(snapshot: Snapshot) -> _FirstWindow:
    """Two hours of history and one ahead, or less where the data are short. Raises ValueError where they are too
    few."""
    lengths, dt_min = snapshot.lengths, float(snapshot.manifest["card"]["grid"]["dt_min"])
    split = _SEVERAL if len(lengths) > 2 else _ONE
    stride = 1 if sum(map(sum, lengths.values())) <= _DENSE_POINTS else 3
    for context_h, horizon_h in _SCALES_H:
        context, horizon = (max(2, round(hours * 60 / dt_min)) for hours in (context_h, horizon_h))
        if _enough(lengths, split, context + horizon):
            return _FirstWindow(dt_min, context, horizon, stride, split)
    hours = sum(map(sum, lengths.values())) * dt_min / 60
    raise ValueError(
        f"{snapshot.id}: {hours:.0f} h of readings are too few to train on one part and test on another: a first model "
        "needs about a day without a long gap; `raycadian inspect` shows where readings are missing"
    )


_ONE = {"kind": "time", "test_fraction": 0.15, "val_fraction": 0.15}
_SEVERAL = _ONE | {"kind": "hybrid", "test_subjects": 0.2}


def _enough(lengths: dict[str, list[int]], split: dict[str, Any], length: int) -> bool:
    """Whether each split has windows to speak of."""
    from raycadian.config import Split
    from raycadian.data.split import SPLITS, make_split

    manifest = make_split(lengths, Split.model_validate(split))
    windows = {name: sum(max(0, r.stop - r.start - length + 1) for r in manifest.of(name)) for name in SPLITS}
    return min(windows.values()) >= _LEAST_WINDOWS


def _shown(path: Path) -> str:
    """Relative where it lies below the working folder."""
    relative = os.path.relpath(path)
    return str(path.absolute()) if relative.startswith("..") else relative
