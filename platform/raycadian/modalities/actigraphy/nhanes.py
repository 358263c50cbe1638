"""NHANES's questionnaires, prescriptions and weights as one table of people, and who is left at each step of a cohort.

A file is known by its columns, not by its name. SEQN numbers a person over all cycles, so that cycles pool by joining.
PHQ-9: Kroenke, Spitzer, Williams 2001, J Gen Intern Med 16:606. Weights: NHANES analytic guidelines (divide the
two-year examination weight by the number of cycles pooled).
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raycadian.modalities.actigraphy.formats.xpt import Xpt
from raycadian.modalities.naming import naming
from raycadian.types import SUBJECT

PHQ9_ITEMS = tuple(f"DPQ0{i}0" for i in range(1, 10))
PHQ9_CUTOFF = 10
LABELS = ("depressed", "ssri", "benzodiazepine", "sleep_disorder", "sleep_trouble")
WEIGHT = "weight"

# kind of table -> the columns that it has, and no other kind has all of them; the first that fits
KINDS = {
    "minutes_counts": ("SEQN", "PAXN", "PAXINTEN"),
    "minutes_mims": ("SEQN", "PAXSSNMP", "PAXMTSM"),
    "monitors": ("SEQN", "PAXFTIME", "PAXFDAY"),
    "demographics": ("SEQN", "SDDSRVYR", "RIDAGEYR"),
    "depression": ("SEQN", *PHQ9_ITEMS),
    "prescriptions": ("SEQN", "RXDUSE", "RXDDRGID"),
    "drugs": ("RXDDRGID", "RXDDRUG", "RXDDCN1A", "RXDDCN1C"),
    "sleep": ("SEQN", "SLQ060"),
}
TABLES = {
    "minutes_counts": "PAXRAW", "minutes_mims": "PAXMIN", "monitors": "PAXHD", "demographics": "DEMO",
    "depression": "DPQ", "prescriptions": "RXQ_RX", "drugs": "RXQ_DRUG", "sleep": "SLQ",
}  # fmt: skip
# label -> ingredients, and classes of the third level, by either of which a drug counts. By its ingredients it does
# where it is one for the nervous system: fluoxetine with olanzapine, classed as a combination, is an SSRI too;
# chlordiazepoxide with clidinium, for the bowel, is no benzodiazepine's use.
NERVOUS = ("PSYCHOTHERAPEUTIC AGENTS", "CENTRAL NERVOUS SYSTEM AGENTS")
DRUGS = {
    "ssri": (
        ("CITALOPRAM", "ESCITALOPRAM", "FLUOXETINE", "FLUVOXAMINE", "PAROXETINE", "SERTRALINE"),
        ("SSRI ANTIDEPRESSANTS",),
    ),
    "benzodiazepine": (
        (
            "ALPRAZOLAM", "BROMAZEPAM", "CHLORDIAZEPOXIDE", "CLOBAZAM", "CLONAZEPAM", "CLORAZEPATE", "DIAZEPAM",
            "ESTAZOLAM", "FLURAZEPAM", "LORAZEPAM", "MIDAZOLAM", "NITRAZEPAM", "OXAZEPAM", "PRAZEPAM", "QUAZEPAM",
            "TEMAZEPAM", "TRIAZOLAM",
        ),
        ("BENZODIAZEPINES", "BENZODIAZEPINE ANTICONVULSANTS"),
    ),
}  # fmt: skip


def kind_of(xpt: Xpt) -> str:
    """Which of NHANES's tables a file is. Raises ValueError."""
    for kind, columns in KINDS.items():
        if all(name in xpt.variables for name in columns):
            return kind
    raise ValueError(
        f"{xpt.path}: table {xpt.table!r} is none of {', '.join(TABLES.values())}; its columns begin with "
        f"{', '.join(list(xpt.variables)[:8])}; take it out of the files"
    )


def people(paths: Iterable[str | Path], most_missing: int = 0) -> pd.DataFrame:
    """One row a person of the DEMO files, by `subject` (SEQN as text): cycle, age_y, female, weight (WTMEC2YR over the
    number of cycles), stratum, psu; phq9 and the labels, 1, 0 or NaN = not known, where their files are given.

    most_missing: PHQ-9 items that may lack an answer, see `phq9`. Minutes among the files are left alone.
    Raises ValueError for a file of another table, a person who is there twice, an answer that can't be.
    """
    tables: dict[str, list[Xpt]] = {}
    for path in paths:
        xpt = Xpt.open(path)
        tables.setdefault(kind_of(xpt), []).append(xpt)
    if "demographics" not in tables:
        raise ValueError("no DEMO file among the files: it has the age and the survey weights; add it, one a cycle")
    with _naming(tables["demographics"]):
        table = demographics(tables["demographics"])
    if depression := tables.get("depression"):
        with _naming(depression):
            table = table.join(phq9(_one_row_each(depression), most_missing))
    if prescriptions := tables.get("prescriptions"):
        with _naming(prescriptions):
            table = table.join(_drugs_taken(prescriptions, tables.get("drugs")))
    if sleep := tables.get("sleep"):
        with _naming(sleep):
            table = table.join(_sleep(_one_row_each(sleep)))
    return table


def _naming(files: list[Xpt]) -> AbstractContextManager[None]:
    """Errors name one of the files that they come of."""
    return naming(Path(files[0].path))


def _drugs_taken(prescriptions: list[Xpt], drugs: list[Xpt] | None) -> pd.DataFrame:
    if drugs is None:
        raise ValueError(f"{prescriptions[0].path}: prescriptions without RXQ_DRUG, which has the classes; add it")
    return drug_use(_stacked(prescriptions), _stacked(drugs))


def demographics(files: list[Xpt]) -> pd.DataFrame:
    """Age, sex, survey design and weight of everybody interviewed, in all of the cycles."""
    for xpt in files:
        xpt.require("SEQN", "SDDSRVYR", "RIDAGEYR", "RIAGENDR", "WTMEC2YR", "SDMVPSU", "SDMVSTRA")
    table = _one_row_each(files)
    cycles = table["SDDSRVYR"].nunique()
    return pd.DataFrame(
        {
            "cycle": [chr(ord("A") + int(number) - 1) for number in table["SDDSRVYR"]],
            "age_y": table["RIDAGEYR"],
            "female": (table["RIAGENDR"] == 2).astype(float),
            WEIGHT: table["WTMEC2YR"] / cycles,
            "stratum": table["SDMVSTRA"],
            "psu": table["SDMVPSU"],
        }
    )


def phq9(table: pd.DataFrame, most_missing: int = 0) -> pd.DataFrame:
    """phq9 (0-27), depressed (phq9 >= 10) and phq9_answered (0-9), by the index of `table`.

    7 (refused), 9 (don't know) and no answer are missing. With at most `most_missing` of them the total is nine times
    the mean of the others, rounded; with more it is missing, as is the label. The default takes complete answers only.
    """
    if not 0 <= most_missing <= 8:
        raise ValueError(f"most_missing: expected 0 to 8 of the nine items, found {most_missing}")
    items = table[list(PHQ9_ITEMS)]
    impossible = ~(items.isin([0, 1, 2, 3, 7, 9]) | items.isna())
    if impossible.to_numpy().any():
        person, item = np.argwhere(impossible.to_numpy())[0]
        raise ValueError(
            f"SEQN {table.index[person]}: {PHQ9_ITEMS[item]} is {items.iat[person, item]:g}; expected 0 to 3, 7 or 9: "
            "not a PHQ-9 answer; is the file damaged?"
        )
    answers = items.where(items <= 3)
    answered = answers.notna().sum(axis=1)
    total = (answers.mean(axis=1) * 9).round().where(answered >= 9 - most_missing)
    return pd.DataFrame(
        {"phq9": total, "depressed": _flag(total >= PHQ9_CUTOFF, total.notna()), "phq9_answered": answered}
    )


def drug_use(prescriptions: pd.DataFrame, drugs: pd.DataFrame) -> pd.DataFrame:
    """ssri and benzodiazepine (1, 0, NaN = not known) of everybody asked, and each by ingredient and by class alone.

    A person uses a drug that is named or classed so. Refused, don't know, and a drug without a known code (unless
    another one counts) leave it unknown.
    """
    codes = {label: _codes(drugs, *terms) for label, terms in DRUGS.items()}
    rows = pd.DataFrame(index=pd.Index(subject_ids(prescriptions["SEQN"]), name=SUBJECT))
    taken, drug = prescriptions["RXDUSE"].to_numpy(), prescriptions["RXDDRGID"]
    rows["unclear"] = ~((taken == 2) | ((taken == 1) & drug.isin(drugs["RXDDRGID"]).to_numpy()))
    for label, (by_name, by_class) in codes.items():
        rows[f"{label}_by_name"], rows[f"{label}_by_class"] = (
            drug.isin(by_name).to_numpy(),
            drug.isin(by_class).to_numpy(),
        )
    use = rows.groupby(level=0).any()
    for label in DRUGS:
        uses = use[f"{label}_by_name"] | use[f"{label}_by_class"]
        use[label] = _flag(uses, uses | ~use["unclear"])
    return use.drop(columns="unclear")


def _codes(drugs: pd.DataFrame, ingredients: tuple[str, ...], classes: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Generic codes of the drugs with one of these ingredients, and of those in one of these classes."""
    parts = drugs["RXDDRUG"].str.split(r"\s*;\s*", regex=True)
    named = parts.map(lambda names: not set(names).isdisjoint(ingredients)) & _classed(drugs, "A", NERVOUS)
    classed = _classed(drugs, "C", classes)
    return list(drugs["RXDDRGID"][named]), list(drugs["RXDDRGID"][classed])


def _classed(drugs: pd.DataFrame, level: str, classes: tuple[str, ...]) -> pd.Series:
    """Whether one of a drug's up to four classes, at level A, B or C, is among these."""
    columns = [name for name in drugs if name.startswith("RXDDCN") and name.endswith(level)]
    return drugs[columns].isin(classes).any(axis=1)


def _sleep(table: pd.DataFrame) -> pd.DataFrame:
    """sleep_disorder and sleep_trouble: a doctor has said so (SLQ060), or was told so (SLQ050, where it was asked)."""
    questions = {"sleep_disorder": "SLQ060", "sleep_trouble": "SLQ050"}
    return pd.DataFrame({k: _flag(table[c] == 1, table[c].isin([1, 2])) for k, c in questions.items() if c in table})


def _flag(yes: pd.Series, known: pd.Series) -> pd.Series:
    return yes.astype(float).where(known)


def _stacked(files: list[Xpt]) -> pd.DataFrame:
    return pd.concat([xpt.frame() for xpt in files], ignore_index=True)


def _one_row_each(files: list[Xpt]) -> pd.DataFrame:
    """Tables with a row a person, by subject. Raises ValueError for a person who is there twice."""
    table = _stacked(files)
    repeated = table["SEQN"].duplicated()
    if repeated.any():
        names = ", ".join(xpt.path.name for xpt in files)
        raise ValueError(
            f"{names}: SEQN {table['SEQN'][repeated].iloc[0]:.0f} is there twice, and {int(repeated.sum()):,} such "
            "rows in all; a person has one row: is a file given twice?"
        )
    return table.set_index(pd.Index(subject_ids(table["SEQN"]), name=SUBJECT)).drop(columns="SEQN")


def subject_ids(seqn: Any) -> np.ndarray:
    """SEQN as text: a subject's id. Raises ValueError for one that is no whole number."""
    seqn = np.asarray(seqn, dtype=np.float64)
    if not np.all(np.isfinite(seqn) & (seqn == np.round(seqn)) & (seqn > 0)):
        bad = seqn[~(np.isfinite(seqn) & (seqn == np.round(seqn)) & (seqn > 0))][0]
        raise ValueError(f"SEQN {bad}: expected a whole number above 0; is the file damaged?")
    return seqn.astype(np.int64).astype(str).astype(object)


# --- cohorts --------------------------------------------------------------------------------------------------------


@dataclass
class Flow:
    """Who is left after each step, in order: the figures of a flow chart."""

    steps: list[dict[str, Any]] = field(default_factory=list)

    def begin(self, name: str, table: pd.DataFrame) -> pd.DataFrame:
        self.steps.append({"step": name, "excluded": 0, "left": len(table)})
        return table

    def keep(self, name: str, table: pd.DataFrame, kept: pd.Series | np.ndarray) -> pd.DataFrame:
        """The rows to keep, the others counted under `name`."""
        left = table[np.asarray(kept, dtype=bool)]
        self.steps.append({"step": name, "excluded": len(table) - len(left), "left": len(left)})
        return left


def cohort(
    table: pd.DataFrame, recorded: Iterable[str], label: str, min_age_y: float = 0.0,
    valid_days: pd.Series | None = None, min_valid_days: int = 4,
) -> tuple[pd.DataFrame, Flow]:  # fmt: skip
    """The people of `table` with a recording, an examination weight and a known label, and the flow that leads there.

    recorded: subjects with a recording · valid_days: days that count, by subject; those with fewer than
    `min_valid_days` leave. Recordings of people who are not in the table are counted first. Raises ValueError for a
    label that the table lacks.
    """
    if label not in table:
        has = [name for name in table.columns if name in LABELS]
        raise ValueError(
            f"no label {label!r}: the files give {', '.join(has) or 'none'}; add the file that it is made from"
        )
    recorded, flow = set(recorded), Flow()
    unknown = len(recorded - set(table.index))
    flow.steps.append(
        {"step": "recordings of people who are not in DEMO", "excluded": unknown, "left": len(recorded) - unknown}
    )
    left = flow.begin("people interviewed", table)
    left = flow.keep("without a recording", left, left.index.isin(recorded))
    left = flow.keep("not examined (no weight)", left, left[WEIGHT] > 0)
    if min_age_y > 0:
        left = flow.keep(f"younger than {min_age_y:g}", left, left["age_y"] >= min_age_y)
    if label == "depressed":
        left = flow.keep("without a PHQ-9 record", left, left["phq9_answered"].notna())
    left = flow.keep(f"{label} not known", left, left[label].notna())
    if valid_days is not None:
        days = valid_days.reindex(left.index).fillna(0)
        left = flow.keep(f"fewer than {min_valid_days} valid days", left, days >= min_valid_days)
    return left, flow
