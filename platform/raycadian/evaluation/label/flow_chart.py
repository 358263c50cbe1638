"""Who is left after each step, as a flow chart: on the left how many, on the right who leaves. Inline SVG, a phone's
width."""

import textwrap
from collections.abc import Sequence
from html import escape
from typing import Any

_WIDTH, _TRUNK, _RIGHT = 360, 76, 208  # of the drawing, of the trunk's place, of the boxes of those who leave
_LINE, _PAD, _GAP = 15, 8, 18
_NAMES = {"train": "training", "val": "validation", "test": "test"}
_INK, _SOFT, _PANEL = "var(--ink)", "var(--soft)", "var(--panel)"  # the page's own, light or dark


def flow_chart(steps: Sequence[dict[str, Any]], people: dict[str, int]) -> str:
    """`steps`: step, excluded, left of each, in order: recordings that belong to nobody, everybody, then who leaves
    and why. `people`: of each split, at the end."""
    nobodys, everybody, *leaving = steps
    parts, y = [_box(2, 2, 2 * (_TRUNK - 2), [everybody["step"], f"{everybody['left']:,}"])], 2.0
    y += 2 * _LINE + 2 * _PAD
    top = y
    for step in (s for s in leaving if s["excluded"]):
        words = textwrap.wrap(f"{step['step']}: {step['excluded']:,}", 32)
        y += _GAP
        parts.append(_box(_WIDTH - _RIGHT - 2, y, _RIGHT, words, dashed=True))
        parts.append(_arrow(_TRUNK, y + _height(words) / 2, _WIDTH - _RIGHT - 2))
        y += _height(words)
        parts.append(f'<text x="{_TRUNK - 6}" y="{y + _GAP - 5:g}" text-anchor="end">{step["left"]:,}</text>')
    y += _GAP
    parts.insert(0, f'<path d="M{_TRUNK} {top:g}V{y:g}" stroke="{_SOFT}"/>')
    width = (_WIDTH - 4 - 8 * (len(people) - 1)) / max(len(people), 1)
    for i, (name, count) in enumerate(people.items()):
        parts.append(_box(2 + i * (width + 8), y, width, [_NAMES.get(name, name), f"{count:,}"]))
    y += 2 * _LINE + 2 * _PAD
    text = "; ".join(f"{s['step']}: {s['excluded']:,} leave, {s['left']:,} left" for s in steps)
    stray = f" Beside them {nobodys['excluded']:,} {nobodys['step']}." if nobodys["excluded"] else ""
    caption = f"People, and on the right who leaves at each step.{stray}"
    return (
        f'<figure style="background:var(--bg)"><svg role="img" aria-label="{escape(text, quote=True)}" '
        f'viewBox="0 0 {_WIDTH} {y + 2:g}" fill="{_INK}" style="max-width:{1.3 * _WIDTH:.0f}px;margin:auto" '
        f'font-family="system-ui,sans-serif" font-size="12">{"".join(parts)}</svg>'
        f"<figcaption><small>{escape(caption)}</small></figcaption></figure>"
    )


def _height(words: list[str]) -> float:
    return len(words) * _LINE + 2 * _PAD


def _box(x: float, y: float, width: float, words: list[str], dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    lines = "".join(
        f'<text x="{x + width / 2:g}" y="{y + _PAD + _LINE * (i + 0.8):g}" text-anchor="middle">{escape(word)}</text>'
        for i, word in enumerate(words)
    )
    box = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{_height(words):g}" rx="4"'
    return f'<rect {box} fill="{_PANEL}" stroke="{_SOFT}"{dash}/>' + lines


def _arrow(begin: float, y: float, end: float) -> str:
    path = f"M{begin:g} {y:g}H{end:g}M{end - 6:g} {y - 4:g}L{end:g} {y:g}L{end - 6:g} {y + 4:g}"
    return f'<path d="{path}" stroke="{_SOFT}" fill="none"/>'
