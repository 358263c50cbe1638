"""The data-quality page of a snapshot: what every modality's page has. What is shown of a modality, it says itself."""

import re
from collections import Counter
from html import escape
from typing import Any

import pandas as pd

from raycadian.data.snapshot import Snapshot
from raycadian.modalities.base import Section
from raycadian.modalities.cards import modality_of
from raycadian.pages import page, paragraph, table_html

SHOWN = 24  # rows of a table that is open at first, subjects in a figure


def quality_page(snapshot: Snapshot) -> str:
    """The data-quality page of a snapshot, self-contained HTML. Raises ValueError."""
    unreadable = ("What could not be read", _unreadable(snapshot.manifest.get("unreadable", {})))
    sections = [(heading, body) for heading, body in [*modality_of(snapshot).quality(snapshot), unreadable] if body]
    return page(f"Data quality: {snapshot.name}", sections, f"Snapshot {snapshot.id}")


def counts_sections(snapshot: Snapshot) -> list[Section]:
    """What was counted, in all and by subject, and what was rejected why."""
    manifest = snapshot.manifest
    by_subject = sorted(snapshot.quality.items(), key=lambda item: natural(item[0]))
    rows = [{"subject": s, **{k: v for k, v in q.items() if isinstance(v, int | float)}} for s, q in by_subject]
    cohorts = manifest.get("cohorts", {})
    return [
        ("Summary", table_html(pd.DataFrame(manifest["counts"].items(), columns=["counted", "number"]))),
        ("Rejections", _rejections([q for _, q in by_subject])),
        *((f"Who is left: {name}", table_html(pd.DataFrame(steps))) for name, steps in cohorts.items()),
        ("By subject", folded(table_html(pd.DataFrame(rows)), len(rows))),
        ("Issues", issue_list(manifest["issues"])),
    ]


def _rejections(figures: list[dict[str, Any]]) -> str:
    rejected: Counter[str] = sum((Counter(q.get("rejected", {})) for q in figures), Counter())
    reasons = pd.DataFrame(rejected.most_common(), columns=["stretches rejected, by channel and reason", "number"])
    return table_html(reasons) if len(reasons) else ""


def issue_list(issues: dict[str, dict]) -> str:
    """What was repaired, skipped or dropped, with the first places of each kind, as HTML."""
    if not issues:
        return paragraph("Nothing was repaired, skipped or dropped.")
    return "".join(
        f"<details><summary>{escape(kind)}: {counted['count']:,}</summary>"
        f"<ul>{''.join(f'<li>{escape(where)}</li>' for where in counted['examples'])}</ul></details>"
        for kind, counted in issues.items()
    )


def _unreadable(messages: dict[str, dict[str, str]]) -> str:
    rows = [{"what": kind, "name": name, "why": why} for kind, own in messages.items() for name, why in own.items()]
    return table_html(pd.DataFrame(rows)) if rows else ""


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>' if text else ""


def folded(table: str, n_rows: int) -> str:
    """Long tables are closed at first."""
    summary = f"<summary>{plural(n_rows, 'subject')}</summary>"
    return f"<details{' open' if n_rows <= SHOWN else ''}>{summary}{table}</details>"


def plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' if n != 1 else ''}"


def natural(subject: str) -> list[str | int]:
    """Sorts 2 before 10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", subject))]
