"""report.html of a run: figures where people would look rather than read. One file, opens offline.

Its sections come from the kind of predictions: forecast/report.py, label/report.py.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from raycadian.evaluation import report_parts as parts
from raycadian.files import written_whole
from raycadian.pages import Section, page, table_html


def write_report(
    folder: Path,
    *,
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    metadata: dict[str, Any],
    definitions: str = "",
) -> Path:
    """Write `folder`/report.html, whole or not at all, and return its path.

    `sections`, then what the run recorded about itself (`metadata`), then `definitions` of its metrics as plain text.
    """
    text = f'<pre style="white-space:pre-wrap;font-size:.8rem">{escape(definitions)}</pre>' if definitions else ""
    last = [Section("Run", _metadata(metadata)), Section("Definitions", text)]
    path = Path(folder) / "report.html"
    with written_whole(path) as temporary:
        temporary.write_text(page(title, [*sections, *last], subtitle), encoding="utf-8")
    return path


def _metadata(metadata: dict[str, Any]) -> str:
    """What a run recorded about itself."""
    rows = [(key, str(value)) for key, value in _flat(metadata).items() if not key.startswith("training.history")]
    short = [(key, value if len(value) <= 160 else value[:157] + "...") for key, value in rows]
    return parts.folded(
        f"{len(short)} facts about the run", table_html(pd.DataFrame(short, columns=["key", "value"])), len(short) <= 12
    )


def _flat(nested: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(nested, dict) or not nested:
        return {prefix[:-1]: nested}
    return {k: v for name, value in nested.items() for k, v in _flat(value, f"{prefix}{name}.").items()}
