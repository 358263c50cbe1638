"""Which of the files inside of workbooks and archives are read: one sheet, all members, or what the card says."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from raycadian.data.packed import chosen, contents, describes, packed_kind
from raycadian.data.source import shown
from raycadian.modalities.base import BaseCard
from raycadian.modalities.guesses import how_to_set
from raycadian.modalities.naming import naming
from raycadian.types import Issues

EACH = "*"  # of `sheet`: each that fits
Fits = Callable[[Path], bool]
"""Whether a file is one that a modality reads."""


def unpacked(paths: Sequence[Path], card: BaseCard, fits: Fits, issues: Issues) -> list[Path]:
    """The files themselves; of a workbook its sheet, of an archive its members. What is left out is counted. Raises
    ValueError where it can't be told which sheet, or which members."""
    return [plain for path in map(Path, paths) for plain in _plain(path, card, fits, issues)]


def plain_file(path: Path, sheet: str | None = None) -> Path:
    """The one table in a file: itself, or what lies in it. Raises ValueError where that may be several."""
    inside = _plain(path, BaseCard(name="x", modality="x", files=("x",), sheet=sheet), _any, Issues())
    if len(inside) > 1:
        raise ValueError(
            f"{path}: {len(inside)} files in it ({shown([p.name for p in inside])}); unpack it and name one"
        )
    return inside[0]


def _any(path: Path) -> bool:
    return True


def _plain(path: Path, card: BaseCard, fits: Fits, issues: Issues) -> list[Path]:
    with naming(path):
        return _files_of(path, card, fits, issues)


def _files_of(path: Path, card: BaseCard, fits: Fits, issues: Issues) -> list[Path]:
    kind = packed_kind(path) if os.path.isfile(path) else None
    if kind is None:
        return [path]
    inside = contents(path)
    if not inside:
        raise ValueError(f"{path}: nothing in it; is it the right file?")
    files = (_sheets if kind == "workbook" else _members)(path, inside, card, fits, issues)
    if not files:
        raise ValueError(
            f"{path}: nothing in it holds data ({shown(list(inside))}); name what does: members in the card"
        )
    return files


# --- workbooks ------------------------------------------------------------------------------------------------------


def _sheets(path: Path, inside: dict[str, Path], card: BaseCard, fits: Fits, issues: Issues) -> list[Path]:
    """The one sheet that fits, called as its workbook; with `sheet: '*'` each that does, called as it is."""
    if card.sheet == EACH:
        names = [name for name in inside if _fits(fits, inside[name])] or list(inside)
    elif card.sheet is not None:
        names = [_named(path, inside, card.sheet)]
    else:
        names = [_only(path, inside, fits)]
    if left := [name for name in inside if name not in names]:
        issues.add("sheet of a workbook that isn't read", f"{path.name}: {shown(left)}", len(left))
    return [inside[name] if card.sheet == EACH else _called(inside[name], path.name) for name in names]


def _named(path: Path, inside: dict[str, Path], sheet: str) -> str:
    names = chosen(list(inside), sheet) if sheet not in inside else [sheet]
    if len(names) != 1:
        raise ValueError(
            f"{path}: {len(names)} sheets are called {sheet!r}; it has {shown(list(inside))}: "
            f"{how_to_set('sheet', next(iter(inside)))}"
        )
    return names[0]


def _only(path: Path, inside: dict[str, Path], fits: Fits) -> str:
    """Raises ValueError for several sheets that hold recordings."""
    fitting = [name for name in inside if len(inside) == 1 or _fits(fits, inside[name])]
    if len(fitting) == 1:
        return fitting[0]
    message = (
        f"{len(fitting)} of its sheets {shown(list(inside))} may be read" if fitting else "no sheet is known as data"
    )
    first = (fitting or list(inside))[0]
    raise ValueError(
        f"{path}: {message}; {how_to_set('sheet', first)}, or, where each is another person's, "
        f"{how_to_set('sheet', EACH)}"
    )


def _called(path: Path, name: str) -> Path:
    """The same file under its workbook's name."""
    to = path.with_name(name)
    if not to.exists():
        to.hardlink_to(path)
    return to


# --- archives -------------------------------------------------------------------------------------------------------


def _members(path: Path, inside: dict[str, Path], card: BaseCard, fits: Fits, issues: Issues) -> list[Path]:
    """Each member that `members` names; without it all but those that describe the data. Raises ValueError where one of
    them is of no known kind, so that none is left out without a word."""
    wanted = _of_card(path, inside, card) if card.members else [name for name in inside if not describes(name)]
    if left := [name for name in inside if name not in wanted]:
        issues.add("member of an archive that isn't read", f"{path.name}: {shown(left)}", len(left))
    if nested := [name for name in wanted if packed_kind(inside[name]) == "archive"]:
        raise ValueError(f"{path}: {nested[0]!r} is an archive inside of an archive; unpack it")
    known = [name for name in wanted if packed_kind(inside[name]) or _fits(fits, inside[name])]
    if known and len(known) < len(wanted):
        odd = [name for name in wanted if name not in known]
        raise ValueError(
            f"{path}: {shown(odd)} beside {shown(known)}: of no known kind; say which members are read: "
            f"{how_to_set('members', known[:3])}"
        )
    return [plain for name in wanted for plain in _plain(inside[name], card, fits, issues)]


def _of_card(path: Path, inside: dict[str, Path], card: BaseCard) -> list[str]:
    patterns = card.members or ()
    lacking = [pattern for pattern in patterns if not chosen(list(inside), pattern)]
    if lacking:
        raise ValueError(f"{path}: no member is called {lacking[0]!r}; it holds {shown(list(inside))}")
    return [name for name in inside if any(chosen([name], pattern) for pattern in patterns)]


def _fits(fits: Fits, path: Path) -> bool:
    try:
        return fits(path)
    except ValueError:
        return False
