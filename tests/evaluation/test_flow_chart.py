"""The flow chart of a cohort: figures, shape, nothing that a step's name could smuggle in."""

import xml.etree.ElementTree as ElementTree

from raycadian.evaluation.label.report import flow_chart

STEPS = [
    {"step": "recordings of people who are not in DEMO", "excluded": 1, "left": 7455},
    {"step": "people interviewed", "excluded": 0, "left": 10348},
    {"step": "without a recording", "excluded": 2893, "left": 7455},
    {"step": "not examined (no weight)", "excluded": 0, "left": 7455},
    {"step": "depressed not known", "excluded": 2990, "left": 4465},
]


def test_every_exclusion_is_there_with_who_is_left():
    html = flow_chart(STEPS, {"train": 2187, "val": 938, "test": 1340})
    texts = [element.text for element in drawing(html).iter() if element.tag == "text"]
    assert texts[:2] == ["people interviewed", "10,348"]
    assert "without a recording: 2,893" in texts and "7,455" in texts and "depressed not known: 2,990" in texts
    assert texts[-6:] == ["training", "2,187", "validation", "938", "test", "1,340"]
    assert not any("not examined" in text for text in texts)  # nobody left there
    assert "1 recordings of people who are not in DEMO" in html


def test_it_is_as_wide_as_a_phone_and_in_the_pages_own_ink():
    html = flow_chart(STEPS, {"train": 1, "val": 1, "test": 1})
    svg = drawing(html)
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    assert width == 360 and "max-width" in svg.attrib["style"] and svg.attrib["aria-label"].startswith("recordings of")
    for box in svg.iter("rect"):
        x, y, w, h = (float(box.attrib[name]) for name in ("x", "y", "width", "height"))
        assert min(x, y) >= 0 and x + w <= width and y + h <= height
    assert "var(--ink)" in html and "#" not in html.replace("&#", "")


def test_words_are_escaped():
    html = flow_chart([STEPS[0], STEPS[1], {"step": '<script>"x"', "excluded": 3, "left": 4}], {})
    assert "<script" not in html and drawing(html) is not None


def drawing(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + 6])
