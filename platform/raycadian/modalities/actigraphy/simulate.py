"""Made-up participants as NHANES files of the genuine layouts: activity by the minute with a planted, moderate effect.

Nobody in them is real. Depression lowers and delays a person's daily activity and breaks up the night, by amounts that
overlap between people; SSRI use follows depression, benzodiazepines and sleep disorder come with broken nights. Cycles
C and D have counts (PAXRAW), G and H MIMS (PAXMIN with PAXHD). Files are written by pyreadstat, in batches of people.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.formats.nhanes_minutes import COUNT_MINUTES, SAMPLES_A_MINUTE
from raycadian.modalities.actigraphy.formats.xpt import Xpt
from raycadian.modalities.actigraphy.nhanes import PHQ9_ITEMS

CYCLES = {"C": 3, "D": 4, "G": 7, "H": 8}
FIRST_SEQN = {"C": 21_005, "D": 31_127, "G": 62_161, "H": 73_557}
_BATCH = 50  # people whose minutes are held at once
_MEDIAN_COUNT = 250.0  # of an active minute, waist-worn
_MIMS_A_COUNT = 0.03
_DRUGS = pd.DataFrame(
    {
        "RXDDRGID": ["d00880", "d00168", "d00004"],
        "RXDDRUG": ["SERTRALINE", "ALPRAZOLAM", "ATENOLOL"],
        "RXDDCN1A": ["PSYCHOTHERAPEUTIC AGENTS", "CENTRAL NERVOUS SYSTEM AGENTS", "CARDIOVASCULAR AGENTS"],
        "RXDDCN1B": ["ANTIDEPRESSANTS", "ANXIOLYTICS, SEDATIVES, AND HYPNOTICS", "BETA-ADRENERGIC BLOCKING AGENTS"],
        "RXDDCN1C": ["SSRI ANTIDEPRESSANTS", "BENZODIAZEPINES", "BETA BLOCKERS, CARDIOSELECTIVE"],
    }
)


@dataclass(frozen=True)
class Participants:
    """Who they are, (P,) each: what is drawn once, and what the labels do to the activity."""

    seqn: np.ndarray
    depressed: np.ndarray
    broken: np.ndarray  # nights broken up, 0..1
    level: np.ndarray  # of activity, 1 = usual
    wake_h: np.ndarray
    sleep_h: np.ndarray
    first_weekday: np.ndarray  # 0 = Sunday


def simulate_nhanes(
    people: int, out: str | Path, cycle: str = "D", seed: int = 0, prevalence: float = 0.3, effect: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:  # fmt: skip
    """Write the XPT files of `people` made-up participants of a cycle into the folder `out`, and its card beside it
    (`out` with suffix .yaml).

    prevalence: share with PHQ-9 of at least 10 (in NHANES 6 to 10%; more here, so that few people suffice) · effect: 1
    is moderate, 0 plants nothing. The same arguments give the same values. Returns the card. Raises ValueError.
    """
    if cycle not in CYCLES:
        raise ValueError(f"cycle: expected one of {', '.join(CYCLES)}, found {cycle!r}")
    if people < 1 or not 0 < prevalence < 1 or effect < 0:
        raise ValueError(
            f"people {people}, prevalence {prevalence:g}, effect {effect:g}: expected at least 1, (0, 1), 0 or more"
        )
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: is there already, and not empty; name another folder")
    rng = np.random.default_rng(seed)
    drawn = _draw(people, cycle, prevalence, effect, rng)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as work:
        folder = Path(work) / "files"
        folder.mkdir()
        for name, table in _tables(drawn, cycle, rng).items():
            write_xpt(table, folder / f"{name}.XPT")
        _write_minutes(drawn, cycle, folder, Path(work), rng, progress)
        card = Path(work) / "card.yaml"
        card.write_text(_card(out.name, people, cycle, seed, prevalence, effect), encoding="utf-8")
        if out.exists():
            out.rmdir()
        folder.rename(out)
        return card.rename(out.with_name(f"{out.name}.yaml"))


def write_xpt(table: pd.DataFrame, path: Path) -> None:
    """One table as a SAS transport file of version 5, named like the file."""
    import pyreadstat

    pyreadstat.write_xport(table, str(path), table_name=path.stem[:8], file_format_version=5)


def join_xpt(parts: list[Path], out: Path) -> None:
    """The rows of files of one layout, one behind another, in one file."""
    files = [Xpt.open(part) for part in parts]
    assert len({tuple(file.variables.values()) for file in files}) == 1, "parts of one layout"
    written = files[0].begins_at
    with out.open("wb") as target:
        for i, file in enumerate(files):
            with file.path.open("rb") as source:
                source.seek(0 if i == 0 else file.begins_at)
                target.write(source.read(file.rows * file.record_bytes + (file.begins_at if i == 0 else 0)))
            written += file.rows * file.record_bytes
        target.write(b" " * (-written % 80))


def _draw(people: int, cycle: str, prevalence: float, effect: float, rng: np.random.Generator) -> Participants:
    depressed = rng.random(people) < prevalence
    depressed[:2] = [True, False][:people]  # a cohort of two has both
    sign = effect * depressed
    return Participants(
        seqn=FIRST_SEQN[cycle] + np.arange(people),
        depressed=depressed,
        broken=np.clip(rng.beta(2, 8, people) + 0.12 * sign, 0, 0.9),
        level=np.exp(rng.normal(0, 0.35, people) - 0.3 * sign),
        wake_h=np.clip(rng.normal(7.0, 1.0, people) + 0.9 * sign, 4, 12),
        sleep_h=np.clip(rng.normal(7.8, 0.8, people) + 0.3 * sign, 5, 11),
        first_weekday=rng.integers(0, 7, people),
    )


# --- activity -------------------------------------------------------------------------------------------------------


def activity(
    people: Participants, which: int, minutes: int, start_min: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Counts (minutes,) of one person from `start_min` after the first midnight, and whether the device was worn.

    Awake, bouts of 2 to 15 minutes have a level each around a daily curve; asleep there is next to nothing but short
    awakenings. Weekends are an hour later. The device comes off for the bath, and one person in four takes it off at
    night.
    """
    minute = start_min + np.arange(minutes)
    day, hour = minute // 1440, minute % 1440 / 60
    weekend = np.isin((people.first_weekday[which] + day) % 7, (0, 6))
    shift = rng.normal(0, 0.4, day[-1] + 2)[day] + weekend
    since_wake = (hour - people.wake_h[which] - shift) % 24
    awake = since_wake < 24 - people.sleep_h[which]
    curve = np.sin(np.pi * np.clip(since_wake / (24 - people.sleep_h[which]), 0, 1)) ** 0.5
    bout = np.repeat(np.arange(minutes), rng.integers(2, 16, minutes))[:minutes]
    movement = np.exp(rng.normal(0, 0.9, minutes))[bout] * (rng.random(minutes) < 0.85)[bout]
    waking = (rng.random(minutes) < 0.25 * people.broken[which])[bout]  # of the night
    level = _MEDIAN_COUNT * people.level[which] * movement * np.where(awake, curve, 0.25 * waking)
    counts = np.where(level > 0, np.floor(rng.gamma(1.5, level / 1.5 + 1e-9)), 0.0)
    worn = ~((since_wake >= 0.5) & (since_wake < 1.0)) & (awake | (rng.random() < 0.75))
    return np.where(worn, np.minimum(counts, 20_000), 0.0), worn


def _write_minutes(
    drawn: Participants, cycle: str, folder: Path, work: Path, rng: np.random.Generator, progress: Callable | None
) -> None:
    """The big file, joined from batches; with MIMS, PAXHD too."""
    counts, n, parts = cycle in "CD", len(drawn.seqn), []
    starts = 60 * rng.integers(9, 21, n)  # minute of day at which a MIMS monitor begins
    for first in range(0, n, _BATCH):
        batch = range(first, min(first + _BATCH, n))
        rows = [_counts_rows(drawn, i, rng) if counts else _mims_rows(drawn, i, int(starts[i]), rng) for i in batch]
        table = pd.concat([pd.DataFrame(one) for one in rows], ignore_index=True)
        if cycle == "D":
            table["PAXSTEP"] = np.floor(table["PAXINTEN"] / 40)
        parts.append(work / f"{first:06d}" / f"{'PAXRAW' if counts else 'PAXMIN'}_{cycle}.XPT")
        parts[-1].parent.mkdir()
        write_xpt(table, parts[-1])
        if progress:
            progress(batch.stop, n)
    join_xpt(parts, folder / parts[0].name)
    if not counts:
        write_xpt(_monitors(drawn, starts), folder / f"PAXHD_{cycle}.XPT")
    for part in parts:
        shutil.rmtree(part.parent)


def _counts_rows(drawn: Participants, which: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    counts, _ = activity(drawn, which, COUNT_MINUTES, 0, rng)
    minute = np.arange(COUNT_MINUTES)
    return {
        "SEQN": np.full(COUNT_MINUTES, drawn.seqn[which], float),
        "PAXSTAT": np.ones(COUNT_MINUTES),
        "PAXCAL": np.ones(COUNT_MINUTES),
        "PAXDAY": ((drawn.first_weekday[which] + minute // 1440) % 7 + 1).astype(float),
        "PAXN": minute + 1.0,
        "PAXHOUR": (minute // 60 % 24).astype(float),
        "PAXMINUT": (minute % 60).astype(float),
        "PAXINTEN": counts,
    }


def _mims_rows(drawn: Participants, which: int, start_min: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Nine days, the first and last of them partial."""
    n = 8 * 1440
    counts, worn = activity(drawn, which, n, start_min, rng)
    mims = np.round(counts * _MIMS_A_COUNT, 3)
    bad = rng.random(n) < 0.001
    day = (start_min + np.arange(n)) // 1440
    return {
        "SEQN": np.full(n, drawn.seqn[which], float),
        "PAXDAYM": (day + 1).astype(str).astype(object),
        "PAXDAYWM": ((drawn.first_weekday[which] + day) % 7 + 1).astype(str).astype(object),
        "PAXSSNMP": SAMPLES_A_MINUTE * np.arange(n, dtype=float),
        "PAXTSM": np.full(n, 60.0),
        "PAXAISMM": np.where(mims == 0, float(SAMPLES_A_MINUTE), 0.0),
        "PAXMTSM": np.where(bad, -0.01, mims),
        "PAXMXM": np.where(bad, -0.01, mims / 3),
        "PAXMYM": np.where(bad, -0.01, mims / 3),
        "PAXMZM": np.where(bad, -0.01, mims / 3),
        "PAXLXMM": np.where(worn, 100.0, 0.0),
        "PAXLXSDM": np.ones(n),
        "PAXPREDM": np.where(worn, np.where(mims > 0, "1", "2"), "3").astype(object),
        "PAXTRANM": np.zeros(n),
        "PAXQFM": bad.astype(float),
        "PAXFLGSM": np.where(bad, "A", "").astype(object),
    }


def _monitors(drawn: Participants, starts: np.ndarray) -> pd.DataFrame:
    """PAXHD: weekdays are codes (1 = Sunday), PAXLDAY is the number of the last day of wear, both as text."""
    clock = [f"{m // 60:02d}:{m % 60:02d}:00" for m in starts]
    columns = {
        "SEQN": drawn.seqn.astype(float),
        "PAXSTS": 1.0,
        "PAXSENID": [f"SIM{i:05d}" for i in range(len(starts))],
        "PAXFDAY": (drawn.first_weekday + 1).astype(str).astype(object),
        "PAXLDAY": "9",
        "PAXFTIME": clock,
        "PAXETLDY": clock,
        "PAXHAND": "1",
        "PAXORENT": "1",
    }
    return pd.DataFrame(columns)


# --- questionnaires -------------------------------------------------------------------------------------------------


def _tables(drawn: Participants, cycle: str, rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    n, seqn = len(drawn.seqn), drawn.seqn.astype(float)
    demo = pd.DataFrame(
        {
            "SEQN": seqn, "SDDSRVYR": float(CYCLES[cycle]), "RIDSTATR": 2.0,
            "RIAGENDR": rng.integers(1, 3, n).astype(float), "RIDAGEYR": rng.integers(18, 80, n).astype(float),
            "WTINT2YR": 1.0, "WTMEC2YR": np.round(rng.lognormal(10, 0.6, n), 2), 
            "SDMVPSU": rng.integers(1, 3, n).astype(float),
            "SDMVSTRA": rng.integers(1, 16, n).astype(float),
        }
    )  # fmt: skip
    drugs = rng.random((n, 2)) < np.stack([0.05 + 0.35 * drawn.depressed, 0.02 + 0.25 * drawn.broken], axis=1)
    disorder = rng.random(n) < 0.05 + 0.4 * drawn.broken
    sleep = pd.DataFrame(
        {"SEQN": seqn, "SLQ050": np.where(rng.random(n) < drawn.broken, 1.0, 2.0), "SLQ060": 2.0 - disorder}
    )
    return {
        f"DEMO_{cycle}": demo,
        f"DPQ_{cycle}": _phq9(drawn, rng),
        f"RXQ_RX_{cycle}": pd.concat(list(_prescriptions(seqn, drugs)), ignore_index=True),
        "RXQ_DRUG": _DRUGS,
        f"SLQ_{cycle}": sleep,
    }


def _phq9(drawn: Participants, rng: np.random.Generator) -> pd.DataFrame:
    """Answers whose total is 10 to 20 of the depressed and 0 to 9 of the others; one in thirty refuses an item."""
    n = len(drawn.seqn)
    total = np.where(drawn.depressed, rng.integers(10, 21, n), np.minimum(rng.geometric(0.25, n) - 1, 9))
    order = np.argsort(rng.random((n, 27)), axis=1)  # 27 points, of which a person has the first `total`
    points = (order < total[:, None]).reshape(n, 9, 3).sum(axis=2).astype(float)
    refuses = rng.random(n) < 1 / 30
    points[refuses, rng.integers(0, 9, n)[refuses]] = 7.0
    table = pd.DataFrame(points, columns=list(PHQ9_ITEMS))
    table.insert(0, "SEQN", drawn.seqn.astype(float))
    return table.assign(DPQ100=0.0)


def _prescriptions(seqn: np.ndarray, drugs: np.ndarray) -> Iterator[pd.DataFrame]:
    """A row a drug; of those who take none, one that says so."""
    for column, (code, name) in enumerate(zip(_DRUGS["RXDDRGID"][:2], _DRUGS["RXDDRUG"][:2], strict=True)):
        yield pd.DataFrame({"SEQN": seqn[drugs[:, column]], "RXDUSE": 1.0, "RXDDRUG": name, "RXDDRGID": code})
    yield pd.DataFrame({"SEQN": seqn[~drugs.any(axis=1)], "RXDUSE": 2.0, "RXDDRUG": "", "RXDDRGID": ""})


def _card(name: str, people: int, cycle: str, seed: int, prevalence: float, effect: float) -> str:
    card = ActigraphyCard(
        name=name,
        description=(
            f"{people} made-up participants in the layout of NHANES cycle {cycle}: activity by the minute in which "
            f"depression (prevalence {prevalence:g}) lowers, delays and breaks up a person's days by an effect of "
            f"{effect:g}. No real person's data; figures on it say nothing about people. Made by: raycadian simulate "
            f"--modality actigraphy --patients {people} --cycle {cycle} --seed {seed}"
            + ("" if (prevalence, effect) == (0.3, 1.0) else " (and another effect, in Python)")
        ),
        files=(f"{name}/*.XPT",),
        license="Apache-2.0",
        source="made by raycadian (modalities/actigraphy/simulate.py)",
    )
    return card.as_yaml(exclude_none=True)
