"""A cohort of virtual people, in parallel on Ray where that is quicker: one Parquet file and its card."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from raycadian import cluster
from raycadian.config import Grid
from raycadian.files import written_whole
from raycadian.modalities.cgm.card import CGMCard, Columns
from raycadian.physiology.insulin import virtual_patients as virtual
from raycadian.types import BASAL, BOLUS, CARBS, GLUCOSE, SUBJECT

_DAY_S = 0.17  # seconds of a simulated day on one core
SCHEMA = pa.schema(
    [
        (SUBJECT, pa.string()),
        ("time", pa.timestamp("ms")),  # local clock
        *((name, pa.float32()) for name in (GLUCOSE, CARBS, BOLUS, BASAL)),
    ]
)


def simulate_cohort(
    patients: list[str] | int,
    days: float,
    seed: int,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Simulate patients in parallel; write the Parquet file `out` and, beside it, its card (`out` with suffix .yaml).

    patients: names from `virtual_patients.patients()`, or how many of its first (10 adults, 10 adolescents, 10
        children)
    progress: called as progress(done, total) after each patient is written
    Returns the card's path, ready for `prepare`. The same (patients, days, seed) give the same table. Each file appears
    whole or not at all; memory holds the patients in flight, not the cohort. Raises ValueError.
    """
    names, out = cohort(patients), Path(out)
    if out.suffix != ".parquet":
        raise ValueError(f"{out}: expected a path that ends in .parquet; the card goes beside it as .yaml")
    if seed < 0:
        raise ValueError(f"seed: expected 0 or more, found {seed}")
    virtual.ticks(days)  # refused here, not in a worker
    text = _card_text(out, names, days, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(out) as temporary:
        _write(temporary, names, days, seed, progress)
    card = out.with_suffix(".yaml")
    with written_whole(card) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return card


def cohort(patients: list[str] | int) -> list[str]:
    """Distinct names of virtual patients. Raises ValueError for an unknown or repeated one, or a count out of range."""
    known = virtual.patients()
    names = known[:patients] if isinstance(patients, int) else list(patients)
    if isinstance(patients, int) and not 1 <= patients <= len(known):
        raise ValueError(f"patients: expected 1 to {len(known)}, found {patients}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"patients: expected distinct names, found {names}")
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no virtual patients {unknown}; expected names among {', '.join(known)}")
    return names


def _write(path: Path, names: list[str], days: float, seed: int, progress: Callable | None) -> None:
    """One row group a patient, in the order of `names`, as they are done."""
    away = len(names) > 1 and cluster.pays(len(names) * days * _DAY_S)
    patients = (_on_ray if away else _here)(names, days, seed)
    with closing(patients), pq.ParquetWriter(path, SCHEMA, compression="zstd", compression_level=19) as writer:
        for done, patient in enumerate(patients, start=1):
            writer.write_table(pa.Table.from_pandas(patient, SCHEMA, preserve_index=False))
            if progress:
                progress(done, len(names))


def _here(names: list[str], days: float, seed: int) -> Iterator[pd.DataFrame]:
    yield from (virtual.simulate(name, days, seed) for name in names)


def _on_ray(names: list[str], days: float, seed: int) -> Iterator[pd.DataFrame]:
    ray = cluster.connect()
    task = ray.remote(num_cpus=1)(virtual.simulate)
    waiting = [task.remote(name, days, seed) for name in names]
    try:
        while waiting:
            yield ray.get(waiting.pop(0))  # popped, so that Ray frees what is written
    finally:
        for left in waiting:
            ray.cancel(left)


def _card_text(out: Path, names: list[str], days: float, seed: int) -> str:
    first = names == virtual.patients()[: len(names)]
    place = out.name if out.is_absolute() else out
    made = f"raycadian simulate --patients {len(names)} --days {days:g} --seed {seed} --out {place}"
    card = CGMCard(
        name=out.stem,
        description=(
            f"{len(names)} virtual people with type 1 diabetes x {days:g} days at {virtual.DT_MIN} minutes: UVA/Padova "
            "simulator (2008 version, package simglucose) with randomised meals, insulin by a pump, sensor noise and "
            "lost signals. The simulator knows nothing of circadian hormones, nor of the "
            "cortisol-melatonin-adiponectin model: rhythms come from meals, insulin and sleep alone. No real person's "
            "data. Made by: " + (made if first else f"simulate_cohort(patients={names}, days={days:g}, seed={seed})")
        ),
        files=(out.name,),
        format="generic",
        unit="mg/dL",
        columns=Columns(subject=SUBJECT, time="time", glucose=GLUCOSE, carbs_g=CARBS, bolus_u=BOLUS, basal_uph=BASAL),
        grid=Grid(dt_min=virtual.DT_MIN, gap_min=45.0, interpolate_min=20.0, min_points=24),
        license="Apache-2.0",
        source="made by raycadian with simglucose (MIT), https://github.com/jxx123/simglucose",
        citation=(
            "Kovatchev BP, Breton M, Dalla Man C, Cobelli C. In silico preclinical trials: a proof of concept in "
            "closed-loop control of type 1 diabetes. J Diabetes Sci Technol 2009;3(1):44-55. Xie J. Simglucose (2018)."
        ),
    )
    return card.as_yaml(exclude_none=True)
