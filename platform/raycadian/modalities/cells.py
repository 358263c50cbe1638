"""Cells of anybody's table: numbers with decimal commas and thousands marks, yes and no, high and low, in the languages
of exports. What is none of them is named, never guessed."""

import re
from collections.abc import Collection

import numpy as np
import pandas as pd

from raycadian.data.clock import MONTHS

# what sensors write for values outside their range
LOW_WORDS = (
    "low", "lo", "niedrig", "tief", "bas", "bajo", "baja", "bajo/a", "basso", "bassa", "baixo", "baixa", "laag", "lav",
    "låg", "lågt", "matala", "niski", "niskie", "niska", "nízká", "alacsony", "düşük",
)  # fmt: skip
HIGH_WORDS = (
    "high", "hi", "hoch", "haut", "élevé", "eleve", "alto", "alta", "alto/a", "elevato", "elevado", "hoog", "høj",
    "høy", "hög", "högt", "korkea", "wysoki", "wysokie", "wysoka", "vysoká", "magas", "yüksek",
)  # fmt: skip
YES_WORDS = (
    "yes", "y", "true", "t", "on", "x", "ja", "j", "wahr", "oui", "o", "vrai", "sí", "si", "s", "sì", "verdadero",
    "vero",
    "waar", "sim", "verdadeiro", "tak", "prawda", "sant", "w", "worn", "wear", "wearing", "wear time", "getragen",
)  # fmt: skip
NO_WORDS = (
    "no", "n", "false", "f", "off", "nein", "falsch", "non", "faux", "falso", "nee", "onwaar", "não", "nao", "nie",
    "fałsz", "nej", "falskt", "nw", "not worn", "notworn", "non-wear", "nonwear", "non wear", "not wearing",
    "nicht getragen",
)  # fmt: skip
EMPTY_WORDS = ("", "nan", "na", "n/a", "null", "none", "-", "--", "---", "kz", "<na>")
_UNIT = r"(?<=\d)\s*(?:mg/dl|mmol/l|g|gr|grams?|u|iu|ui|ie|e|units?|counts?|bpm|/min|u/h|min|%)$"
_GROUPS = {mark: rf"[-+]?\d{{1,3}}(?:{re.escape(mark)}\d{{3}})+" for mark in ",."}
_MOSTLY = 0.5  # of what is there: a column of numbers has more


def parse_numbers(text: pd.Series, thousands: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Values (N,) float64 and which are malformed. "Low" and "<40" are -inf, "High" and ">400" +inf; empty cells and
    malformed ones NaN.

    A comma is a decimal sign, unless it is `thousands`, or stands before a point or twice in a number; points before a
    comma, blanks and apostrophes between digits separate thousands.
    """
    text = plain_numbers(text, ".") if thousands == "." else text
    values = pd.to_numeric(text, errors="coerce").to_numpy(np.float64, copy=True)
    malformed = np.isinf(values)
    odd = np.flatnonzero(np.isnan(values))
    if len(odd):
        words = text.iloc[odd].astype(str).str.strip().str.lower()
        values[odd] = pd.to_numeric(plain_numbers(words, thousands), errors="coerce").to_numpy(np.float64)
        values[odd[words.isin(LOW_WORDS) | words.str.startswith("<")]] = -np.inf
        values[odd[words.isin(HIGH_WORDS) | words.str.startswith(">")]] = np.inf
        malformed[odd] = np.isnan(values[odd]) & ~words.isin(EMPTY_WORDS).to_numpy()
    values[malformed] = np.nan
    return values, malformed


def plain_numbers(words: pd.Series, thousands: str | None = None) -> pd.Series:
    """Numbers as Python writes them: 1234.5 of 1.234,5 and 1'234.5 and 1,234.5."""
    words = words.str.replace(_UNIT, "", regex=True)
    if not words.str.contains(r"[,'’\s]").any() and thousands != ".":
        return words
    words = words.str.replace(r"(?<=\d)[\s'’](?=\d{3}\b)", "", regex=True)
    comma_last = words.str.contains(r"\..*,")
    many = words.str.count(",") > 1
    in_groups = many | words.str.contains(r",.*\.") | (words.str.fullmatch(_GROUPS[","]) & (thousands == ","))
    words = words.where(~comma_last & (thousands != "."), words.str.replace(".", "", regex=False))
    return words.where(~in_groups, words.str.replace(",", "", regex=False)).str.replace(",", ".", n=1, regex=False)


def with_points(text: pd.Series) -> pd.Series:
    """A column whose numbers have decimal commas, or marks of thousands, with what Python reads; others as they are."""
    odd = text.notna() & text.astype(str).str.fullmatch(r"[-+]?[\d.,'’\s]*[,'’\s][\d.,]*\d")
    if not odd.any():
        return text
    return text.where(~odd, plain_numbers(text.where(odd, "").astype(str), thousands_mark(text.dropna().astype(str))))


def thousands_mark(text: pd.Series) -> str | None:
    """The mark that separates thousands in a whole column: the one mark of all numbers that have any, always before
    three digits, where others have none and are below a thousand. A decimal sign stands in nearly every cell."""
    for mark in ",.":
        marked = text[text.str.contains(mark, regex=False)].str.strip()
        if len(marked) and marked.str.fullmatch(_GROUPS[mark]).all():
            rest = pd.to_numeric(text[~text.index.isin(marked.index)], errors="coerce")
            return mark if rest.notna().any() and rest.max() < 1000 and not marked.str.startswith("0").any() else None
    return None


def parse_column(text: pd.Series, where: str, thousands: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """`parse_numbers` of a whole column, its thousands' mark told from it. `where`: of a message. Raises ValueError
    where most of what it holds is no number."""
    values, malformed = parse_numbers(text)
    may_be_groups = malformed.any() or np.isnan(values).any() or (values[np.isfinite(values)] % 1 != 0).any()
    if thousands and may_be_groups and not pd.api.types.is_numeric_dtype(text):
        values, malformed = parse_numbers(text, thousands_mark(text.astype(str)))
    require_numbers(int(malformed.sum()), int(np.count_nonzero(~np.isnan(values))), _first(text, malformed), where)
    return values, malformed


def require_numbers(malformed: int, numbers: int, example: str, where: str) -> None:
    """Raises ValueError where most of a column's cells that hold anything are no number."""
    if malformed > _MOSTLY * (malformed + numbers):
        raise ValueError(
            f"{where}: {malformed:,} of {malformed + numbers:,} values are no numbers, such as {example!r}; is it the "
            "column that you mean? Name another one in the card (columns), or correct the file"
        )


def parse_flags(text: pd.Series, where: str, words: Collection[str] = ()) -> np.ndarray:
    """1 (yes) and 0 (no) (N,) float64 of words or numbers, NaN where empty. `words`: more of them, for yes. Raises
    ValueError for a word that is neither, and for numbers other than 1 and 0."""
    codes, cells = pd.factorize(text, use_na_sentinel=False)  # few distinct ones
    names = [str(cell).strip().lower() for cell in cells]
    flags = np.array([_flag(name, words) for name in names])
    unknown = [name for name, flag in zip(names, flags, strict=True) if np.isinf(flag)]
    if unknown:
        shown = ", ".join(repr(word[:40]) for word in unknown[:3])
        raise ValueError(
            f"{where}: {shown} is neither yes nor no; expected 1 and 0, true and false, yes and no, or w and nw; write "
            "it so"
        )
    return flags[codes]


def chosen_rows(cells: pd.Series, values: Collection[str]) -> np.ndarray:
    """True (N,) where a cell is one of the values, in any case; 1 and 1.0 are the same."""
    wanted = {value.strip().casefold() for value in values}
    codes, names = pd.factorize(cells, use_na_sentinel=False)
    plain = [str(name).strip().casefold() for name in names]
    return np.array([name in wanted or name.removesuffix(".0") in wanted for name in plain], dtype=bool)[codes]


def _flag(word: str, words: Collection[str]) -> float:
    """Infinity for what is neither yes nor no nor empty."""
    if word in EMPTY_WORDS:
        return np.nan
    if word in YES_WORDS or word in words:
        return 1.0
    if word in NO_WORDS:
        return 0.0
    number = pd.to_numeric(word.replace(",", "."), errors="coerce")
    return float(number) if number in (0, 1) else np.inf


def _first(text: pd.Series, chosen: np.ndarray) -> str:
    return str(text.iloc[int(np.flatnonzero(chosen)[0])])[:40] if chosen.any() else ""


def with_month_number(text: str) -> str:
    """12-10-2024 of 12-Okt-2024; what names no month as it is."""
    match = re.search(r"[^\W\d_]{3,5}", text)
    if match is None:
        return text
    word = match[0].lower()
    number = next((n for n, names in enumerate(MONTHS, 1) if word in names), None)
    return text if number is None else f"{text[: match.start()]}{number:02d}{text[match.end() :].lstrip('.')}"
