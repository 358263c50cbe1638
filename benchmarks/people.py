"""People whom nobody is: a card and its table of glucose every five minutes, for benchmarks of many."""

from pathlib import Path

import numpy as np
import pandas as pd

CARD = "name: many\nfiles: [people.csv]\ntimezone: UTC\nunit: mg/dL\n"
CARD += "columns: {subject: subject, time: time, glucose: glucose}\n"


def write_people(folder: Path, people: int, days: int) -> Path:
    """people.csv and its card in a folder; the card."""
    rng, n = np.random.default_rng(0), days * 288
    times = np.datetime64("2026-01-05T00:00:00") + np.arange(n) * np.timedelta64(300, "s")
    hour = np.arange(n) / 12 % 24
    meals = sum(60 * np.exp(-(((hour - h) % 24 - 1) ** 2) / 1.5) for h in (7.5, 12.5, 19.0))
    tables = [
        pd.DataFrame({"subject": f"p{i:04d}", "time": times, "glucose": (110 + meals + rng.normal(0, 8, n)).round(0)})
        for i in range(people)
    ]
    pd.concat(tables).to_csv(folder / "people.csv", index=False)
    (folder / "many.yaml").write_text(CARD, encoding="utf-8")
    return folder / "many.yaml"
