"""From files to a card: they are recognised, what can't be told is asked for, and every guess says how to change it."""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from raycadian.config.schema import assignment, parse, with_value
from raycadian.data.packed import contents, packed_kind
from raycadian.modalities import MODALITIES
from raycadian.modalities.base import BaseCard
from raycadian.modalities.conflicts import repeated_over_sites
from raycadian.modalities.guesses import Detection, Given, Guess, option
from raycadian.modalities.naming import naming
from raycadian.modalities.unpack import unpacked
from raycadian.modalities.unreadable import FILE, Unreadable
from raycadian.types import Issues

_TOLD_ONLY = {"columns", "tracks"}  # guesses that say what is not read, and set no field
_TABLES = {"generic", "table"}  # formats that are known by their columns' names alone
_ENDING = re.compile(r"\.(awd|agd|npz|vital|hea|edf|bdf|xpt|zip)$", re.IGNORECASE)
_BY_CHANNEL = {"waveforms", "numerics"}  # fields that files add to
_BY_FILE = {"format": "auto", "unit": None}  # fields that each file can tell by itself, and what lets it
_OF_ALL = {"grid.dt_min"}  # fields that keep their usual value unless each file says otherwise
Detections = Mapping[Path, Detection]


def make_card(
    paths: Sequence[str | Path],
    *,
    modality: str | None = None,
    overrides: tuple[str, ...] = (),
    name: str | None = None,
) -> tuple[Any, list[Guess]]:
    """A card for data files of one modality, of one person or of several, and what was guessed for it.

    overrides: `dotted.path=value` of the card; they go before what is guessed, and answer what is asked · name: of the
    data set; the first file's stem if left out. Raises ValueError where a file is of no known kind, where files don't
    fit together, and where something that results hang on can't be told: the message says what to add on the command
    line.
    """
    paths = list(dict.fromkeys(Path(path) for path in paths))
    if not paths:
        raise ValueError("no data file is named; name one or more")
    given = _given(overrides)
    modality = modality or given.get("modality")
    inside = _insides(paths, given, modality)
    detections = {plain: found for plains in inside.values() for plain, found in plains.items()}
    kind = _one_modality(detections)
    told = [*_joined(detections), *_sheets(inside)]
    guesses = [guess for guess in told if guess.name not in given]
    if questions := [*_questions(detections, guesses, given), *_over_sites(detections, given)]:
        raise ValueError("\n".join(questions))
    about = {"name": name or _name_of(paths[0]), "modality": kind, "files": [_pattern(path) for path in paths]}
    return _card(about, [*_fields(guesses, kind), *_values(overrides)]), guesses


def _insides(paths: Sequence[Path], given: Given, modality: str | None) -> dict[Path, dict[Path, Detection]]:
    """Of each file that is known what it is, or what lies in it: one that can't be read is left out, as `prepare` does.
    Raises ValueError."""
    most = float(given.get("most_unreadable", BaseCard.model_fields["most_unreadable"].default))
    unreadable, inside = Unreadable(most), {}
    for path in paths:
        with unreadable.leaving_out(FILE, str(path), len(paths)):
            inside[path] = {plain: detect(plain, given, modality) for plain in _inside(path, given, modality)}
    return inside


def _inside(path: Path, given: Given, modality: str | None) -> list[Path]:
    """The file; of a workbook or an archive, those in it that may be read. Raises ValueError."""
    members = given.get("members") or ()
    members = (members,) if isinstance(members, str) else tuple(members)
    card = BaseCard(name="x", modality="x", files=("x",), sheet=given.get("sheet"), members=members)
    return unpacked([path], card, lambda plain: bool(detect(plain, given, modality)), Issues())


def _sheets(inside: Mapping[Path, Mapping[Path, Detection]]) -> Iterator[Guess]:
    """Which sheet of workbooks that have several was chosen."""
    for path, (plain, *_) in inside.items():
        of_workbook = contents(path) if packed_kind(path) == "workbook" else {}
        chosen = [name for name, sheet in of_workbook.items() if sheet.samefile(plain)]
        if len(of_workbook) > 1 and chosen:
            yield Guess("sheet", chosen[0], True, "the only sheet that is known as data", option("sheet", "NAME"))


def _card(about: dict[str, Any], values: Iterable[tuple[str, Any]]) -> Any:
    """Raises ValueError for values that a card of the modality can't have."""
    for field, value in values:
        if not (field == "subject" and value is None):  # each file's own person: what a card says by saying nothing
            about = with_value(about, field, value)
    return parse(MODALITIES[about["modality"]].Card, about, source="the card of these files")


def _fields(guesses: list[Guess], kind: str) -> Iterator[tuple[str, Any]]:
    """Those of the guesses that a card has a field for."""
    for guess in guesses:
        if guess.name not in _TOLD_ONLY and guess.name.partition(".")[0] in MODALITIES[kind].Card.model_fields:
            yield guess.name, guess.value


def detect(path: Path, given: Given, modality: str | None = None) -> Detection:
    """What one file is. Raises ValueError where it is of no known kind, or may be of several."""
    if not path.is_file():
        raise ValueError(f"{path}: {'a folder; name its files' if path.is_dir() else 'no such file'}")
    if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty; export it again")
    if modality is not None and modality not in MODALITIES:
        raise ValueError(f"modality {modality!r}; there are {', '.join(MODALITIES)}")
    detections: list[Detection] = []
    messages: list[str] = []
    for candidate in [MODALITIES[modality]] if modality else MODALITIES.values():
        try:
            with naming(path):
                detection = candidate.detect(path, given)
        except ValueError as error:
            messages.append(f"  not {candidate.name}: {error}")
            continue
        detections += [detection] if detection else []
    if not detections:
        raise ValueError(_unknown(path, messages, modality))
    exact = [detection for detection in detections if detection.format not in _TABLES]
    if len(exact) == 1:
        return exact[0]
    if len(detections) > 1:
        raise ValueError(
            f"{path}: may be {' or '.join(d.modality for d in detections)}: add --modality {detections[0].modality}"
        )
    return detections[0]


def _unknown(path: Path, messages: list[str], modality: str | None) -> str:
    from raycadian.data.source import Source, header_of, shown

    try:
        with naming(path):
            names = shown(header_of(Source.of(path)))
        columns = f"; its columns are {names[:500]}"
    except ValueError:
        columns = ""
    kinds = modality or ", ".join(MODALITIES)
    how = "for a table say what its columns are, e.g. --set columns.glucose=NAME --set columns.time=NAME"
    return "\n".join([f"{path}: not a file of {kinds} that is known{columns}; {how}", *messages])


# --- several files --------------------------------------------------------------------------------------------------


def _one_modality(detections: Detections) -> str:
    """The modality that all files have. Raises ValueError for several, and where no file has recordings."""
    kinds = {d.modality: path for path, d in detections.items()}
    if len(kinds) > 1:
        listed = ", ".join(f"{path} is {kind}" for kind, path in kinds.items())
        raise ValueError(f"files of several modalities: {listed}; make a data set of each")
    if not any(d.recordings for d in detections.values()):
        raise ValueError(
            f"{', '.join(map(str, detections))}: only tables about people; add the files of their recordings"
        )
    return next(iter(kinds))


def _joined(detections: Detections) -> Iterator[Guess]:
    """A guess a field, where the files agree or add to one another. Raises ValueError if they can't be one data set."""
    by_name: dict[str, dict[Path, Guess]] = {}
    for path, detection in detections.items():
        for guess in detection.guesses:
            by_name.setdefault(guess.name, {})[path] = guess
    for name, guesses in by_name.items():
        first, *others = guesses.values()
        if name in _OF_ALL and len(guesses) < len(detections):
            continue
        if all(other.value == first.value for other in others):
            yield first
        elif name in _BY_CHANNEL:
            yield Guess(name, _channels(guesses.values()), first.sure, first.why, first.how_to_change)
        elif name in _BY_FILE:
            each = ", ".join(f"{path.name}: {guess.value}" for path, guess in guesses.items())
            yield Guess(name, _BY_FILE[name], True, f"told from each file ({each})", first.how_to_change)
        else:
            listed = ", ".join(f"{path} has {guess.value!r}" for path, guess in guesses.items())
            raise ValueError(f"files that don't go into one card: {name} differs: {listed}; make a data set of each")


def _channels(guesses: Any) -> dict[str, list[str]]:
    """Channel -> all names that its track has in some file."""
    joined: dict[str, list[str]] = {}
    for guess in guesses:
        for channel, names in guess.value.items():
            joined[channel] = list(dict.fromkeys([*joined.get(channel, []), *names]))
    return joined


def _questions(detections: Detections, guesses: list[Guess], given: Given) -> Iterator[str]:
    """What has to be asked, each once, with the first file that it is asked about."""
    seen = set()
    for path, detection in detections.items():
        for question in detection.questions:
            if question.name not in given and question.name not in seen:
                seen.add(question.name)
                yield f"{path}: {question.message}"
    unnamed = [path for path, d in detections.items() if any(guess.name == "subject" for guess in d.guesses)]
    whose = next((guess.how_to_change for guess in guesses if guess.name == "subject"), None)
    if len(unnamed) > 1 and whose:
        yield (
            f"{len(unnamed)} files, of which {unnamed[0]} is the first, name no person, and training and test must not "
            f"share one: add {whose} to say whose they are, or --set subject=null if each file is another person's"
        )


def _over_sites(detections: Detections, given: Given) -> Iterator[str]:
    """Tables in which an id occurs at several sites."""
    if "columns.subject" in given:
        return
    for path, detection in detections.items():
        subjects = [guess.value for guess in detection.guesses if guess.name == "columns.subject"]
        if subjects and (message := repeated_over_sites(path, subjects[0])):
            yield f"{path}: {message}"


# --- what the user said ---------------------------------------------------------------------------------------------


def _values(overrides: tuple[str, ...]) -> list[tuple[str, Any]]:
    return [assignment(text) for text in overrides]


def _given(overrides: tuple[str, ...]) -> dict[str, Any]:
    """Dotted path -> value, of all that the user said; a section of which anything is said is there too."""
    given: dict[str, Any] = {}
    for path, value in _values(overrides):
        parts = path.split(".")
        given |= {".".join(parts[:n]): None for n in range(1, len(parts)) if ".".join(parts[:n]) != "columns"}
        given |= dict(_flat(path, value))
    return given


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}", inner)


def _pattern(path: Path) -> str:
    """The one file, as a card names it: absolute, so that the card may lie anywhere."""
    return glob.escape(os.path.abspath(path))


def _name_of(path: Path) -> str:
    from raycadian.data.source import stem_of

    return re.sub(r"[^A-Za-z0-9_.-]+", "_", _ENDING.sub("", stem_of(path))).strip("_.")[:100] or "data"


# --- as YAML --------------------------------------------------------------------------------------------------------


def card_yaml(card: BaseCard, guesses: Sequence[Guess]) -> str:
    """The card as YAML: what is not usual, and every guess with why it was made and how to change it."""
    values = {"name": card.name, "modality": card.modality} | card.model_dump(mode="json", exclude_defaults=True)
    blocks = [
        f"# Made by raycadian from {_plural(len(card.files), 'file')}; change what is wrong, then `raycadian prepare` "
        "it."
    ]
    for key in dict.fromkeys([*values, *(guess.name.partition(".")[0] for guess in guesses)]):
        comments = [f"# {guess}" for guess in guesses if guess.name.partition(".")[0] == key]
        blocks += [_wrapped(comment) for comment in comments]
        if key in values or key in type(card).model_fields:
            value = values.get(key, card.model_dump(mode="json").get(key))
            blocks.append(yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=100).rstrip())
    return "\n".join(blocks) + "\n"


def _wrapped(comment: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(comment, 100, subsequent_indent="#   ", break_long_words=False))


def _plural(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
