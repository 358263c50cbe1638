"""Self-contained HTML pages: they open offline, carry their figures and no script from elsewhere."""

import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # for annotations, here and where figures are made: neither is loaded before it is used
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any

_STYLE = """
:root{color-scheme:light dark;--ink:#1b2733;--soft:#5b6b7a;--line:#d8e0e7;--bg:#fff;--panel:#f6f8fa;--accent:#0b6e8a}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa8b5;--line:#30363d;--bg:#0d1117;--panel:#161b22;
--accent:#58b7d3}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--bg);margin:0 auto;max-width:1080px;
padding:24px}
h1{font-size:1.7rem;margin:.2em 0}
h2{font-size:1.2rem;margin:2em 0 .4em;border-bottom:1px solid var(--line);padding-bottom:.2em}
p.note,small{color:var(--soft)}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.88rem}
th,td{padding:4px 10px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
thead th{background:var(--panel);position:sticky;top:0}
figure{margin:1em 0;background:#fff;border:1px solid var(--line);padding:8px;border-radius:6px}
figure svg,figure img{width:100%;height:auto;display:block}nav a{margin-right:1em;color:var(--accent)}
details{margin:.5em 0}pre{white-space:pre-wrap;overflow-x:auto;font-size:.85rem}
"""


class Section(NamedTuple):
    """A part of a page: its heading as text, its body as HTML. One without a body is left out."""

    heading: str
    body: str


def page(title: str, sections: Sequence[tuple[str, str]], subtitle: str = "") -> str:
    """One HTML page. `sections`: as Section; headings are escaped here, bodies are HTML already."""
    sections = [(heading, body) for heading, body in sections if body]
    links = "".join(f'<a href="#s{i}">{escape(head)}</a>' for i, (head, _) in enumerate(sections))
    body = "".join(f'<section id="s{i}"><h2>{escape(h)}</h2>{b}</section>' for i, (h, b) in enumerate(sections))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>'
        f'<body><h1>{escape(title)}</h1><p class="note">{escape(subtitle)}</p><nav>{links}</nav>{body}</body></html>'
    )


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def table_html(frame: "pd.DataFrame", precision: int = 2) -> str:
    """A data frame as a table; floats with `precision` digits, missing values as a dash, text escaped."""
    body = frame.to_html(
        index=False, border=0, na_rep="–", float_format=lambda x: f"{x:.{precision}f}", escape=True, classes="data"
    )
    return f'<div class="scroll">{body}</div>'


def figure_html(figure: Figure, caption: str) -> str:
    """A matplotlib figure inline as SVG, then closed. The caption is also its text alternative."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(caption, quote=True)}"', 1)
    return f"<figure>{svg}<figcaption><small>{escape(caption)}</small></figcaption></figure>"


def new_figure(width: float = 9.0, height: float = 3.6, **subplots: Any) -> tuple[Figure, Any]:
    """A figure that belongs to no global state (no pyplot), hence nothing to close: (figure, axes)."""
    from matplotlib import figure as mpl

    figure = mpl.Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**subplots)
